"""Every network by name, and zoo.build. Settings are checked here, and nowhere else.

The names come from resnet.TABLE and vit.TABLE, and are torchvision's if it has the model.
The plain twin of resnet50 is plain50; that of vit_b_16 is plainvit_b_16.
"""

import difflib
import logging
import numbers
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch

from zoo.blocks import Bottleneck
from zoo.errors import ModelError
from zoo.networks import CHOICES, Network, plain_name
from zoo.plainvit import plainvit
from zoo.resnet import TABLE as RESNETS
from zoo.resnet import resnet
from zoo.variants import NORM_FREE
from zoo.vit import TABLE as VITS
from zoo.vit import vit
from zoo.weights.identify import brought_by, has_head_of
from zoo.weights.load import fill, open_weights
from zoo.weights.published import has_published

log = logging.getLogger("zoo")

MODELS: dict[str, Callable[..., Network]] = {
    **{plain_name(name): partial(resnet, name, plain=True) for name in RESNETS},
    **{name: partial(resnet, name) for name in RESNETS},
    **{plain_name(name): partial(plainvit, name) for name in VITS},
    **{name: partial(vit, name) for name in VITS},
}
TWINS = {plain_name(name): name for name in (*RESNETS, *VITS)}

LARGEST_IMAGE = 4096
LARGEST = {"num_classes": 1_000_000, "width": 1_000_000, "image_size": LARGEST_IMAGE}


def list_models(pattern: str = "*") -> list[str]:
    """The names that build() takes, family by family; `pattern` as for files: "resnet*"."""
    return [name for name in MODELS if fnmatchcase(name, pattern)]


def twin(name: str) -> str:
    """The name of a plain network's residual twin; a residual network's name is returned as is."""
    return TWINS.get(name, name)


def owner(name: str, weights: object) -> str:
    """The network whose published weights are meant: this one if it has some, else its twin.

    plain56 has CIFAR10_LI; plain50 has none, so resnet50's are meant.
    """
    return name if has_published(name, weights) else twin(name)


def build(
    name: str,
    num_classes: int | None = None,
    *,
    weights: object = None,
    shortcut: str | None = None,
    stride_in: str | None = None,
    norm: str | None = None,
    width: int | None = None,
    image_size: int | None = None,
    eps: float | None = None,
    resizing: str | None = None,
    block: str | None = None,
    variant: str | None = None,
) -> Network:
    """Build a network, (N, 3, H, W) images -> (N, num_classes) logits.

    `weights`: a published name ("IMAGENET1K_V2", or "DEFAULT" for torchvision's default, or
    torchvision's enum), or a file, URL or state dict as for zoo.load. By default weights are
    random, and torch.manual_seed() determines them. If `num_classes` differs from the weights', or
    they have no head, the head is random and a warning is logged.

    A setting that is None comes from the weights (classes, width, projections, image size, eps), or
    else from the table: 1000 classes and width 64 for the ImageNet networks, 10 and 16 for the
    CIFAR ones. `shortcut`: "projection", "pad" or "pad-append"; `stride_in`: "conv2" or "conv1";
    `norm`: "batch" or "none"; `variant`: other blocks, of variants.VARIANTS. Vision transformers
    have an `image_size`, a multiple of their patch size, the `eps` of their norms, a `resizing` of
    positions.RESIZINGS and, if plain, a `block` of plainvit.BLOCKS.
    Raises ModelError for an unknown name or setting, WeightsError for weights that do not fit or
    cannot be trusted.
    """
    requested = {"num_classes": num_classes, "shortcut": shortcut, "stride_in": stride_in,
                 "norm": norm, "width": width, "image_size": image_size, "eps": eps,
                 "resizing": resizing, "block": block, "variant": variant}  # fmt: skip
    settings = {key: as_python(value) for key, value in requested.items() if value is not None}
    check(name, settings)
    if weights is None:
        return MODELS[name](**settings)
    opened = open_weights(weights, name)
    brought = brought_by(opened, settings_allowed(name))
    with torch.device("meta"):  # draws no random weights, which would be overwritten
        model = MODELS[name](**(brought | settings))
    model.to_empty(device=torch.get_default_device())
    if has_head_of(model, opened):
        return fill(model, opened)
    model.head.reset_parameters()
    fill(model, opened, drop={"head"})
    log.warning("the head for %d classes is new: its weights are random", model.head.out_features)
    return model


def as_python(value: Any) -> Any:
    """`value`, but a NumPy number as Python's own type."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) and type(value) is not bool else value


def settings_allowed(name: str) -> list[str]:
    """The settings that build() takes for a model."""
    if name in VITS:
        return ["num_classes", "image_size", "eps", "resizing"]
    if twin(name) in VITS:
        return ["num_classes", "block", "image_size", "eps", "resizing"]
    own = [] if name in TWINS else ["shortcut"]
    if RESNETS[twin(name)].block is Bottleneck:
        own.append("stride_in")
    elif own:
        own.append("variant")
    return ["num_classes", *own, "norm", "width"]


def check(name: str, settings: dict[str, Any]) -> None:
    """Raise ModelError for an unknown name or setting; the message lists the valid ones."""
    if not isinstance(name, str) or name not in MODELS:
        near = difflib.get_close_matches(str(name).lower(), MODELS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "choose one of these names"
        why = f"there is no model {str(name)[:80]!r} in the zoo"
        names = f"zoo.list_models() has {len(MODELS)} names: resnet50, plain50, vit_b_16 ..."
        raise ModelError(f"{why}\n{names}\n{hint}")
    allowed = settings_allowed(name)
    for key, value in settings.items():
        text = repr(value)[:80]
        call = f"zoo.build({name!r}, {key}={text})"
        if key not in allowed:
            fix = f"leave it out: the settings of {name} are {', '.join(allowed)}"
            raise ModelError(f"{name} has no setting {key!r}\n{call}\n{fix}")
        if wanted := what_is_allowed(name, key, value):
            raise ModelError(f"{name} has no {key}={text}\n{call}\ngive {wanted}")
    variant, norm = settings.get("variant"), settings.get("norm")
    wrong = {"zero-gamma": "none"} | dict.fromkeys(NORM_FREE, "batch")
    if norm and norm == wrong.get(str(variant)):
        call = f"zoo.build({name!r}, variant={variant!r}, norm={norm!r})"
        why = f"{variant} is about networks with{'out' * (norm == 'batch')} norms"
        raise ModelError(f"{why}\n{call}\nleave out norm={norm!r}")


def what_is_allowed(name: str, key: str, value: Any) -> str:
    """The valid values of a setting, in words, if `value` is not one of them; else ""."""
    if key in CHOICES:
        return "" if value in CHOICES[key] else f"one of {', '.join(CHOICES[key])}"
    if key == "eps":
        right = type(value) is float and 0 < value < 1
        return "" if right else "a number between 0 and 1, like 1e-6"
    if type(value) is not int or not 1 <= value <= LARGEST[key]:
        return f"a whole number from 1 to {LARGEST[key]:,}"
    if key == "image_size" and value % (side := VITS[twin(name)].patch_size):
        return f"a multiple of {side}: images are divided into patches of {side} pixels a side"
    return ""
