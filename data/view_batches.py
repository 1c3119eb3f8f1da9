"""Training batches of random views, and evaluation batches, from images of any size.

The same contract as data/batches.py: `batch(step)` is a pure function of (seed, step). What an
epoch needs is drawn from (seed, epoch); a worker process that prefetches draws the same.
Dimension key: N images of a batch, S side of the square that the network sees.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from signal import SIGINT
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, StackDataset

from data.batches import Batch, Normalize, check_batch_size, enlarge, prepared
from data.decoding import Images
from data.processes import shielded_from
from data.views import NUMBERS, RandomView, View


def normalize_as(view: View) -> Normalize:
    mean, std = (torch.tensor(values)[:, None, None] for values in (view.mean, view.std))
    return Normalize(mean, std)


@dataclass
class StepDataset:
    """Maps a step to its batch, in worker processes: uint8 (N, 3, S, S) and labels int64 (N,)."""

    images: Images
    labels: Tensor
    view: RandomView
    batch_size: int
    seed: int
    part: tuple[int, int] = (0, 1)  # (i, n): the i-th of n equal shares of every batch
    drawn_epoch: int = -1

    def __len__(self) -> int:
        """Steps an epoch; the last partial batch is dropped, as in data/batches.py."""
        return len(self.labels) // self.batch_size

    def draw_epoch(self, epoch: int) -> None:
        rng = np.random.default_rng((self.seed, epoch))
        self.order = rng.permutation(len(self.labels))
        self.drawn_epoch = epoch

    def random_view(self, epoch: int, index: int) -> Tensor:
        # Drawn image by image: numbers for the whole of ImageNet would fill every worker.
        numbers = np.random.default_rng((self.seed, epoch, index)).random(NUMBERS)
        return self.view(self.images[index], numbers.tolist())

    def __getitem__(self, step: int) -> Batch:
        epoch, place = divmod(step, len(self))
        if epoch != self.drawn_epoch:
            self.draw_epoch(epoch)
        share = self.batch_size // self.part[1]
        first = place * self.batch_size + self.part[0] * share
        here = self.order[first : first + share].tolist()
        return torch.stack([self.random_view(epoch, i) for i in here]), self.labels[here]


class ViewBatches:
    """Training batches of one seed: shuffled every epoch, cropped and turned, normalised.

    `spawn`: worker processes start anew, where a fork would copy locks that threads hold.
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
        """Images float32 (N, 3, S, S) and labels int64 (N,) of one step."""
        if not self.workers:
            return self.finish(self.dataset[step])
        if step != self.next_step:  # the first, or a resumed one: workers go on from here
            self.coming, self.next_step = self.prefetch(step), step
        self.next_step += 1
        return self.finish(next(self.coming))

    def prefetch(self, step: int) -> Iterator[Batch]:
        dataset: Any = self.dataset  # a map from steps to batches
        loader: Any = DataLoader(
            dataset,
            batch_size=None,
            sampler=range(step, step + 2**40),  # without an end: whoever asks knows when to stop
            num_workers=self.workers,
            multiprocessing_context="spawn" if self.spawn else None,
            pin_memory=self.device.type == "cuda",
        )
        with shielded_from(SIGINT):
            return iter(loader)

    def finish(self, batch: Batch) -> Batch:
        # To mps, a copy that nobody waits for may read memory freed since (pytorch #189690).
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
    """Every image once, in order: (N, 3, S, S) and labels; `part` (i, n): every n-th from i."""
    pairs: Any = StackDataset(images, labels)  # type: ignore[arg-type]  # two sequences
    loader: Any = DataLoader(
        pairs, batch_size, sampler=range(part[0], len(labels), part[1]), num_workers=workers,
        collate_fn=stacked,
    )  # fmt: skip
    with shielded_from(SIGINT):
        arriving = iter(loader)
    yield from prepared(arriving, normalize_as(view).to(device), view.input_size)


def stacked(pairs: Sequence[Batch]) -> Batch:
    """Not DataLoader's own, which lays the pixels out otherwise in a worker process."""
    images, labels = zip(*pairs, strict=True)
    return torch.stack(images), torch.stack(labels)
