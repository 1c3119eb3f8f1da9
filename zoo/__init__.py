"""skipzoo: networks with skip connections, to be read, proven and ablated.

MODELS maps each name to its builder. It is made from the tables of depths in resnet.py and the
table of vit.py; list_models() gives the names. CHOICES has the words that settings may be.
Names are torchvision's where torchvision has the model; the plain twin of `resnetN` is `plainN`.
Read first: blocks.py.
"""

import difflib
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from zoo.errors import ModelError, WeightsError
from zoo.networks import Network
from zoo.plainvit import BLOCKS, plainvit
from zoo.positions import RESIZINGS
from zoo.resnet import (
    BASIC_DEPTHS,
    BOTTLENECK_DEPTHS,
    CIFAR_DEPTHS,
    NORMS,
    basic_plain,
    basic_resnet,
    bottleneck_plain,
    bottleneck_resnet,
    cifar_plain,
    cifar_resnet,
)
from zoo.shortcuts import SHORTCUTS
from zoo.vit import TABLE, vit
from zoo.weights.load import export, fill, load, open_weights
from zoo.weights.published import is_published_name, published
from zoo.weights.recognise import brought_by, classes_of

__all__ = [
    "MODELS", "ModelError", "WeightsError", "build", "export", "list_models", "load", "published",
    "twin",
]  # fmt: skip

# The ViTs with the smaller patches are for CIFAR's images, as are the ResNets of 6n+2 layers.
FOR_CIFAR: dict[str, dict[str, Any]] = {
    name: {"num_classes": 10, "image_size": 32} for name, row in TABLE.items() if row[0] == 4
}

MODELS: dict[str, Callable[..., Network]] = {
    **{f"plain{depth}": partial(cifar_plain, depth) for depth in CIFAR_DEPTHS},
    **{f"plain{depth}": partial(basic_plain, depth) for depth in BASIC_DEPTHS},
    **{f"plain{depth}": partial(bottleneck_plain, depth) for depth in BOTTLENECK_DEPTHS},
    **{f"resnet{depth}": partial(cifar_resnet, depth) for depth in CIFAR_DEPTHS},
    **{f"resnet{depth}": partial(basic_resnet, depth) for depth in BASIC_DEPTHS},
    **{f"resnet{depth}": partial(bottleneck_resnet, depth) for depth in BOTTLENECK_DEPTHS},
    **{f"plain{name}": partial(plainvit, name, **FOR_CIFAR.get(name, {})) for name in TABLE},
    **{name: partial(vit, name, **FOR_CIFAR.get(name, {})) for name in TABLE},
}


LARGEST = 1_000_000  # of num_classes and width
LARGEST_IMAGE = 4096
CHOICES = {
    "shortcut": SHORTCUTS,
    "stride_in": ("conv2", "conv1"),
    "norm": tuple(NORMS),
    "resizing": tuple(RESIZINGS),
    "block": tuple(BLOCKS),
}


def list_models() -> list[str]:
    """The names that build() takes, family by family."""
    return list(MODELS)


def twin(name: str) -> str:
    """The residual network of the same depth."""
    return name.removeprefix("plain") if "vit" in name else name.replace("plain", "resnet")


def build(
    name: str,
    num_classes: int | None = None,
    *,
    weights: str | Path | None = None,
    shortcut: str | None = None,
    stride_in: str | None = None,
    norm: str | None = None,
    width: int | None = None,
    image_size: int | None = None,
    eps: float | None = None,
    resizing: str | None = None,
    block: str | None = None,
) -> Network:
    """Build a network, (N, 3, H, W) images -> (N, num_classes) logits.

    Its weights are random, drawn after torch.manual_seed(); or `weights`, which are a published
    name ("IMAGENET1K_V2", or "DEFAULT" for torchvision's default), or a file or URL as zoo.load
    takes them. With a `num_classes` that is not theirs, the head is random and the log says so.

    None leaves a setting at the builder's default: 1000 classes and width 64 for the ImageNet
    networks, 10 and 16 for the CIFAR ones. `shortcut`: "projection", "pad" or "pad-append";
    `stride_in`: "conv2" or "conv1"; `norm`: "batch" or "none". Vision transformers have an
    `image_size`, which their patches must divide, the `eps` of their norms, a `resizing` of
    positions.RESIZINGS and, the plain ones, a `block` of plainvit.BLOCKS; weights bring their own.
    Raises ModelError for a name or setting that does not exist, WeightsError for weights that do
    not fit or cannot be trusted.
    """
    given = {"num_classes": num_classes, "shortcut": shortcut, "stride_in": stride_in,
             "norm": norm, "width": width, "image_size": image_size, "eps": eps,
             "resizing": resizing, "block": block}  # fmt: skip
    settings = {key: value for key, value in given.items() if value is not None}
    check(name, settings)
    if weights is None:
        return MODELS[name](**settings)
    if is_published_name(weights):
        weights = published(name, str(weights)).url
    loaded = open_weights(weights)
    # On the meta device nothing is drawn, only to be overwritten: loading is faster by that.
    with torch.device("meta"):
        model = MODELS[name](**(brought_by(loaded, settings_allowed(name)) | settings))
    model.to_empty(device=torch.get_default_device())
    if num_classes in (None, classes_of(loaded)):
        return fill(model, loaded)
    model.head.reset_parameters()
    return fill(model, loaded, drop="head")


def settings_allowed(name: str) -> list[str]:
    """Of vit() all but `block`, which makes it another network."""
    allowed = list(inspect.signature(MODELS[name]).parameters)
    return [key for key in allowed if key != "block" or name.startswith("plain")]


def check(name: str, settings: dict[str, Any]) -> None:
    """Refuse a name or setting that does not exist, with what does."""
    if not isinstance(name, str) or name not in MODELS:
        near = difflib.get_close_matches(str(name), MODELS, n=3, cutoff=0.5)
        raise ModelError(
            f"there is no model {name!r} in the zoo\n"
            f"the zoo has {', '.join(MODELS)}\n"
            + (f"did you mean {' or '.join(near)}?" if near else "choose one of these names")
        )
    allowed = settings_allowed(name)
    for key, value in settings.items():
        if key not in allowed:
            raise ModelError(
                f"{name} has no setting {key!r}\n"
                f"its settings are {', '.join(allowed)}\n"
                f"leave {key} out, or choose another model"
            )
        if key in CHOICES and value not in CHOICES[key]:
            raise ModelError(
                f"{name} has no {key}={value!r}\n"
                f"there are {', '.join(CHOICES[key])}\n"
                f"choose one of these, or leave {key} out"
            )
        if key == "eps":
            if type(value) is not float or not 0 < value < 1:
                raise ModelError(
                    f"eps is {str(value)[:80]!r}\n"
                    f"zoo.build({name!r}, eps=...)\n"
                    "give a number between 0 and 1, like 1e-6"
                )
            continue
        largest = LARGEST_IMAGE if key == "image_size" else LARGEST
        if key not in CHOICES and (type(value) is not int or not 1 <= value <= largest):
            raise ModelError(
                f"{key} is {str(value)[:80]!r}\n"
                f"zoo.build({name!r}, {key}=...)\n"
                f"give a whole number from 1 to {largest:,}"
            )
    if settings.get("image_size", 0) % (patch := TABLE.get(name.removeprefix("plain"), (1,))[0]):
        raise ModelError(
            f"images of {settings['image_size']} pixels a side are no whole number of patches\n"
            f"zoo.build({name!r}, image_size={settings['image_size']})\n"
            f"give a multiple of {patch}"
        )
