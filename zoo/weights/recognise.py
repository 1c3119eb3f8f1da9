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


def by_name(dialect: str, model: Network) -> Dialect:
    """The dialect of that name for the model's family."""
    tables = VIT_DIALECTS if isinstance(model, ViT) else RESNET_DIALECTS
    if not isinstance(dialect, str) or dialect not in tables:
        raise WeightsError(
            f"there is no dialect {dialect!r} of these networks",
            "dialect=...",
            f"one of {', '.join(tables)}",
        )
    return tables[dialect]


def recognise(weights: Weights) -> Dialect:
    """The dialect that knows the most names."""

    best, most = DIALECTS[0], 0
    for table in DIALECTS:
        known = sum(table.to_zoo(key) is not None for key in weights.tensors)
        if known == len(weights.tensors):
            return table
        if known > most:
            best, most = table, known
    if not most:
        raise WeightsError(
            f"these names belong to no network of the zoo: {', '.join(list(weights.tensors)[:3])}",
            weights.source,
            "give a ResNet's or ViT's weights in the names of "
            + ", ".join(dict.fromkeys(table.name for table in DIALECTS)),
        )
    return best


def classes_of(weights: Weights) -> int | None:
    """How many outputs the head in the file has, if it has one."""
    for dialect in DIALECTS:
        head = weights.tensors.get((dialect.from_zoo("head.weight") or "")[len(dialect.prefix) :])
        if head is not None and head.dim() == 2:
            return head.shape[0]
    return None


def brought_by(weights: Weights, allowed: Sequence[str]) -> dict[str, Any]:
    """Settings of the builder that the weights say or imply: of a transformer's, not of a ResNet's.

    A ResNet's (strides, zeros) change what the network is, so whoever builds it says them.
    """
    spoken = recognise(weights)
    said = {key: values[0] for key, values in spoken.requires.items()}
    said |= weights.metadata.settings or {}
    position, conv = (
        weights.tensors.get((spoken.from_zoo(key) or "").removeprefix(spoken.prefix))
        for key in ("stem.position", "stem.conv.weight")
    )
    settings: dict[str, Any] = {}
    if said.get("block") in BLOCKS:
        settings["block"] = said["block"]
    with contextlib.suppress(ValueError):
        settings["eps"] = float(said.get("eps", ""))
    if position is not None and conv is not None:
        shapes = {"stem.position": tuple(position.shape), "stem.conv.weight": tuple(conv.shape)}
        settings["image_size"] = side_of_image(shapes) or None
    return {key: value for key, value in settings.items() if key in allowed and value}
