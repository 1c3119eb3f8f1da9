"""The type of every network that zoo.build returns, and the values that its settings may have.

ResNets and ViTs share an interface: `stem`, `features(images)` -> (N, C), `head`.
"""

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


def plain_name(name: str) -> str:
    """The name of a residual network's plain twin: resnet50 -> plain50, vit2 -> plainvit2."""
    return f"plain{name.removeprefix('resnet')}"
