"""No silence: whatever takes longer than two seconds says what it is doing."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SILENCE = 2.0  # seconds


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Print `what` to stderr, once, if the code inside takes longer than SILENCE."""
    timer = threading.Timer(SILENCE, lambda: print(f"{what} ...", file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
