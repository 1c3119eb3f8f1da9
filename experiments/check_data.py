"""Check a folder of images: classes, splits, oddities, and whether every image decodes.

    python -m experiments.check_data FOLDER

If the package imagehash is installed, it also finds images that are nearly the same as one of
another split, and draws the pairs.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from data.errors import DataError, printable
from data.processes import usable_cores
from experiments.plumbing import cli
from experiments.plumbing.cli import doing

if TYPE_CHECKING:
    from data.folders import Scan

TINY = 32  # pixels of the shorter side
MOST_WORKERS = 256  # the limit of --workers
SHEET, SHOWN = Path("runs/near-duplicates.png"), 20  # pairs on the sheet


@dataclass(frozen=True)
class Options:
    """Check a folder of images before training on it."""

    dir: tyro.conf.Positional[Path]
    """Has train/ and val/ or test/ with one folder per class, or directly one folder per class."""
    workers: cli.Count = None
    """Processes that decode images (default: one per core, at most 4); 0: no extra process."""
    output: Path | None = None
    """A CSV file to write, one line per image."""


def main(options: Options) -> None:
    """Scan the folder, decode every image, and print what was found."""
    workers = min(usable_cores(), 4) if options.workers is None else options.workers
    cli.check_numbers(options, {"workers": (0, MOST_WORKERS)})
    if options.output:
        cli.check_file("--output", options.output)
    with doing("loading the libraries"):
        from data.decoding import DecodedOnUse, decode_all
        from data.folders import scan
        from data.listing import Listing
        from data.near_duplicates import look
        from experiments.plumbing.results import write_csv
    with doing(f"scanning {options.dir}"):
        scanned = scan(Listing(options.dir))
    for note in scanned.notes:
        print(note)
    print_counts(scanned)
    rows: list[dict] = [
        {"path": name, "split": split, "class": scanned.classes[label]}
        for split, images in scanned.splits.items()
        for name, label in images
    ]
    files = [str(scanned.root / row["path"]) for row in rows]
    # Closed on Ctrl-C too: the workers end with the generator.
    arriving, prints = decode_all(DecodedOnUse(files, look), workers), []
    with doing(f"decoding {len(files):,} images"), closing(arriving):
        for row, file, result in zip(rows, files, arriving, strict=True):
            verdict, (height, width), bits = "fine", (0, 0), None
            if isinstance(result, DataError):
                verdict = " ".join(str(result.args[0]).split())
            else:
                (height, width), bits = result
            prints.append(bits)
            row |= {"width": width, "height": height, "bytes": Path(file).stat().st_size,
                    "verdict": verdict, "near_duplicate": ""}  # fmt: skip
    report_near_duplicates(rows, files, prints)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_csv(options.output, rows, tuple(rows[0]))
        print(f"list of all images: {options.output}")
    print_verdict(scanned, rows)


def print_counts(scanned: "Scan") -> None:
    """Print the number of images: one row per class, one column per split."""
    from experiments.plumbing.tables import Rows, print_report

    counts = [Counter(label for _, label in images) for images in scanned.splits.values()]
    lines = [
        [printable(name), *(f"{count[label]:,}" for count in counts)]
        for label, name in enumerate(scanned.classes)
    ]
    lines.append(["all", *(f"{count.total():,}" for count in counts)])
    print_report([Rows(("class", *scanned.splits), lines)])


def report_near_duplicates(
    rows: Sequence[dict], files: Sequence[str], prints: Sequence[int | None]
) -> None:
    """Print and draw the pairs of near-duplicates across splits; add them to `rows`."""
    import torch

    from data.images import load_image
    from data.near_duplicates import MISSING, installed, near_pairs, note_of
    from data.views import View
    from experiments.drawing.sheet import LabelledImage, draw_sheet

    if not installed():
        print(MISSING)
        return
    if not (pairs := near_pairs(prints, [row["split"] for row in rows])):
        return
    for one, other, _ in pairs:
        rows[one]["near_duplicate"] = rows[other]["path"]
    names = [row["path"] for row in rows]
    print(note_of(pairs, names, "odd"))
    whole, cells = View(250, 250, squash=True), []
    for one, other, bits in pairs[:SHOWN]:
        both = torch.cat([whole(load_image(files[i])) for i in (one, other)], 2)
        cells.append(LabelledImage(both, names[one], (names[other],), (1 - bits / 64,)))
    draw_sheet(SHEET, cells, f"{len(pairs):,} pairs of near-duplicates: equal bits of their hashes")
    print(f"sheet of near-duplicates: {SHEET}")


def print_verdict(scanned: "Scan", rows: Sequence[dict]) -> None:
    """Print tiny and undecodable images, then the verdict; DataError if any cannot be decoded."""
    from data.listing import some

    bad = [row for row in rows if row["verdict"] != "fine"]
    tiny = [row["path"] for row in rows if 0 < min(row["height"], row["width"]) < TINY]
    if tiny:
        print(f"odd: images with a side under {TINY} pixels: {len(tiny):,}: {some(tiny)}")
    for row in bad:
        print(printable(f"bad: {scanned.root / row['path']}: {row['verdict']}"))
    if bad:
        summary = f"{len(bad):,} of {len(rows):,} cannot be decoded"
        print(summary)
        why = f"{summary}, for example this one: {bad[0]['verdict']}"
        fix = "repair them or move them elsewhere, or pass --skip-bad to experiments.transfer"
        raise DataError(why, scanned.root / bad[0]["path"], fix)
    sizes = " + ".join(f"{len(images):,}" for images in scanned.splits.values())
    print(f"{sizes} images in {len(scanned.classes):,} classes: all decode")


if __name__ == "__main__":
    cli.run(main, Options, "check_data")
