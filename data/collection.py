"""A user's images made ready for training: found, split, and decoded once if they fit.

Whether they are stored as raw pixels or decoded at every use changes the time and not one pixel.
"""

import hashlib
import shutil
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from data.cifar import cifar10, is_cifar10
from data.dataset import balanced_order
from data.decoding import DecodedOnUse, Form, Images, MappedImages
from data.errors import DataError, printable
from data.folders import Scan, scan, scan_classes
from data.listing import Listing
from data.store import estimated_bytes, store, undecodable
from data.views import RandomView, View

IMAGE_CACHE = Path("cache/images")
MOST_SEEN = 60_000  # images whose checksums a checkpoint carries
CIFAR10 = "cifar10"  # in place of a folder: download it


@dataclass(frozen=True)
class Source:
    """Which images, and how many of them."""

    data: str  # a folder, or CIFAR10
    train_images: int | None = None  # at most, the classes in equal shares
    test_images: int | None = None  # at most, of val and of test
    skip_bad: bool = False
    cache_gb: float = 4.0  # a split that takes more is decoded at every use


@dataclass
class Split:
    """The images of one part, before they are given a form: files, or in memory already."""

    labels: Tensor  # int64 (N,)
    files: tuple[str, ...] = ()
    images: Tensor | None = None  # uint8 (N, 3, H, W)

    def chosen(self, kept: Tensor) -> "Split":
        files = tuple(self.files[i] for i in kept.tolist()) if self.files else ()
        images = self.images[kept] if self.images is not None else None
        return Split(self.labels[kept], files, images)


@dataclass
class ImageDataset:
    """Classes and splits of a data set, in any form that is asked for."""

    source: Source
    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]  # "train", "val" and maybe "test"
    notes: list[str]
    table: str  # the split, written down
    workers: int  # processes that decode before the first epoch
    loaders: int  # processes that load while training
    formed: dict[tuple[str, Form], Images] = field(default_factory=dict)

    @property
    def tested_on(self) -> str:
        """The split that accuracy is reported on; without a test set, also the one chosen by."""
        return "test" if "test" in self.splits else "val"

    def labels(self, split: str) -> Tensor:
        return self.splits[split].labels

    def images(self, split: str, form: View | RandomView) -> Images:
        """Images of one split as evaluation sees them, or as random views are cut from them."""
        small = form.stored if isinstance(form, RandomView) else form
        if (split, small) not in self.formed:
            self.formed[split, small] = self.make(split, small)
        return self.formed[split, small]

    def make(self, split: str, form: Form) -> Images:
        images, files = self.splits[split].images, self.splits[split].files
        if images is not None:
            as_they_are = isinstance(form, View) and form.leaves(images.shape[-1])
            return images if as_they_are else MappedImages(images, form)
        title = f"decoding {split}"
        IMAGE_CACHE.mkdir(parents=True, exist_ok=True)
        with FileLock(IMAGE_CACHE / ".lock"):  # one process decodes, the others wait
            for stale in IMAGE_CACHE.glob("*.tmp"):  # of a process that was killed
                stale.unlink()
            room = min(0.9 * shutil.disk_usage(IMAGE_CACHE).free, self.source.cache_gb * 1e9)
            if estimated_bytes(files, form) < room:
                stored, bad = store(files, form, IMAGE_CACHE, workers=self.workers, title=title)
                self.leave_out(split, bad)
                return stored
            self.leave_out(split, undecodable(files, IMAGE_CACHE, self.workers, title))
            return DecodedOnUse(self.splits[split].files, form)

    @cached_property
    def seen(self) -> str:
        """A checksum, 8 digits, of every image to train on or to choose by; in order.

        "" for more than MOST_SEEN images, and for those that are in memory.
        """
        files = self.splits["train"].files + self.splits["val"].files
        return "".join(sorted(set(map(checksum, files)))) if len(files) <= MOST_SEEN else ""

    def leave_out(self, split: str, bad: dict[int, DataError]) -> None:
        """Leave out the images that cannot be decoded with --skip-bad; else DataError."""
        if not bad:
            return
        part = self.splits[split]
        kept = [i for i in range(len(part.labels)) if i not in bad]
        left = part.chosen(torch.tensor(kept, dtype=torch.int64))
        gone = set(part.labels.tolist()) - set(left.labels.tolist())
        what, where, _ = next(iter(bad.values())).args
        fix = "repair the file or move it elsewhere"
        if not self.source.skip_bad:
            counts = f"{len(bad)} of {len(part.labels):,} in {split}"
            raise DataError(f"{what} ({counts})", where, f"{fix}, or go on without it: --skip-bad")
        if not kept or (split == "train" and gone):
            classes = ", ".join(self.classes[label] for label in sorted(gone))
            raise DataError(f"{what} (no other is left in {split} of {classes})", where, fix)
        self.splits[split] = left
        names = ", ".join(printable(str(error.args[1])) for error in bad.values())
        self.notes.append(f"{split}: {len(bad)} left out that cannot be decoded: {names}")


def open_dataset(source: Source, workers: int, loaders: int) -> ImageDataset:
    """Find and split the images; DataError says what is missing."""
    folder = Path(source.data)
    if source.data == CIFAR10 or (folder.is_dir() and is_cifar10(folder)):
        whole = cifar10(None if source.data == CIFAR10 else folder)
        part = whole.holding_out()
        splits = {
            "train": Split(part.train_labels, images=part.train_images),
            "val": Split(part.test_labels, images=part.test_images),
            "test": Split(whole.test_labels, images=whole.test_images),
        }
        notes = ["val is a tenth of the training images, the same every time"]
        found = ImageDataset(source, whole.name, whole.classes, splits, notes, "", workers, loaders)
    else:
        found = from_scan(source, scan(Listing(folder)), workers, loaders)
    for name, split in found.splits.items():
        most = source.train_images if name == "train" else source.test_images
        if most is not None and most < len(split.labels):
            found.splits[name] = split.chosen(balanced_order(split.labels)[:most].sort().values)
    return found


def whole_folder(source: Source) -> ImageDataset | None:
    """Every image of one folder of classes, as the split "whole"; None if it holds splits."""
    found = scan_classes(Listing(Path(source.data)))
    return from_scan(source, found) if found else None


def from_scan(source: Source, found: Scan, workers: int = 0, loaders: int = 0) -> ImageDataset:
    splits = {
        name: Split(
            torch.tensor([label for _, label in images], dtype=torch.int64),
            tuple(str(found.root / name) for name, _ in images),
        )
        for name, images in found.splits.items()
    }
    return ImageDataset(
        source, found.root.resolve().name, found.classes, splits, list(found.notes), found.csv(),
        workers, loaders,
    )  # fmt: skip


def checksum(file: str) -> str:
    return f"{zlib.crc32(Path(file).read_bytes()):08x}"


def identity(dataset: ImageDataset) -> str:
    """A hash of classes, images and labels as they are used: their results are not mixed."""
    whole = hashlib.sha256(repr((dataset.classes, dataset.table)).encode())
    for name, part in dataset.splits.items():
        whole.update(repr((name, part.labels.tolist(), part.files)).encode("utf-8", "replace"))
        if part.images is not None:
            whole.update(part.images.numpy().tobytes())
        for file in part.files:
            whole.update(b"%d " % Path(file).stat().st_size)
    return whole.hexdigest()[:32]
