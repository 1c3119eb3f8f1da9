"""Identifies whose names a state dict has, which network it is for, and why it does not fit."""

import contextlib
import functools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.errors import WeightsError
from zoo.networks import Network, plain_name
from zoo.plainvit import BLOCKS
from zoo.resnet import TABLE as RESNETS
from zoo.resnet import resnet
from zoo.vit import TABLE as VITS
from zoo.vit import ViT, vit
from zoo.weights.dialects import DIALECTS, RESNET_DIALECTS, VIT_DIALECTS, Dialect
from zoo.weights.files import Weights
from zoo.weights.settings import settings_of

Shapes = Mapping[str, tuple[int, ...]]


def by_name(name: str, model: Network) -> Dialect:
    """The dialect `name` of the model's family. Raises WeightsError if there is none."""
    dialects = VIT_DIALECTS if isinstance(model, ViT) else RESNET_DIALECTS
    if not isinstance(name, str) or name not in dialects:
        why = f"there is no dialect {name!r} of these networks"
        raise WeightsError(why, "dialect=...", f"one of {', '.join(dialects)}")
    return dialects[name]


def recognise(weights: Weights) -> Dialect:
    """The first dialect among those that match the most names; WeightsError if none matches any."""
    names, matches = list(weights.tensors), []
    for dialect in DIALECTS:
        matches.append(sum(dialect.to_zoo(name) is not None for name in names))
        if matches[-1] == len(names):
            return dialect
    if not any(matches):
        dialects = ", ".join(dict.fromkeys(dialect.name for dialect in DIALECTS))
        why = f"these names belong to no network of the zoo: {', '.join(names[:3])}"
        fix = f"give a ResNet's or ViT's weights in the names of {dialects}"
        raise WeightsError(why, weights.source, fix)
    return DIALECTS[matches.index(max(matches))]


def classes_of(weights: Weights) -> int | None:
    """The number of classes of the head in the file, or None if it has no head."""
    head = recognise(weights).part(weights.tensors, "head.weight")
    return len(head) if head is not None and head.dim() == 2 else None


def brought_by(weights: Weights, allowed: Sequence[str]) -> dict[str, Any]:
    """The settings in `allowed` that weights imply; those of a ResNet only from files that say so.

    A ResNet's settings (strides, zero channels) change the architecture, so callers must give them.
    """
    dialect = recognise(weights)
    implied = {key: values[0] for key, values in dialect.requires.items()}
    implied |= weights.metadata.settings or {}
    settings: dict[str, Any] = {}
    if implied.get("block") in BLOCKS:
        settings["block"] = implied["block"]
    with contextlib.suppress(ValueError):
        settings["eps"] = float(implied.get("eps", ""))
    parts = {
        key: dialect.part(weights.tensors, key) for key in ("stem.conv.weight", "stem.position")
    }
    shapes = {key: tuple(part.shape) for key, part in parts.items() if part is not None}
    settings["image_size"] = side_of_image(shapes)
    if weights.metadata.settings and len(stem := shapes.get("stem.conv.weight", ())) == 4:
        settings |= {"width": stem[0], "stride_in": implied.get("stride_in")}
    return {key: value for key, value in settings.items() if key in allowed and value}


