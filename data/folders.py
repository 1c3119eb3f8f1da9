"""Finds the classes and splits of a user's folder of images, and draws the splits that it lacks.

See also layout.py (which folders are splits and classes) and listing.py (what counts as an image),
then duplicates.py (identical images).
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
from data.errors import DataError
from data.layout import WHOLE, class_folders, last, layout, unwrapped
from data.listing import LAYOUT, NO_CLASS, SPLIT_ORDER, Listing, by_folder, some

SHARE = 0.15  # of each class, for each split that is drawn
MERGED = "merged into one class each; to classify the inner folders, give the outer one"


@dataclass(frozen=True)
class Scan:
    """The images of a folder: names relative to `root`, and labels that index `classes`."""

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, tuple[tuple[str, int], ...]]  # "train", "val", "test": (name, label)
    notes: tuple[str, ...] = ()  # a sentence each: what was taken, left out or looks odd, by name

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
        which = " and ".join(parts) + (" are" if len(parts) > 1 else " is")
        share = "15 % of each class per split"
        listing.taken.append(f"{which} drawn at random, with seed {seed}: {share}")
    splits = [split for split in SPLIT_ORDER if split in existing or split in parts]
    return labelled(listing, images, splits)


def scan_classes(listing: Listing) -> Scan | None:
    """Every image of one folder of classes, as the split "whole"; None if there is a train/.

    If there are splits but no train/, test/ is that folder, or else val/. Raises DataError if it
    has no images.
    """
    folder_of = layout(listing)
    if "train" in folder_of:
        return None
    folder = list(folder_of.values())[-1]
    if WHOLE not in folder_of:
        listing.taken.append(f"{folder} is used: there is no train/ beside it")
    listing.notes[NO_CLASS] |= set(folder_of.values()) - {folder}
    images = in_folders(listing, {WHOLE: folder})
    if not images:
        raise no_images(listing, folder or "this folder", "give the folder of class folders")
    return labelled(listing, images, [WHOLE])


def labelled(listing: Listing, images: Assignment, order: list[str]) -> Scan:
    """A Scan whose labels index the sorted classes; each split is sorted by class, then by name."""
    classes = sorted({label for _, label in images.values()})
    numbers = {label: number for number, label in enumerate(classes)}
    splits: dict[str, list[tuple[str, int]]] = {split: [] for split in order}
    for name in sorted(images, key=lambda name: (images[name][1], by_folder(name))):
        split, label = images[name]
        splits[split].append((name, numbers[label]))
    fixed = {split: tuple(pairs) for split, pairs in splits.items()}
    return Scan(listing.root, tuple(classes), fixed, listing.sentences())


# --- Existing splits ---


def find(listing: Listing) -> Assignment:
    """The split and class of each image; in a folder of classes, every image is in train.

    Raises DataError if there is nothing to train on, or no other split beside train.
    """
    folder_of = layout(listing)
    images = in_folders(listing, folder_of)
    splits = {split for split, _ in images.values()}
    if WHOLE in splits:
        return {name: ("train", label) for name, (_, label) in images.items()}
    listing.notes[NO_CLASS] |= {folder_of[split] for split in folder_of.keys() - splits - {WHOLE}}
    if "train" in splits and len(splits) > 1:
        return images
    missing = "val/ or test/" if "train" in splits else "train/"
    where = "this folder" if WHOLE in folder_of else missing
    fix = f"add {missing} with class folders" if splits else f"expected: {LAYOUT}"
    if "train" in splits:
        fix += f"; or give {listing.root / folder_of['train']}, a folder of classes"
    raise no_images(listing, where, fix)


def no_images(listing: Listing, where: str, fix: str) -> DataError:
    """A DataError with all notes."""
    if any(name.lower().endswith(".zip") for name in listing.notes[NO_CLASS]):
        fix = "unpack the zips first, into one folder (train.zip into train/)"
    what = "; ".join((f"there are no images in class folders of {where}", *listing.sentences()))
    return listing.error(what, listing.advice(fix))


def in_folders(listing: Listing, folder_of: dict[str, str]) -> Assignment:
    """The split and class of each image in the class folders of each split's folder."""
    images: Assignment = {}
    for split, folder in folder_of.items():
        for name in class_folders(listing, folder):
            found = listing.images(name)
            images |= dict.fromkeys(found, (split, last(name)))
            inner = {image.rpartition("/")[0] for image in found} - {name}
            if len(inner) > 1:
                listing.notes[MERGED].add(f"{name} ({some(map(last, inner))})")
    return images


def check_classes(listing: Listing, pairs: set[tuple[str, str]]) -> None:
    """Raise DataError unless train has at least two classes and every class of other splits.

    `pairs`: each split and class that has images.
    """
    classes = {label for split, label in pairs if split == "train"}
    for split, label in sorted(pairs):
        if label not in classes:
            same = [name for name in classes if fold(name) == fold(label)]
            near = same or difflib.get_close_matches(label, classes)
            fix = ("add images of it to train, move it elsewhere, or rename it (case and Unicode "
                   f"form count) to one of train's: {some(near or classes)}")  # fmt: skip
            if not near and {name for one, name in pairs if one == split} == {label}:
                train = layout(listing)["train"]
                fix = f"sort its images into the classes of train, or give {listing.root / train}"
            what = f"{split} has a class that train lacks, so no network can learn it: '{label}'"
            raise listing.error(what, fix)
        if any("\ud800" <= letter <= "\udfff" for letter in label):
            what = f"the name of a class folder is not valid Unicode: '{label}'"
            raise listing.error(what, "rename the folder")
    if len(classes) < 2:
        folder = next(iter(layout(listing).values()))
        below = unwrapped(listing, f"{folder}/{some(classes)}".removeprefix("/"))
        several = listing.entries(below)[0][1:]
        fix = f"give {listing.root / below}" if several else f"expected: {LAYOUT}"
        raise listing.error(f"there is only one class: '{some(classes)}'", fix)
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
        copies = listing.notes.get("left out, a copy of another image")
        pair = f"; duplicates are not counted: {min(copies)}" if copies else ""
        raise listing.error(
            f"too few images are left (at least {parts + 1} of each are needed): {some(few)}",
            f"add images, or remove the class or the split{pair}",
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
