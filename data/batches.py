"""A batch is a function of its step, batch(step) -> (images, labels): runs can resume anywhere.

The order, crops and flips of an epoch are drawn on the CPU from (seed, epoch), and copied to the
device once per epoch. So every device and every resumed run sees the same batches, and a checkpoint
needs no random state. Within an epoch, batch() copies nothing to a GPU, which saves time.
Dimension key: N batch, C channels, H W height and width.
Read next: experiments/train/loop.py
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
    """uint8 (N, C, H, W) -> float32 `(images / 255 - mean) / std`; mean and std are broadcast."""

    mean: Tensor  # (C, 1, 1): one value a channel; or (C, H, W): one a pixel
    std: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        # In place, in the copy that float() made: new memory costs more than the arithmetic.
        return images.float().div_(255).sub_(self.mean).div_(self.std)

    def to(self, device: torch.device) -> "Normalize":
        return Normalize(self.mean.to(device), self.std.to(device))


def channel_normalize(images: Tensor) -> Normalize:
    """Mean and standard deviation of each channel over uint8 images (N, C, H, W)."""
    # From a histogram of the 256 values: exact, and without a float copy of the whole dataset.
    counts = torch.stack(
        [channel.flatten().bincount(minlength=256) for channel in images.unbind(1)]
    )
    counts = counts.double() / counts.sum(1, keepdim=True)  # (C, 256), each row sums to 1
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = counts @ values  # (C,)
    # var = E[x^2] - E[x]^2. A constant channel has std 0: divide by 1/255 instead.
    std = (counts @ values.square() - mean.square()).sqrt().clamp(min=1 / 255)
    return Normalize(mean.float()[:, None, None], std.float()[:, None, None])  # (C, 1, 1)


def pixel_mean_normalize(images: Tensor) -> Normalize:
    """Subtract the mean of each pixel, without dividing by std (He et al. 2015, section 4.2)."""
    total = torch.zeros(images.shape[1:], dtype=torch.int64)  # (C, H, W)
    for chunk in images.split(1000):  # 1,000 at a time to save memory; integers, so it is exact
        total += chunk.sum(0)
    mean = (total.double() / len(images) / 255).float()
    return Normalize(mean, torch.ones(1, 1, 1))  # std 1: the paper does not divide


class TensorBatches:
    """Training batches of images in memory: normalised, shuffled every epoch, cropped, flipped.

    An epoch drops its last partial batch; since the order changes, no image is left out for good.
    For the crop, images are padded with 0, which is the mean after normalisation.
    `input_size`: the network's input. Images that are stored smaller are enlarged to it on the
    device, after the crop, which saves memory and time.
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
        flip: bool = True,
    ) -> None:
        check_batch_size(batch_size, len(dataset.train_labels))
        # The whole training set, as bytes: CIFAR-10 takes 150 MB.
        self.images = dataset.train_images.to(device)
        self.labels = dataset.train_labels.to(device)
        self.normalize = normalize.to(device)
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.input_size, self.padding, self.flip = input_size, padding, flip
        self.drawn_epoch = -1  # the epoch whose order, crops and flips are held below; -1: none
        self.order = self.tops = self.lefts = self.flips = torch.empty(0)

    def __len__(self) -> int:
        """Steps per epoch."""
        return len(self.labels) // self.batch_size

    def draw_epoch(self, epoch: int) -> None:
        """Draw the order of the images, and a crop and a flip of each."""
        # NumPy's generator draws the same numbers on every machine.
        rng = np.random.default_rng((self.seed, epoch))
        count = len(self.labels)
        order = rng.permutation(count)  # every image once
        # A crop of the padded image begins at one of 2 * padding + 1 rows, and columns.
        tops, lefts = rng.integers(0, 2 * self.padding + 1, (2, count))
        flips = rng.integers(0, 1 + self.flip, count)  # half of the images, or none
        # One copy to the device an epoch.
        draws = torch.from_numpy(np.stack([order, tops, lefts, flips]))  # int64 (4, count)
        self.order, self.tops, self.lefts, self.flips = draws.to(self.device)
        self.drawn_epoch = epoch

    def batch(self, step: int) -> Batch:
        """Images float32 (N, C, input_size, input_size) and labels int64 (N,) of one step."""
        epoch, place = divmod(step, len(self))  # place: of the batch in its epoch
        if epoch != self.drawn_epoch:
            self.draw_epoch(epoch)
        here = slice(place * self.batch_size, (place + 1) * self.batch_size)
        index = self.order[here]  # (N,): which images
        images = self.normalize(self.images[index])  # -> float32 (N, C, H, W)
        tops, lefts, flips = self.tops[here], self.lefts[here], self.flips[here].bool()
        images = crop_flip(images, tops, lefts, flips, self.padding)  # padded, cropped to (H, W)
        # Enlarged last: the crop works on the small image.
        return enlarge(images, self.input_size), self.labels[index]


def check_batch_size(size: int, images: int, processes: int = 1) -> None:
    """Check a batch size against the number of training images.

    Raises DataError unless each process (one per GPU) gets the same number of images, at least 2,
    and the batch is no larger than the training set.
    """
    fits = 2 * processes <= size <= images and size % processes == 0
    if not fits:
        multiple = f", a multiple of {processes}" if processes > 1 else ""
        shared = f", {processes} processes" if processes > 1 else ""
        raise DataError(
            f"no training batch of {size} can be made",
            f"{images} training images{shared}; batch norm may need 2 or more in each process",
            f"choose a --batch-size from {2 * processes} to {images}{multiple}",
        )


def enlarge(images: Tensor, size: int) -> Tensor:
    """(N, C, H, W) -> (N, C, size, size), bilinear; unchanged if it has that size."""
    if images.shape[-1] == size:
        return images
    return interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


def whole_images(
    images: Tensor,
    labels: Tensor,
    normalize: Normalize,
    batch_size: int,
    device: torch.device,
    input_size: int,
) -> Iterator[Batch]:
    """Evaluation batches: every image once, in order, without crop or flip.

    The last batch may be smaller.
    """
    chunks = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return prepared(chunks, normalize.to(device), input_size)


def prepared(batches: Iterable[Batch], normalize: Normalize, size: int) -> Iterator[Batch]:
    """uint8 batches become what a network takes: float32, normalised, enlarged, on the device."""
    device = normalize.mean.device
    for images, labels in batches:
        yield enlarge(normalize(images.to(device)), size), labels.to(device)
