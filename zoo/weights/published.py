"""Published weights by name: URLs, accuracies, preprocessing, class names.

Those for ImageNet come from the installed torchvision, which is imported only when needed. Those
for CIFAR-10 are trained by others, in the table below.
"""

import difflib
import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from zoo.errors import WeightsError
from zoo.weights.dialects import IMAGENET_MEAN_STD, RESNET_DIALECTS
from zoo.weights.download import fetch
from zoo.weights.files import Metadata, Weights

AKAMASTER = (  # BSD-2; weight decay 1e-4; shortcuts padded with zeros
    "https://github.com/akamaster/pytorch_resnet_cifar10/raw/"
    "d5489e8995e81e91ce6b1d69dcc98ad579b0b153/pretrained_models"
)
LI = (  # MIT; Li et al. 2018 (arXiv 1712.09913); weight decay 5e-4; projections
    "https://github.com/tomgoldstein/loss-landscape/raw/"
    "820dc27b9966f4dded39cc75b2d5b187430eaa78/cifar10/trained_nets"
)
OF_LI = "_sgd_lr=0.1_bs=128_wd=0.0005/model_300.t7"
# Network, name: URL; SHA-256, or its first digits; the accuracy that is published with it. The
# first name of a network is its default.
CIFAR10 = {
    ("resnet20", "CIFAR10_AKAMASTER"): (f"{AKAMASTER}/resnet20-12fca82f.th",
        "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8", 91.73),
    ("resnet32", "CIFAR10_AKAMASTER"): (f"{AKAMASTER}/resnet32-d509ac18.th",
        "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850", 92.63),
    ("resnet44", "CIFAR10_AKAMASTER"): (f"{AKAMASTER}/resnet44-014dd654.th",
        "014dd6541728a1c700b1642ab640e211dc6eb8ed507d70697458dc8f8a0ae2e4", 93.10),
    ("resnet56", "CIFAR10_AKAMASTER"): (f"{AKAMASTER}/resnet56-4bfd9763.th",
        "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367", 93.39),
    ("resnet110", "CIFAR10_AKAMASTER"): (f"{AKAMASTER}/resnet110-1d1ed7c2.th", "1d1ed7c2", 93.68),
    ("resnet56", "CIFAR10_LI"): (f"{LI}/resnet56{OF_LI}",
        "31a71e40a12e06e1c09de18ad57f8b1fb2e0387da3ffe52abc6ef5f96706f6e6", 93.66),
    ("plain56", "CIFAR10_LI"): (f"{LI}/resnet56_noshort{OF_LI}",
        "be90a7141def1dfed16ee5cc7181603d28041cb70f379ade4b903e914064e99a", 86.69),
}  # fmt: skip
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """One set of weights of one model."""

    model: str
    name: str  # such as "IMAGENET1K_V1", "IMAGENET1K_V2" or "IMAGENET1K_SWAG_E2E_V1"
    url: str
    top1: float  # percent of ImageNet's validation set, single crop, or of CIFAR-10's test set
    preprocess: dict[str, Any]  # the fields of a data.views.View
    classes: tuple[str, ...]  # in the order of the head's outputs
    settings: dict[str, str]  # of the network; see settings.py
    sha256: str = ""  # or its first digits; "": the file's name has them


def published_name(weights: object) -> str:
    """The published name, in upper case, that a text or torchvision's enum gives.

    Texts are "IMAGENET1K_V2", "default" or "ResNet50_Weights.IMAGENET1K_V2".
    "" for a path, a URL or anything else.
    """
    text = str(weights) if isinstance(weights, str | Enum) else ""
    pattern = r"(\w+_Weights\.)?([A-Z0-9_]+|(?i:default|imagenet1k_\w+))"
    match = re.fullmatch(pattern, text)
    return (match[1] or "") + match[2].upper() if match else ""


def has_published(model: str, weights: object) -> bool:
    """Whether CIFAR10 has weights of this name for this very network."""
    name = published_name(weights)
    return any(m == model and name in ("DEFAULT", n) for m, n in CIFAR10)


def open_published(model: str, weights: object) -> Weights:
    """Download published weights, and add what is stated about them."""
    entry = published(model, weights)
    metrics = {"top1": entry.top1}
    metadata = Metadata(None, entry.settings, entry.classes, entry.preprocess, metrics)
    opened = fetch(entry.url, sha256=entry.sha256)
    return replace(opened, metadata=metadata, source=f"{model} {entry.name}")


def published(model: str, weights: object = "DEFAULT") -> Published:
    """The weights that are published for `model` under a name; WeightsError if there are none."""
    kind, _, name = published_name(weights).rpartition(".")
    ours = [of for network, of in CIFAR10 if network == model]
    if ours and not kind and name in (*ours, "DEFAULT"):
        return of_cifar10(model, ours[0] if name == "DEFAULT" else name)
    names = ", ".join(ours) or "names like IMAGENET1K_V1, for ImageNet's ResNets and ViTs only"
    try:
        from torchvision.models import get_model_weights  # slow to import, so only here

        entries = get_model_weights(model)
        names = ", ".join(entries.__members__)
        entry = entries[name]
        if kind not in ("", entries.__name__):
            raise KeyError(kind)
    except (ImportError, ValueError, KeyError) as error:
        why = error if isinstance(error, ImportError) else f"there are {names}"
        near = difflib.get_close_matches(name, names.split(", "), 1)
        fix = f"did you mean {near[0]}?" if near else "pass the PATH or URL of a file"
        if kind and name in names.split(", "):
            fix = f"{kind} is of another model: give its weights to that, or {model} its own"
        if model.startswith("plain") and not ours:
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
    settings = {"stride_in": "conv2"}  # "v1.5"
    classes = tuple(entry.meta["categories"])
    return Published(model, entry.name, entry.url, accuracy["acc@1"], preprocess, classes, settings)


def of_cifar10(model: str, name: str) -> Published:
    """An entry of the table CIFAR10."""
    url, sha256, top1 = CIFAR10[model, name]
    is_li = name == "CIFAR10_LI"
    mean, std = RESNET_DIALECTS["li"].normalize if is_li else IMAGENET_MEAN_STD
    preprocess = {
        "resize": 32, "crop": 32, "interpolation": "bilinear", "squash": False, "mean": mean,
        "std": std, "input_size": 32,
    }  # fmt: skip
    shortcut = ("none" if model.startswith("plain") else "projection") if is_li else "pad"
    settings = {"shortcut": shortcut}
    return Published(model, name, url, top1, preprocess, CIFAR10_CLASSES, settings, sha256)
