"""The same image twice: found by content, and left out where it would make a result dishonest."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable

from data.listing import SPLIT_ORDER, UNREADABLE, Listing
from data.progress import Progress

Found = dict[str, tuple[str, str]]  # name of an image -> its split and class


def without_duplicates(found: Found, listing: Listing, drawn: bool) -> Found:
    """`found` less the images whose content is elsewhere too; what is left out is noted.

    What was trained on cannot judge, nor can what chose the settings: of an image in several
    splits only the copy in the last of train, val, test stays. In train the same image under two
    classes teaches nothing and all of its copies go; where parts are `drawn` from train, one copy
    of each image stays, so that no two can land in two splits. Other copies stay.
    """
    gone: set[str] = set()
    for group in same_content(listing, sorted(found)):
        last = max((found[name][0] for name in group), key=SPLIT_ORDER.index)
        here = [name for name in group if found[name][0] == last]
        two_classes = len({found[name] for name in here}) > 1
        odd = here if two_classes else here[1:]
        leave = last == "train" and (two_classes or drawn)
        elsewhere = [name for name in group if name not in here]
        gone |= {*elsewhere, *(odd if leave else ())}
        for name in [*elsewhere, *odd]:
            other = here[1] if name == here[0] else here[0]
            reason = "left out" if name in gone else "odd but kept"
            listing.notes[f"{reason}, a copy of another image"].add(f"{name} (as {other})")
    return {name: home for name, home in found.items() if name not in gone}


def same_content(listing: Listing, names: Iterable[str]) -> list[list[str]]:
    """The groups of two or more files with the same content; empty files belong to none."""
    by_size: defaultdict[int, list[str]] = defaultdict(list)
    for name in names:
        by_size[listing.size(name)].append(name)
    by_size.pop(0, None)  # broken, not duplicates: decoding names them
    # Only files of one size can be the same, so of large images hardly any is read.
    todo = [name for same in by_size.values() if len(same) > 1 for name in same]
    by_content: defaultdict[bytes, list[str]] = defaultdict(list)
    for name in Progress(todo, "looking for duplicates", delay=2):
        try:
            with listing.open(name) as file:
                by_content[hashlib.file_digest(file, "sha256").digest()].append(name)
        except UNREADABLE:  # decoding names it
            continue
    return [group for group in by_content.values() if len(group) > 1]
