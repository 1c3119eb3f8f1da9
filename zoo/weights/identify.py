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
from zoo.networks import CHOICES, Network, plain_name
from zoo.plainvit import BLOCKS
from zoo.resnet import TABLE as RESNETS
from zoo.resnet import resnet
from zoo.vit import TABLE as VITS
from zoo.vit import ViT, vit
from zoo.weights.dialects import RESNET_DIALECTS, VIT_DIALECTS, Dialect
from zoo.weights.files import Weights
from zoo.weights.settings import settings_of

Tensors = Mapping[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]


def by_name(name: str, model: Network) -> Dialect:
    """The dialect `name` of the model's family. Raises WeightsError if there is none."""
    dialects = VIT_DIALECTS if isinstance(model, ViT) else RESNET_DIALECTS
    if not isinstance(name, str) or name not in dialects:
        why = f"there is no dialect {name!r} of these networks"
        raise WeightsError(why, "dialect=...", f"one of {', '.join(dialects)}")
    return dialects[name]


def in_our_names(weights: Weights, dialect: Dialect) -> tuple[Tensors, Tensors]:
    """The tensors that the dialect knows, under our names, and the others under theirs."""
    theirs: dict[str, str] = {}  # our name -> their name
    for key in weights.tensors:
        ours = dialect.to_zoo(key)
        if ours in theirs:  # a part with two spellings, both in the file
            why = f"{theirs[ours]} and {key} are the same part"
            raise WeightsError(why, weights.source, "leave one of them out")
        if ours is not None:
            theirs[ours] = key
    known = {ours: weights.tensors[key] for ours, key in theirs.items()}
    translated = set(theirs.values())
    return known, {key: v for key, v in weights.tensors.items() if key not in translated}


def classes_of(weights: Weights) -> int | None:
    """The number of classes of the head in the file, or None if it has none of one layer."""
    head = weights.dialect.part(weights.tensors, "head.weight")
    return len(head) if head is not None and head.dim() == 2 else None


def brought_by(weights: Weights, allowed: Sequence[str]) -> dict[str, Any]:
    """The settings in `allowed` that the weights imply, by their shapes, config or library."""
    dialect, stored = weights.dialect, weights.metadata.settings or {}
    shapes = shapes_of(in_our_names(weights, dialect)[0])
    stem = shapes.get("stem.conv.weight", ())
    settings: dict[str, Any] = {"num_classes": classes_of(weights), "width": stem and stem[0]}
    settings["image_size"] = side_of_image(shapes)
    if any(".shortcut.conv." in key for key in shapes):
        settings["shortcut"] = "projection"
    settings |= {key: stored[key] for key, words in CHOICES.items() if stored.get(key) in words}
    with contextlib.suppress(ValueError):
        settings["eps"] = float(stored.get("eps") or dialect.requires.get("eps", ("",))[0])
    return {key: value for key, value in settings.items() if key in allowed and value}


def is_plain(weights: Weights) -> bool:
    """True if the file says that it is of a plain network."""
    stored = weights.metadata.settings or {}
    return stored.get("shortcut") == "none" or stored.get("block") in BLOCKS


def names_for(weights: Weights) -> list[str]:
    """The networks that weights may be for, judging by names, shapes and library; plain ones first.

    The head does not count. More than one if shapes cannot tell them apart: plain20 and resnet20
    with option A.
    """
    dialect = weights.dialect
    known, unknown = in_our_names(weights, dialect)
    body = {
        k: v
        for k, v in unknown.items()
        if not (k.startswith(dialect.ignores) or dialect.is_beside(k))
    }
    names = identify(without_head(known) | body)
    # Dialects with requirements are of libraries that have no plain networks. But those of Li et
    # al. look like akamaster's without his prefix.
    if is_plain(weights):
        return [name for name in names if name.startswith("plain")]
    if weights.metadata.settings or (dialect.requires and weights.prefix.endswith(dialect.prefix)):
        return [name for name in names if not name.startswith("plain")]
    return names


