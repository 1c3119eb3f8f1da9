"""Finds a network's state dict in a checkpoint: in nested dicts, behind prefixes of its names.

{"epoch": 9, "model_ema": {"module.conv1.weight": ..., "n_averaged": ...}} has one at the place
`model_ema.module`. A name table recognises it by two landmarks: the stem's convolution and the
first block. What is left out, or was chosen among several, is written down in notes.

Used by: files.py, which reads the checkpoint.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn, strided

from zoo.errors import WeightsError
from zoo.weights.dialects import DIALECTS, Dialect
from zoo.weights.screen import AGAIN

MOST_LETTERS = 500  # characters of an entry's name
MOST_WORDS = 4  # in a place, and before the names that a table knows: "model.module.encoder."
LANDMARKS = dict.fromkeys(
    (stem, block, dialect.base)
    for dialect in DIALECTS
    for stem in dialect.spellings("stem.conv.weight")
    for first in ("stages.0.0.conv1.weight", "blocks.0.norm1.weight")
    for block in dialect.spellings(first)
)
AVERAGED = {"ema", "averaged", "average", "avg", "swa"}  # words in a name, such as model_ema


class Found(NamedTuple):
    """A state dict in a checkpoint."""

    group: str  # the entry of the checkpoint, such as "model_ema"
    prefix: str  # of its names, such as "module."
    tensors: dict[str, Tensor]  # without the prefix

    @property
    def name(self) -> str:
        """How FILE#NAME names it; "." for a bare state dict."""
        return ".".join(filter(None, (self.group, self.prefix.rstrip(".")))) or "."


def search(loaded: dict | list | tuple, source: str, choice: str | None) -> tuple[Found, list[str]]:
    """The state dict of a network in a checkpoint, and notes of what was chosen and left out.

    `choice`: the name of one, if there are several. Averaged weights are preferred to others of the
    same network. Raises WeightsError if the choice is open, or if there is nothing to choose from.
    """
    groups = dict(groups_in(loaded, source))
    if not groups:
        fix = "save a network's weights: torch.save(model.state_dict(), PATH)"
        raise WeightsError("this holds no tensors with names, so no state dict", source, fix)
    found = [
        Found(group, prefix, below(prefix, tensors))
        for group, tensors in groups.items()
        for prefix in prefixes_in(tensors)
    ]
    notes: list[str] = []
    if choice is not None:
        chosen = next((one for one in found if one.name == choice), None)
        if chosen is None:
            why = f"there is no network's state dict at #{choice}"
            fix = f"it has these: {listed(found)}" if found else "leave #... out"
            raise WeightsError(why, source, fix)
    elif found:
        chosen = preferred(found, source)
        others = [one for one in found if one is not chosen]
        if others:
            notes.append(f"took the averaged weights, {chosen.name}; others: {listed(others)}")
    else:
        largest = max(groups, key=lambda group: len(groups[group]))
        chosen = Found(largest, "", groups[largest])  # loading it will say what it lacks
    if out := left_out(groups, chosen):
        notes.append(f"left out: {out}")
    for key, value in chosen.tensors.items():
        if not is_plain(value):
            why = f"the entry {key!r:.60} is {type(value).__name__}, not a plain tensor"
            fix = "give a state dict, or a checkpoint that holds one"
            raise WeightsError(why, source, fix)
    return chosen._replace(tensors=with_head(chosen.tensors, notes)), notes


