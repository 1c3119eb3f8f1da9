"""Whose names a state dict has, and what follows from them for the network to be built."""

import contextlib
from collections.abc import Sequence
from typing import Any

from zoo.errors import WeightsError
from zoo.networks import Network
from zoo.plainvit import BLOCKS
from zoo.vit import ViT
from zoo.weights.dialects import DIALECTS, RESNET_DIALECTS, VIT_DIALECTS, Dialect
from zoo.weights.files import Weights
from zoo.weights.identify import side_of_image


def by_name(name: str, model: Network) -> Dialect:
    """The dialect of that name for the model's family."""
    dialects = VIT_DIALECTS if isinstance(model, ViT) else RESNET_DIALECTS
    if not isinstance(name, str) or name not in dialects:
        why = f"there is no dialect {name!r} of these networks"
        raise WeightsError(why, "dialect=...", f"one of {', '.join(dialects)}")
    return dialects[name]


def recognise(weights: Weights) -> Dialect:
    """The dialect that knows the most names; of several, the first."""
    names = list(weights.tensors)
    best = max(DIALECTS, key=lambda dialect: sum(map(bool, map(dialect.to_zoo, names))))
    if not any(map(best.to_zoo, names)):
        spoken = ", ".join(dict.fromkeys(dialect.name for dialect in DIALECTS))
        why = f"these names belong to no network of the zoo: {', '.join(names[:3])}"
        fix = f"give a ResNet's or ViT's weights in the names of {spoken}"
        raise WeightsError(why, weights.source, fix)
    return best


def classes_of(weights: Weights) -> int | None:
    """The number of outputs of the head in the file, if it has one."""
    head = recognise(weights).part(weights.tensors, "head.weight")
    return len(head) if head is not None and head.dim() == 2 else None


def brought_by(weights: Weights, allowed: Sequence[str]) -> dict[str, Any]:
    """A ViT's settings that the weights imply, among those allowed; none of a ResNet's.

    A ResNet's (strides, zeros) change what the network is, so the caller must name them.
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
    return {key: value for key, value in settings.items() if key in allowed and value}
