"""Finds identical images by content, and leaves out those that would make results dishonest."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable

from data.listing import SPLIT_ORDER, UNREADABLE, Listing
from data.progress import Progress

Assignment = dict[str, tuple[str, str]]  # image name -> (split, class)


def without_duplicates(images: Assignment, listing: Listing, drawn: bool) -> Assignment:
    """Leave out images whose content also occurs elsewhere, and note their names.

    A test image must not have been trained on, nor used to choose settings: of copies in several
    splits, only those in the last of train, val, test stay. In train, an image under two classes
    teaches nothing, so all of its copies go. If other splits are `drawn` from train, one copy of
    each image stays, so that copies cannot end up in two splits. All other copies stay.
    """
    gone: set[str] = set()
    for group in same_content(listing, sorted(images)):
        last = max((images[name][0] for name in group), key=SPLIT_ORDER.index)
        here = [name for name in group if images[name][0] == last]
        two_classes = len({images[name] for name in here}) > 1
        odd = here if two_classes else here[1:]
        leave = last == "train" and (two_classes or drawn)
        elsewhere = [name for name in group if name not in here]
        gone |= {*elsewhere, *(odd if leave else ())}
        for name in [*elsewhere, *odd]:
            other = here[1] if name == here[0] else here[0]
            reason = "left out" if name in gone else "odd but kept"
            listing.notes[f"{reason}, a copy of another image"].add(f"{name} (as {other})")
    return {name: home for name, home in images.items() if name not in gone}


def same_content(listing: Listing, names: Iterable[str]) -> list[list[str]]:
    """Groups of two or more files with the same content; empty files are in no group."""
    by_size: defaultdict[int, list[str]] = defaultdict(list)
    for name in names:
        by_size[listing.size(name)].append(name)
    by_size.pop(0, None)  # empty: broken, not duplicates; decoding reports them
    # Only files of the same size can be identical, so few large files are read at all.
    todo = [name for same in by_size.values() if len(same) > 1 for name in same]
    by_content: defaultdict[bytes, list[str]] = defaultdict(list)
    for name in Progress(todo, "looking for duplicates", delay=2):
        try:
            with listing.open(name) as file:
                by_content[hashlib.file_digest(file, "sha256").digest()].append(name)
        except UNREADABLE:  # decoding reports it
            continue
    return [group for group in by_content.values() if len(group) > 1]
