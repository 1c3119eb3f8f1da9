"""Progress of long work: a bar in a terminal; a line every 30 s in a file, a notebook, a CI log."""

import math
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TextIO

from tqdm import tqdm

EVERY = 30  # seconds between two lines
LINE = "{desc}{percentage:.0f} %, {elapsed} elapsed, about {remaining} left{postfix}"


def in_terminal() -> bool:
    """True if stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()  # None: closed from the start


def above(file: TextIO | None = None) -> AbstractContextManager:
    """Make output written inside, to stdout or `file`, appear above any progress bar."""
    return tqdm.external_write_mode(file) if in_terminal() else nullcontext()


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line above any progress bar."""
    with above(file):
        print(text, file=file)


class Progress(tqdm):
    """tqdm's bar, removed once done; without a terminal, lines without carriage returns."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.plain = not in_terminal()
        options["disable"] = options.get("disable", False) or sys.stderr is None
        if self.plain:
            options |= {"mininterval": EVERY, "maxinterval": EVERY, "delay": EVERY}
            options |= {"bar_format": LINE, "miniters": 1}
        super().__init__(*args, **{"leave": False, **options})
        if self.plain and not self.disable and self.desc:
            self.desc += ": "

    @staticmethod
    def status_printer(file: TextIO) -> Any:
        """tqdm's printer in a terminal, else one that prints whole lines."""
        if file.isatty():
            return tqdm.status_printer(file)
        return lambda text: print(text, file=file, flush=True)

    def moveto(self, n: int) -> None:
        """Move to the bar's row, in a terminal only."""
        if not self.plain:
            super().moveto(n)

    def close(self) -> None:
        """Remove the bar; printed lines stay."""
        if self.plain:
            self.leave, self.last_print_t = False, -1.0  # as if never shown: nothing to erase
        elif not self.disable:
            self.last_print_t = math.inf  # erase it: above() may have shown it during its delay
        super().close()
