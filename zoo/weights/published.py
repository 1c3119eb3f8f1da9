"""ImageNet weights that torchvision publishes: URLs, accuracies, preprocessing, class names.

All of it comes from the installed torchvision, which is imported only when needed.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import WeightsError


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


def is_published_name(weights: str | Path) -> bool:
    """True if `weights` is a name like IMAGENET1K_V2 or DEFAULT, not a path or a URL."""
    return re.fullmatch("[A-Z0-9_]+", str(weights)) is not None


def published(model: str, weights: str = "DEFAULT") -> Published:
    """The weights that torchvision publishes for `model` under a name; WeightsError if none."""
    names = "names like IMAGENET1K_V1, for ImageNet's ResNets and ViTs only"
    try:
        from torchvision.models import get_model_weights  # slow to import, so only here

        entries = get_model_weights(model)
        names = ", ".join(entries.__members__)
        entry = entries[weights]
    except (ImportError, ValueError, KeyError) as error:
        why = error if isinstance(error, ImportError) else f"torchvision publishes {names}"
        raise WeightsError(
            f"there are no published weights {weights!r} for {model}",
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
