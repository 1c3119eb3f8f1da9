"""The parts of every speed comparison: two functions timed in turns, and a check of both."""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from timeit import timeit
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from experiments.plumbing.device import BY_DEFAULT, keep_freed_memory
from experiments.plumbing.precision import choose_precision, name, to_layout
from experiments.train.loop import Batch, BatchSource, Settings, forward

CPU = torch.device("cpu")
EAGER = Settings(precision="fp32", channels_last=False)  # PyTorch's defaults


class Comparison(NamedTuple):
    """Two functions for the same task, and the result of checking that they agree."""

    title: str
    usual: Callable[[], object]
    ours: Callable[[], object]
    checked: str
    repeats: int = 1  # one run of `ours` replaces so many runs of `usual`, of which one is timed
    images: int = 1  # in one run of `ours`


def step_of(
    model: nn.Module, batch: Batch, settings: Settings, sgd: bool = False, training: bool = True
) -> Callable[[], float]:
    """A function that returns the loss, and computes gradients (`training`) and updates (`sgd`)."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    images, labels = batch

    def step() -> float:
        optimizer.zero_grad()
        with torch.set_grad_enabled(training):
            loss = cross_entropy(forward(model.train(training), images, settings), labels)
        if training:
            loss.backward()
        if sgd:
            optimizer.step()
        return loss.item()

    return step


def compare_steps(
    title: str, theirs: nn.Module, ours: nn.Module, batches: BatchSource
) -> Comparison:
    """A complete SGD step, from the same weights: eager fp32 / as --precision auto chooses."""
    chosen, _ = choose_precision("auto", ours, batches, EAGER, CPU)
    eager = step_of(theirs, batches.batch(0), EAGER, sgd=True)
    chosen_step = step_of(to_layout(ours, chosen), batches.batch(0), chosen, sgd=True)

    def usual() -> float:
        keep_freed_memory(BY_DEFAULT)
        return eager()

    def step() -> float:
        keep_freed_memory()
        return chosen_step()

    losses = usual(), step()
    same(*losses, 2e-2 if chosen.precision == "bf16" else 1e-4)
    checked = f"losses {losses[0]:.5f}, {losses[1]:.5f}"
    return Comparison(f"{title} / {name(chosen)}", usual, step, checked)


def same(a: float, b: float, tolerance: float) -> None:
    """Raise AssertionError unless |a - b| <= tolerance * max(1, |a|)."""
    if not abs(a - b) <= tolerance * max(1.0, abs(a)):
        raise AssertionError(f"the two sides do not compute the same: {a} and {b}")


def seconds_in_turns(sides: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Seconds that each function takes, as a list per round."""
    for side in sides:
        side()  # warm up
    return [[timeit(side, number=1) for side in sides] for _ in range(rounds)]


def scratch_folder() -> Path:
    """A temporary folder, deleted when this process exits."""
    folder = Path(tempfile.mkdtemp(prefix="skipzoo-bench-"))
    atexit.register(shutil.rmtree, folder)
    return folder
