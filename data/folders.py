"""A user's folder of images: its classes and splits, drawn where needed so that results are honest.

See also listing.py (what counts as an image), then duplicates.py (the same image twice).
"""

import csv
import difflib
import hashlib
import io
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from data.duplicates import Found, without_duplicates
from data.listing import NO_CLASS, SPLIT_ORDER, Listing, by_folder, is_image, some, split_of

SHARE = 0.15  # of each class, for each part that is drawn


@dataclass(frozen=True)
class Scan:
    """The images of a folder: names relative to `root`, and labels that index `classes`."""

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, tuple[tuple[str, int], ...]]  # "train", "val", "test": (name, label)
    drawn: bool = False  # whether any split was drawn here, by the seed
    notes: tuple[str, ...] = ()  # a sentence each: what was left out or looks odd, with names

    def csv(self) -> str:
        """The header `split,class,path`, then a line per image."""
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["split", "class", "path"])
        for split, images in self.splits.items():
            table.writerows([split, self.classes[label], name] for name, label in images)
        # A file's name can hold bytes that are not text.
        return out.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")


def scan(
    listing: Listing, seed: int = 0, wanted: tuple[str, ...] = ("val", "test"),
    *, keep_duplicates: bool = False,
) -> Scan:  # fmt: skip
    """Find the images of a folder, and draw the splits that are `wanted` and not given.

    Given are train/ and val/, with or without test/; or train/ and test/, and val is 15 % of train;
    or one folder per class, and val and test are 15 % of it each. Drawn splits have their share of
    every class. The result depends on what the folder holds and on the seed, on nothing else.
    DataError where there is nothing to learn from, or nothing honest to judge by.
    """
    found = find(listing)
    homes = set(found.values())
    check_classes(listing, homes)
    given = {split for split, _ in homes}
    parts = () if "val" in given else tuple(split for split in wanted if split not in given)
    if not keep_duplicates:
        found = without_duplicates(found, listing, bool(parts))
    check_counts(listing, homes, Counter(found.values()), len(parts))
    if parts:
        found = draw_splits(found, parts, seed)
    splits = [split for split in SPLIT_ORDER if split in given or split in parts]
    return labelled(listing, found, splits, bool(parts))


def scan_classes(listing: Listing) -> Scan | None:
    """Every image of one folder of classes, as the split "whole"; None if it holds splits."""
    folders, _ = listing.entries("")
    if any(map(split_of, folders)):
        return None
    names = ((name, folder) for folder in folders for name in listing.images(folder))
    return labelled(listing, {name: ("whole", folder) for name, folder in names}, ["whole"])


def labelled(listing: Listing, found: Found, order: list[str], drawn: bool = False) -> Scan:
    """Split by split, and each class by class."""
    classes = sorted({label for _, label in found.values()})
    numbers = {label: number for number, label in enumerate(classes)}
    splits: dict[str, list[tuple[str, int]]] = {split: [] for split in order}
    for name in sorted(found, key=lambda name: (found[name][1], by_folder(name))):
        split, label = found[name]
        splits[split].append((name, numbers[label]))
    fixed = {split: tuple(images) for split, images in splits.items()}
    return Scan(listing.root, tuple(classes), fixed, drawn, listing.sentences())


# --- Given splits ---


def find(listing: Listing) -> Found:
    """Where each image belongs; those of a folder of classes are all train's."""
    folders, files = listing.entries("")
    given = given_splits(listing, folders)
    outside = listing.notes[NO_CLASS]
    outside.update(files, set(folders) - set(given.values()) if given else ())
    found: Found = {}
    for split, folder in (given or {"train": ""}).items():
        classes, loose = listing.entries(folder)
        outside.update(loose)
        for name in classes:
            if not given:
                check_for_splits(listing, name)
            found |= dict.fromkeys(listing.images(name), (split, name.rpartition("/")[2]))
    splits = {split for split, _ in found.values()}
    outside.update(folder for split, folder in given.items() if split not in splits)
    if "train" not in splits or (given and len(splits) < 2):
        missing = "val/ or test/" if "train" in splits else "train/" if given else "this folder"
        left_out = "".join(f"; {note}" for note in listing.sentences())
        raise listing.error(f"there are no images in class folders of {missing}{left_out}")
    return found


