"""Prepares a user's images for training: finds, splits, and decodes them once if they fit.

Whether images are stored as raw pixels or decoded at each use changes the speed, never a pixel.
"""

import hashlib
import shutil
import zlib
from collections.abc import Container
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from data import near_duplicates
from data.cifar import cifar10, is_cifar10
from data.dataset import balanced
from data.decoding import DecodedOnUse, Form, Images, decode_all, size_of
from data.downloads import ARCHIVES, folder_of
from data.errors import DataError, printable
from data.folders import Scan, scan, scan_classes
from data.listing import Listing
from data.store import DecodedOnce, errors_in, estimated_bytes, results_of
from data.views import RandomView, View

IMAGE_CACHE = Path("cache/images")
MOST_STORED = 4e9  # bytes; a larger split is decoded at each use
MOST_SEEN = 60_000  # a checkpoint stores the checksums of so many images
CIFAR10 = "cifar10"  # given in place of a folder: download it


@dataclass(frozen=True)
class Source:
    """Which images to use, and how many."""

    data: str  # path of a folder, CIFAR10, or a name in data.downloads.ARCHIVES
    train_images: int | None = None  # at most, with balanced classes; None: all
    test_images: int | None = None  # at most, in each of val and test
    skip_bad: bool = False


@dataclass
class Split:
    """The images of one split at their original size: as files, or in memory."""

    labels: Tensor  # int64 (N,)
    files: tuple[str, ...] = ()
    images: Tensor | None = None  # uint8 (N, 3, H, W)

    def chosen(self, kept: Tensor) -> "Split":
        """The images at the indices `kept`, int64 (K,)."""
        files = tuple(self.files[i] for i in kept.tolist()) if self.files else ()
        images = self.images[kept] if self.images is not None else None
        return Split(self.labels[kept], files, images)


@dataclass
class ImageDataset:
    """Classes and splits of a dataset; images() returns a split in the requested form."""

    source: Source
    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]  # "train", "val" and maybe "test"
    notes: list[str]
    table: str  # the split as CSV, see Scan.csv()
    workers: int  # processes that decode before the first epoch
    loaders: int  # processes that load during training
    formed: dict[tuple[str, Form], Images] = field(default_factory=dict)

    @property
    def tested_on(self) -> str:
        """The split that accuracy is reported on: test, or val if there is no test."""
        return "test" if "test" in self.splits else "val"

    def labels(self, split: str) -> Tensor:
        """Labels of one split, int64 (N,)."""
        return self.splits[split].labels

    def images(self, split: str, form: View | RandomView) -> Images:
        """Images of one split as evaluation sees them, or as stored for random views."""
        small = form.stored if isinstance(form, RandomView) else form
        if (split, small) not in self.formed:
            self.formed[split, small] = self.make(split, small)
        return self.formed[split, small]

    def make(self, split: str, form: Form) -> Images:
        """Images of one split in a form: stored if they fit into the cache, else made on use."""
        images, files = self.splits[split].images, self.splits[split].files
        if images is not None:
            as_they_are = isinstance(form, View) and form.leaves(images.shape[-1])
            return images if as_they_are else DecodedOnUse(images, form)
        title = f"decoding {split}"
        IMAGE_CACHE.mkdir(parents=True, exist_ok=True)
        with FileLock(IMAGE_CACHE / ".lock"):  # one process decodes, the others wait
            room = min(0.9 * shutil.disk_usage(IMAGE_CACHE).free, MOST_STORED)
            if fits := estimated_bytes(files, form) < room:
                stored = DecodedOnUse(DecodedOnce(files, form, IMAGE_CACHE), size_of)
                results = list(decode_all(stored, self.workers, title))
            else:
                results = results_of(files, size_of, IMAGE_CACHE, self.workers, title)
            self.leave_out(split, errors_in(results))
        files = self.splits[split].files
        return DecodedOnce(files, form, IMAGE_CACHE) if fits else DecodedOnUse(files, form)

    @cached_property
    def seen(self) -> str:
        """The distinct checksums of all train and val images, 8 hex digits each, sorted, joined.

        "" for more than MOST_SEEN images, and for images in memory.
        """
        files = self.splits["train"].files + self.splits["val"].files
        return "".join(sorted(set(map(checksum, files)))) if len(files) <= MOST_SEEN else ""

    def leave_out(self, split: str, bad: dict[int, DataError]) -> None:
        """With --skip-bad, drop the images that cannot be decoded; without it, raise DataError."""
        if not bad:
            return
        first = next(iter(bad.values()))
        if not self.source.skip_bad:
            what, where, _ = first.args
            counts = f"{len(bad)} of {len(self.splits[split].labels):,} in {split}"
            fix = "repair the file or move it elsewhere, or leave it out: --skip-bad"
            raise DataError(f"{what} ({counts})", where, fix)
        self.drop(split, bad, first)
        names = ", ".join(printable(str(error.args[1])) for error in bad.values())
        self.notes.append(f"{split}: {len(bad)} left out that cannot be decoded: {names}")

    def drop(self, split: str, gone: Container[int], error: DataError) -> None:
        """Drop images by index; raise `error`, with the classes, if train loses all of a class.

        The same if the split would be empty."""
        part = self.splits[split]
        kept = [i for i in range(len(part.labels)) if i not in gone]
        left = part.chosen(torch.tensor(kept, dtype=torch.int64))
        lost = set(part.labels.tolist()) - set(left.labels.tolist())
        if not kept or (split == "train" and lost):
            what, where, fix = error.args
            classes = ", ".join(self.classes[label] for label in sorted(lost))
            raise DataError(f"{what} (no other image is left in {split} of {classes})", where, fix)
        self.splits[split] = left

    def check_near_duplicates(self, skip: bool) -> None:
        """Note images that are nearly the same as one of a later split; `skip` leaves them out.

        CIFAR-10's images, which are in memory and not in files, are not compared.
        """
        files = [file for part in self.splits.values() for file in part.files]
        homes = [name for name, part in self.splits.items() for _ in part.files]
        if not near_duplicates.installed():
            self.notes += [near_duplicates.MISSING] * bool(files)
            return
        IMAGE_CACHE.mkdir(parents=True, exist_ok=True)
        with FileLock(IMAGE_CACHE / ".lock"):  # one process decodes, the others wait
            form, title = near_duplicates.fingerprint, "looking for near-duplicates"
            prints = results_of(files, form, IMAGE_CACHE, self.workers, title)
        pairs = near_duplicates.near_pairs(prints, homes)
        if pairs:
            names = [file.removeprefix(f"{Path(self.source.data)}/") for file in files]
            what = "left out" if skip else "odd but kept (--skip-near-duplicates leaves them out)"
            self.notes.append(near_duplicates.note_of(pairs, names, what))
        gone = {files[one]: files[other] for one, other, _ in pairs if skip}
        for split, part in self.splits.items():
            if places := [i for i, file in enumerate(part.files) if file in gone]:
                first = part.files[places[0]]
                fix = "add images, or leave out --skip-near-duplicates"
                error = DataError(f"nearly the same image as {gone[first]}", first, fix)
                self.drop(split, places, error)


