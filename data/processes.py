"""Worker processes: how to start them out of reach of Ctrl-C, and how to tell that one is gone."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


def is_lost_loader(error: BaseException) -> bool:
    """Whether DataLoader says with `error` that one of its processes is gone."""
    return "DataLoader worker" in str(error)


@contextmanager
def shielded_from(*signals: signal.Signals) -> Iterator[None]:
    """Processes that are started inside never get these signals, so tell them to stop yourself.

    Without it, Ctrl-C reaches a worker during its imports, which then prints a traceback. This
    process loses no signal: it arrives when the block ends, or in another thread. On Windows
    nothing is shielded.
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
