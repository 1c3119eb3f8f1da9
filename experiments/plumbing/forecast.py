"""Time a few steps, and forecast how long training takes on a machine that does nothing else.

On a CPU, steps are timed in CPU time of one thread, so other programs do not make the forecast
longer. The forecast leaves out the optimiser's step, start-up, downloads and drawing.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data.processes import usable_cores
from experiments.plumbing.precision import time_step
from experiments.train.loop import Batch, BatchSource, Settings

LONG = 600.0  # seconds: commands print the forecast of work that takes longer
STEPS = 3  # timed for each network; the first one is slower, since it allocates memory
PATIENCE = 10.0  # seconds after which each remaining network is timed for one step only
FORWARD = 1 / 3  # the time of a forward pass, as a share of a training step

# The network whose steps are timed for a run, and how many steps the run takes. A batch that only
# passes forward, in evaluation or through a frozen network, counts as FORWARD steps.
Work = tuple[str, float]
Make = Callable[[str], tuple[nn.Module, BatchSource, Settings]]  # takes a network's name


class Forecast(NamedTuple):
    """How long work takes, and what was timed for this."""

    seconds: float
    timed: str

    def __str__(self) -> str:
        minutes = self.seconds / 60
        number = f"{minutes:.0f} minutes" if minutes >= 1.5 else f"{max(self.seconds, 1):.0f} s"
        return f"about {number} (timed: {self.timed})"


class SameBatch:
    """A batch source with one batch: images float32 (N, 3, H, W), labels int64 (N,)."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return 1

    def batch(self, step: int) -> Batch:
        return self.images, self.labels


def seconds_of_step(
    model: nn.Module, batches: BatchSource, settings: Settings, loaders: int, until: float
) -> float:
    """Seconds per step, with its loading: the fastest of STEPS. On a CPU, one thread computes.

    `loaders`: processes that make batches while the network computes (0: between steps). No further
    step starts after `until` (of perf_counter).
    """
    on_cpu, threads = next(model.parameters()).is_cpu, torch.get_num_threads()
    # Windows counts CPU time in units of 16 ms.
    clock = time.process_time if on_cpu and os.name != "nt" else time.perf_counter
    found: list[float] = []
    try:
        if on_cpu:
            torch.set_num_threads(1)
        batches.batch(0)  # the first call draws the order of the images
        begin = clock()
        batches.batch(0)
        loading = clock() - begin
        while not found or (len(found) < STEPS and time.perf_counter() < until):
            found.append(time_step(model, batches, settings, clock))
    finally:
        torch.set_num_threads(threads)
    return max(min(found), loading / loaders) if loaders else min(found) + loading


def forecast(
    work: Sequence[Work], make: Make, device: torch.device, *, jobs: int = 1, threads: int = 1,
    loaders: int = 0, until: float = math.inf,
) -> Forecast:  # fmt: skip
    """Time each network of `work`, and add up the runs: `jobs` at a time, `threads` for each."""
    seconds = {name: seconds_of_step(*make(name), loaders, until) for name in dict(work)}
    spent = [count * seconds[name] for name, count in work]
    at_once = min(jobs, len(work)) * threads
    if device.type == "cpu":
        at_once = min(at_once, usable_cores())
    slowest = max(seconds, key=lambda name: seconds[name])
    timed = f"{seconds[slowest]:.2g} s a step of {slowest}"
    return Forecast(max(sum(spent) / at_once, max(spent) / threads), timed)


def forecast_if_long(
    work: Sequence[Work], make: Make, device: torch.device, **how: int
) -> Forecast | None:
    """The forecast of work, or None if it takes less than LONG. `how`: see forecast()."""
    if not work:
        return None
    found = forecast(work, make, device, until=time.perf_counter() + PATIENCE, **how)
    return found if found.seconds >= LONG else None
