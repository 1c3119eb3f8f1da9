"""Worker processes: how many cores they may use; no Ctrl-C reaches them; one that has died."""

import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """The number of cores that this process may use; a container may limit it."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux
        cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # of cgroups, version 2; "max": no quota
        quota, period = CPU_MAX.read_text(encoding="utf-8").split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    return cores


def is_lost_loader(error: BaseException) -> bool:
    """True if `error` is DataLoader's report that one of its processes has died."""
    return "DataLoader worker" in str(error)


@contextmanager
def shielded_from(*signals: signal.Signals) -> Iterator[None]:
    """Shield processes that are started inside from these signals; the caller must stop them.

    Otherwise Ctrl-C would reach workers during their imports, and each would print a traceback.
    This process loses no signal: it arrives when the block ends, or in another thread. Has no
    effect on Windows.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # when it starts, Python unblocks these signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
