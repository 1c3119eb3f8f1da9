"""Finds the folders of splits and classes that a folder already has, nested or not.

A note names each folder that was taken but lies deeper than expected, or is not named train, val or
test. A folder that could be two things is refused; the message names the folder to give instead.
"""

import re
from collections import defaultdict

from data.listing import NO_CLASS, SPLIT_ORDER, SPLITS, Listing, is_image, some

WHOLE = "whole"  # in place of a split: a folder of classes
COPY = "left out, it repeats the folders beside it"


def layout(listing: Listing) -> dict[str, str]:
    """The folder of each split in order, or {WHOLE: folder} for one folder of classes.

    A folder that only wraps the others is skipped; so is one between a split and its classes.
    """
    base = ""
    while not (folder_of := given_splits(listing, base)) and (inner := wrapped(listing, base)):
        base = inner
    if base:
        listing.taken.append(f"{base} is the folder that is read")
    if not folder_of:
        return {WHOLE: base}
    listing.notes[NO_CLASS].update(*listing.entries(base))
    listing.notes[NO_CLASS] -= set(folder_of.values())
    classes: set[str] = set()
    for split, given in folder_of.items():
        folder = given
        # "ant" below val/ is a class, though it may be the only folder there, with folders in it.
        while (inner := wrapped(listing, folder)) and last(inner) not in classes:
            folder_of[split] = folder = inner
        classes |= set(map(last, listing.entries(folder)[0])) if split == "train" else set()
        if folder != given or last(folder).lower() not in SPLITS:
            listing.taken.append(f"{folder} is used as {split}")
    return folder_of


def given_splits(listing: Listing, base: str) -> dict[str, str]:
    """The folder of each split in `base`, in order; empty for a folder of classes."""
    folders = listing.entries(base)[0]
    sets: defaultdict[tuple, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for folder in folders:
        split, others = split_in(folder)
        if split:
            sets[others][split].append(folder)
    # seg_train is a split only beside another with the same other words, such as seg_test.
    possible = [found for words, found in sets.items() if len(found) > 1 and "train" in found]
    possible = [sets[()]] if () in sets else possible
    twice = [same for found in possible for same in found.values() if len(same) > 1]
    if len(possible) > 1:
        twice = [[found["train"][0] for found in possible]]
    if twice:
        one, other = (f"{name}/" for name in twice[0][:2])
        raise listing.error(
            f"{one} and {other} are two folders for one split",
            f"keep one of them in {listing.root / base}, or make one folder of both",
        )
    if not possible:
        return {}
    folder_of = {split: possible[0][split][0] for split in SPLIT_ORDER if split in possible[0]}
    if list(folder_of) == ["train"]:
        train = folder_of["train"]
        if len(folders) > 1 and has_images(listing, train):
            return {}  # "train" is a class, for example of vehicles
        raise listing.error(
            f"there is {train}/, but neither val/ nor test/ beside it",
            f"add one; or give {listing.root / train}, and val and test are drawn from it",
        )
    return folder_of


def split_in(folder: str) -> tuple[str | None, tuple[str, ...]]:
    """The split that one word of a folder's name says, and the others: seg_train: train, (seg, _).

    The split is None if no word says one, or if several do.
    """
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_]+", last(folder))
    found = [SPLITS[word.lower()] for word in words if word.lower() in SPLITS]
    others = tuple("_" if word.lower() in SPLITS else word.lower() for word in words)
    return (found[0] if len(found) == 1 else None), others if len(others) > 1 else ()


def wrapped(listing: Listing, folder: str) -> str | None:
    """The only folder in `folder`, if `folder` only wraps it; None if not.

    It has the same name, or holds folders and no images. Files beside it are noted as left out.
    """
    folders, files = listing.entries(folder)
    if len(folders) != 1 or any(map(is_image, files)):
        return None
    inner = folders[0]
    named_so = last(inner).lower() == last(folder).lower()
    if not named_so and (has_images(listing, inner) or not listing.entries(inner)[0]):
        return None
    listing.notes[NO_CLASS].update(files)
    return inner


def class_folders(listing: Listing, folder: str) -> list[str]:
    """The folders of classes in a folder. What is left out beside them is noted.

    Raises DataError if a folder in it is no class, or if they all hold the same folders.
    """
    folders, loose = listing.entries(folder)
    listing.notes[NO_CLASS].update(loose)
    names = set(map(last, folders))
    inside = {name: set(map(last, listing.entries(name)[0])) for name in folders}
    for name, inner in inside.items():
        others = names - {last(name)}
        splits = {split_in(one)[0]: one for one in inner}
        wrong, fix = "", f"give {listing.root / name}, or move it elsewhere"
        if len(inner) > 1 and inner - {last(name)} == others:
            listing.notes[COPY].add(name)
        elif len(inner & others) > 1:
            wrong = f"holds folders with names of those beside it ({some(inner & others)})"
        elif "train" in splits and len({*splits} - {None}) > 1:
            wrong = "holds splits of its own"
            if has_images(listing, f"{name}/{splits['train']}"):
                fix = "put the classes into the splits: train/<class>/ beside val/ or test/"
        elif inner and split_in(name)[0] and not has_images(listing, name):
            wrong = "is named as a split and holds folders"
        if wrong:
            raise listing.error(f"{name}/ {wrong}, so it cannot be a class", fix)
    folders = [name for name in folders if name not in listing.notes[COPY]]
    common = set.intersection(*(inside[name] for name in folders)) if len(folders) > 1 else set()
    if len(common) > 1 and not any(has_images(listing, name) for name in folders):
        raise listing.error(
            f"{some(folders)} all hold the same folders ({some(common)}): which are the classes?",
            f"if the inner ones, give one folder, such as {listing.root / folders[0]}, or name the "
            "outer ones train, val and test; if the outer ones, put an image directly into one",
        )
    return folders


def has_images(listing: Listing, folder: str) -> bool:
    """True if there are images directly in a folder."""
    return any(map(is_image, listing.entries(folder)[1]))


def last(folder: str) -> str:
    """The name of a folder, without those above it."""
    return folder.rpartition("/")[2]
