"""A user's folder of images: its classes and splits, drawn where needed so that results are honest.

Read first: listing.py (what counts as an image), then duplicates.py (the same image twice).
"""

import csv
import difflib
import hashlib
import io
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from data.duplicates import Found, without_duplicates
from data.errors import DataError
from data.listing import LAYOUT, SPLITS, Listing, in_order, is_image, some

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
    parts = () if "val" in found else tuple(name for name in wanted if name not in found)
    classes = check_classes(listing, found)
    if not keep_duplicates:
        found = without_duplicates(found, listing, bool(parts))
    check_counts(listing, found, len(parts))
    if parts:
        found |= draw(found["train"], parts, seed)
    notes = (*listing.sentences(), *oddities(found, classes))
    order = [name for name in SPLITS if name in found]
    splits = {name: labelled(found[name], classes) for name in order}
    return Scan(listing.root, classes, splits, bool(parts), notes)


def scan_classes(listing: Listing) -> Scan | None:
    """Every image of one folder of classes, as the split "whole"; None if it holds splits."""
    folders, _ = listing.entries("")
    if {folder.lower() for folder in folders} & SPLITS.keys():
        return None
    found = listing.classes(folders)
    classes = tuple(sorted(found))
    splits = {"whole": labelled(found, classes)}
    return Scan(listing.root, classes, splits, notes=listing.sentences())


def labelled(images: dict[str, list[str]], classes: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """Names and labels, class by class."""
    return tuple((name, i) for i, label in enumerate(classes) for name in images.get(label, ()))


# --- Given splits ---


def find(listing: Listing) -> Found:
    """The images of each split and class; those of a folder of classes are all train's."""
    folders, files = listing.entries("")
    given = given_splits(listing, folders)
    beside = set(folders) - set(given.values()) if given else ()
    listing.notes["left out, a folder beside train/"] |= {
        f"{folder} (files: {len(listing.files(folder)):,})" for folder in beside
    }
    found: Found = {}
    for split, folder in (given or {"train": ""}).items():
        inner, loose = listing.entries(folder)
        files += loose
        if classes := listing.classes(inner):
            found[split] = classes
        elif given:
            listing.notes["left out, a split without class folders of images"].add(folder)
    listing.notes["left out, in no class folder"] |= set(files)
    if "train" not in found or (given and len(found) < 2):
        where = "val/ or test/" if "train" in found else "train/" if given else "this folder"
        loose_images = sum(map(is_image, set(files)))
        raise listing.error(
            f"there are no images in class folders of {where} ({loose_images:,} in no class)",
            f"expected is {LAYOUT}",
        )
    return found if given else without_splits(listing, found)


def given_splits(listing: Listing, folders: list[str]) -> dict[str, str]:
    """split -> folder, empty for a folder of classes."""
    given: dict[str, str] = {}
    for folder in folders:
        split = SPLITS.get(folder.lower())
        if split in given:
            raise listing.error(
                f"{given[split]}/ and {folder}/ are two folders for one split",
                "move one of them elsewhere, or all images into one",
            )
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


def without_splits(listing: Listing, found: Found) -> Found:
    """`found`; DataError if one of the classes holds train/ and other splits itself."""
    for name, images in found["train"].items():
        inner = {SPLITS.get(image.split("/")[1].lower()) for image in images}
        if "train" in inner and len(inner - {None}) > 1:
            raise listing.error(
                f"{name}/ holds splits of its own, so it cannot be a class",
                f"name {listing.root / name}, or put train/ above the classes",
            )
    return found


def check_classes(listing: Listing, found: Found) -> tuple[str, ...]:
    """The classes of train, sorted by name; DataError unless train has all there are, and two."""
    classes = tuple(sorted(found["train"]))
    folded = {fold(name): name for name in classes}
    for split, name in ((part, name) for part in found for name in sorted(found[part])):
        near = difflib.get_close_matches(fold(name), folded, n=1)
        fix = f"rename it to '{folded[near[0]]}', as in train" if near else "move it elsewhere"
        if fold(name) in folded:
            fix += " (the names differ only by case or Unicode form)"
        if name not in classes:
            raise DataError(
                f"{split} has a class that train lacks, so nothing can learn it: '{name}'",
                (listing.root / found[split][name][0]).absolute(),
                f"{fix}, or add images of it to train",
            )
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            what = f"the name of a class folder is not valid Unicode: '{name}'"
            raise listing.error(what, "rename the folder")
    if len(classes) < 2:
        what = f"there is only one class: '{classes[0]}'"
        raise listing.error(what, f"two or more are needed, as {LAYOUT}")
    return classes


def fold(name: str) -> str:
    """Equal for names that differ only by case or by Unicode's normal form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_counts(listing: Listing, found: Found, parts: int) -> None:
    """DataError where duplicates left nothing to learn from, to judge by or to draw."""
    for name, images in sorted(found["train"].items()):
        if len(images) <= parts:
            raise listing.error(
                f"class '{name}' has too few images to train on: {len(images)} "
                f"(needed: {parts + 1}; duplicates and contradictions are not counted)",
                "add images of it, or remove the class",
            )
    if "val" in found and not any(found["val"].values()):
        fix = "fill val with images of its own, or remove it and it is drawn from train"
        raise listing.error("every image of val is in test too", fix)


def oddities(found: Found, classes: tuple[str, ...]) -> list[str]:
    """What is odd about the classes, a sentence each."""
    odd = []
    for split in ("val", "test"):
        lacking = [name for name in classes if split in found and not found[split].get(name)]
        if lacking:
            odd.append(f"odd: {split} has no images of a class of train: {some(lacking)}")
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in classes:
        alike[fold(name)].append(name)
    same = "odd: names of classes that differ only by case or Unicode form"
    return odd + [f"{same}: {some(names)}" for names in alike.values() if len(names) > 1]


# --- Drawn splits ---


def draw(train: dict[str, list[str]], parts: tuple[str, ...], seed: int) -> Found:
    """15 % of each class, at least one image, for each of `parts`; the rest stays in train."""
    drawn: Found = {split: {} for split in ("train", *parts)}
    for label, names in train.items():
        # By a hash of the name, so an image that is added later hardly moves the others;
        # scikit-learn's stratified split would deal all of them anew.
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
