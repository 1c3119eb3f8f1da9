"""The contract between images and the training loop: `batches.batch(step) -> (images, labels)`.

A pure function of (seed, step): the order, crops and flips of an epoch are drawn on the CPU from
(seed, epoch) and copied to the device once. So every device and every resumed run sees the same
batches, no random state needs saving, and inside an epoch batch() neither draws on the CPU, nor
copies to the device, nor waits for it. The training loop does wait: it reads every loss.
Dimension key: N batch, C channels, H W height and width.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from data.augment import crop_flip
from data.dataset import Dataset
from data.errors import DataError

Batch = tuple[Tensor, Tensor]  # images and labels


@dataclass(frozen=True)
class Normalize:
    """uint8 (N, C, H, W) -> float32 `(images / 255 - mean) / std`; mean and std broadcast to it."""

    mean: Tensor
    std: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        # In place in its own copy: fresh memory costs more than the arithmetic.
        return images.float().div_(255).sub_(self.mean).div_(self.std)

    def to(self, device: torch.device) -> "Normalize":
        return Normalize(self.mean.to(device), self.std.to(device))


def channel_normalize(images: Tensor) -> Normalize:
    """Mean and standard deviation of each channel over uint8 images (N, C, H, W)."""
    # From counts of the 256 values: exact, and without a float copy of the whole data set.
    counts = torch.stack(
        [channel.flatten().bincount(minlength=256) for channel in images.unbind(1)]
    )
    counts = counts.double() / counts.sum(1, keepdim=True)  # (C, 256)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = counts @ values
    std = (counts @ values.square() - mean.square()).sqrt().clamp(min=1 / 255)
    return Normalize(mean.float()[:, None, None], std.float()[:, None, None])


def pixel_mean_normalize(images: Tensor) -> Normalize:
    """The mean of each pixel subtracted and nothing else (section 4.2, after section 3.4)."""
    total = torch.zeros(images.shape[1:], dtype=torch.int64)
    for chunk in images.split(1000):
        total += chunk.sum(0)
    mean = (total.double() / len(images) / 255).float()
    return Normalize(mean, torch.ones(1, 1, 1))


class Batches:
    """Training batches of one seed: shuffled every epoch, cropped and flipped, normalised.

    The last partial batch of an epoch is dropped; the order changes every epoch, so no image is
    left out for good. Padding comes after normalisation (section 4.2), so it has the mean's colour.
    `input_size`: images stored smaller are enlarged to it, on the device, after the crop.
    """

    def __init__(
        self,
        dataset: Dataset,
        normalize: Normalize,
        batch_size: int,
        seed: int,
        device: torch.device,
        *,
        input_size: int,
        padding: int,
    ) -> None:
        check_batch_size(batch_size, len(dataset.train_labels))
        self.images = dataset.train_images.to(device)
        self.labels = dataset.train_labels.to(device)
        self.normalize = normalize.to(device)
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.input_size, self.padding = input_size, padding
        self.drawn_epoch = -1

    def __len__(self) -> int:
        """Steps an epoch."""
        return len(self.labels) // self.batch_size

    def draw_epoch(self, epoch: int) -> None:
        rng = np.random.default_rng((self.seed, epoch))
        count = len(self.labels)
        order = rng.permutation(count)
        tops, lefts = rng.integers(0, 2 * self.padding + 1, (2, count))
        flips = rng.integers(0, 2, count)
        draws = torch.from_numpy(np.stack([order, tops, lefts, flips]))  # int64 (4, count)
        self.order, self.tops, self.lefts, self.flips = draws.to(self.device)
        self.drawn_epoch = epoch

    def batch(self, step: int) -> Batch:
        """Images float32 (N, C, input_size, input_size) and labels int64 (N,) of one step."""
        epoch, place = divmod(step, len(self))
        if epoch != self.drawn_epoch:
            self.draw_epoch(epoch)
        here = slice(place * self.batch_size, (place + 1) * self.batch_size)
        index = self.order[here]
        images = self.normalize(self.images[index])
        tops, lefts, flips = self.tops[here], self.lefts[here], self.flips[here].bool()
        images = crop_flip(images, tops, lefts, flips, self.padding)
        return enlarge(images, self.input_size), self.labels[index]


def check_batch_size(size: int, images: int, processes: int = 1) -> None:
    """DataError unless each process gets as many images of a batch, two or more."""
    if not 2 * processes <= size <= images or size % processes:
        multiple = f", a multiple of {processes}" if processes > 1 else ""
        raise DataError(
            f"no training batch of {size} can be made",
            f"{images} training images"
            + f", {processes} processes" * (processes > 1)
            + "; batch norm needs 2 or more in each process",
            f"choose a --batch-size from {2 * processes} to {images}{multiple}",
        )


def enlarge(images: Tensor, size: int) -> Tensor:
    """(N, C, H, W) -> (N, C, size, size), bilinear; unchanged where it has that size."""
    if images.shape[-1] == size:
        return images
    return interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


def in_order(
    images: Tensor,
    labels: Tensor,
    normalize: Normalize,
    batch_size: int,
    device: torch.device,
    input_size: int,
) -> Iterator[Batch]:
    """Every image once, in order, whole (no crop, no flip), the last partial batch included."""
    chunks = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return prepared(chunks, normalize.to(device), input_size)


def prepared(batches: Iterable[Batch], normalize: Normalize, size: int) -> Iterator[Batch]:
    """Batches of uint8 images as a network takes them, where `normalize` is."""
    device = normalize.mean.device
    for images, labels in batches:
        yield enlarge(normalize(images.to(device)), size), labels.to(device)
