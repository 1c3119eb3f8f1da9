"""Finds the folders of splits and classes that a folder already has, nested or not.

A note names each folder that was taken but lies deeper than expected, or is not named train, val or
test. A folder that could be two things is refused; the message names the folder to give instead.
"""

import re
from collections import Counter, defaultdict

from data.listing import NO_CLASS, SPLIT_ORDER, SPLITS, Listing, is_image, some, split_in

WHOLE = "whole"  # in place of a split: a folder of classes
LIKE_SPLIT = re.compile(r"(dev|eval|evaluation|holdout|(val|valid|test)[ _-]?\d+)", re.IGNORECASE)


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
        root = listing.root.absolute()
        beside = [name for name in SPLIT_ORDER if (root.parent / name).is_dir()]
        if root.name in beside and len(beside) > 1:
            listing.taken.append(f"only {root.name} is read; to read {', '.join(beside)}, give "
                                 f"the folder that holds them: {root.parent}")  # fmt: skip
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
    if not classes:
        flat = {folder for folder in folder_of.values() if not listing.entries(folder)[0]}
        listing.notes["taken for a split (rename it if it is a class)"] |= flat
    return folder_of


def given_splits(listing: Listing, base: str) -> dict[str, str]:
    """The folder of each split in `base`, in order; empty for a folder of classes."""
    folders = listing.entries(base)[0]
    sets: defaultdict[tuple, list[tuple[str, str]]] = defaultdict(list)
    for folder in folders:
        split, other_words = split_in(folder)
        if split:
            sets[other_words].append((split, folder))
    given = sets.pop((), [])
    # seg_train is a split only beside another with the same other words, such as seg_test.
    for pairs in () if given else sets.values():
        if {"train"} < {split for split, _ in pairs}:
            given += pairs
    folder_of: dict[str, str] = {}
    for split, folder in sorted(given, key=lambda pair: SPLIT_ORDER.index(pair[0])):
        if split in folder_of:
            what = f"{folder_of[split]}/ and {folder}/ are two folders for one split"
            fix = f"keep one of them in {listing.root / base}, or make one folder of both"
            raise listing.error(what, fix)
        folder_of[split] = folder
    if list(folder_of) != ["train"]:
        return folder_of
    train = folder_of["train"]
    like = [last(folder) for folder in folders if LIKE_SPLIT.fullmatch(last(folder))]
    if len(folders) > 1 and has_images(listing, train) and not like:
        return {}  # "train" is a class, for example of vehicles
    if not listing.entries(train)[0]:
        what = f"{train}/ has {'images but ' * has_images(listing, train)}no class folders"
        fix = f"put each image into {train}/<class>/; labels in the names of files are not read"
        raise listing.error(what, fix)
    add = f"rename {like[0]}/ to val/ if it has the same classes" if like else "add one"
    raise listing.error(
        f"there is {train}/, but neither val/ nor test/ beside it",
        f"{add}; or give {listing.root / train}, and val and test are drawn from it",
    )


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

    Raises DataError if a folder in it is no class, or if two of them hold folders of one name.
    """
    folders, loose = listing.entries(folder)
    listing.notes[NO_CLASS].update(loose)
    for name in folders:
        inner = set(map(last, listing.entries(name)[0]))
        same = [one for one in folders if one != name and last(one) in inner]
        wrong, fix = "", f"give {listing.root / name}, or move it elsewhere"
        if len(same) > 1:
            wrong = f"holds folders with names of those beside it ({some(same)})"
        elif {"train"} < {split_in(one)[0] for one in inner} - {None}:
            wrong = "holds splits of its own"
            fix += "; if it is a class, put it into splits: train/<class>/ beside val/ or test/"
        elif inner and split_in(name)[0] and not has_images(listing, name):
            wrong = "is named as a split and holds folders"
            fix = "name the folders of splits train, val and test; or move it elsewhere"
        if wrong:
            raise listing.error(f"{name}/ {wrong}, so it cannot be a class", fix)
    inside = {name: set(map(last, listing.entries(unwrapped(listing, name))[0]))
              for name in folders if not has_images(listing, name)}  # fmt: skip
    times = Counter(one for inner in inside.values() for one in inner)
    shared = {one for inner in inside.values() if len(inner) > 1 for one in inner if times[one] > 1}
    if shared:
        holders = [name for name, inner in inside.items() if inner & shared]
        raise listing.error(
            f"{some(holders)} hold folders of the same names ({some(shared)}): which are classes?",
            "if the inner ones, give one of the outer folders, or name these train, val and test; "
            "if the outer ones, put an image directly into each",
        )
    return folders


def unwrapped(listing: Listing, folder: str) -> str:
    """The folder, or the one in it that holds its folders, for a class with no images of its own.

    A folder passes its place to the only folder in it, unless one of them has images.
    """
    inner = listing.entries(folder)[0]
    if len(inner) != 1 or any(has_images(listing, one) for one in (folder, *inner)):
        return folder
    return unwrapped(listing, inner[0])


def has_images(listing: Listing, folder: str) -> bool:
    """True if there are images directly in a folder."""
    return any(map(is_image, listing.entries(folder)[1]))


def last(folder: str) -> str:
    """The name of a folder, without those above it."""
    return folder.rpartition("/")[2]
