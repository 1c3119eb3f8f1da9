"""Shapes, parameters, FLOPs and receptive field of every part of a network.

Nothing is computed: the network is on the meta device, where tensors have shapes but no numbers.
"""

import re
from typing import NamedTuple

from torch import nn
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
    receptive_field: str  # side in input pixels, for one output pixel or token


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
    fields = receptive_fields(model)
    return [
        PartShape(name, shapes[name], sum(p.numel() for p in module.parameters()),
             flops.get(f"{type(model).__name__}.{name}", 0), str(fields.get(name, "")))
        for name, module in model.named_modules()
        if re.fullmatch(r"stem|(stages|blocks)\.\d+|norm|head", name)
    ]  # fmt: skip


def receptive_fields(model: Network) -> dict[str, int | str]:
    """Side of the receptive field, in input pixels, of a pixel after the stem and each stage.

    It is that of the longest path, through every F(x). A kernel of size k adds (k - 1) steps. A
    step is the product of all strides before it, in input pixels. A token of a ViT depends on its
    patch after the stem, and on the whole image after one block.
    """
    conv = model.stem.conv
    if isinstance(model, ViT):
        blocks = [f"blocks.{i}" for i in range(len(model.blocks))]
        return {"stem": conv.kernel_size[0], **dict.fromkeys([*blocks, "norm"], "all")}
    windows = [("stem", conv.kernel_size[0], conv.stride[0])]
    if not isinstance(model.stem, CifarStem):
        windows.append(("stem", 3, 2))  # the max-pool
    for i, stage in enumerate(model.stages):
        for name, module in stage.named_modules():
            if isinstance(module, nn.Conv2d) and "shortcut" not in name:
                windows.append((f"stages.{i}", module.kernel_size[0], module.stride[0]))
    field, step = 1, 1
    fields: dict[str, int | str] = {}
    for name, kernel, stride in windows:
        field, step = field + (kernel - 1) * step, step * stride
        fields[name] = field
    return fields
