"""The type of every network that zoo.build returns.

ResNets and ViTs share an interface: `stem`, `features(images)` -> (N, C), `head`.
"""

from zoo.resnet import ResNet
from zoo.vit import ViT

Network = ResNet | ViT


def plain_name(name: str) -> str:
    """The name of a residual network's plain twin: resnet50 -> plain50, vit2 -> plainvit2."""
    return f"plain{name.removeprefix('resnet')}"
