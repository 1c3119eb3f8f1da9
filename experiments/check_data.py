"""What is in a folder of images: classes, splits, everything odd, and whether all of it decodes.

python -m experiments.check_data FOLDER
"""

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from data.errors import DataError, printable
from experiments.plumbing import cli
from experiments.plumbing.cli import doing

if TYPE_CHECKING:
    from data.folders import Scan

TINY = 32  # pixels of the short side
MOST_WORKERS = 256  # that are started if somebody asks for them


@dataclass(frozen=True)
class Options:
    """Check a folder of images before training on it."""

    dir: tyro.conf.Positional[Path]
    """Holds train/ and val/ or test/ with a folder for each class, or a folder for each class."""
    workers: int | None = None
    """Processes that decode (one a core, 4 at most); 0: in this one."""
    output: Path | None = None
    """A CSV to write, a line an image."""


def main(options: Options) -> None:
    workers = min(os.cpu_count() or 1, 4) if options.workers is None else options.workers
    cli.check_numbers(options, {"workers": (0, MOST_WORKERS)})
    if options.output:
        cli.check_file("--output", options.output)
    with doing("loading the libraries"):
        from data.decoding import decode_all, size_of
        from data.folders import scan
        from data.listing import Listing
        from experiments.plumbing.results import write_csv
    with doing(f"looking through {options.dir}"):
        found = scan(Listing(options.dir))
    for note in found.notes:
        print(note)
    print_counts(found)
    rows: list[dict] = [
        {"path": name, "split": split, "class": found.classes[label]}
        for split, images in found.splits.items() for name, label in images
    ]  # fmt: skip
    files = [str(found.root / row["path"]) for row in rows]
    # Closed at Ctrl-C too: the workers end with the generator.
    arriving = decode_all(files, size_of, workers)
    with doing(f"decoding {len(files):,} images"), closing(arriving):
        for row, file, result in zip(rows, files, arriving, strict=True):
            verdict, (height, width) = "fine", (0, 0)
            if isinstance(result, DataError):
                verdict = " ".join(str(result.args[0]).split())
            else:
                height, width = result
            row |= {"width": width, "height": height, "bytes": Path(file).stat().st_size,
                    "verdict": verdict}  # fmt: skip
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_csv(options.output, rows, tuple(rows[0]))
        print(f"every image: {options.output}")
    print_verdict(found, rows)


def print_counts(found: "Scan") -> None:
    """A table of counts: a row per class, a column per split."""
    from experiments.plumbing.tables import Rows, print_report

    if found.drawn:
        print("what is not given of train, val and test is drawn, with seed 0")
    counts = [Counter(label for _, label in images) for images in found.splits.values()]
    lines = [
        [printable(name), *(f"{count[label]:,}" for count in counts)]
        for label, name in enumerate(found.classes)
    ]
    lines.append(["all", *(f"{count.total():,}" for count in counts)])
    print_report([Rows(("class", *found.splits), lines)])


def print_verdict(found: "Scan", rows: Sequence[dict]) -> None:
    """Print what is bad, then the verdict; DataError if there is anything bad."""
    from data.listing import some

    bad = [row for row in rows if row["verdict"] != "fine"]
    tiny = [row["path"] for row in rows if 0 < min(row["height"], row["width"]) < TINY]
    if tiny:
        print(f"odd: images with a side under {TINY} pixels: {len(tiny):,}: {some(tiny)}")
    for row in bad:
        print(printable(f"bad: {found.root / row['path']}: {row['verdict']}"))
    if bad:
        summary = f"{len(bad):,} of {len(rows):,} cannot be decoded"
        print(summary)
        raise DataError(
            f"{summary}, such as this one: {bad[0]['verdict']}",
            found.root / bad[0]["path"],
            "repair them or move them elsewhere, or pass --skip-bad to experiments.transfer",
        )
    sizes = " + ".join(f"{len(images):,}" for images in found.splits.values())
    print(f"{sizes} images in {len(found.classes):,} classes: all decode")


if __name__ == "__main__":
    cli.run(main, Options, "check_data")
