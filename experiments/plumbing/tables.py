"""Tables, in the terminal and in Markdown."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_table(
    header: Sequence[str], lines: Sequence[Sequence[str]], console: Console | None = None
) -> None:
    """The first column to the left, the others to the right; only those after six may wrap."""
    drawn = Table(*header, box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    for column in drawn.columns[:6]:  # without published figures it fits 80 columns
        column.no_wrap = True
    for column in drawn.columns[1:6]:
        column.justify = "right"
    for line in lines:
        drawn.add_row(*map(escape, line))
    (console or Console()).print(drawn)


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]], *align: str) -> str:
    """`align` of the columns, the last one for all that follow: "---" left, "---:" right."""
    aligned = [*align, *[align[-1]] * len(header)][: len(header)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, aligned, *lines))
