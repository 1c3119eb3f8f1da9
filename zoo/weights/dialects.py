"""Key maps between other libraries' state dicts and ours: the tables of dialects.toml.

A rule is a pair of names for the same tensor, theirs and ours. A name matches only one rule.
{stage}, {block} and {n} stand for numbers, which some libraries count from one higher or lower, and
{leaf} for the last word (weight, bias, running_mean ...). Tables are used in both directions.
A state dict does not show every setting that changes the outputs, so a dialect also lists the
settings of its library's networks. timm's ResNets reuse torchvision's table.

Used by: load.py, which renames tensors with these tables.
"""

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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


def tables(family: str) -> dict[str, Dialect]:
    """The dialects of dialects.toml for one family of networks, by name."""
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    dialects = {}
    for name, entries in tomllib.loads(text)[family].items():
        rules, also = (tuple(entries.pop(key, {}).items()) for key in ("rules", "also"))
        dialects[name] = Dialect(name, rules, also=also, **frozen(entries))
    return dialects


def frozen(value: Any) -> Any:
    """A value of TOML with tuples in place of lists."""
    if isinstance(value, dict):
        return {key: frozen(entry) for key, entry in value.items()}
    return tuple(map(frozen, value)) if isinstance(value, list) else value


RESNET_DIALECTS, VIT_DIALECTS = tables("resnet"), tables("vit")
TORCHVISION, CIFAR, TIMM_VIT = (
    RESNET_DIALECTS["torchvision"], RESNET_DIALECTS["cifar"], VIT_DIALECTS["timm"]
)  # fmt: skip
# github.com/tomgoldstein/loss-landscape (Li et al. 2018): akamaster's names, but its networks
# without shortcuts are plain. No file tells the two apart, so this table is used only by name.
LI = replace(
    CIFAR, name="li", requires={**CIFAR.requires, "shortcut": ("none", "projection")}, prefix="",
    normalize=((0.49137, 0.48235, 0.44667), (0.24706, 0.24353, 0.26157)),  # (125.3 ... 66.7) / 255
)  # fmt: skip
OF_VARIANTS = ("gate.{leaf}", "after.0.{leaf}", "factor", "biases")  # zoo/variants.py
RESNET_DIALECTS |= {
    "timm": replace(TORCHVISION, name="timm"),
    # Our own names. Files that the zoo wrote contain their settings (files.write_weights).
    "zoo": Dialect(
        "zoo",
        tuple(
            (ours, ours)
            for ours in (
                *(ours for _, ours in TORCHVISION.rules),
                *(f"stages.{{stage}}.{{block}}.{part}" for part in OF_VARIANTS),
            )
        ),
    ),
    "li": LI,
}
VIT_DIALECTS["zoo"] = Dialect("zoo", tuple((ours, ours) for _, ours in TIMM_VIT.rules))
DIALECTS = tuple(d for d in (*RESNET_DIALECTS.values(), *VIT_DIALECTS.values()) if d is not LI)

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
