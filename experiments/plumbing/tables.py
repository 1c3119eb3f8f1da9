"""Reports: tables and sentences, for the terminal and in Markdown."""

from collections.abc import Sequence
from typing import NamedTuple

from rich import box
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
    """Print tables and sentences to the terminal, with columns aligned as in Markdown.

    Columns of paths wrap, and from the seventh on, columns of sentences.
    """
    console = Console(highlight=False)
    for part in parts:
        if isinstance(part, str):
            console.print(part.replace("**", "") + "\n", markup=False)
            continue
        drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
        for place, (heading, align) in enumerate(zip(part.header, aligned(part), strict=True)):
            justify: JustifyMethod = "right" if align.endswith(":") else "left"
            longest = max((len(line[place]) for line in part.lines), default=0)
            whole = longest < (34 if place < 6 else 14)  # so tables without paths fit 80 columns
            drawn.add_column(heading, justify=justify, no_wrap=whole, overflow="fold")
        for line in part.lines:
            drawn.add_row(*map(escape, line))
        console.print(drawn)


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
