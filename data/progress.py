"""Progress of long work: a bar in a terminal; a line every 30 s in a file, a notebook, a CI log."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TextIO

from tqdm import tqdm

EVERY = 30  # seconds between two lines
LINE = "{desc}{percentage:.0f} %, {elapsed} passed, about {remaining} left{postfix}"


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line above whatever bar there is."""
    if sys.stderr.isatty():
        tqdm.write(text, file)
    else:
        print(text, file=file)


class Progress(tqdm):
    """tqdm's bar, gone once done; where stderr is no terminal, lines without carriage returns."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.plain = not sys.stderr.isatty()
        if self.plain:
            options |= {"mininterval": EVERY, "maxinterval": EVERY, "delay": EVERY}
            options |= {"bar_format": LINE, "miniters": 1}
        super().__init__(*args, **{"leave": False, **options})
        if self.plain and self.desc:
            self.desc += ": "

    @staticmethod
    def status_printer(file: TextIO) -> Any:
        if file.isatty():
            return tqdm.status_printer(file)
        return lambda text: print(text, file=file, flush=True)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is printed inside comes to stand above the bar."""
        with nullcontext() if self.plain else self.external_write_mode():
            yield

    def close(self) -> None:
        if self.plain:
            self.leave, self.last_print_t = False, -1.0  # as if never shown: nothing to wipe out
        super().close()
