"""Reports: tables and sentences, for the terminal and in Markdown."""

from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

LONGEST_WORD = 18  # characters; longer words, such as paths, are broken if there is no room


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
    """The width of every column in characters, so that the table fits into `room` if it can.

    Columns wrap at spaces and within long paths, the ones with most to spare first. (rich narrows
    the widest ones, and breaks or cuts words.)
    """
    columns = list(zip(table.header, *table.lines, strict=True))
    widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
    words = [
        max(len(word) for cell in column for word in [*cell.split(), ""]) for column in columns
    ]
    spare = [width - min(word, LONGEST_WORD) for width, word in zip(widths, words, strict=True)]
    over = sum(widths) + len(widths) + 1 - room  # one space between columns, and at both ends
    for _ in range(min(over, sum(spare))):
        # The first column, which says what a line is about, comes last.
        most = max(range(len(spare)), key=lambda i: (spare[i] > 0 and i > 0, spare[i]))
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