def open_dataset(source: Source, workers: int, loaders: int) -> ImageDataset:
    """Find and split the images. Raises DataError if anything is missing."""
    folder, is_folder = folder_of(source.data), Path(source.data).is_dir()
    by_name = source.data == CIFAR10 and not is_folder
    if by_name or (folder.is_dir() and is_cifar10(folder)):
        whole = cifar10(None if by_name else folder)
        part = whole.holding_out()
        splits = {
            "train": Split(part.train_labels, images=part.train_images),
            "val": Split(part.test_labels, images=part.test_images),
            "test": Split(whole.test_labels, images=whole.test_images),
        }
        notes = ["val is a fixed tenth of the training images"]
        dataset = ImageDataset(
            source, whole.name, whole.classes, splits, notes, "", workers, loaders
        )
    else:
        source = replace(source, data=str(folder))
        dataset = from_scan(source, scan(Listing(folder)), workers, loaders)
    if is_folder and dataset.source.data in (CIFAR10, *ARCHIVES):
        dataset.notes.insert(0, f"{folder}: this folder is used, not the download of that name")
    for name, split in dataset.splits.items():
        limit = source.train_images if name == "train" else source.test_images
        if limit is not None:
            dataset.splits[name] = split.chosen(balanced(split.labels, limit))
    return dataset


def whole_folder(source: Source) -> ImageDataset | None:
    """Every image of one folder of classes, as the split "whole"; None if it holds splits."""
    folder = scan_classes(Listing(Path(source.data)))
    return from_scan(source, folder) if folder else None


def from_scan(source: Source, folder: Scan, workers: int = 0, loaders: int = 0) -> ImageDataset:
    """The images of a scanned folder; every file is named by its full path."""
    splits = {
        name: Split(
            torch.tensor([label for _, label in images], dtype=torch.int64),
            tuple(str(folder.root / name) for name, _ in images),
        )
        for name, images in folder.splits.items()
    }
    return ImageDataset(
        source, folder.root.resolve().name, folder.classes, splits, list(folder.notes),
        folder.csv(), workers, loaders,
    )  # fmt: skip


def checksum(file: str) -> str:
    """CRC-32 of a file's bytes, 8 hex digits."""
    return f"{zlib.crc32(Path(file).read_bytes()):08x}"


def identity(dataset: ImageDataset) -> str:
    """A hash of the classes, images and labels in use; results of different data never mix."""
    whole = hashlib.sha256(repr((dataset.classes, dataset.table)).encode())
    for name, part in dataset.splits.items():
        whole.update(repr((name, part.labels.tolist(), part.files)).encode("utf-8", "replace"))
        if part.images is not None:
            whole.update(part.images.numpy().tobytes())
        for file in part.files:
            whole.update(b"%d " % Path(file).stat().st_size)
    return whole.hexdigest()[:32]
