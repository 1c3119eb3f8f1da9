"""Shapes, parameters and FLOPs of every part of a network.

Nothing is computed: the network is on the meta device, where tensors have shapes but no numbers.
"""

import re
from typing import NamedTuple

from torch.utils.flop_counter import FlopCounterMode

from experiments.proof.checks import output_shapes
from zoo.networks import Network
from zoo.resnet import CifarStem
from zoo.vit import ViT


class PartShape(NamedTuple):
    """One line of the table."""

    name: str
    shape: tuple[int, ...]  # of the output
    parameters: int
    flops: int  # of a forward pass; a multiply-add is two


def default_size(model: Network) -> int:
    """Side in pixels of the images that a network is made for."""
    if isinstance(model, ViT):
        return model.stem.image_size
    return 32 if isinstance(model.stem, CifarStem) else 224


def parts(model: Network, size: int) -> list[PartShape]:
    """Stem, stages or blocks, norm and head in order, for a batch (1, 3, size, size).

    Moves `model` to the meta device.
    """
    model = model.to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        shapes = output_shapes(model, size)
    flops = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    return [
        PartShape(name, shapes[name], sum(p.numel() for p in module.parameters()),
             flops.get(f"{type(model).__name__}.{name}", 0))
        for name, module in model.named_modules()
        if re.fullmatch(r"stem|(stages|blocks)\.\d+|norm|head", name)
    ]  # fmt: skip
