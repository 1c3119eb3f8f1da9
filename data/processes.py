"""Worker processes that a signal to the whole group does not reach while they start."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def shielded_from(*signals: signal.Signals) -> Iterator[None]:
    """Processes that are started inside never get these signals: they must be told to stop.

    Without it, Ctrl-C in a terminal reaches a worker during its imports, which then prints a
    traceback. This process loses no signal: it comes when the block ends, or to another thread.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
