"""Forecast how long training takes on a machine that does nothing else: time a few steps.

On a CPU, steps are measured in seconds of CPU time, so other programs do not make the forecast
longer. Runs that train at the same time do slow each other down, by sharing caches and memory. So
steps are timed beside other processes that compute, one for each further run.
"""

import heapq
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import NamedTuple

import torch
from torch import Tensor, nn

from experiments.plumbing.precision import time_step
from experiments.train.loop import Batch, BatchSource, Settings

LONG = 600.0  # seconds: commands print the forecast of work that takes longer
STEPS = 4  # timed for each network; the first one is slower, since it allocates memory
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
FORWARD = 1 / 3  # computing of a forward pass, as a share of a training step


# The network whose steps are timed for a run, and how many steps the run takes. A batch that only
# passes forward, in evaluation or through a frozen network, counts as FORWARD steps.
Work = tuple[str, float]


class Timing(NamedTuple):
    """Seconds of a training step, on a CPU with one thread: the fastest of those timed."""

    computing: float
    loading: float  # of its batch
    steps: int  # how many were timed
    images: int  # of a batch

    def seconds(self, loaders: int) -> float:
        """The time from step to step, if `loaders` processes make batches (0: between steps)."""
        if loaders:  # they work while the network computes
            return max(self.computing, self.loading / loaders)
        return self.computing + self.loading


class Forecast(NamedTuple):
    """Seconds of work, and the slowest of the steps that were timed for it."""

    seconds: float
    network: str
    timing: Timing

    def __str__(self) -> str:
        minutes, step = self.seconds / 60, self.timing.computing + self.timing.loading
        what = f"{step:.2g} s a step of {self.network} with {self.timing.images} images"
        number = f"{minutes:.0f} minutes" if minutes >= 1.5 else f"{max(self.seconds, 1):.0f} s"
        guess = ", a guess from one step" if self.timing.steps == 1 else ""
        return f"about {number} (timed: {what}{guess})"


Make = Callable[[str], tuple[nn.Module, BatchSource, Settings]]  # of a network's name


class SameBatch:
    """A batch source with one batch: images float32 (N, 3, H, W), labels int64 (N,)."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return 1

    def batch(self, step: int) -> Batch:
        return self.images, self.labels


def usable_cores() -> int:
    """The cores that this process may use: fewer than the machine's in a container, for example."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux
        cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # of cgroups, version 2; "max": no quota
        quota, period = CPU_MAX.read_text(encoding="utf-8").split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    return cores


def time_steps(
    model: nn.Module, batches: BatchSource, settings: Settings, steps: int = STEPS,
    until: float = math.inf,
) -> Timing:  # fmt: skip
    """Time training steps, on a CPU with one thread; at `until` (of perf_counter) none starts.

    The optimiser's share is left out: at most 19 % in our timings.
    """
    on_cpu, threads, begin = next(model.parameters()).is_cpu, torch.get_num_threads(), 0.0
    # Windows counts CPU time in units of 16 ms.
    clock = time.process_time if on_cpu and os.name != "nt" else time.perf_counter
    found: list[float] = []
    try:
        if on_cpu:
            torch.set_num_threads(1)
        batches.batch(0)  # the first one draws the order of the images
        begin = clock()
        batches.batch(0)
        loading = clock() - begin
        while not found or (len(found) < steps and time.perf_counter() < until):
            found.append(time_step(model, batches, settings, clock))
    finally:
        torch.set_num_threads(threads)
    return Timing(min(found), loading, len(found), settings.batch_size)


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
    work: Sequence[Work], make: Make, device: torch.device, *, jobs: int = 1, threads: int = 1,
    loaders: int = 0, steps: int = STEPS, until: float = math.inf,
) -> Forecast:  # fmt: skip
    """Time every network of `work`, and add up the runs: `jobs` at a time, `threads` each."""
    jobs, timings, cores = min(jobs, len(work)), {}, usable_cores()
    with neighbours(min(jobs * threads, cores) - 1 if device.type == "cpu" and steps > 1 else 0):
        for network in dict(work):
            timings[network] = time_steps(*make(network), steps, until)
    spent = (count * timings[network].seconds(loaders) for network, count in work)
    seconds = makespan(spent, jobs)
    if device.type == "cpu":
        seconds *= max(1, jobs * threads / cores) / threads
    return Forecast(seconds, *max(timings.items(), key=lambda item: item[1]))


def forecast_if_long(
    work: Sequence[Work], make: Make, device: torch.device, **how: int
) -> Forecast | None:
    """The forecast of work that takes longer than LONG; None for shorter work. `how`: see above."""
    # One step of each network is enough to see that work is short. Beside other runs, the next
    # steps may take up to twice as long.
    for steps, least in ((1, LONG / 2), (STEPS, LONG)):
        found = forecast(work, make, device, steps=steps, **how) if work else None
        if found is None or found.seconds < least:
            return None
    return found
