"""ImageNet weights that torchvision publishes: URLs, accuracies, preprocessing, class names.

All of it comes from the installed torchvision, which is imported only when needed.
"""

import re
from dataclasses import dataclass, replace
from enum import Enum

from zoo.errors import WeightsError
from zoo.weights.download import fetch
from zoo.weights.files import Metadata, Weights


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing of an image, and the names of the network's outputs."""

    resize: int  # pixels of the shorter side
    crop: int  # pixels a side of the center crop
    interpolation: str  # "bilinear" or "bicubic"
    mean: tuple[float, ...]  # of R, G, B in [0, 1], subtracted
    std: tuple[float, ...]  # then divided by
    classes: tuple[str, ...]  # in the order of the head's outputs


@dataclass(frozen=True)
class Published:
    """One set of weights of one model."""

    model: str
    name: str  # such as "IMAGENET1K_V1", "IMAGENET1K_V2" or "IMAGENET1K_SWAG_E2E_V1"
    url: str
    top1: float  # percent of ImageNet's validation set, single crop
    top5: float
    preprocess: Preprocess


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
    """Download published weights; the settings of torchvision's networks come with them."""
    loaded = fetch(published(model, weights).url)
    settings = {"stride_in": "conv2"}  # "v1.5"
    return replace(loaded, metadata=Metadata(settings=settings))


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
        raise WeightsError(
            f"there are no published weights {str(weights)!r} for {model}",
            why,
            "pass the PATH or URL of a file; a plain network takes its twin's weights by "
            f"zoo.load(zoo.build({model!r}), PATH, drop='shortcut')",
        ) from error
    view, accuracy = entry.transforms(), entry.meta["_metrics"]["ImageNet-1K"]
    preprocess = Preprocess(
        view.resize_size[0], view.crop_size[0], view.interpolation.value,
        tuple(view.mean), tuple(view.std), tuple(entry.meta["categories"]),
    )  # fmt: skip
    top1, top5 = accuracy["acc@1"], accuracy["acc@5"]
    return Published(model, entry.name, entry.url, top1, top5, preprocess)
