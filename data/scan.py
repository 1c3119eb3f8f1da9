"""A person's folder of pictures: what is there, split so that a result on it is honest.

Read first: walk.py (what counts as a picture), then copies.py (the same picture twice).
"""

import csv
import difflib
import hashlib
import io
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data.copies import Found, without_copies
from data.errors import DataError
from data.walk import (
    BESIDE,
    LAYOUT,
    NO_SPLIT,
    STRAY,
    Notes,
    Walk,
    in_order,
    is_picture,
    shown,
    some,
)

SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
SHARE = 0.15  # of each class, for each part that is drawn


class Picture(NamedTuple):
    path: Path
    label: int


@dataclass(frozen=True)
class Scan:
    """The pictures of a folder. Labels index `classes`."""

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, tuple[Picture, ...]]  # "train", "val", and "test" where there is one
    drawn: bool  # whether any part of the split was drawn here, by the seed
    notes: tuple[str, ...]  # a sentence each: what was left out or looks odd, with names


def scan(root: Path, seed: int = 0) -> Scan:
    """Find the pictures below `root`, and draw the splits that are not given.

    Given are train/ and val/, with or without test/; or train/ and test/, and val is 15 % of train;
    or one folder for each class, and val and test are 15 % of it each. Drawn parts have their share
    of every class. The result depends on what the folder holds and on the seed, on nothing else.
    DataError where there is nothing to learn from, or nothing honest to judge by.
    """
    notes = Notes()
    found = find(Walk(root, notes))
    parts = () if "val" in found else tuple(name for name in ("val", "test") if name not in found)
    classes = check_classes(found, root)
    found = without_copies(found, root, bool(parts), notes)
    check_counts(found, root, parts)
    if parts:
        found |= draw(found["train"], parts, seed)
    splits: dict[str, tuple[Picture, ...]] = {
        split: tuple(
            Picture(root / name, label)
            for label, names in enumerate(found[split].get(name, []) for name in classes)
            for name in names
        )
        for split in ("train", "val", "test")
        if split in found
    }
    return Scan(root, classes, splits, bool(parts), notes.sentences() + oddities(found, classes))


def split_csv(scan: Scan) -> str:
    """The split written down: the header `split,class,path`, then a line a picture."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["split", "class", "path"])
    for split, pictures in scan.splits.items():
        for path, label in pictures:
            table.writerow([split, scan.classes[label], path.relative_to(scan.root).as_posix()])
    # A file's name may be bytes that are no text; a table of text has to hold it all the same.
    return out.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")


# --- What is given ---


def find(walk: Walk) -> Found:
    """The pictures of each split and class; those of a folder of classes are all train's."""
    folders, files = walk.entries("")
    given = given_splits(folders, walk.root)
    if not given:
        return one_folder(walk, folders, files)
    found: Found = {}
    for folder in sorted(set(folders) - set(given.values())):
        walk.notes.add(BESIDE, f"{folder} (files: {len(walk.files(folder)):,})")
    for split, folder in given.items():
        inner, loose = walk.entries(folder)
        files += loose
        classes = walk.classes(inner)
        if classes:
            found[split] = classes
        else:
            walk.notes.add(NO_SPLIT, folder)
    for name in files:
        walk.notes.add(STRAY, name)
    if "train" not in found or len(found) < 2:
        lacking = "val/ or test/" if "train" in found else "train/"
        raise DataError(
            f"there are no pictures in class folders of {lacking}",
            walk.root.absolute(),
            f"put them there, as {LAYOUT}",
        )
    return found


def given_splits(folders: list[str], root: Path) -> dict[str, str]:
    """split -> folder, empty for a folder of classes."""
    given: dict[str, str] = {}
    for folder in folders:
        split = SPLITS.get(folder.lower())
        if split in given:
            raise DataError(
                f"{given[split]}/ and {folder}/ are two folders for one split",
                root.absolute(),
                "move one of them elsewhere, or all pictures into one",
            )
        if split:
            given[split] = folder
    if list(given) == ["train"]:
        inside = Walk(root, Notes()).entries(given["train"])[1]
        if len(folders) > 1 and any(map(is_picture, inside)):
            return {}  # "train" is a class, such as of vehicles
        raise DataError(
            f"there is {given['train']}/, but neither val/ nor test/ beside it",
            root.absolute(),
            f"add one; or name {root / given['train']}, and parts to judge by are drawn from it",
        )
    return given