def identify(tensors: Tensors) -> list[str]:
    """All models whose state dicts have these names and shapes, without the head, in any width."""
    shapes = shapes_of(tensors)
    stem, side = shapes.get("stem.conv.weight", ()), side_of_image(shapes)
    if len(stem) != 4 or not 0 < stem[0] < 2**12:
        return []
    blocks = sum(key.endswith(".norm1.weight") for key in shapes)
    projected = any(".shortcut.conv." in key for key in shapes)
    names: list[str] = []
    for name, row in VITS.items():
        alike = side and (row.patch_size, row.blocks) == (stem[2], blocks)  # building takes time
        if alike and shapes == parameter_shapes(vit, name, image_size=side):
            names += [plain_name(name), name]
    for name, resnet_row in RESNETS.items():
        if sum(resnet_row.blocks_per_stage) == blocks:
            if shapes == parameter_shapes(resnet, name, plain=True, width=stem[0]):
                names.append(plain_name(name))
            shortcut = "projection" if projected else resnet_row.shortcut
            if shapes == parameter_shapes(resnet, name, shortcut=shortcut, width=stem[0]):
                names.append(name)
    return names


def without_head(tensors: Tensors) -> dict[str, Tensor]:
    """The tensors whose names, which are ours, do not begin with "head."."""
    return {key: tensor for key, tensor in tensors.items() if not key.startswith("head.")}


def has_head_of(model: Network, weights: Weights) -> bool:
    """True if the weights have a head of one layer, with the shapes of the model's."""
    parts = ("head.weight", "head.bias")
    theirs = [weights.dialect.part(weights.tensors, key) for key in parts]
    ours = [model.get_parameter(key) for key in parts]
    return all(t is not None and t.shape == o.shape for t, o in zip(theirs, ours, strict=True))


def shapes_of(tensors: Tensors) -> Shapes:
    """The shapes of what is_shaped(), by our names; queries, keys and values are one layer, qkv."""
    shapes: dict[str, tuple[int, ...]] = {}
    for key, tensor in tensors.items():
        shape = tuple(tensor.shape)
        key, parts = re.subn(r"\.attention\.[qkv]\.", ".attention.qkv.", key)
        if parts and shape:
            rows, *_ = shapes.get(key) or (0,)
            shape = (rows + shape[0], *shape[1:])
        if is_shaped(key):
            shapes[key] = shape
    return shapes


def side_of_image(shapes: Shapes) -> int:
    """The image size in pixels that position embeddings imply; 0 without any (a ResNet)."""
    stem, position = shapes.get("stem.conv.weight", ()), shapes.get("stem.position", ())
    if len(stem) != 4 or len(position) != 3 or not 1 < position[1] < 2**16:
        return 0
    return math.isqrt(position[1] - 1) * stem[2]


@functools.cache
def parameter_shapes(build: Callable[..., Network], name: str, **settings: Any) -> Shapes:
    """The names and shapes of a network's state dict, without the head."""
    with torch.device("meta"):
        return shapes_of(without_head(build(name, **settings).state_dict()))


def is_shaped(key: str) -> bool:
    """False for num_batches_tracked, a scalar that old files lack."""
    return not key.endswith("num_batches_tracked")


HEAD = {"head.weight", "head.bias"}


def likely_cause(
    model: Network, tensors: Tensors, unknown: Collection[str], weights: Weights
) -> str:
    """One line: why `tensors`, in our names, do not fit the model, and a fix that works."""
    dialect = weights.dialect
    places = dialect.divided(model.state_dict())
    wrong = {k for k, v in tensors.items() if k not in places or v.shape != places[k].shape}
    missing = {key for key in places if is_shaped(key) and key not in tensors}
    if wrong | missing <= HEAD and all(map(dialect.is_beside, unknown)):
        fix = "pass drop='head' to keep the model's own head"
        classes, ours = classes_of(weights), getattr(model.head, "out_features", "none")
        if classes not in (None, ours):
            fix = f"pass num_classes={classes}, or drop='head' for a fresh head"
            return f"the file's head has {classes} classes, the model {ours}: {fix}"
        how = "of another kind" if classes else "of several layers" if unknown else "missing"
        return f"the head of the file is {how}: {fix}"
    plain = settings_of(model).get("shortcut") == "none"
    if plain and not (missing or unknown) and all(".shortcut." in key for key in wrong):
        return "the model is plain: pass drop='shortcut' to leave the shortcuts out"
    same = shapes_of(without_head(tensors)) == shapes_of(without_head(places))
    if not same and (names := names_for(weights)):
        name = names[-1]  # the residual one of two twins
        return f"this is {name}'s: zoo.build({name!r}, weights=...) finds the settings in them"
    return "they are incomplete, renamed, or of a network or settings that the zoo does not have"
