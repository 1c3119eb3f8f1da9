"""ImageNet weights that torchvision publishes: where they are, and what goes with them.

The URLs, accuracies and preprocessing are those of the torchvision that is installed. It is
imported only when they are asked for.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import WeightsError


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes what the network was trained on, and what its outputs mean."""

    resize: int  # pixels of the shorter side
    crop: int  # pixels a side of the middle that is kept
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
    top1: float  # per cent of ImageNet's validation set, single crop
    top5: float
    preprocess: Preprocess


def is_published_name(weights: str | Path) -> bool:
    """Whether `weights` is a name like IMAGENET1K_V2 or DEFAULT, and not a path or a URL."""
    return re.fullmatch("[A-Z0-9_]+", str(weights)) is not None


def published(model: str, weights: str = "DEFAULT") -> Published:
    """What torchvision publishes for `model`; "DEFAULT" is its default."""
    try:
        from torchvision.models import get_model_weights  # slow to import, so only here
    except ImportError as error:
        raise WeightsError(
            f"torchvision, which knows the published weights, cannot be imported: {error}",
            f"weights={weights!r}",
            "pip install torchvision, or pass the PATH or URL of a file",
        ) from error
    try:
        entries = get_model_weights(model)
    except ValueError:
        raise WeightsError(
            f"there are no published weights for {model}",
            f"torchvision publishes {weights} for ImageNet's ResNets and ViTs",
            "pass the PATH or URL of a file; a plain network takes its twin's weights by "
            f"zoo.load(zoo.build({model!r}), PATH, drop='shortcut')",
        ) from None
    if weights not in entries.__members__:
        raise WeightsError(
            f"there are no weights {weights!r} for {model}",
            f"torchvision publishes {', '.join(entries.__members__)}",
            "choose one of these, or pass the PATH or URL of a file",
        )
    entry = entries[weights]
    transform = entry.transforms()
    accuracy = entry.meta["_metrics"]["ImageNet-1K"]
    return Published(
        model,
        entry.name,
        entry.url,
        accuracy["acc@1"],
        accuracy["acc@5"],
        Preprocess(
            transform.resize_size[0],
            transform.crop_size[0],
            transform.interpolation.value,
            tuple(transform.mean),
            tuple(transform.std),
            tuple(entry.meta["categories"]),
        ),
    )