def given_splits(listing: Listing, folders: list[str]) -> dict[str, str]:
    """split -> folder, empty for a folder of classes."""
    given: dict[str, str] = {}
    for folder in folders:
        split = split_of(folder)
        if split in given:
            raise listing.error(f"{given[split]}/ and {folder}/ are two folders for one split")
        if split:
            given[split] = folder
    if list(given) == ["train"]:
        train = given["train"]
        if len(folders) > 1 and any(map(is_image, listing.entries(train)[1])):
            return {}  # "train" is a class, such as of vehicles
        raise listing.error(
            f"there is {train}/, but neither val/ nor test/ beside it",
            f"add one; or name {listing.root / train}, and parts to judge by are drawn from it",
        )
    return given


def check_for_splits(listing: Listing, folder: str) -> None:
    """DataError if a class folder holds train/ and other splits itself."""
    inside = set(map(split_of, listing.entries(folder)[0])) - {None}
    if "train" in inside and len(inside) > 1:
        raise listing.error(
            f"{folder}/ holds splits of its own, so it cannot be a class",
            f"name {listing.root / folder}, or put train/ above the classes",
        )


def check_classes(listing: Listing, homes: set[tuple[str, str]]) -> None:
    """DataError unless train has two classes or more, and all that there are."""
    classes = {label for split, label in homes if split == "train"}
    for split, label in sorted(homes):
        if label not in classes:
            same = [name for name in classes if fold(name) == fold(label)]
            near = same or difflib.get_close_matches(label, classes) or classes
            raise listing.error(
                f"{split} has a class that train lacks, so nothing can learn it: '{label}'",
                "add images of it to train, move it elsewhere, or rename it (case and Unicode form "
                f"count) to one of train's: {some(near)}",
            )
        if any("\ud800" <= letter <= "\udfff" for letter in label):
            what = f"the name of a class folder is not valid Unicode: '{label}'"
            raise listing.error(what, "rename the folder")
    if len(classes) < 2:
        raise listing.error(f"there is only one class: '{some(classes)}'")
    alike = Counter(map(fold, classes))
    reason = "odd, names of classes that differ by case or Unicode form only"
    listing.notes[reason] |= {label for label in classes if alike[fold(label)] > 1}


def fold(name: str) -> str:
    """Equal for names that differ only by case or by Unicode's normal form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_counts(
    listing: Listing, homes: set[tuple[str, str]], counts: Counter[tuple[str, str]], parts: int
) -> None:
    """DataError where duplicates left nothing to learn from, to judge by or to draw."""
    classes = {label for split, label in homes if split == "train"}
    few = [f"'{label}' in train: {counts['train', label]}" for label in classes
           if counts["train", label] <= parts]  # fmt: skip
    for split in {split for split, _ in homes} - {"train"}:
        lacking = {label for label in classes if not counts[split, label]}
        if lacking == classes:
            few.append(f"all of {split}: 0")
        listing.notes[f"odd, {split} has no images of a class of train"] |= lacking
    if few:
        raise listing.error(
            f"too few images are left, of each {parts + 1} or more are needed: {some(few)}",
            "add images, or remove the class or the split; duplicates are not counted",
        )


# --- Drawn splits ---


def draw_splits(found: Found, parts: tuple[str, ...], seed: int) -> Found:
    """15 % of each class of train, at least one image, for each of `parts`."""
    drawn = dict(found)
    # By a hash of the name, so an image that is added later hardly moves the others;
    # scikit-learn's stratified split would deal all of them anew.
    shuffled: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(found, key=lambda name: digest(f"{seed} {name}")):
        if found[name][0] == "train":
            shuffled[found[name][1]].append(name)
    for label, names in shuffled.items():
        start = 0
        for place, split in enumerate(parts, start=1):
            # Shares are rounded together, so that train is not short of two halves.
            stop = max(round(place * SHARE * len(names)), start + 1)
            drawn |= dict.fromkeys(names[start:stop], (split, label))
            start = stop
    return drawn


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
