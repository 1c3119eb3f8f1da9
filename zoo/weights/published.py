"""ImageNet weights that torchvision publishes: URLs, accuracies, preprocessing, class names.

All of it comes from the installed torchvision, which is imported only when needed.
"""

import difflib
import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from zoo.errors import WeightsError
from zoo.weights.download import fetch
from zoo.weights.files import Metadata, Weights


@dataclass(frozen=True)
class Published:
    """One set of weights of one model."""

    model: str
    name: str  # such as "IMAGENET1K_V1", "IMAGENET1K_V2" or "IMAGENET1K_SWAG_E2E_V1"
    url: str
    top1: float  # percent of ImageNet's validation set, single crop
    top5: float
    preprocess: dict[str, Any]  # the fields of a data.views.View
    classes: tuple[str, ...]  # in the order of the head's outputs


def published_name(weights: object) -> str:
    """The published name, in upper case, that a text or torchvision's enum gives.

    Texts are "IMAGENET1K_V2", "default" or "ResNet50_Weights.IMAGENET1K_V2".
    "" for a path, a URL or anything else.
    """
    text = str(weights) if isinstance(weights, str | Enum) else ""
    pattern = r"(\w+_Weights\.)?([A-Z0-9_]+|(?i:default|imagenet1k_\w+))"
    match = re.fullmatch(pattern, text)
    return (match[1] or "") + match[2].upper() if match else ""


def open_published(model: str, weights: object) -> Weights:
    """Download published weights, and add what torchvision states about them."""
    entry = published(model, weights)
    settings = {"stride_in": "conv2"}  # "v1.5"
    metadata = Metadata(None, settings, entry.classes, entry.preprocess, {"top1": entry.top1})
    return replace(fetch(entry.url), metadata=metadata, source=f"{model} {entry.name}")


def published(model: str, weights: object = "DEFAULT") -> Published:
    """The weights that torchvision publishes for `model` under a name; WeightsError if none."""
    kind, _, name = published_name(weights).rpartition(".")
    names = "names like IMAGENET1K_V1, for ImageNet's ResNets and ViTs only"
    try:
        from torchvision.models import get_model_weights  # slow to import, so only here

        entries = get_model_weights(model)
        names = ", ".join(entries.__members__)
        entry = entries[name]
        if kind not in ("", entries.__name__):
            raise KeyError(kind)
    except (ImportError, ValueError, KeyError) as error:
        why = error if isinstance(error, ImportError) else f"torchvision publishes {names}"
        near = difflib.get_close_matches(name, names.split(", "), 1)
        fix = f"did you mean {near[0]}?" if near else "pass the PATH or URL of a file"
        if kind and name in names.split(", "):
            fix = f"{kind} is of another model: give its weights to that, or {model} its own"
        if model.startswith("plain"):
            fix = "take its twin's weights: "
            fix += f"zoo.load(zoo.build({model!r}), PATH, drop='shortcut')"
        what = f"there are no published weights {str(weights)!r} for {model}"
        raise WeightsError(what, why, fix) from error
    view, accuracy = entry.transforms(), entry.meta["_metrics"]["ImageNet-1K"]
    side = view.crop_size[0]
    preprocess = {
        "resize": view.resize_size[0], "crop": side, "interpolation": view.interpolation.value,
        "squash": False, "mean": tuple(view.mean), "std": tuple(view.std), "input_size": side,
    }  # fmt: skip
    top1, top5 = accuracy["acc@1"], accuracy["acc@5"]
    classes = tuple(entry.meta["categories"])
    return Published(model, entry.name, entry.url, top1, top5, preprocess, classes)
