"""Finds the folders of splits and classes that a folder already has, nested or not.

A note names each folder that was taken but lies deeper than expected, or is not named train, val or
test. A folder that could be two things is refused; the message names the folder to give instead.
"""

import re
from collections import Counter, defaultdict

from data.listing import NO_CLASS, SPLIT_ORDER, SPLITS, Listing, is_image, some, split_in

WHOLE = "whole"  # in place of a split: a folder of classes
COPY = "left out, it repeats the folders beside it"
LIKE_SPLIT = re.compile(r"(dev|eval|evaluation|holdout|(val|valid|test)[ _-]?\d+)", re.IGNORECASE)
NO_TRAINING = re.compile("test|val|dev|holdout|pred|aug", re.IGNORECASE)  # in names, for advice


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
    return folder_of


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
    names = set(map(last, folders))
    inside = {name: set(map(last, listing.entries(name)[0])) for name in folders}
    for name, inner in inside.items():
        others = names - {last(name)}
        splits = {split_in(one)[0]: one for one in inner}
        wrong, fix = "", f"give {listing.root / name}, or move it elsewhere"
        if split_in(name)[0] in ("val", "test"):
            fix = f"name it {split_in(name)[0]} and add train/ beside it; or move it elsewhere"
        same = [one for one in folders if last(one) in inner & others]
        if len(same) > 1 and inner - {last(name)} == others and repeats(listing, name, folder):
            listing.notes[COPY].add(name)
        elif len(same) > 1:
            wrong = f"holds folders with names of those beside it ({some(same)})"
        elif "train" in splits and len({*splits} - {None}) > 1:
            wrong = "holds splits of its own"
            if has_images(listing, f"{name}/{splits['train']}"):
                fix = "put the classes into the splits: train/<class>/ beside val/ or test/"
        elif inner and split_in(name)[0] and not has_images(listing, name):
            wrong = "is named as a split and holds folders"
        if wrong:
            raise listing.error(f"{name}/ {wrong}, so it cannot be a class", fix)
    folders = [name for name in folders if name not in listing.notes[COPY]]
    inside = {name: set(map(last, listing.entries(unwrapped(listing, name))[0]))
              for name in folders if not has_images(listing, name)}  # fmt: skip
    times = Counter(one for inner in inside.values() for one in inner)
    shared = {one for inner in inside.values() if len(inner) > 1 for one in inner if times[one] > 1}
    holders = [name for name, inner in inside.items() if inner & shared]
    if shared:
        good = [name for name in holders if not NO_TRAINING.search(last(name))
                and any(map(is_image, listing.files(name)))]  # fmt: skip
        best = f", such as {listing.root / good[0]}" if good else ""
        raise listing.error(
            f"{some(holders)} hold folders of the same names ({some(shared)}): which are classes?",
            f"if the inner ones, give one folder{best}, or name the outer ones train, val and "
            "test; if the outer ones, put an image directly into each",
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


def repeats(listing: Listing, folder: str, outer: str) -> bool:
    """True if every image in a folder has the name of one in the folder around it."""
    one, two = ({name.removeprefix(f"{place}/") for name in listing.files(place) if is_image(name)}
                for place in (folder, outer))  # fmt: skip
    return one <= two


def has_images(listing: Listing, folder: str) -> bool:
    """True if there are images directly in a folder."""
    return any(map(is_image, listing.entries(folder)[1]))


def last(folder: str) -> str:
    """The name of a folder, without those above it."""
    return folder.rpartition("/")[2]
