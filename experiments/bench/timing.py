"""The parts of every speed comparison: two functions timed in turns, and a check of both."""

import atexit
import multiprocessing
import pickle
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from signal import SIGINT
from timeit import timeit
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from data.processes import shielded_from
from experiments.plumbing.device import keep_freed_memory, make_deterministic
from experiments.plumbing.precision import choose_precision, name, to_layout
from experiments.train.loop import Batch, BatchSource, Settings, forward

CPU = torch.device("cpu")
EAGER = Settings(precision="fp32", channels_last=False)  # PyTorch's defaults
Step = Callable[[], float]


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
) -> Step:
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
    usual = Apart(training_step, theirs, batches.batch(0), EAGER, False)
    step = Apart(training_step, ours, batches.batch(0), chosen, True)
    losses = usual(), step()
    same(*losses, 2e-2 if chosen.precision == "bf16" else 1e-4)
    checked = f"losses {losses[0]:.5f}, {losses[1]:.5f}"
    return Comparison(f"{title} / {name(chosen)}", usual, step, checked)


def training_step(model: nn.Module, batch: Batch, settings: Settings, keep: bool) -> Step:
    """For a process of its own: a complete SGD step on one thread; `keep`: with memory kept."""
    make_deterministic(CPU)
    if keep:
        keep_freed_memory()
    return step_of(to_layout(model, settings), batch, settings, sgd=True)


class Apart:
    """The function `make(*arguments)`, in a process of its own that starts once.

    In one process, memory that one side keeps would also serve the other one.
    """

    def __init__(self, make: Callable[..., Step], *arguments: object) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork would copy locks that threads hold
        self.link, theirs = spawn.Pipe()
        # As bytes: otherwise PyTorch would move the tensors to shared memory.
        given = theirs, pickle.dumps((make, arguments))
        with shielded_from(SIGINT):
            spawn.Process(target=serve, args=given, daemon=True).start()
        theirs.close()

    def __call__(self) -> float:
        self.link.send(None)
        return self.link.recv()


def serve(link: Connection, content: bytes) -> None:
    """The process of Apart: compute when asked, until the other end is closed."""
    make, arguments = pickle.loads(content)
    compute = make(*arguments)
    with suppress(EOFError, BrokenPipeError):
        while True:
            link.recv()
            link.send(compute())


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
