"""Train many runs in parallel processes, with one progress bar; they can be stopped at any moment.

Runs start in their order, so the longest should come first: none then ends long after all others.

Several commands, also on several machines, may train into one folder: a run belongs to the process
that has locked its file in .claims/. If that process dies, another one continues the run from its
checkpoint.

A worker is a process with one thread; on a GPU there is one worker by default. Workers share three
small arrays with the parent: for each run its steps done, and the step at which it resumed; and a
flag to stop. They have no lock, so a worker that is killed cannot leave the others waiting.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from ctypes import Array
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data.processes import shielded_from, usable_cores
from data.progress import Progress, above
from experiments.ablation.runs import Run, run_one
from experiments.plumbing import signals
from experiments.plumbing.cli import ResultsError
from experiments.plumbing.device import keep_freed_memory, torch_as_started
from experiments.plumbing.results import claim, read_row, to_do

MAX_JOBS = 3  # about 0.55 GB each, and as much for the parent: under 2.5 GB


class Shared(NamedTuple):
    """The arrays that workers share with the parent."""

    steps: Array  # done, for each run
    resumed_at: Array  # the step at which each run resumed
    stop: Array  # one flag


def default_jobs(device: torch.device) -> int:
    """How many runs to train in parallel: on a CPU one per core, at most MAX_JOBS; else one."""
    return min(usable_cores(), MAX_JOBS) if device.type == "cpu" else 1


def run_campaign(
    runs: Sequence[Run], output_dir: Path, device: torch.device, jobs: int,
    after_run: Callable[[Run], None] = lambda run: None,
) -> list[dict]:  # fmt: skip
    """Train every run that is not finished in `output_dir`; return the rows of all, in order.

    after_run(run) is called when a run is finished, was stopped, or belongs to another process.
    """

    def unfinished() -> list[Run]:
        return [run for run in runs if read_row(output_dir / run.name, run) is None]

    todo, waits = unfinished(), False
    folders = [output_dir / run.name for run in todo]
    print(to_do(folders, len(runs), f", {min(jobs, len(todo))} at a time"))
    while todo:
        free = [run for run in todo if is_free(output_dir / run.name)]
        if free:
            run_all(free, output_dir, device, min(jobs, len(free)), after_run)
        else:
            if not waits:
                print(f"waiting for other processes, which train {len(todo)} of these runs")
            waits = True
            time.sleep(0.5)
        todo = unfinished()
    return [row for run in runs if (row := read_row(output_dir / run.name, run))]


def is_free(folder: Path) -> bool:
    """Whether no process trains the run in `folder`."""
    with claim(folder) as free:
        return free


def run_all(
    runs: Sequence[Run], output_dir: Path, device: torch.device, jobs: int,
    after_run: Callable[[Run], None],
) -> None:  # fmt: skip
    """Train `runs` in worker processes; raises ResultsError if a worker is killed."""
    context = get_context("spawn")  # a forked process cannot use CUDA
    shared = Shared(*(context.Array("q", size, lock=False) for size in (len(runs), len(runs), 1)))
    with signals.deferred() as should_stop:
        pool = ProcessPoolExecutor(jobs, context, init_worker, (shared,))
        try:
            with shielded_from(*signals.STOPS):
                futures = [
                    pool.submit(work, run, output_dir / run.name, str(device), place)
                    for place, run in enumerate(runs)
                ]
            watch(runs, futures, shared, should_stop, after_run)
        except BrokenProcessPool as error:
            what = "a worker process was killed from outside, most often because memory ran out"
            fix = "run the same command again to resume; if memory is short, with --jobs 1"
            raise ResultsError(what, output_dir, fix) from error
        finally:
            shared.stop[0] = 1  # the workers save and end after their current step
            pool.shutdown(wait=True, cancel_futures=True)
        raise_failures(futures)


def raise_failures(futures: Sequence[Future]) -> None:
    """Raise what a worker raised after watch() had ended, such as a full disk while saving."""
    for future in futures:
        if not future.cancelled():
            error = future.exception()
            if error and not isinstance(error, BrokenProcessPool):
                raise error


def watch(
    runs: Sequence[Run], futures: Sequence[Future], shared: Shared,
    should_stop: Callable[[], bool], after_run: Callable[[Run], None],
) -> None:  # fmt: skip
    """Show one bar for all runs until all are done or should_stop(); raise what a worker raised."""
    settings = runs[0].settings  # all runs have the same steps and batch size
    # The time per image is about proportional to depth, so the bar weights steps by depth.
    depths = np.array([run.depth for run in runs])
    waiting = dict(zip(futures, runs, strict=True))
    bar_format = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    total = settings.steps * int(depths.sum())
    with Progress(total=total, bar_format=bar_format, smoothing=0, miniters=1) as bar:
        while waiting and not should_stop():
            for future in [future for future in waiting if future.done()]:
                future.result()
                with above():
                    after_run(waiting.pop(future))
            done = [future.done() for future in futures]
            resumed_at, steps = np.array(shared.resumed_at), np.array(shared.steps)
            steps = np.where(done, settings.steps, steps)
            if not any(steps > resumed_at):
                bar.start_t = time.time()  # the rate excludes the time to start processes
            bar.initial = int(depths @ resumed_at)
            seen = settings.batch_size * int((steps - resumed_at).sum())
            rate = seen / max(1e-3, time.time() - bar.start_t)
            text = f"{len(runs) - len(waiting)}/{len(runs)} runs, {rate:,.0f} images/s"
            text = text if seen else "starting processes"
            bar.set_postfix_str(text, refresh=not (seen or bar.plain))
            bar.update(int(depths @ steps) - bar.n)
            time.sleep(0.2)


# --- the functions below run in a worker ---

in_worker: Shared
in_steps = threading.Event()  # set while a run has something to save


def init_worker(shared: Shared) -> None:
    """Prepare a worker process: shared arrays, the thread that ends it, and signals."""
    global in_worker
    in_worker = shared
    keep_freed_memory()
    threading.Thread(target=leave_when_asked, daemon=True).start()
    # Ctrl-C and `kill` reach the parent, which asks the workers to stop.
    for number in signals.STOPS:
        signal.signal(number, signal.SIG_IGN)


def leave_when_asked() -> None:
    """End this worker when the parent asks or has ended; the current run is saved first.

    A worker must not wait for the pool: since Python 3.13, a pool that lost one process waits for
    the others to end.
    """
    parent = parent_process()
    assert parent is not None
    while parent.is_alive() and not in_worker.stop[0]:
        parent.join(0.2)
    in_worker.stop[0] = 1
    while in_steps.is_set():
        time.sleep(0.05)
    time.sleep(1)  # the last result may be in transit, or a run's first step just begun
    while in_steps.is_set():
        time.sleep(0.05)
    os._exit(1)


@torch_as_started()  # a script's own settings are made again in the worker, which imports it
def work(run: Run, folder: Path, device_name: str, place: int) -> None:
    """Train one run; `place` is its index in the shared arrays."""
    device, shared = torch.device(device_name), in_worker

    def progress(step: int) -> None:
        if not in_steps.is_set():
            shared.resumed_at[place] = step
            in_steps.set()
        shared.steps[place] = step

    def should_stop() -> bool:
        return bool(shared.stop[0])

    try:
        with claim(folder) as mine:
            if mine and not should_stop() and not read_row(folder, run):
                run_one(run, folder, device, progress=progress, should_stop=should_stop)
    finally:
        in_steps.clear()