def one_folder(walk: Walk, folders: list[str], files: list[str]) -> Found:
    classes = walk.classes(folders)
    for name in files:
        walk.notes.add(STRAY, name)
    loose = sum(map(is_picture, files))
    if not classes:
        raise DataError(
            f"pictures lie in no class folder ({loose:,})" if loose else "there are no pictures",
            walk.root.absolute(),
            f"expected is {LAYOUT}",
        )
    for name, pictures in classes.items():
        inner = {SPLITS.get(picture.split("/")[1].lower()) for picture in pictures}
        if "train" in inner and len(inner - {None}) > 1:
            raise DataError(
                f"{shown(name)}/ holds splits of its own, so it cannot be a class",
                walk.root.absolute(),
                f"name {walk.root / name}, or put train/ above the classes",
            )
    return {"train": classes}


def check_classes(found: Found, root: Path) -> tuple[str, ...]:
    """The classes of train, sorted by name; DataError unless train has all there are, and two."""
    classes = tuple(sorted(found["train"]))
    for split in ("val", "test"):
        for name in sorted(set(found.get(split, {})) - set(classes)):
            by_fold = {fold(known): known for known in classes}
            near = [by_fold[key] for key in difflib.get_close_matches(fold(name), by_fold, n=1)]
            fix = f"rename it to '{shown(near[0])}', as in train" if near else "move it elsewhere"
            if near and fold(near[0]) == fold(name):
                fix += " (the names differ only by case or Unicode form)"
            raise DataError(
                f"{split} has a class that train lacks, so nothing can learn it: '{shown(name)}'",
                shown(str((root / found[split][name][0]).absolute())),
                fix + ", or add pictures of it to train",
            )
    for name in classes:
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise DataError(
                f"the name of a class folder is not valid Unicode: '{shown(name)}'",
                shown(str((root / found["train"][name][0]).absolute())),
                "rename the folder",
            )
    if len(classes) < 2:
        raise DataError(
            f"there is only one class: '{shown(classes[0])}'",
            root.absolute(),
            f"two or more are needed, as {LAYOUT}",
        )
    return classes


def fold(name: str) -> str:
    """Equal for names that differ only by case or by Unicode's normal form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


# --- What is drawn ---


def check_counts(found: Found, root: Path, parts: tuple[str, ...]) -> None:
    """DataError where copies left nothing to learn from or to judge by, or too little to draw."""
    for name, names in sorted(found["train"].items()):
        if len(names) <= len(parts):
            raise DataError(
                f"class '{shown(name)}' has too few pictures to train on: {len(names)} "
                f"(needed: {len(parts) + 1}; copies and contradictions are not counted)",
                root.absolute(),
                "add pictures of it, or remove the class",
            )
    if "val" in found and not any(found["val"].values()):
        raise DataError(
            "every picture of val is in test too",
            root.absolute(),
            "fill val with pictures of its own, or remove it and it is drawn from train",
        )


def draw(train: dict[str, list[str]], parts: tuple[str, ...], seed: int) -> Found:
    """15 % of each class, at least one picture, for each of `parts`; the rest stays in train."""
    drawn: Found = {split: {} for split in ("train", *parts)}
    for label, names in train.items():
        # By a hash of the name, so a picture that is added later hardly moves the others.
        order = sorted(names, key=lambda name: digest(f"{seed} {name}"))
        start = 0
        for place, split in enumerate(parts, start=1):
            # Shares are rounded together, so that train is not short of two halves.
            stop = max(round(place * SHARE * len(names)), start + 1)
            drawn[split][label] = in_order(order[start:stop])
            start = stop
        drawn["train"][label] = in_order(order[start:])
    return drawn


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def oddities(found: Found, classes: tuple[str, ...]) -> tuple[str, ...]:
    """What is odd about the classes, a sentence each."""
    said = []
    for split in ("val", "test"):
        lacking = [name for name in classes if split in found and not found[split].get(name)]
        if lacking:
            said.append(f"odd: {split} has no pictures of a class of train: {some(lacking)}")
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in classes:
        alike[fold(name)].append(name)
    said += [
        f"odd: names of classes that differ only by case or Unicode form: {some(names)}"
        for names in alike.values()
        if len(names) > 1
    ]
    return tuple(said)
