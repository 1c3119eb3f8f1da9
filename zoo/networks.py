"""The type of every network that zoo.build returns, and the values that its settings may have.

ResNets and ViTs share an interface: `stem`, `features(images)` -> (N, C), `head`.
"""

from itertools import pairwise

from zoo.blocks import STRIDES_IN
from zoo.plainvit import BLOCKS
from zoo.positions import RESIZINGS
from zoo.resnet import NORMS, ResNet
from zoo.shortcuts import SHORTCUTS
from zoo.variants import VARIANTS
from zoo.vit import ViT

Network = ResNet | ViT

CHOICES: dict[str, tuple[str, ...]] = {  # settings with a fixed set of values
    "shortcut": SHORTCUTS,
    "stride_in": STRIDES_IN,
    "norm": tuple(NORMS),
    "resizing": tuple(RESIZINGS),
    "block": tuple(BLOCKS),
    "variant": tuple(VARIANTS),
}


def stages_of(model: Network) -> list[list[str]]:
    """The names of a network's modules, from the image to the logits, in stages.

    The first stage is the stem, the last one the head. A ViT has no stages, so its blocks are cut
    into four equal parts, or into single blocks if there are fewer; its norm is in the last part.
    """
    if isinstance(model, ResNet):
        return [["stem"], *([f"stages.{i}"] for i in range(len(model.stages))), ["head"]]
    blocks = [f"blocks.{i}" for i in range(len(model.blocks))]
    parts = min(4, len(blocks))
    ends = [len(blocks) * i // parts for i in range(parts + 1)]
    middle = [blocks[i:j] for i, j in pairwise(ends)]
    return [["stem"], *middle[:-1], [*middle[-1], "norm"], ["head"]]


def plain_name(name: str) -> str:
    """The name of a residual network's plain twin: resnet50 -> plain50, vit2 -> plainvit2."""
    return f"plain{name.removeprefix('resnet')}"
