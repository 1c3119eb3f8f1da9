"""The same image twice: found by content, and left out where it would make a result dishonest."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable

from tqdm import tqdm

from data.listing import UNREADABLE, Listing

Found = dict[str, dict[str, list[str]]]  # split -> class -> names of images, sorted


def without_duplicates(found: Found, listing: Listing, drawn: bool) -> Found:
    """`found` less the images whose content is elsewhere too; what is left out is noted.

    What was trained on cannot judge, nor can what chose the settings: of an image in several
    splits only the copy in the last of train, val, test stays. In train the same image under two
    classes teaches nothing and all of its copies go; where parts are `drawn` from train, one copy
    of each image stays, so that no two can land in two splits. Other copies stay.
    """
    home = {
        name: (split, label)
        for split, classes in found.items()
        for label, names in classes.items()
        for name in names
    }
    gone: set[str] = set()
    for group in same_content(listing, sorted(home)):
        last = max((home[name][0] for name in group), key=("train", "val", "test").index)
        here = [name for name in group if home[name][0] == last]
        two_classes = len({home[name] for name in here}) > 1
        odd = here if two_classes else here[1:]
        leave = last == "train" and (two_classes or drawn)
        elsewhere = [name for name in group if name not in here]
        gone |= {*elsewhere, *(odd if leave else ())}
        for name in [*elsewhere, *odd]:
            other = here[1] if name == here[0] else here[0]
            reason = "left out" if name in gone else "odd but kept"
            listing.notes[f"{reason}, a copy of another image"].add(f"{name} (as {other})")
    return {
        split: {label: [n for n in names if n not in gone] for label, names in classes.items()}
        for split, classes in found.items()
    }


def same_content(listing: Listing, names: Iterable[str]) -> list[list[str]]:
    """The groups of two or more files with the same content; empty files belong to none."""
    by_size: defaultdict[int, list[str]] = defaultdict(list)
    for name in names:
        by_size[listing.size(name)].append(name)
    by_size.pop(0, None)  # broken, not duplicates: decoding names them
    # Only files of one size can be the same, so of large images hardly any is read.
    todo = [name for same in by_size.values() if len(same) > 1 for name in same]
    by_content: defaultdict[bytes, list[str]] = defaultdict(list)
    for name in tqdm(todo, "looking for duplicates", leave=False, delay=2, disable=None):
        try:
            with listing.open(name) as file:
                by_content[hashlib.file_digest(file, "sha256").digest()].append(name)
        except UNREADABLE:  # decoding names it
            continue
    return [group for group in by_content.values() if len(group) > 1]
