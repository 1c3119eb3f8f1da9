"""Datasets small enough to keep in memory: synthetic, CIFAR-10, or read from a folder."""

from dataclasses import dataclass, field, replace
from multiprocessing import parent_process
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from data.folders import scan
from data.listing import listing_of
from data.progress import Progress
from data.views import View


@dataclass(frozen=True)
class Dataset:
    """Training and test images, uint8 (N, 3, H, W); labels int64 (N,) that index `classes`."""

    name: str
    classes: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    notes: tuple[str, ...] = field(default=(), kw_only=True)  # what was left out or looks odd

    def resized(self, size: int) -> "Dataset":
        """The same images with `size` pixels a side, antialiased when that is fewer."""
        if self.train_images.shape[-1] == size:
            return self
        train, test = (
            interpolate(images, size=(size, size), mode="bilinear", antialias=True)
            for images in (self.train_images, self.test_images)
        )
        return replace(self, train_images=train, test_images=test)

    def limited(self, train: int | None, test: int | None) -> "Dataset":
        """At most so many images (None: all), the classes as balanced as possible."""
        kept, tested = balanced(self.train_labels, train), balanced(self.test_labels, test)
        return self.with_test(self.test_images[tested], self.test_labels[tested], kept)

    def holding_out(self) -> "Dataset":
        """The training images alone, with a tenth of them held out as the test set.

        For choosing settings without the real test set: 45k/5k of CIFAR-10's 50k, as in He et al.
        2015, section 4.2. Stratified by class and deterministic.
        """
        order = balanced_order(self.train_labels)
        size = round(0.1 * len(order))
        held, kept = (part.sort().values for part in (order[:size], order[size:]))
        whole = replace(self, name=f"{self.name}, held-out split")
        return whole.with_test(self.train_images[held], self.train_labels[held], kept)

    def with_test(self, images: Tensor, labels: Tensor, kept: Tensor) -> "Dataset":
        """The training images at the indices `kept`, and another test set."""
        return replace(
            self, train_images=self.train_images[kept], train_labels=self.train_labels[kept],
            test_images=images, test_labels=labels,
        )  # fmt: skip


def balanced_order(labels: Tensor) -> Tensor:
    """A fixed shuffle of range(N), int64 (N,), in which the classes take turns."""
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    turn = torch.empty(len(labels), dtype=torch.int64)
    for label in labels.unique():
        places = (labels[shuffled] == label).nonzero().squeeze(1)
        turn[places] = torch.arange(len(places))
    return shuffled[turn.argsort(stable=True)]


def balanced(labels: Tensor, most: int | None) -> Tensor:
    """Indices of at most `most` images (None: all), in order, with the classes balanced."""
    return balanced_order(labels)[:most].sort().values


def read_folder(
    root: Path, size: int, *, keep_duplicates: bool = False, most: int | None = None
) -> Dataset:
    """Read train/ and test/ (or else val/) of a folder, or of zips of them (data/folders.py).

    If it is one folder of classes, the test set is drawn from it. Images are decoded, scaled to
    `size` pixels on the shorter side, and center-cropped to a square. `most`: decode only so many
    images of each part, with classes as balanced as possible.
    """
    listing = listing_of(root)
    folder = scan(listing, wanted=("test",), keep_duplicates=keep_duplicates)
    tested = "test" if "test" in folder.splits else "val"
    notes = (*folder.notes, *(["val is used as the test set"] if tested == "val" else []))
    view, tensors = View(size, size), []
    for split in ("train", tested):
        labels = torch.tensor([label for _, label in folder.splits[split]])
        kept = balanced(labels, most)
        images = torch.empty(len(kept), 3, size, size, dtype=torch.uint8)
        # No bar in a worker process: it would overwrite the campaign's.
        bar = Progress(kept.tolist(), f"reading {split}", delay=2, disable=bool(parent_process()))
        for place, i in enumerate(bar):
            images[place] = view(listing.load(folder.splits[split][i][0]))
        tensors += [images, labels[kept]]
    return Dataset(root.stem, folder.classes, *tensors, notes=notes)
