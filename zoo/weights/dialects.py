"""Key maps between other libraries' state dicts and ours: one table per library and family.

A rule is a pair of names for the same tensor, theirs and ours. A name matches only one rule.
{stage}, {block} and {n} stand for numbers, which some libraries count from one higher or lower, and
{leaf} for the last word (weight, bias, running_mean ...). Tables are read in both directions.
A state dict does not show every setting that changes the outputs, so a dialect also lists the
settings of its library's networks. timm's ResNets reuse torchvision's table.

Used by: load.py, which renames tensors with these tables.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

Rules = tuple[tuple[str, str], ...]

# Mean and std of R, G, B in [0, 1], for files without preprocessing.
IMAGENET_MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # Google's ViTs


@dataclass(frozen=True)
class Dialect:
    """A library's names for the parameters of a network, and the settings of its networks."""

    name: str
    rules: Rules  # (theirs, ours)
    requires: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # see settings.py
    prefix: str = ""  # of every name in the library's files
    base: str = ""  # begins all names but the head's; absent from files without a head
    also: Rules = ()  # their other spellings: read, never written
    ignores: tuple[str, ...] = ()  # beginnings of names that no class score depends on
    splits: bool = False  # q, k and v are three layers instead of one
    resizing: str | None = None  # of position embeddings, a key of zoo.positions.RESIZINGS
    normalize: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET_MEAN_STD

    def to_zoo(self, key: str) -> str | None:
        """Our name for theirs (without the prefix), or None if no rule matches."""
        rules = (*self.rules, *self.also)
        return rename(key, rules) or (rename(self.base + key, rules) if self.base else None)

    def from_zoo(self, key: str) -> str | None:
        """Their name for ours, with the prefix, or None if they have no such part."""
        theirs = rename(key, tuple((ours, theirs) for theirs, ours in self.rules))
        return None if theirs is None else self.prefix + theirs

    def spellings(self, key: str) -> list[str]:
        """All their names for our `key`, without the prefix: the one that they write is first."""
        rules = tuple((ours, theirs) for theirs, ours in (*self.rules, *self.also))
        names = [name for rule in rules if (name := rename(key, (rule,)))]
        return names + [name.removeprefix(self.base) for name in names if self.base]

    def part(self, tensors: Mapping[str, Tensor], key: str) -> Tensor | None:
        """Their tensor for our `key`, or None; names in `tensors` have no prefix."""
        return next((tensors[name] for name in self.spellings(key) if name in tensors), None)

    def is_beside(self, name: str) -> bool:
        """True for the name of a head, or of what only training needs: not of the body's parts.

        "fc.1.weight", "projector.0.bias", "queue". A further token is part of the body.
        """
        names = [theirs for theirs, ours in (*self.rules, *self.also) if ours[:5] != "head."]
        names += [theirs.removeprefix(self.base) for theirs in names]
        first = name.split(".")[0]
        inside = any(compiled(theirs.split(".")[0]).fullmatch(first) for theirs in names)
        return not inside and ("token" not in first or first == "mask_token")

    def divided(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our state dict with their layers: if they split qkv, q, k and v are views of it."""
        parts: dict[str, Tensor] = {}
        for key, tensor in state.items():
            if self.splits and ".qkv." in key:
                names = (key.replace(".qkv.", f".{letter}.") for letter in "qkv")
                parts |= zip(names, tensor.chunk(3), strict=True)
            else:
                parts[key] = tensor
        return parts


def within(theirs: str, ours: str, rules: Rules) -> Rules:
    """The rules of one block, with both prefixes prepended."""
    return tuple((theirs + left, ours + right) for left, right in rules)


RESNET_BLOCK, VIT_BLOCK = "stages.{stage}.{block}.", "blocks.{block}."

# fmt: off
# v1.5 strides (the 3x3 convolution of a bottleneck) and projections; timm's names are the same.
IMAGENET = {"stem": ("imagenet",), "shortcut": ("projection",), "stride_in": ("conv2",),
            "norm": ("batch",)}

TORCHVISION_BLOCK = (
    ("conv{n}.{leaf}", "conv{n}.{leaf}"),
    ("bn{n}.{leaf}", "norm{n}.{leaf}"),
    ("downsample.0.{leaf}", "shortcut.conv.{leaf}"),
    ("downsample.1.{leaf}", "shortcut.norm.{leaf}"),
)
TORCHVISION = Dialect("torchvision", (
    ("conv1.{leaf}", "stem.conv.{leaf}"),
    ("bn1.{leaf}", "stem.norm.{leaf}"),
    *within("layer{stage+1}.{block}.", RESNET_BLOCK, TORCHVISION_BLOCK),
    ("fc.{leaf}", "head.{leaf}"),
), IMAGENET, also=(
    # nn.Sequential(*model.children()), as many notebooks cut off the head
    ("0.{leaf}", "stem.conv.{leaf}"),
    ("1.{leaf}", "stem.norm.{leaf}"),
    *within("{stage+4}.{block}.", RESNET_BLOCK, TORCHVISION_BLOCK),
))

# ResNetForImageClassification: microsoft/resnet-18 ... -152 (downsample_in_bottleneck is False).
TRANSFORMERS = Dialect("transformers", (
    ("resnet.embedder.embedder.convolution.{leaf}", "stem.conv.{leaf}"),
    ("resnet.embedder.embedder.normalization.{leaf}", "stem.norm.{leaf}"),
    *within("resnet.encoder.stages.{stage}.layers.{block}.", RESNET_BLOCK, (
        ("layer.{n-1}.convolution.{leaf}", "conv{n}.{leaf}"),
        ("layer.{n-1}.normalization.{leaf}", "norm{n}.{leaf}"),
        ("shortcut.convolution.{leaf}", "shortcut.conv.{leaf}"),
        ("shortcut.normalization.{leaf}", "shortcut.norm.{leaf}"),
    )),
    ("classifier.1.{leaf}", "head.{leaf}"),
), IMAGENET, base="resnet.")

# github.com/akamaster/pytorch_resnet_cifar10, saved from DataParallel. Its option A puts half of
# the zero channels on each side; its option B is a projection.
CIFAR = Dialect("cifar", (
    ("conv1.{leaf}", "stem.conv.{leaf}"),
    ("bn1.{leaf}", "stem.norm.{leaf}"),
    *within("layer{stage+1}.{block}.", RESNET_BLOCK, (
        ("conv{n}.{leaf}", "conv{n}.{leaf}"),
        ("bn{n}.{leaf}", "norm{n}.{leaf}"),
        ("shortcut.0.{leaf}", "shortcut.conv.{leaf}"),
        ("shortcut.1.{leaf}", "shortcut.norm.{leaf}"),
    )),
    ("linear.{leaf}", "head.{leaf}"),
), {"stem": ("cifar",), "shortcut": ("pad", "projection"), "norm": ("batch",)}, prefix="module.")

# github.com/tomgoldstein/loss-landscape (Li et al. 2018): akamaster's names, but its networks
# without shortcuts are plain. No file tells the two apart, so this table is used only by name.
LI = replace(
    CIFAR, name="li", requires={"stem": ("cifar",), "shortcut": ("none", "projection"),
                                "norm": ("batch",)}, prefix="",
    normalize=((0.49137, 0.48235, 0.44667), (0.24706, 0.24353, 0.26157)),  # (125.3 ... 66.7) / 255
)

# Our own names. Files that the zoo wrote contain their settings (files.write_weights).
ZOO = Dialect("zoo", tuple((ours, ours) for _, ours in TORCHVISION.rules))

# The number of heads goes with the width in all of them (vit.TABLE).
RESIDUAL = {"block": ("residual",)}

TORCHVISION_VIT = Dialect("torchvision", (
    ("class_token", "stem.class_token"),
    ("conv_proj.{leaf}", "stem.conv.{leaf}"),
    ("encoder.pos_embedding", "stem.position"),
    *within("encoder.layers.encoder_layer_{block}.", VIT_BLOCK, (
        ("ln_{n}.{leaf}", "norm{n}.{leaf}"),
        ("self_attention.in_proj_{leaf}", "attention.qkv.{leaf}"),
        ("self_attention.out_proj.{leaf}", "attention.proj.{leaf}"),
        ("mlp.0.{leaf}", "mlp.fc1.{leaf}"),
        ("mlp.3.{leaf}", "mlp.fc2.{leaf}"),
    )),
    ("encoder.ln.{leaf}", "norm.{leaf}"),
    ("heads.head.{leaf}", "head.{leaf}"),
), RESIDUAL | {"eps": ("1e-06",)}, resizing="align-corners", also=(
    # before torchvision 0.13, and in the files that it publishes
    ("encoder.layers.encoder_layer_{block}.mlp.linear_{n}.{leaf}",
     "blocks.{block}.mlp.fc{n}.{leaf}"),
))

TIMM_VIT = Dialect("timm", (
    ("cls_token", "stem.class_token"),
    ("patch_embed.proj.{leaf}", "stem.conv.{leaf}"),
    ("pos_embed", "stem.position"),
    *within("blocks.{block}.", VIT_BLOCK, (
        ("norm{n}.{leaf}", "norm{n}.{leaf}"),
        ("attn.qkv.{leaf}", "attention.qkv.{leaf}"),
        ("attn.proj.{leaf}", "attention.proj.{leaf}"),
        ("mlp.fc{n}.{leaf}", "mlp.fc{n}.{leaf}"),
    )),
    ("norm.{leaf}", "norm.{leaf}"),
    ("head.{leaf}", "head.{leaf}"),
), RESIDUAL | {"eps": ("1e-06",)}, resizing="antialias", normalize=HALF)

# ViTForImageClassification: google/vit-base-patch16-224, nateraw/vit-base-patch16-224-cifar10.
TRANSFORMERS_VIT = Dialect("transformers", (
    ("vit.embeddings.cls_token", "stem.class_token"),
    ("vit.embeddings.patch_embeddings.projection.{leaf}", "stem.conv.{leaf}"),
    ("vit.embeddings.position_embeddings", "stem.position"),
    *within("vit.encoder.layer.{block}.", VIT_BLOCK, (
        ("layernorm_before.{leaf}", "norm1.{leaf}"),
        ("attention.attention.query.{leaf}", "attention.q.{leaf}"),
        ("attention.attention.key.{leaf}", "attention.k.{leaf}"),
        ("attention.attention.value.{leaf}", "attention.v.{leaf}"),
        ("attention.output.dense.{leaf}", "attention.proj.{leaf}"),
        ("layernorm_after.{leaf}", "norm2.{leaf}"),
        ("intermediate.dense.{leaf}", "mlp.fc1.{leaf}"),
        ("output.dense.{leaf}", "mlp.fc2.{leaf}"),
    )),
    ("vit.layernorm.{leaf}", "norm.{leaf}"),
    ("classifier.{leaf}", "head.{leaf}"),
), RESIDUAL | {"eps": ("1e-12",)}, resizing="bicubic", normalize=HALF, splits=True, base="vit.",
    ignores=("pooler.", "vit.pooler."), also=within(
    # transformers 5 in memory; its files have the names above
    "vit.layers.{block}.", VIT_BLOCK, (
        ("layernorm_before.{leaf}", "norm1.{leaf}"),
        ("attention.q_proj.{leaf}", "attention.q.{leaf}"),
        ("attention.k_proj.{leaf}", "attention.k.{leaf}"),
        ("attention.v_proj.{leaf}", "attention.v.{leaf}"),
        ("attention.o_proj.{leaf}", "attention.proj.{leaf}"),
        ("layernorm_after.{leaf}", "norm2.{leaf}"),
        ("mlp.fc{n}.{leaf}", "mlp.fc{n}.{leaf}"),
    ),
))

ZOO_VIT = Dialect("zoo", tuple((ours, ours) for _, ours in TIMM_VIT.rules))
# fmt: on

RESNETS = (TORCHVISION, TRANSFORMERS, replace(TORCHVISION, name="timm"), CIFAR, ZOO, LI)
RESNET_DIALECTS = {dialect.name: dialect for dialect in RESNETS}
VITS = (TORCHVISION_VIT, TRANSFORMERS_VIT, TIMM_VIT, ZOO_VIT)
VIT_DIALECTS = {dialect.name: dialect for dialect in VITS}
DIALECTS = tuple(dialect for dialect in RESNETS + VITS if dialect is not LI)

PLACE = re.compile(r"\{(\w+?)([+-]\d)?\}")
FIRST = {"stage": 0, "block": 0, "n": 1}  # our first number


def rename(name: str, rules: Rules) -> str | None:
    """Translate `name` from the left to the right side of the first rule that matches, or None."""
    for left, right in rules:
        if match := compiled(left).fullmatch(name):
            return spell(right, left, match)
    return None


def spell(right: str, left: str, match: re.Match[str]) -> str:
    """Fill `right` with the values matched by `left`, shifting numbers as the templates say."""
    shifts = {word: int(shift or 0) for word, shift in PLACE.findall(left)}

    def value(place: re.Match[str]) -> str:
        shift = int(place[2] or 0) - shifts[place[1]]
        return str(int(match[place[1]]) + shift) if shift else match[place[1]]

    return PLACE.sub(value, right)


@functools.cache
def compiled(template: str) -> re.Pattern[str]:
    """The template as a regular expression, with a named group for each placeholder."""
    pattern, end = "", 0
    for place in PLACE.finditer(template):
        word, shift = place[1], int(place[2] or 0)
        values = r"\w+"
        if word != "leaf":
            # No leading zeros or numbers below the first: two names would map to one.
            first = FIRST[word] + shift
            values = f"[{first}-9]|[1-9][0-9]{{1,3}}"
        pattern += re.escape(template[end : place.start()]) + f"(?P<{word}>{values})"
        end = place.end()
    return re.compile(pattern + re.escape(template[end:]))