def groups_in(entries: dict | list | tuple, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each dict or list in a checkpoint that has tensors, with its place.

    Not those whose keys are numbers, as in an optimizer's state.
    Raises WeightsError for a name that is too long.
    """
    waiting, seen = [("", entries)], {id(entries)}
    while waiting:
        place, here = waiting.pop(0)
        # A file can override an OrderedDict's methods, so call those of dict itself.
        pairs = enumerate(here) if isinstance(here, list | tuple) else dict.items(here)
        named = {str(k): v for k, v in pairs if isinstance(k, str) or not isinstance(here, dict)}
        for key in named:
            if len(key) > MOST_LETTERS:
                why = f"an entry's name has {len(key):,} letters: {key[:40]} ..."
                raise WeightsError(why, source, AGAIN)
        if tensors := {key: v for key, v in named.items() if isinstance(v, Tensor)}:
            yield place, tensors
        for key, value in named.items():
            deep = place.count(".") >= MOST_WORDS
            if isinstance(value, dict | list | tuple) and id(value) not in seen and not deep:
                seen.add(id(value))
                waiting.append((f"{place}.{key}" if place else key, value))


def prefixes_in(tensors: Mapping[str, Any]) -> list[str]:
    """The prefixes behind which a dialect's landmarks are, such as "" or "module.encoder_q."."""
    prefixes: dict[str, None] = {}
    for key in tensors:
        for stem, block, base in LANDMARKS:
            prefix = key.removesuffix(stem)
            inside = key.endswith(stem) and prefix[-1:] in ("", ".")
            # A prefix that ends with the base belongs to the library's own names.
            if inside and prefix + block in tensors and not (base and prefix.endswith(base)):
                prefixes[prefix] = None
    return list(prefixes)


def below(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The entries behind a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def preferred(found: list[Found], source: str) -> Found:
    """The only state dict, or the averaged one of a network; WeightsError if the choice is open."""
    if len(found) == 1:
        return found[0]
    averaged = [one for one in found if AVERAGED & set(re.split(r"[._-]", one.name.lower()))]
    alike = [{key: tuple(v.shape) for key, v in one.tensors.items()} for one in found]
    if len(averaged) == 1 and all(shapes == alike[0] for shapes in alike):
        return averaged[0]
    why = f"this has {len(found)} state dicts of networks: {listed(found)}"
    fix = f"add one to the path, as in PATH#{found[0].name}; in Python, give that dict itself"
    raise WeightsError(why, source, fix)


def listed(found: Sequence[Found]) -> str:
    """Their places, at most five."""
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return ", ".join(f"#{one.name}" for one in found[:5]) + more


def dialect_of(names: Collection[str]) -> Dialect:
    """The first dialect among those that know the most names."""
    best, most = DIALECTS[0], -1
    for dialect in DIALECTS:
        count = known(dialect, names)
        if count > most:
            best, most = dialect, count
        if most == len(names):  # the others, which take time, cannot know more
            break
    return best


def known(dialect: Dialect, names: Collection[str]) -> int:
    """How many of the names a dialect knows."""
    return sum(dialect.to_zoo(name) is not None for name in names)


def left_out(groups: Mapping[str, dict[str, Any]], chosen: Found) -> str:
    """What is not in the chosen state dict, by prefix and number of tensors; "" if nothing."""
    count: Counter[str] = Counter()
    for group, tensors in groups.items():
        for key, value in tensors.items():
            inside = group == chosen.group and key.startswith(chosen.prefix)
            if isinstance(value, Tensor) and not inside:
                count[branch(key, chosen.prefix) if group == chosen.group else group or "."] += 1
    names = [f"{name[:60]} ({number})" for name, number in count.most_common(4)]
    return ", ".join(names) + (f" and {len(count) - 4} more" if len(count) > 4 else "")


def branch(key: str, prefix: str) -> str:
    """The part of a name up to where it leaves the prefix: module.queue of module.encoder_q."""
    parts, common = key.split("."), prefix.split(".")
    depths = (i for i in range(1, len(parts)) if parts[:i] != common[:i])
    return ".".join(parts[: next(depths, len(parts))])


def with_head(tensors: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The tensors with the head under the library's own name, wherever a notebook put it.

    nn.Sequential(Dropout(), Linear()) in place of `fc` has its only layer at fc.1; others call it
    `classifier`. It is the head if nothing else is beside the body.
    """
    dialect = dialect_of(tensors)
    own = [key for key in tensors if dialect.is_beside(key)]
    layers = [key for key in own if key.endswith("weight") and tensors[key].dim() == 2]
    ours = "head.weight"
    if len(layers) == 1 and dialect.to_zoo(layers[0]) != ours:
        old, new = (name.removesuffix("weight") for name in (layers[0], dialect.spellings(ours)[0]))
        if set(own) <= {f"{old}weight", f"{old}bias"}:
            notes.append(f"took {old.rstrip('.')} as the head, {new.rstrip('.')}")
            return {
                new + key.removeprefix(old) if key in own else key: value
                for key, value in tensors.items()
            }
    return tensors


def is_plain(value: object) -> bool:
    """True for a dense tensor in memory that is not of a subclass (which has its own methods)."""
    return (
        isinstance(value, Tensor)
        and type(value) in (Tensor, nn.Parameter)
        and value.layout == strided
        and not (value.is_nested or value.is_meta)
    )
