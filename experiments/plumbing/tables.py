"""Reports: tables and sentences, for the terminal and in Markdown."""

from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table


class Rows(NamedTuple):
    """A table. Cells may have line breaks, which become spaces in Markdown."""

    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    align: Sequence[str] = ("---", "---:")  # of each column; the last one is repeated


Part = Rows | str  # a table, or sentences; **bold** in Markdown


def print_report(parts: Sequence[Part]) -> None:
    """Print tables and sentences to the terminal, with columns aligned as in Markdown."""
    console = Console(highlight=False)
    for part in parts:
        if isinstance(part, str):
            console.print(part.replace("**", "") + "\n", markup=False)
            continue
        drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
        widths = column_widths(part, console.width)
        for heading, align, width in zip(part.header, aligned(part), widths, strict=True):
            justify: JustifyMethod = "right" if align.endswith(":") else "left"
            drawn.add_column(heading, justify=justify, width=width, overflow="fold")
        for line in part.lines:
            drawn.add_row(*map(escape, line))
        console.print(drawn)


def column_widths(table: Rows, room: int) -> list[int]:
    """The width of every column in terminal cells, so that the table fits into `room` if it can.

    Columns wrap at spaces, the ones with most to spare first; if that is not enough, the widest
    ones, such as paths, break words. (rich narrows the widest ones at once, and drops columns.)
    """
    columns = list(zip(table.header, *table.lines, strict=True))
    # cell_len, not len: a Korean letter is two cells wide.
    widths = [max(cell_len(line) for cell in c for line in cell.split("\n")) for c in columns]
    words = [max(cell_len(word) for cell in c for word in [*cell.split(), ""]) for c in columns]
    spare = [width - word for width, word in zip(widths, words, strict=True)]
    over = sum(widths) + len(widths) + 1 - room  # one space between columns, and at both ends
    for _ in range(min(over, sum(widths) - len(widths))):
        # The first column, which says what a line is about, is the last to wrap.
        most = max(
            range(len(widths)), key=lambda i: (spare[i] > 0 and i > 0, max(spare[i], 0), widths[i])
        )
        widths[most], spare[most] = widths[most] - 1, spare[most] - 1
    return widths


def aligned(table: Rows) -> list[str]:
    """The alignment of every column."""
    return [*table.align, *[table.align[-1]] * len(table.header)][: len(table.header)]


def markdown(parts: Sequence[Part]) -> str:
    """Tables and sentences in Markdown, separated by blank lines."""
    texts = []
    for part in parts:
        if isinstance(part, Rows):
            lines = (part.header, aligned(part), *part.lines)
            part = "\n".join("| " + " | ".join(line).replace("\n", " ") + " |" for line in lines)
        texts.append(part)
    return "\n\n".join(texts)
