"""Decodes every picture before an experiment relies on them: better now than in its third hour."""

import os
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from ctypes import Array
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import NamedTuple

import torch

from data.errors import DataError
from data.images import load_image

CHUNK = 8  # pictures sent to a worker at once


class Verdict(NamedTuple):
    path: Path
    problem: str  # "" = fine
    height: int  # in pixels, upright; 0 where there is a problem
    width: int


def check_pictures(pictures: Sequence[Path], workers: int) -> Generator[Verdict]:
    """A verdict on each picture, in order, after decoding all of it.

    In `workers` processes, started from the main thread, or in this one for 0. DataError if a
    worker is killed from outside.
    """
    if workers == 0:
        yield from map(check_picture, pictures)
        return
    context = get_context("spawn")  # a fork of a process with threads may hang
    stop = context.Array("b", 1, lock=False)  # nothing to hold for a worker that is killed
    pool = ProcessPoolExecutor(workers, context, init_worker, (stop,))
    done = 0
    try:
        # All workers start here. They inherit what is ignored, or Ctrl-C would fill the screen with
        # tracebacks of those that have not come to init_worker.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            verdicts = pool.map(work, pictures, chunksize=CHUNK)
        finally:
            signal.signal(signal.SIGINT, before)
        for verdict in verdicts:
            yield verdict
            done += 1
    except BrokenProcessPool as error:
        raise DataError(
            "a process that decodes pictures was killed, most often because memory ran out",
            f"at one of the {workers * CHUNK} pictures from {pictures[done]}",
            "make room, or use fewer --workers",
        ) from error
    finally:
        stop[0] = 1
        pool.shutdown(wait=True, cancel_futures=True)


def check_picture(path: Path) -> Verdict:
    try:
        _, height, width = load_image(str(path), str(path)).shape
    except DataError as error:
        return Verdict(path, " ".join(str(error.args[0]).split()), 0, 0)
    return Verdict(path, "", height, width)


# What follows runs in a worker.

stopping: Array  # one flag


def init_worker(stop: Array) -> None:
    global stopping
    stopping = stop
    torch.set_num_threads(1)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it is not inherited


def work(path: Path) -> Verdict:
    # Once the parent stops nobody waits for the rest of a chunk.
    return Verdict(path, "not decoded", 0, 0) if stopping[0] else check_picture(path)


def leave_with_parent() -> None:
    """End when the parent has, even if it was killed."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
