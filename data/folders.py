"""Finds the classes and splits of a user's folder of images, and draws the splits that it lacks.

See also listing.py (what counts as an image), then duplicates.py (identical images).
"""

import csv
import difflib
import hashlib
import io
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from data.duplicates import Assignment, without_duplicates
from data.listing import NO_CLASS, SPLIT_ORDER, Listing, by_folder, is_image, some, split_of

SHARE = 0.15  # of each class, for each split that is drawn


@dataclass(frozen=True)
class Scan:
    """The images of a folder: names relative to `root`, and labels that index `classes`."""

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, tuple[tuple[str, int], ...]]  # "train", "val", "test": (name, label)
    drawn: bool = False  # True if the seed drew any split
    notes: tuple[str, ...] = ()  # a sentence each: what was left out or looks odd, by name

    def csv(self) -> str:
        """The split as CSV: the header `split,class,path`, then a row per image."""
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["split", "class", "path"])
        for split, images in self.splits.items():
            table.writerows([split, self.classes[label], name] for name, label in images)
        # A file name can hold bytes that are not valid text.
        return out.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")


def scan(
    listing: Listing, seed: int = 0, wanted: tuple[str, ...] = ("val", "test"),
    *, keep_duplicates: bool = False,
) -> Scan:  # fmt: skip
    """Find the images of a folder, and draw the `wanted` splits that it lacks.

    The folder has train/ and val/, with or without test/; or train/ and test/, then val is 15 % of
    train; or one folder per class, then val and test are 15 % each. Drawn splits are stratified by
    class. The result depends only on the folder's content and on the seed.
    Raises DataError if there is nothing to train on, or no honest split to evaluate on.
    """
    images = find(listing)
    pairs = set(images.values())
    check_classes(listing, pairs)
    existing = {split for split, _ in pairs}
    parts = () if "val" in existing else tuple(split for split in wanted if split not in existing)
    if not keep_duplicates:
        images = without_duplicates(images, listing, bool(parts))
    check_counts(listing, pairs, Counter(images.values()), len(parts))
    if parts:
        images = draw_splits(images, parts, seed)
    splits = [split for split in SPLIT_ORDER if split in existing or split in parts]
    return labelled(listing, images, splits, bool(parts))


def scan_classes(listing: Listing) -> Scan | None:
    """Every image of one folder of classes, as the split "whole"; None if it holds splits."""
    folders, _ = listing.entries("")
    if any(map(split_of, folders)):
        return None
    names = ((name, folder) for folder in folders for name in listing.images(folder))
    return labelled(listing, {name: ("whole", folder) for name, folder in names}, ["whole"])


def labelled(listing: Listing, images: Assignment, order: list[str], drawn: bool = False) -> Scan:
    """A Scan whose labels index the sorted classes; each split is sorted by class, then by name."""
    classes = sorted({label for _, label in images.values()})
    numbers = {label: number for number, label in enumerate(classes)}
    splits: dict[str, list[tuple[str, int]]] = {split: [] for split in order}
    for name in sorted(images, key=lambda name: (images[name][1], by_folder(name))):
        split, label = images[name]
        splits[split].append((name, numbers[label]))
    fixed = {split: tuple(pairs) for split, pairs in splits.items()}
    return Scan(listing.root, tuple(classes), fixed, drawn, listing.sentences())


# --- Existing splits ---


def find(listing: Listing) -> Assignment:
    """The split and class of each image; in a folder of classes, every image is in train."""
    folders, files = listing.entries("")
    folder_of = given_splits(listing, folders)
    outside = listing.notes[NO_CLASS]
    outside.update(files, set(folders) - set(folder_of.values()) if folder_of else ())
    images: Assignment = {}
    for split, folder in (folder_of or {"train": ""}).items():
        classes, loose = listing.entries(folder)
        outside.update(loose)
        for name in classes:
            if not folder_of:
                check_for_splits(listing, name)
            images |= dict.fromkeys(listing.images(name), (split, name.rpartition("/")[2]))
    splits = {split for split, _ in images.values()}
    outside.update(folder for split, folder in folder_of.items() if split not in splits)
    if "train" not in splits or (folder_of and len(splits) < 2):
        missing = "val/ or test/" if "train" in splits else "train/" if folder_of else "this folder"
        left_out = "".join(f"; {note}" for note in listing.sentences())
        raise listing.error(f"there are no images in class folders of {missing}{left_out}")
    return images


