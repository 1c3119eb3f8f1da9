"""What is in a folder of pictures: classes, splits, everything odd, and whether all of it decodes.

python -m experiments.check_data FOLDER
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

from data.check import Verdict, check_pictures
from data.errors import DataError
from data.scan import Scan, scan
from data.walk import shown, some
from experiments.plumbing import cli
from experiments.plumbing.progress import doing
from zoo.weights.atomic import write_atomic

TINY = 32  # pixels of the short side
MAX_WORKERS = 4
MOST_WORKERS = 256  # that are started if somebody asks for them


@dataclass(frozen=True)
class Options:
    """Check a folder of pictures before training on it."""

    dir: tyro.conf.Positional[Path]
    """Holds train/ and val/ or test/ with a folder for each class, or a folder for each class."""
    workers: int | None = None
    """Processes that decode (one a core, 4 at most); 0: in this one."""
    output: Path | None = None
    """A CSV to write, a line a picture."""


def main(options: Options) -> None:
    workers = min(os.cpu_count() or 1, MAX_WORKERS) if options.workers is None else options.workers
    cli.check_numbers(options, {"workers": (0, MOST_WORKERS)})
    if options.output:
        cli.check_file("--output", options.output)
    with doing(f"looking through {options.dir}"):
        found = scan(options.dir)
    for note in found.notes:
        print(note)
    print_counts(found)
    paths = [path for pictures in found.splits.values() for path, _ in pictures]
    # Closed at Ctrl-C too: the workers end with the generator.
    title = f"decoding {len(paths):,} pictures"
    with doing(title), closing(check_pictures(paths, workers)) as arriving:
        verdicts = list(tqdm(arriving, "decoding", len(paths), leave=False, disable=None))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(options.output, as_csv(found, verdicts).encode("utf-8", "backslashreplace"))
        print(f"every picture: {options.output}")
    judge(found, verdicts)


def print_counts(found: Scan) -> None:
    """A table of pictures: a row a class, a column a split."""
    if found.drawn:
        print("what is not given of train, val and test is drawn, with seed 0")
    table = Table("class")
    counts = {split: Counter(label for _, label in found.splits[split]) for split in found.splits}
    for split in counts:
        table.add_column(split, justify="right")
    for label, name in enumerate(found.classes):
        row = [f"{count[label]:,}" for count in counts.values()]
        table.add_row(escape(shown(name)), *row)
    table.add_section()
    table.add_row("all", *(f"{count.total():,}" for count in counts.values()))
    Console().print(table)


def judge(found: Scan, verdicts: Sequence[Verdict]) -> None:
    """Print what is bad, then the verdict; DataError if there is anything bad."""
    bad = [verdict for verdict in verdicts if verdict.problem]
    tiny = [
        str(verdict.path.relative_to(found.root))
        for verdict in verdicts
        if not verdict.problem and min(verdict.height, verdict.width) < TINY
    ]
    if tiny:
        print(f"odd: pictures with a side under {TINY} pixels: {len(tiny):,}: {some(tiny)}")
    for verdict in bad:
        print(f"bad: {shown(str(verdict.path))}: {shown(verdict.problem)}")
    if bad:
        said = f"{len(bad):,} of {len(verdicts):,} cannot be decoded"
        print(said)
        raise DataError(
            f"{said}, such as this one: {shown(bad[0].problem)}",
            shown(str(bad[0].path)),
            "repair them or move them elsewhere, or pass --skip-bad to experiments.transfer",
        )
    sizes = " + ".join(f"{len(pictures):,}" for pictures in found.splits.values())
    print(f"{sizes} pictures in {len(found.classes):,} classes: all decode")


def as_csv(found: Scan, verdicts: Sequence[Verdict]) -> str:
    """`verdicts` are on the pictures of all splits, in order."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["path", "split", "class", "width", "height", "bytes", "verdict"])
    places = [(split, label) for split in found.splits for _, label in found.splits[split]]
    for (split, label), (path, problem, height, width) in zip(places, verdicts, strict=True):
        name = path.relative_to(found.root).as_posix()
        size = path.stat().st_size
        row = [name, split, found.classes[label], width, height, size, problem or "fine"]
        table.writerow(row)
    return out.getvalue()


if __name__ == "__main__":
    cli.run(main, Options, "check_data")