def identify(tensors: Mapping[str, Tensor]) -> list[tuple[str, dict[str, Any]]]:
    """All models, with their non-default settings, whose state dicts have these names and shapes.

    More than one if shapes cannot tell them apart: plain20 and resnet20 with option A. Settings
    that do not affect shapes (stride_in, the side of the zero channels) stay at their defaults.
    """
    shapes = joined({k: tuple(tensor.shape) for k, tensor in tensors.items() if is_shaped(k)})
    stem, head = shapes.get("stem.conv.weight", ()), shapes.get("head.weight", ())
    if len(stem) != 4 or len(head) != 2 or not 0 < stem[0] < 2**12 or not 0 < head[0] < 2**20:
        return []
    blocks = sum(key.endswith(".norm1.weight") for key in shapes)
    models: list[tuple[str, dict[str, Any]]] = []
    for name, row in VITS.items():
        if (row.patch_size, row.blocks) == (stem[2], blocks):
            changed = other_than(row, num_classes=head[0], image_size=side_of_image(shapes))
            if shapes == parameter_shapes(vit, name, **changed):
                models += [(plain_name(name), changed), (name, changed)]
    for name, resnet_row in RESNETS.items():
        if sum(resnet_row.blocks_per_stage) != blocks:
            continue
        changed = other_than(resnet_row, num_classes=head[0], width=stem[0])
        if shapes == parameter_shapes(resnet, name, plain=True, **changed):
            models.append((plain_name(name), changed))
        for shortcut in dict.fromkeys([resnet_row.shortcut, "projection"]):
            options = changed | other_than(resnet_row, shortcut=shortcut)
            if shapes == parameter_shapes(resnet, name, **options):
                models.append((name, options))
    return models


def other_than(row: Any, **settings: Any) -> dict[str, Any]:
    """The settings that differ from the row's."""
    return {key: value for key, value in settings.items() if value != getattr(row, key)}


def joined(shapes: Shapes) -> Shapes:
    """The shapes with separate queries, keys and values merged into one layer, qkv."""
    whole: dict[str, tuple[int, ...]] = {}
    for key, shape in shapes.items():
        key, parts = re.subn(r"\.attention\.[qkv]\.", ".attention.qkv.", key)
        if parts and shape:
            rows, *_ = whole.get(key) or (0,)
            shape = (rows + shape[0], *shape[1:])
        whole[key] = shape
    return whole


def side_of_image(shapes: Shapes) -> int:
    """The image size in pixels that position embeddings imply; 0 without any (a ResNet)."""
    stem, position = shapes.get("stem.conv.weight", ()), shapes.get("stem.position", ())
    if len(stem) != 4 or len(position) != 3 or not 1 < position[1] < 2**16:
        return 0
    return math.isqrt(position[1] - 1) * stem[2]


@functools.cache
def parameter_shapes(build: Callable[..., Network], name: str, **settings: Any) -> Shapes:
    """The names and shapes of a network's state dict."""
    with torch.device("meta"):
        state = build(name, **settings).state_dict()
    return {key: tuple(tensor.shape) for key, tensor in state.items() if is_shaped(key)}


def is_shaped(key: str) -> bool:
    """False for num_batches_tracked, a scalar that old files lack."""
    return not key.endswith("num_batches_tracked")


def likely_cause(model: Network, tensors: Mapping[str, Tensor], unknown: Collection[str]) -> str:
    """One line: why `tensors`, in our names, do not fit the model, and how to fix it."""
    places = model.state_dict()
    wrong = {k for k, v in tensors.items() if k not in places or v.shape != places[k].shape}
    all_there = not unknown and all(key in tensors for key in places if is_shaped(key))
    theirs, ours = (state.get("head.bias", torch.empty(())) for state in (tensors, places))
    if all_there and wrong <= {"head.weight", "head.bias"} and theirs.dim() == ours.dim() == 1:
        fix = f"pass num_classes={len(theirs)}, or drop='head' for a fresh head"
        return f"the file's head has {len(theirs)} classes, the model {len(ours)}: {fix}"
    plain = settings_of(model).get("shortcut") == "none"
    if plain and all_there and all(".shortcut." in key for key in wrong):
        return "the model is plain: pass drop='shortcut' to leave the shortcuts out"
    for name, settings in identify(tensors)[-1:]:  # the residual one of twins
        words = "".join(f", {key}={value!r}" for key, value in settings.items())
        return f"this is {name}'s: zoo.build({name!r}{words})"
    return "they are incomplete, renamed, or of a network or settings that the zoo does not have"
