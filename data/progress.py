"""Progress of long work: a bar in a terminal; a line every 30 s in a file, a notebook, a CI log."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TextIO

from tqdm import tqdm

EVERY = 30  # seconds between two lines
LINE = "{desc}{percentage:.0f} %, {elapsed} passed, about {remaining} left{postfix}"


def in_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()  # None: closed from the start


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line above whatever bar there is."""
    if in_terminal():
        tqdm.write(text, file)
    else:
        print(text, file=file)


class Progress(tqdm):
    """tqdm's bar, gone once done; where stderr is no terminal, lines without carriage returns."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.plain = not in_terminal()
        options.setdefault("disable", sys.stderr is None)
        if self.plain:
            options |= {"mininterval": EVERY, "maxinterval": EVERY, "delay": EVERY}
            options |= {"bar_format": LINE, "miniters": 1}
        super().__init__(*args, **{"leave": False, **options})
        if self.plain and not self.disable and self.desc:
            self.desc += ": "

    @staticmethod
    def status_printer(file: TextIO) -> Any:
        if file.isatty():
            return tqdm.status_printer(file)
        return lambda text: print(text, file=file, flush=True)

    def moveto(self, n: int) -> None:
        if not self.plain:
            super().moveto(n)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is printed inside comes to stand above the bar."""
        with nullcontext() if self.plain else self.external_write_mode():
            yield

    def close(self) -> None:
        if self.plain:
            self.leave, self.last_print_t = False, -1.0  # as if never shown: nothing to wipe out
        super().close()
