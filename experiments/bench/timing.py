"""What every speed comparison is made of: two functions, timed in turns, and what was checked."""

import atexit
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments.train import Settings, forward

CPU = torch.device("cpu")


class Comparison(NamedTuple):
    """Two functions for the same task, and what they were found to have in common."""

    title: str
    usual: Callable[[], object]
    ours: Callable[[], object]
    checked: str
    times: int = 1  # the usual side takes its time so often over


def training_step(model: nn.Module, images: Tensor, labels: Tensor, settings: Settings) -> Callable:
    """A function that takes one whole SGD step and returns its loss."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)

    def step() -> float:
        loss = cross_entropy(forward(model, images, settings), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def forward_and_backward(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], float]:
    """A function that computes the loss's gradients in fp32 and returns the loss."""

    def both() -> float:
        model.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        return loss.item()

    return both


def same(a: float, b: float, tolerance: float) -> None:
    if not abs(a - b) <= tolerance * max(1.0, abs(a)):
        raise AssertionError(f"the two sides do not compute the same: {a} and {b}")


def ratios(comparison: Comparison, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of the usual way divided by ours, one a round, and our seconds."""
    sides = comparison.usual, comparison.ours
    for side in sides:
        side()  # warm up
    quotients, seconds = [], []
    for _ in range(rounds):
        spent = []
        for side in sides:
            begin = time.perf_counter()
            side()
            spent.append(time.perf_counter() - begin)
        quotients.append(comparison.times * spent[0] / spent[1])
        seconds.append(spent[1])
    return quotients, seconds


def scratch_folder() -> Path:
    """A folder that lasts as long as this process."""
    folder = Path(tempfile.mkdtemp(prefix="skipzoo-bench-"))
    atexit.register(shutil.rmtree, folder)
    return folder
