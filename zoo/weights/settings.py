"""Settings that change what a network computes, but that a state dict does not show.

A ResNet-20 whose option-A shortcuts put the zero channels on the other side would silently accept
the same weights, and classify 22 % of CIFAR-10 correctly instead of 92 %.
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from zoo.blocks import Bottleneck
from zoo.errors import WeightsError
from zoo.networks import Network
from zoo.plain import PlainBottleneck
from zoo.plainvit import BLOCKS
from zoo.resnet import CifarStem
from zoo.shortcuts import SHORTCUTS
from zoo.vit import EncoderBlock, ViT
from zoo.weights.dialects import Dialect
from zoo.weights.files import Weights

BLOCK_NAMES = {EncoderBlock: "residual"} | {kind: name for name, kind in BLOCKS.items()}


def settings_of(model: Network) -> dict[str, str]:
    """The settings that change a network's outputs, as read from its modules."""
    if isinstance(model, ViT):
        block: Any = model.blocks[0]
        return {
            "block": BLOCK_NAMES[type(block)],
            "heads": str(block.attention.heads),
            "eps": f"{model.norm.eps:g}",
            "resizing": model.stem.resizing,
        }
    blocks = [block for stage in model.stages.children() for block in stage.children()]
    shortcuts = [block.shortcut for block in blocks if hasattr(block, "shortcut")]
    kinds = [str(shortcut.kind) for shortcut in shortcuts if hasattr(shortcut, "kind")]
    settings: dict[str, str] = {
        "variant": model.variant or "none",
        "stem": "cifar" if isinstance(model.stem, CifarStem) else "imagenet",
        "shortcut": kinds[-1] if kinds else "identity" if shortcuts else "none",
        "norm": "batch" if isinstance(model.stem.norm, nn.BatchNorm2d) else "none",
    }
    strided = [b for b in blocks[1:] if isinstance(b, Bottleneck | PlainBottleneck)]
    if strided:
        in_conv1 = any(block.conv1.stride != (1, 1) for block in strided)
        settings["stride_in"] = "conv1" if in_conv1 else "conv2"
    return settings


# Other values of these give other names or shapes of entries, which misfits() in load.py finds.
SHOWN = ("stem", "norm")


def required_by(dialect: Dialect, weights: Weights) -> dict[str, tuple[str, ...]]:
    """The values that each setting may have with these weights: theirs, else their library's."""
    required = {key: values for key, values in dialect.requires.items() if key not in SHOWN}
    if dialect.requires.get("shortcut") == ("projection",):  # their entries show projections
        required["shortcut"] = ("projection", "pad", "pad-append", "identity")
    required.pop("stride_in", None)  # unknown: see assumed()
    return required | {k: (value,) for k, value in (weights.metadata.settings or {}).items()}


def assumed(model: Network, dialect: Dialect, weights: Weights) -> str:
    """What had to be assumed, as neither the entries nor a config show it; "" if nothing."""
    settings, stored = settings_of(model), weights.metadata.settings or {}
    if dialect.name == "li" or stored:
        return ""
    if isinstance(model, ViT):
        listed = ", ".join(f"{key}={settings[key]}" for key in ("block", "heads", "eps"))
        return f"{listed}, and a head that reads the class token"
    if "pad" in settings["shortcut"]:
        # akamaster's own files have the prefix. Li et al.'s lack it, and nothing in them shows
        # which of their networks are plain.
        if dialect.name == "cifar" and weights.prefix.endswith(dialect.prefix):
            return ""
        return f"shortcut={settings['shortcut']!r}; the plain twin has the same entries"
    strides = f"stride_in={settings['stride_in']!r}, " if "stride_in" in settings else ""
    return f"{strides}no blur before strides, no dilation" if settings["stem"] == "imagenet" else ""


def check_settings(
    model: Network,
    required: Mapping[str, tuple[str, ...]],
    names: str,
    source: str,
    drop: Collection[str] = (),
    fix: str = "",
) -> None:
    """Raise WeightsError if the model has other settings than those `required`.

    `names`: the dialect, for the message.
    """
    for key, value in settings_of(model).items():
        if key == "resizing":
            continue  # no effect at the weights' own size, and load() adopts theirs
        if "shortcut" in drop and key in ("shortcut", "block"):
            if value in ("residual", "identity", *SHORTCUTS):
                why = f"drop='shortcut' is for plain networks; this one's shortcuts are {value}"
                raise WeightsError(why, source, "leave drop out, or build the plain twin")
        elif value not in required.get(key, (value,)):
            wanted = " or ".join(required[key])
            why = f"{names} weights are for {key}={wanted}, but the model has {value}"
            fix = fix or how_to_fit(key, value, required[key][0], names)
            raise WeightsError(why, source, fix)


def how_to_fit(key: str, value: str, wanted: str, names: str) -> str:
    """The third line of an error: how to build a network with the `wanted` value."""
    if key == "variant":
        with_it = f"build the residual network with variant={wanted!r}"
        return "build the network without a variant" if wanted == "none" else with_it
    if names == "cifar" and value == "none":
        return "if they are a residual network's, drop='shortcut'; if a plain one's, dialect='li'"
    twins = {"none", "residual", *BLOCKS}  # values that only one of two twins can have
    if key in ("shortcut", "block") and {value, wanted} & twins:
        return (
            f"build the network with {key}={wanted!r}, such as the twin of this one; a plain "
            "network takes its residual twin's weights with drop='shortcut'"
        )
    return f"build a network with {key}={wanted if key in ('eps', 'heads') else repr(wanted)}"
