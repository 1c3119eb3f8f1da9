"""Which network a state dict is of, and so why it does not fit another one."""

import functools
import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.networks import Network
from zoo.vit import TABLE
from zoo.weights.dialects import Dialect
from zoo.weights.settings import settings_of


def identify(tensors: Mapping[str, Tensor]) -> list[tuple[str, dict[str, Any]]]:
    """Every name, with settings other than the defaults, whose zoo.build has these entries.

    More than one where shapes cannot tell: resnet20 with option A, and plain20. The settings that
    only outputs show (stride_in, the side of the zeros) are left at the builder's default.
    """
    from zoo import MODELS  # zoo imports this file

    shapes = joined({k: tuple(tensor.shape) for k, tensor in tensors.items() if is_shaped(k)})
    stem, head = shapes.get("stem.conv.weight", ()), shapes.get("head.weight", ())
    if len(stem) != 4 or len(head) != 2 or not 0 < stem[0] < 2**12 or not 0 < head[0] < 2**20:
        return []
    image_size = side_of_image(shapes)
    found = []
    for name, builder in MODELS.items():
        allowed = inspect.signature(builder).parameters
        if ("image_size" in allowed) != (image_size > 0):
            continue
        if image_size and stem[2] != TABLE[name.removeprefix("plain")][0]:
            continue  # the size may be no whole number of this one's patches
        default = allowed["shortcut"].default if "shortcut" in allowed else None
        for shortcut in dict.fromkeys([default, "projection" if default else None]):
            settings = {"num_classes": head[0], "width": stem[0], "shortcut": shortcut,
                        "image_size": image_size}  # fmt: skip
            changed = {
                key: value
                for key, value in settings.items()
                if key in allowed and value != allowed[key].default
            }
            if shapes == shapes_of(name, **changed):
                found.append((name, changed))
    return found


Shapes = dict[str, tuple[int, ...]]


def joined(shapes: Shapes) -> Shapes:
    """Queries, keys and values that are apart, as one layer."""
    whole: Shapes = {}
    for key, shape in shapes.items():
        for letter in "qkv":
            if f".attention.{letter}." in key:
                key = key.replace(f".attention.{letter}.", ".attention.qkv.")
                rows = whole.get(key, (0,))[0] + (shape[0] if shape else 0)
                shape = (rows, *shape[1:])
                break
        whole[key] = shape
    return whole


def side_of_image(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Of a transformer's images, in pixels, by its position embeddings; 0 if it has none."""
    stem, position = shapes.get("stem.conv.weight", ()), shapes.get("stem.position", ())
    if len(stem) != 4 or len(position) != 3 or not 1 < position[1] < 2**16:
        return 0
    return math.isqrt(position[1] - 1) * stem[2]


@functools.cache
def shapes_of(name: str, **settings: Any) -> dict[str, tuple[int, ...]]:
    from zoo import build

    with torch.device("meta"):
        model = build(name, **settings)
    return {key: tuple(v.shape) for key, v in model.state_dict().items() if is_shaped(key)}


def is_shaped(key: str) -> bool:
    return not key.endswith("num_batches_tracked")


def likely_cause(
    model: Network, tensors: Mapping[str, Tensor], unknown: list[str], dialect: Dialect
) -> str:
    """One line on why `tensors`, in our names, do not fit the model, and what to do."""
    places = model.state_dict()
    wrong = {k for k, v in tensors.items() if k not in places or v.shape != places[k].shape}
    missing = {key for key in places if key not in tensors and is_shaped(key)}
    heads = [state.get("head.bias") for state in (tensors, places)]
    head_only = wrong <= {"head.weight", "head.bias"} and not unknown and not missing
    if head_only and all(head is not None and head.dim() == 1 for head in heads):
        theirs, ours = (len(head) for head in heads if head is not None)
        return (
            f"the file's head has {theirs} classes, the model {ours}: pass num_classes={theirs}, "
            "or drop='head' for a fresh head"
        )
    plain = settings_of(model).get("shortcut") == "none"
    if plain and not unknown and not missing and all(".shortcut." in key for key in wrong):
        return "the model is plain: pass drop='shortcut' to leave the shortcuts out"
    for name, settings in identify(tensors)[-1:]:  # of twins, the residual one
        words = "".join(f", {key}={value!r}" for key, value in settings.items())
        return f"this is {name}'s: zoo.build({name!r}{words})"
    head = (dialect.from_zoo("head.weight") or "").removeprefix(dialect.prefix).split(".")[0]
    if unknown and all(key.startswith(f"{head}.") for key in unknown):
        return (
            f"its head is not one linear layer: rename that one's entries to {head}.weight, .bias"
        )
    if missing and not wrong and not unknown:
        return "the weights are incomplete: get the file again, or whoever made it must save all"
    return "this is no network of zoo.list_models(), or one with other settings"
