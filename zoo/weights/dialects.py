"""What other libraries call our parts: one table a library, read in both directions.

A rule is a pair of names, theirs and ours, that differ in spelling only. A name belongs to one
rule; {stage}, {block} and {n} stand for numbers, which some libraries count from one more or one
less, and {leaf} for the last word (weight, bias, running_mean ...). State dicts do not show every
setting that changes the outputs, so a dialect also names the settings that its networks have.

Read next: load.py, which moves tensors by these names.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Dialect:
    """A library's names for the parts of a network, and the settings of its networks."""

    name: str
    rules: Rules  # (theirs, ours)
    requires: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # see settings.py
    prefix: str = ""  # in front of every name, in the library's files

    def to_zoo(self, key: str) -> str | None:
        """Our name for theirs (without the prefix), or None if no rule knows it."""
        return rename(key, self.rules)

    def from_zoo(self, key: str) -> str | None:
        """Their name for ours, with the prefix, or None if they have no such part."""
        theirs = rename(key, tuple((ours, theirs) for theirs, ours in self.rules))
        return None if theirs is None else self.prefix + theirs


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

DIALECTS = {dialect.name: dialect for dialect in (TORCHVISION, TRANSFORMERS, CIFAR, ZOO)}

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
