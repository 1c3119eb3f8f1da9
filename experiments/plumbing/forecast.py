"""Forecast how long training takes: time a few steps as they will run, and multiply.

On a CPU several runs train at the same time and slow each other down. So their steps are timed
beside other processes that compute, one for each further run.
"""

import heapq
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from subprocess import DEVNULL, PIPE
from typing import NamedTuple

import torch
from torch import nn

from experiments.plumbing.resume import Clock, Timed
from experiments.train.loop import BatchSource, Settings, start, train

LONG = 600.0  # seconds: commands print the forecast of work that takes longer
STEPS = 4  # timed for each network; the first one is slower, since it allocates memory
FORWARD = 1 / 3  # computing of a forward pass, as a share of a training step


class Work(NamedTuple):
    """What one run does: the network whose steps are timed, and its numbers of batches."""

    network: str
    steps: float  # of training
    forwards: float  # batches that only pass forward: evaluation, frozen networks


class Timing(NamedTuple):
    """The fastest timed training step, in seconds."""

    computing: float
    loading: float  # of its batch
    steps: int  # how many were timed

    def seconds(self, work: Work, loaders: int) -> float:
        """Seconds of a run whose batches are made by `loaders` processes (0: between steps)."""

        def batch(computing: float) -> float:
            if loaders:  # they work while the network computes
                return max(computing, self.loading / loaders)
            return computing + self.loading

        return work.steps * batch(self.computing) + work.forwards * batch(FORWARD * self.computing)


class Forecast(NamedTuple):
    """Seconds of work, and the slowest of the steps that were timed for it."""

    seconds: float
    network: str
    timing: Timing

    def __str__(self) -> str:
        minutes, step = self.seconds / 60, self.timing.computing + self.timing.loading
        number = f"{minutes:.0f} minutes" if minutes >= 1.5 else f"{max(self.seconds, 1):.0f} s"
        guess = ", a guess from one step" if self.timing.steps == 1 else ""
        return f"about {number} (timed: {step:.2g} s a step of {self.network}{guess})"


Make = Callable[[str], tuple[nn.Module, BatchSource, Settings]]  # of a network's name


def time_steps(
    model: nn.Module, batches: BatchSource, settings: Settings, steps: int = STEPS,
    until: float = math.inf,
) -> Timing:  # fmt: skip
    """Time training steps of a model; at `until` (of perf_counter) no further step starts.

    The rate is 0, so that nothing diverges.
    """
    settings = replace(settings, steps=steps, schedule="step", warmup_steps=0, lr=0.0)
    clock, found, begin = Clock(), [], time.perf_counter()
    for _ in train(Timed(batches, clock), settings, start(model, settings)):
        now = time.perf_counter()
        found.append((now - begin - clock.waiting, clock.waiting))
        if now > until:
            break
        clock.waiting, begin = 0.0, time.perf_counter()
    return Timing(*min(found), len(found))


# It also ends when its parent, which is its first argument, is gone.
BUSY = """
import os, sys
import numpy as np
matrix = np.ones((512, 512), np.float32)
print(flush=True)
while os.getppid() == int(sys.argv[1]):
    matrix @ matrix
"""


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep `count` other processes computing, with one thread each."""
    command, environment = [sys.executable, "-c", BUSY, str(os.getpid())], dict(os.environ)
    environment["OMP_NUM_THREADS"] = "1"
    with ExitStack() as stack:
        for _ in range(count):
            other = stack.enter_context(
                subprocess.Popen(command, env=environment, stdout=PIPE, stderr=DEVNULL)
            )
            stack.callback(other.kill)
            assert other.stdout
            other.stdout.readline()  # it has imported what it needs
        yield


def makespan(seconds: Iterable[float], jobs: int) -> float:
    """Seconds until all runs are done, if `jobs` at a time start in this order."""
    ends = [0.0] * jobs
    for spent in seconds:
        heapq.heapreplace(ends, ends[0] + spent)
    return max(ends)


def forecast(
    work: Sequence[Work], make: Make, device: torch.device, jobs: int = 1, loaders: int = 0,
    steps: int = STEPS, until: float = math.inf,
) -> Forecast:  # fmt: skip
    """Time every network of `work`, and add up the runs, `jobs` at a time."""
    timings = {}
    beside = min(jobs, len(work)) - 1 if device.type == "cpu" and steps > 1 else 0
    with neighbours(beside):
        for network in dict.fromkeys(each.network for each in work):
            timings[network] = time_steps(*make(network), steps, until)
    seconds = makespan((timings[each.network].seconds(each, loaders) for each in work), jobs)
    return Forecast(seconds, *max(timings.items(), key=lambda item: item[1]))


def forecast_if_long(
    work: Sequence[Work], make: Make, device: torch.device, jobs: int = 1, loaders: int = 0
) -> Forecast | None:
    """The forecast of work that takes longer than LONG; None for shorter work."""
    # One step of each network is enough to see that work is short. Beside other runs, the next
    # steps may take up to twice as long.
    for steps, least in ((1, LONG / 2), (STEPS, LONG)):
        found = forecast(work, make, device, jobs, loaders, steps) if work else None
        if found is None or found.seconds < least:
            return None
    return found
