"""The same picture twice: found by content, and left out where it would make a result dishonest."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from data.walk import Notes, Reason

Found = dict[str, dict[str, list[str]]]  # split -> class -> names of pictures, sorted

SEEN = Reason(
    "left out", ("picture that val or test holds too", "pictures that val or test hold too")
)
TWICE = Reason("left out", ("copy of a picture that is kept", "copies of pictures that are kept"))
TWO_CLASSES = ("picture that lies in two classes at once", "pictures that lie in two classes")
CONTRADICTING = Reason("left out", TWO_CLASSES)
KEPT_CONTRADICTING = Reason("odd, but kept", TWO_CLASSES)
KEPT_TWICE = Reason("odd, but kept", ("copy of a picture beside it", "copies of pictures beside"))


def without_copies(found: Found, root: Path, drawn: bool, notes: Notes) -> Found:
    """`found` less the pictures whose content is elsewhere too.

    What was trained on cannot judge, nor can what chose the settings: of a picture in several
    splits only the copy in the last of train, val, test stays. In train the same picture under two
    classes teaches nothing and goes whole; where parts are `drawn` from train, one copy of each
    picture stays, so that no two can land on two sides. What is given otherwise stays as it is.
    """
    home = {
        name: (split, label)
        for split, classes in found.items()
        for label, names in classes.items()
        for name in names
    }
    left: set[str] = set()
    for group in same_content(root, sorted(home)):
        splits = {home[name][0] for name in group}
        last = next(split for split in ("test", "val", "train") if split in splits)
        here = [name for name in group if home[name][0] == last]
        if len({home[name] for name in here}) > 1:
            odd, reason = here, CONTRADICTING if last == "train" else KEPT_CONTRADICTING
        else:
            odd, reason = here[1:], TWICE if last == "train" and drawn else KEPT_TWICE
        for name in odd:
            other = here[1] if name == here[0] else here[0]
            notes.add(reason, f"{name} (as {other})")
        for name in set(group) - set(here):
            notes.add(SEEN, f"{name} (as {here[0]})")
            left.add(name)
        if reason in (CONTRADICTING, TWICE):
            left |= set(odd)
    return {
        split: {label: [n for n in names if n not in left] for label, names in classes.items()}
        for split, classes in found.items()
    }


def same_content(root: Path, names: Iterable[str]) -> list[list[str]]:
    """The groups of two or more files with the same content; empty files belong to none."""
    by_size: defaultdict[int, list[str]] = defaultdict(list)
    for name in names:
        by_size[(root / name).stat().st_size].append(name)
    by_size.pop(0, None)  # broken, not copies: decoding names them
    # Only files of one size can be the same, so of big pictures hardly any is read.
    todo = [name for same in by_size.values() if len(same) > 1 for name in same]
    by_content: defaultdict[bytes, list[str]] = defaultdict(list)
    for name in tqdm(todo, "looking for copies", leave=False, delay=2, disable=None):
        try:
            with (root / name).open("rb") as file:
                by_content[hashlib.file_digest(file, "sha256").digest()].append(name)
        except OSError:  # decoding names it
            continue
    return [group for group in by_content.values() if len(group) > 1]
