"""skipzoo: networks with skip connections, to be read, proven and ablated.

The only registry: MODELS, an explicit dict from a name to its builder. Names are torchvision's
where torchvision has the model; the plain twin of `resnetN` is `plainN`.
Read first: blocks.py.
"""

import difflib
import inspect
from functools import partial

from zoo.resnet import (
    BASIC_DEPTHS,
    BOTTLENECK_DEPTHS,
    CIFAR_DEPTHS,
    ResNet,
    basic_plain,
    basic_resnet,
    bottleneck_plain,
    bottleneck_resnet,
    cifar_plain,
    cifar_resnet,
)

__all__ = ["MODELS", "ModelError", "build", "list_models"]

MODELS = {
    **{f"plain{depth}": partial(cifar_plain, depth) for depth in CIFAR_DEPTHS},
    **{f"plain{depth}": partial(basic_plain, depth) for depth in BASIC_DEPTHS},
    **{f"plain{depth}": partial(bottleneck_plain, depth) for depth in BOTTLENECK_DEPTHS},
    **{f"resnet{depth}": partial(cifar_resnet, depth) for depth in CIFAR_DEPTHS},
    **{f"resnet{depth}": partial(basic_resnet, depth) for depth in BASIC_DEPTHS},
    **{f"resnet{depth}": partial(bottleneck_resnet, depth) for depth in BOTTLENECK_DEPTHS},
}


class ModelError(ValueError):
    """A model that the zoo does not have, or a setting that the model does not."""


def list_models() -> list[str]:
    """The names that build() takes, by family and depth."""
    return list(MODELS)


def build(
    name: str,
    num_classes: int | None = None,
    *,
    shortcut: str | None = None,
    stride_in: str | None = None,
    norm: str | None = None,
    width: int | None = None,
) -> ResNet:
    """Build a network with random weights, (N, 3, H, W) images -> (N, num_classes) logits.

    None leaves a setting at the builder's default: 1000 classes and width 64 for the ImageNet
    networks, 10 and 16 for the CIFAR ones. `shortcut`: "projection", "pad" or "pad-append";
    `stride_in`: "conv2" or "conv1"; `norm`: "batch" or "none". torch.manual_seed() before the
    call decides the weights. Raises ModelError for a name or setting that does not exist.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.5)
        raise ModelError(
            f"there is no model {name!r} in the zoo\n"
            f"the zoo has {', '.join(MODELS)}\n"
            + (f"did you mean {' or '.join(near)}?" if near else "choose one of these names")
        )
    given = {"num_classes": num_classes, "shortcut": shortcut, "stride_in": stride_in,
             "norm": norm, "width": width}  # fmt: skip
    settings = {key: value for key, value in given.items() if value is not None}
    allowed = list(inspect.signature(MODELS[name]).parameters)
    for key in settings:
        if key not in allowed:
            raise ModelError(
                f"{name} has no setting {key!r}\n"
                f"its settings are {', '.join(allowed)}\n"
                f"leave {key} out, or choose another model"
            )
    return MODELS[name](**settings)
