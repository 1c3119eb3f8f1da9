"""Worker processes: shield them from Ctrl-C, and recognise that one has died."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


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
