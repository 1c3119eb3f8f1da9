"""Reports: tables and sentences, for the terminal, in Markdown, and in a notebook."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape as escaped
from pathlib import Path
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

    def _repr_html_(self) -> str:
        return html([self])


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


@dataclass(frozen=True)
class Results:
    """What a comparison found. As the last line of a notebook's cell it displays itself."""

    rows: Sequence[dict]  # one per run, as in row.json
    parts: Sequence[Part]  # tables, captions, verdict
    figures: Sequence[Path]
    folder: Path
    best: Path | None = None  # the checkpoint to use, where there is one
    notes: Sequence[str] = ()  # where files are, and what to do next

    def show(self) -> None:
        """Print the report, and where its files are."""
        print_report(self.parts)
        for path in self.figures:
            print(f"figure: {path}")
        print(*self.notes, sep="\n")

    def _repr_html_(self) -> str:
        pictures = (base64.b64encode(path.read_bytes()).decode() for path in self.figures)
        shown = (f'<img src="data:image/png;base64,{picture}" width="720">' for picture in pictures)
        return html(self.parts) + "".join(shown) + html(self.notes)


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


def html(parts: Sequence[Part]) -> str:
    """Tables and sentences in HTML."""
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(f"<p>{escaped(part.replace('**', ''))}</p>")
            continue
        sides = ["right" if align.endswith(":") else "left" for align in aligned(part)]
        lines = [
            "".join(
                f'<{kind} style="text-align: {side}">{escaped(cell)}</{kind}>'
                for cell, side in zip(line, sides, strict=True)
            )
            for kind, line in [("th", part.header), *(("td", line) for line in part.lines)]
        ]
        texts.append("<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>")
    return "".join(texts)
