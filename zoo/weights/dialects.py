"""What other libraries call our parts: one table a library, read in both directions.

A rule is a pair of names, theirs and ours, that differ in spelling only. A name belongs to one
rule; {stage}, {block} and {n} stand for numbers, which some libraries count from one more or one
less, and {leaf} for the last word (weight, bias, running_mean ...). State dicts do not show every
setting that changes the outputs, so a dialect also names the settings that its networks have.
A library has a table for each family of networks; where it is the same one, it is used twice.

Read next: load.py, which moves tensors by these names.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

Rules = tuple[tuple[str, str], ...]

# What pictures are normalised with where a file does not say: R, G, B in [0, 1].
IMAGENET_MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # Google's ViTs


@dataclass(frozen=True)
class Dialect:
    """A library's names for the parts of a network, and the settings of its networks."""

    name: str
    rules: Rules  # (theirs, ours)
    requires: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # see settings.py
    prefix: str = ""  # in front of every name, in the library's files
    also: Rules = ()  # other spellings of theirs: read, never written
    splits: bool = False  # q, k and v are three layers and not one
    resizing: str | None = None  # of position embeddings, a key of zoo.positions.RESIZINGS
    normalize: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET_MEAN_STD

    def to_zoo(self, key: str) -> str | None:
        """Our name for theirs (without the prefix), or None if no rule knows it."""
        return rename(key, (*self.rules, *self.also))

    def from_zoo(self, key: str) -> str | None:
        """Their name for ours, with the prefix, or None if they have no such part."""
        theirs = rename(key, tuple((ours, theirs) for theirs, ours in self.rules))
        return None if theirs is None else self.prefix + theirs

    def divided(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of ours with the layers that they have: q, k and v as views of qkv."""
        parts: dict[str, Tensor] = {}
        for key, tensor in state.items():
            if self.splits and ".qkv." in key:
                names = (key.replace(".qkv.", f".{letter}.") for letter in "qkv")
                parts |= zip(names, tensor.chunk(3), strict=True)
            else:
                parts[key] = tensor
        return parts


# v1.5 strides (the 3x3 convolution of a bottleneck) and projections; timm's names are the same.
IMAGENET = {
    "stem": ("imagenet",),
    "shortcut": ("projection",),
    "stride_in": ("conv2",),
    "norm": ("batch",),
}

TORCHVISION = Dialect(
    "torchvision",
    (
        ("conv1.{leaf}", "stem.conv.{leaf}"),
        ("bn1.{leaf}", "stem.norm.{leaf}"),
        ("layer{stage+1}.{block}.conv{n}.{leaf}", "stages.{stage}.{block}.conv{n}.{leaf}"),
        ("layer{stage+1}.{block}.bn{n}.{leaf}", "stages.{stage}.{block}.norm{n}.{leaf}"),
        ("layer{stage+1}.{block}.downsample.0.{leaf}",
         "stages.{stage}.{block}.shortcut.conv.{leaf}"),
        ("layer{stage+1}.{block}.downsample.1.{leaf}",
         "stages.{stage}.{block}.shortcut.norm.{leaf}"),
        ("fc.{leaf}", "head.{leaf}"),
    ),
    IMAGENET,
)  # fmt: skip

# ResNetForImageClassification: microsoft/resnet-18 ... -152 (downsample_in_bottleneck is False).
TRANSFORMERS = Dialect(
    "transformers",
    (
        ("resnet.embedder.embedder.convolution.{leaf}", "stem.conv.{leaf}"),
        ("resnet.embedder.embedder.normalization.{leaf}", "stem.norm.{leaf}"),
        ("resnet.encoder.stages.{stage}.layers.{block}.layer.{n-1}.convolution.{leaf}",
         "stages.{stage}.{block}.conv{n}.{leaf}"),
        ("resnet.encoder.stages.{stage}.layers.{block}.layer.{n-1}.normalization.{leaf}",
         "stages.{stage}.{block}.norm{n}.{leaf}"),
        ("resnet.encoder.stages.{stage}.layers.{block}.shortcut.convolution.{leaf}",
         "stages.{stage}.{block}.shortcut.conv.{leaf}"),
        ("resnet.encoder.stages.{stage}.layers.{block}.shortcut.normalization.{leaf}",
         "stages.{stage}.{block}.shortcut.norm.{leaf}"),
        ("classifier.1.{leaf}", "head.{leaf}"),
    ),
    IMAGENET,
)  # fmt: skip

# github.com/akamaster/pytorch_resnet_cifar10, saved from DataParallel. Its option A puts half of
# the zero channels on each side; its option B is a projection.
CIFAR = Dialect(
    "cifar",
    (
        ("conv1.{leaf}", "stem.conv.{leaf}"),
        ("bn1.{leaf}", "stem.norm.{leaf}"),
        ("layer{stage+1}.{block}.conv{n}.{leaf}", "stages.{stage}.{block}.conv{n}.{leaf}"),
        ("layer{stage+1}.{block}.bn{n}.{leaf}", "stages.{stage}.{block}.norm{n}.{leaf}"),
        ("layer{stage+1}.{block}.shortcut.0.{leaf}",
         "stages.{stage}.{block}.shortcut.conv.{leaf}"),
        ("layer{stage+1}.{block}.shortcut.1.{leaf}",
         "stages.{stage}.{block}.shortcut.norm.{leaf}"),
        ("linear.{leaf}", "head.{leaf}"),
    ),
    {"stem": ("cifar",), "shortcut": ("pad", "projection"), "norm": ("batch",)},
    prefix="module.",
)  # fmt: skip

# Our own names. Files that the zoo wrote say their settings themselves (files.write_weights).
ZOO = Dialect("zoo", tuple((ours, ours) for _, ours in TORCHVISION.rules))

# The head count goes with the width in all of them (vit.TABLE).
RESIDUAL = {"block": ("residual",)}

TORCHVISION_VIT = Dialect(
    "torchvision",
    (
        ("class_token", "stem.class_token"),
        ("conv_proj.{leaf}", "stem.conv.{leaf}"),
        ("encoder.pos_embedding", "stem.position"),
        ("encoder.layers.encoder_layer_{block}.ln_{n}.{leaf}", "blocks.{block}.norm{n}.{leaf}"),
        ("encoder.layers.encoder_layer_{block}.self_attention.in_proj_{leaf}",
         "blocks.{block}.attention.qkv.{leaf}"),
        ("encoder.layers.encoder_layer_{block}.self_attention.out_proj.{leaf}",
         "blocks.{block}.attention.proj.{leaf}"),
        ("encoder.layers.encoder_layer_{block}.mlp.0.{leaf}", "blocks.{block}.mlp.fc1.{leaf}"),
        ("encoder.layers.encoder_layer_{block}.mlp.3.{leaf}", "blocks.{block}.mlp.fc2.{leaf}"),
        ("encoder.ln.{leaf}", "norm.{leaf}"),
        ("heads.head.{leaf}", "head.{leaf}"),
    ),
    RESIDUAL | {"eps": ("1e-06",)},
    also=(  # before torchvision 0.13, and in the files that it publishes
        ("encoder.layers.encoder_layer_{block}.mlp.linear_{n}.{leaf}",
         "blocks.{block}.mlp.fc{n}.{leaf}"),
    ),
    resizing="align-corners",
)  # fmt: skip

TIMM_VIT = Dialect(
    "timm",
    (
        ("cls_token", "stem.class_token"),
        ("patch_embed.proj.{leaf}", "stem.conv.{leaf}"),
        ("pos_embed", "stem.position"),
        ("blocks.{block}.norm{n}.{leaf}", "blocks.{block}.norm{n}.{leaf}"),
        ("blocks.{block}.attn.qkv.{leaf}", "blocks.{block}.attention.qkv.{leaf}"),
        ("blocks.{block}.attn.proj.{leaf}", "blocks.{block}.attention.proj.{leaf}"),
        ("blocks.{block}.mlp.fc{n}.{leaf}", "blocks.{block}.mlp.fc{n}.{leaf}"),
        ("norm.{leaf}", "norm.{leaf}"),
        ("head.{leaf}", "head.{leaf}"),
    ),
    RESIDUAL | {"eps": ("1e-06",)},
    resizing="antialias",
    normalize=HALF,
)

# ViTForImageClassification: google/vit-base-patch16-224, nateraw/vit-base-patch16-224-cifar10.
TRANSFORMERS_VIT = Dialect(
    "transformers",
    (
        ("vit.embeddings.cls_token", "stem.class_token"),
        ("vit.embeddings.patch_embeddings.projection.{leaf}", "stem.conv.{leaf}"),
        ("vit.embeddings.position_embeddings", "stem.position"),
        ("vit.encoder.layer.{block}.layernorm_before.{leaf}", "blocks.{block}.norm1.{leaf}"),
        ("vit.encoder.layer.{block}.attention.attention.query.{leaf}",
         "blocks.{block}.attention.q.{leaf}"),
        ("vit.encoder.layer.{block}.attention.attention.key.{leaf}",
         "blocks.{block}.attention.k.{leaf}"),
        ("vit.encoder.layer.{block}.attention.attention.value.{leaf}",
         "blocks.{block}.attention.v.{leaf}"),
        ("vit.encoder.layer.{block}.attention.output.dense.{leaf}",
         "blocks.{block}.attention.proj.{leaf}"),
        ("vit.encoder.layer.{block}.layernorm_after.{leaf}", "blocks.{block}.norm2.{leaf}"),
        ("vit.encoder.layer.{block}.intermediate.dense.{leaf}", "blocks.{block}.mlp.fc1.{leaf}"),
        ("vit.encoder.layer.{block}.output.dense.{leaf}", "blocks.{block}.mlp.fc2.{leaf}"),
        ("vit.layernorm.{leaf}", "norm.{leaf}"),
        ("classifier.{leaf}", "head.{leaf}"),
    ),
    RESIDUAL | {"eps": ("1e-12",)},
    also=(  # transformers 5 in memory; its files have the names above
        ("vit.layers.{block}.layernorm_before.{leaf}", "blocks.{block}.norm1.{leaf}"),
        ("vit.layers.{block}.attention.q_proj.{leaf}", "blocks.{block}.attention.q.{leaf}"),
        ("vit.layers.{block}.attention.k_proj.{leaf}", "blocks.{block}.attention.k.{leaf}"),
        ("vit.layers.{block}.attention.v_proj.{leaf}", "blocks.{block}.attention.v.{leaf}"),
        ("vit.layers.{block}.attention.o_proj.{leaf}", "blocks.{block}.attention.proj.{leaf}"),
        ("vit.layers.{block}.layernorm_after.{leaf}", "blocks.{block}.norm2.{leaf}"),
        ("vit.layers.{block}.mlp.fc{n}.{leaf}", "blocks.{block}.mlp.fc{n}.{leaf}"),
    ),
    splits=True,
    resizing="bicubic",
    normalize=HALF,
)  # fmt: skip

ZOO_VIT = Dialect("zoo", tuple((ours, ours) for _, ours in TIMM_VIT.rules))

RESNET_DIALECTS = {
    dialect.name: dialect
    for dialect in (TORCHVISION, TRANSFORMERS, replace(TORCHVISION, name="timm"), CIFAR, ZOO)
}
VIT_DIALECTS = {
    dialect.name: dialect for dialect in (TORCHVISION_VIT, TRANSFORMERS_VIT, TIMM_VIT, ZOO_VIT)
}
DIALECTS = (*RESNET_DIALECTS.values(), *VIT_DIALECTS.values())

PLACE = re.compile(r"\{(\w+?)([+-]1)?\}")
FIRST = {"stage": 0, "block": 0, "n": 1}  # where we count from


def rename(name: str, rules: Rules) -> str | None:
    """`name`, if the left side of a rule fits it, as the right side spells it."""
    for left, right in rules:
        match = compiled(left).fullmatch(name)
        if match:
            values = match.groupdict()
            for word, shift in PLACE.findall(left):
                values[word] = add(values[word], -int(shift or 0))
            return spell(right, values)
    return None


def spell(template: str, values: dict[str, str]) -> str:
    return PLACE.sub(lambda place: add(values[place[1]], int(place[2] or 0)), template)


def add(value: str, number: int) -> str:
    return str(int(value) + number) if number else value


@functools.cache
def compiled(template: str) -> re.Pattern[str]:
    """The template as a regular expression with a named group for each place."""
    pattern, end = "", 0
    for place in PLACE.finditer(template):
        word, shift = place[1], int(place[2] or 0)
        values = r"\w+"
        if word != "leaf":
            # Neither leading zeros nor numbers below the first: two names would become one.
            values = "0|[1-9][0-9]{0,3}" if FIRST[word] + shift == 0 else "[1-9][0-9]{0,3}"
        pattern += re.escape(template[end : place.start()]) + f"(?P<{word}>{values})"
        end = place.end()
    return re.compile(pattern + re.escape(template[end:]))
