"""A user's folder of images: its classes and splits, drawn where needed so that results are honest.

Read first: listing.py (what counts as an image), then duplicates.py (the same image twice).
"""

import csv
import hashlib
import io
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from data.duplicates import Found, without_duplicates
from data.listing import NO_CLASS, SPLITS, Listing, in_order, is_image, some

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
    check_classes(listing, found)
    if not keep_duplicates:
        found = without_duplicates(found, listing, bool(parts))
    check_counts(listing, found, len(parts))
    note_oddities(listing, found)
    if parts:
        found |= draw(found["train"], parts, seed)
    return as_scan(listing, {name: found[name] for name in SPLITS if name in found}, bool(parts))


def scan_classes(listing: Listing) -> Scan | None:
    """Every image of one folder of classes, as the split "whole"; None if it holds splits."""
    folders, _ = listing.entries("")
    if {folder.lower() for folder in folders} & SPLITS.keys():
        return None
    return as_scan(listing, {"whole": listing.classes(folders)})


def as_scan(listing: Listing, found: Found, drawn: bool = False) -> Scan:
    """With labels, which number the classes of the first split by name."""
    classes = tuple(sorted(next(iter(found.values()))))
    splits = {
        split: tuple((n, i) for i, label in enumerate(classes) for n in images.get(label, ()))
        for split, images in found.items()
    }
    return Scan(listing.root, classes, splits, drawn, listing.sentences())


# --- Given splits ---


def find(listing: Listing) -> Found:
    """The images of each split and class; those of a folder of classes are all train's."""
    folders, files = listing.entries("")
    given = given_splits(listing, folders)
    outside = listing.notes[NO_CLASS]
    outside.update(files, set(folders) - set(given.values()) if given else ())
    found: Found = {}
    for split, folder in (given or {"train": ""}).items():
        inner, loose = listing.entries(folder)
        outside.update(loose)
        if classes := listing.classes(inner):
            found[split] = classes
        elif given:
            outside.add(folder)
    if "train" not in found or (given and len(found) < 2):
        missing = "val/ or test/" if "train" in found else "train/" if given else "this folder"
        left_out = "".join(f"; {note}" for note in listing.sentences())
        raise listing.error(f"there are no images in class folders of {missing}{left_out}")
    if not given:
        check_for_inner_splits(listing, found["train"])
    return found


def given_splits(listing: Listing, folders: list[str]) -> dict[str, str]:
    """split -> folder, empty for a folder of classes."""
    given: dict[str, str] = {}
    for folder in folders:
        split = SPLITS.get(folder.lower())
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


def check_for_inner_splits(listing: Listing, classes: dict[str, list[str]]) -> None:
    """DataError if one of the classes holds train/ and other splits itself."""
    for name, images in classes.items():
        inner = {SPLITS.get(image.split("/")[1].lower()) for image in images}
        if "train" in inner and len(inner - {None}) > 1:
            raise listing.error(
                f"{name}/ holds splits of its own, so it cannot be a class",
                f"name {listing.root / name}, or put train/ above the classes",
            )


def check_classes(listing: Listing, found: Found) -> None:
    """DataError unless train has two classes or more, and all that there are."""
    classes = found["train"]
    for split in found:
        for name in sorted(found[split].keys() - classes.keys()):
            raise listing.error(
                f"{split} has a class that train lacks, so nothing can learn it: '{name}' "
                f"({found[split][name][0]})",
                f"add images of it to train, move it elsewhere, or rename it (case and Unicode "
                f"form count) to one of train's: {some(classes)}",
            )
    for name in classes:
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            what = f"the name of a class folder is not valid Unicode: '{name}'"
            raise listing.error(what, "rename the folder")
    if len(classes) < 2:
        raise listing.error(f"there is only one class: '{some(classes)}'")


def check_counts(listing: Listing, found: Found, parts: int) -> None:
    """DataError where duplicates left nothing to learn from, to judge by or to draw."""
    counts = {f"class '{name}' of train": len(found["train"][name]) for name in found["train"]}
    few = [f"{name}: {count}" for name, count in counts.items() if count <= parts]
    if "val" in found and not any(found["val"].values()):
        few.append("val: 0")
    if few:
        raise listing.error(
            f"too few images are left, of each {parts + 1} or more are needed: {some(few)}",
            "add images, or remove the class or the split; duplicates are not counted",
        )


def note_oddities(listing: Listing, found: Found) -> None:
    """What is odd about the classes."""
    alike: defaultdict[str, set[str]] = defaultdict(set)
    for name in found["train"]:
        # Equal for names that differ only by case or by Unicode's normal form.
        folded = unicodedata.normalize("NFC", name).casefold()
        alike[unicodedata.normalize("NFC", folded)].add(name)
        for split in found:
            if not found[split].get(name):
                listing.notes[f"odd, {split} has no images of a class of train"].add(name)
    for names in alike.values():
        if len(names) > 1:
            listing.notes["odd, class names differ by case or Unicode form only"] |= names


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
