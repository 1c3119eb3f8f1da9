"""Settings that a state dict does not show, and that change what a network computes.

A ResNet-20 whose option-A shortcuts put the zero channels on the other side accepts the same
weights silently, and gets 22 % of CIFAR-10 right instead of 92 %.
"""

from typing import Any

from torch import nn

from zoo.blocks import Bottleneck
from zoo.errors import WeightsError
from zoo.networks import Network
from zoo.plain import PlainBottleneck
from zoo.plainvit import BLOCKS
from zoo.resnet import CifarStem, ResNet
from zoo.shortcuts import SHORTCUTS, Projection, ZeroPad
from zoo.vit import EncoderBlock, ViT
from zoo.weights.dialects import Dialect
from zoo.weights.files import Weights

BLOCK_NAMES = {EncoderBlock: "residual"} | {kind: name for name, kind in BLOCKS.items()}


def settings_of(model: Network) -> dict[str, str]:
    """The settings that change a network's outputs, read off its modules."""
    return vit_settings(model) if isinstance(model, ViT) else resnet_settings(model)


def vit_settings(model: ViT) -> dict[str, str]:
    """Not visible in parameter shapes, except a missing MLP."""
    block: Any = model.blocks[0]
    return {
        "block": BLOCK_NAMES[type(block)],
        "heads": str(block.attention.heads),
        "eps": f"{model.norm.eps:g}",
        "resizing": model.stem.resizing,
    }


def resnet_settings(model: ResNet) -> dict[str, str]:
    """Shapes show some of them; ZeroPad's side and the strided convolution they do not."""
    blocks = [block for stage in model.stages.children() for block in stage.children()]
    settings = {
        "stem": "cifar" if isinstance(model.stem, CifarStem) else "imagenet",
        "shortcut": "none",
        "norm": "batch" if isinstance(model.stem.norm, nn.BatchNorm2d) else "none",
    }
    shortcuts = [block.shortcut for block in blocks if hasattr(block, "shortcut")]
    if shortcuts:
        kinds = [s.kind for s in shortcuts if isinstance(s, Projection | ZeroPad)]
        settings["shortcut"] = kinds[-1] if kinds else "identity"
    strided = [b for b in blocks[1:] if isinstance(b, Bottleneck | PlainBottleneck)]
    if strided:
        in_conv1 = any(block.conv1.stride != (1, 1) for block in strided)
        settings["stride_in"] = "conv1" if in_conv1 else "conv2"
    return settings


def check_settings(
    model: Network, dialect: Dialect, weights: Weights, drop: str | None = None, fix: str = ""
) -> None:
    """Refuse a model that would take the weights and compute something else with them."""
    stored = {key: (value,) for key, value in (weights.metadata.settings or {}).items()}
    required = dict(dialect.requires) | stored
    for key, value in settings_of(model).items():
        if key == "resizing":
            continue  # computes nothing at the weights' own size, and load takes theirs
        if drop == "shortcut" and key in ("shortcut", "block"):
            if value in ("residual", "identity", *SHORTCUTS):
                why = f"drop='shortcut' is for plain networks; this one's shortcuts are {value}"
                raise WeightsError(why, weights.source, "leave drop out, or build the plain twin")
        elif value not in required.get(key, (value,)):
            wanted = " or ".join(required[key])
            why = f"{dialect.name} weights are for {key}={wanted}, and the model has {value}"
            fix = fix or how_to_fit(key, value, required[key][0])
            raise WeightsError(why, weights.source, fix)


def how_to_fit(key: str, value: str, wanted: str) -> str:
    if key == "shortcut" and value == "none":
        return "the model is plain: pass drop='shortcut' to leave the shortcuts out"
    if key == "block" and wanted == "residual":
        return "the model is plain: pass drop='shortcut' to give it its twin's weights"
    if key == "shortcut" and wanted == "none":
        return "these are a plain network's weights: build the plain twin"
    if key == "block":
        return f"these are a plain network's weights: build the plain twin with block={wanted!r}"
    if key == "heads":
        return "no network of the zoo has this width with so many heads"
    if key == "stem":
        return f"choose a model with the {wanted} stem"
    return f"build the model with {key}={wanted if key == 'eps' else repr(wanted)}"
