"""Training batches of random views, and evaluation batches, from images of any size.

The same interface as data/batches.py: `batch(step)` is a pure function of (seed, step). The view
of an image depends on (seed, epoch, image) only: a worker process that prefetches draws the same.
Dimension key: N batch, S side of a view, I side of the network's input (I >= S).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import StackDataset

from data.batches import Batch, Normalize, check_batch_size, enlarge, prepared
from data.decoding import Images, loaded
from data.views import RandomView, View


def normalize_as(view: View) -> Normalize:
    """Normalise with a view's mean and standard deviation: 3 values, or 3 for each pixel."""
    mean, std = (  # (3,) -> (3, 1, 1); (3 S S,) -> (3, S, S)
        torch.tensor(v, dtype=torch.float32).view(3, isqrt(len(v) // 3), -1)
        for v in (view.mean, view.std)
    )
    return Normalize(mean, std)


@dataclass
class StepDataset:
    """Maps a step to its batch, uint8 (N, 3, S, S) and labels int64 (N,); for worker processes."""

    images: Images
    labels: Tensor
    view: RandomView
    batch_size: int
    seed: int
    part: tuple[int, int] = (0, 1)  # (i, n): the i-th of n equal shares of every batch

    def __len__(self) -> int:
        """Steps per epoch; the last partial batch is dropped, as in data/batches.py."""
        return len(self.labels) // self.batch_size

    def random_view(self, epoch: int, index: int) -> Tensor:
        """The view of one image in one epoch, uint8 (3, S, S)."""
        seed = np.random.default_rng((self.seed, epoch, index)).integers(2**63)
        return self.view(self.images[index], int(seed))

    def __getitem__(self, step: int) -> Batch:
        epoch, place = divmod(step, len(self))
        share = self.batch_size // self.part[1]
        first = place * self.batch_size + self.part[0] * share
        order = order_of(self.seed, epoch, len(self.labels))
        here = order[first : first + share].tolist()
        return torch.stack([self.random_view(epoch, i) for i in here]), self.labels[here]


@lru_cache(maxsize=1)
def order_of(seed: int, epoch: int, images: int) -> np.ndarray:
    """The order of the images in an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(images)


class ViewBatches:
    """Training batches of random views: shuffled every epoch, augmented, normalised.

    `spawn`: start workers as new processes, since a fork would copy locks that threads hold.
    """

    def __init__(
        self, dataset: StepDataset, device: torch.device, workers: int = 0, *, spawn: bool = False
    ) -> None:
        check_batch_size(dataset.batch_size, len(dataset.labels), processes=dataset.part[1])
        self.dataset, self.device, self.workers, self.spawn = dataset, device, workers, spawn
        self.normalize = normalize_as(dataset.view.view).to(device)
        self.coming: Iterator[Batch] = iter(())
        self.next_step = -1

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, step: int) -> Batch:
        """Images float32 (N, 3, I, I) and labels int64 (N,) of one step."""
        if not self.workers:
            return self.finish(self.dataset[step])
        if step != self.next_step:  # the first or a resumed step: workers continue from here
            self.coming, self.next_step = self.prefetch(step), step
        self.next_step += 1
        return self.finish(next(self.coming))

    def prefetch(self, step: int) -> Iterator[Batch]:
        """Start worker processes that make the batches of `step` and all later steps, in order."""
        endless = range(step, step + 2**40)  # the caller knows when to stop
        return loaded(
            self.dataset, self.workers, batch_size=None, sampler=endless,
            multiprocessing_context="spawn" if self.spawn else None,
            pin_memory=self.device.type == "cuda",
        )  # fmt: skip

    def finish(self, batch: Batch) -> Batch:
        """Move a batch to the device, normalise its images, and enlarge them to I x I."""
        # On mps, a non-blocking copy may read memory that has been freed (pytorch #189690).
        cuda = self.device.type == "cuda"
        images, labels = (tensor.to(self.device, non_blocking=cuda) for tensor in batch)
        return enlarge(self.normalize(images), self.dataset.view.view.input_size), labels


def every_image(
    images: Images,
    labels: Tensor,
    view: View,
    batch_size: int,
    device: torch.device,
    workers: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Evaluation batches: every image once, in order, normalised: float32 (N, 3, I, I), labels.

    `part` (i, n): only every n-th image, starting at the i-th.
    """
    pairs = StackDataset(images, labels)  # type: ignore[arg-type]  # two sequences
    mine = range(part[0], len(labels), part[1])
    arriving = loaded(pairs, workers, batch_size=batch_size, sampler=mine, collate_fn=stacked)
    yield from prepared(arriving, normalize_as(view).to(device), view.input_size)


def stacked(pairs: Sequence[Batch]) -> Batch:
    """Stack images and labels. DataLoader's own function changes the memory format in workers."""
    images, labels = zip(*pairs, strict=True)
    return torch.stack(images), torch.stack(labels)