def given_splits(listing: Listing, folders: list[str]) -> dict[str, str]:
    """The folder of each existing split; empty for a folder of classes."""
    folder_of: dict[str, str] = {}
    for folder in folders:
        split = split_of(folder)
        if split in folder_of:
            raise listing.error(f"{folder_of[split]}/ and {folder}/ are two folders for one split")
        if split:
            folder_of[split] = folder
    if list(folder_of) == ["train"]:
        train = folder_of["train"]
        if len(folders) > 1 and any(map(is_image, listing.entries(train)[1])):
            return {}  # "train" is a class, for example of vehicles
        raise listing.error(
            f"there is {train}/, but neither val/ nor test/ beside it",
            f"add one; or give {listing.root / train}, and val and test are drawn from it",
        )
    return folder_of


def check_for_splits(listing: Listing, folder: str) -> None:
    """Raise DataError if a class folder itself contains train/ and other splits."""
    inside = set(map(split_of, listing.entries(folder)[0])) - {None}
    if "train" in inside and len(inside) > 1:
        raise listing.error(
            f"{folder}/ holds splits of its own, so it cannot be a class",
            f"give {listing.root / folder}, or move train/ above the classes",
        )


def check_classes(listing: Listing, pairs: set[tuple[str, str]]) -> None:
    """Raise DataError unless train has at least two classes and every class of other splits.

    `pairs`: each split and class that has images.
    """
    classes = {label for split, label in pairs if split == "train"}
    for split, label in sorted(pairs):
        if label not in classes:
            same = [name for name in classes if fold(name) == fold(label)]
            near = same or difflib.get_close_matches(label, classes) or classes
            raise listing.error(
                f"{split} has a class that train lacks, so no network can learn it: '{label}'",
                "add images of it to train, move it elsewhere, or rename it (case and Unicode form "
                f"count) to one of train's: {some(near)}",
            )
        if any("\ud800" <= letter <= "\udfff" for letter in label):
            what = f"the name of a class folder is not valid Unicode: '{label}'"
            raise listing.error(what, "rename the folder")
    if len(classes) < 2:
        raise listing.error(f"there is only one class: '{some(classes)}'")
    alike = Counter(map(fold, classes))
    reason = "odd, class names that differ only by case or Unicode form"
    listing.notes[reason] |= {label for label in classes if alike[fold(label)] > 1}


def fold(name: str) -> str:
    """A key that is equal for names which differ only by case or Unicode normal form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_counts(
    listing: Listing, pairs: set[tuple[str, str]], counts: Counter[tuple[str, str]], parts: int
) -> None:
    """Raise DataError if, without duplicates, a class of train or a whole split is too small.

    Each class of train needs an image for train and one for each of the `parts` drawn from it.
    """
    classes = {label for split, label in pairs if split == "train"}
    few = [f"'{label}' in train: {counts['train', label]}" for label in classes
           if counts["train", label] <= parts]  # fmt: skip
    for split in {split for split, _ in pairs} - {"train"}:
        lacking = {label for label in classes if not counts[split, label]}
        if lacking == classes:
            few.append(f"all of {split}: 0")
        listing.notes[f"odd, {split} has no images of a class of train"] |= lacking
    if few:
        raise listing.error(
            f"too few images are left (at least {parts + 1} of each are needed): {some(few)}",
            "add images, or remove the class or the split; duplicates are not counted",
        )


# --- Drawn splits ---


def draw_splits(images: Assignment, parts: tuple[str, ...], seed: int) -> Assignment:
    """Move 15 % of each class of train, at least one image, to each split of `parts`."""
    drawn = dict(images)
    # Sorted by a hash of the name: an image that is added later moves hardly any other, where
    # scikit-learn's stratified split would redraw them all.
    shuffled: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(images, key=lambda name: digest(f"{seed} {name}")):
        if images[name][0] == "train":
            shuffled[images[name][1]].append(name)
    for label, names in shuffled.items():
        start = 0
        for place, split in enumerate(parts, start=1):
            # Round the running total: of two shares of x.5, only one must be rounded up.
            stop = max(round(place * SHARE * len(names)), start + 1)
            drawn |= dict.fromkeys(names[start:stop], (split, label))
            start = stop
    return drawn


def digest(text: str) -> bytes:
    """SHA-256 of a text; file names that are not valid Unicode (surrogates) are allowed."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
