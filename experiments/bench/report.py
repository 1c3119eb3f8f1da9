"""The rows of bench as tables: one machine in full, and several machines in short."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.plumbing.cli import ResultsError
from experiments.plumbing.results import KEEP_IT, UNFIT, parsed
from experiments.plumbing.tables import Part, Rows

NEEDS = ("device", "device_type", "instructions", "rounds", "rows", "threads", "versions")
OF_ROW = ("name", "title", "checked", "ratios", "seconds", "per_second")
FOLDER = Path("docs/speed")  # published: one file for each kind of machine
IN_SHORT = {  # a line of README: the comparisons that it shows
    "inference: resnet18, resnet50, vit_b_16": (
        "inference-resnet18", "inference-resnet50", "inference-vit_b_16"),
    "training: ResNet-20, resnet18, resnet50": (
        "training-resnet20", "training-resnet18", "training-resnet50"),
    "photos: first epoch, later epochs, a linear probe, predicting one": (
        "data-first", "data-later", "probe", "one-image"),
}  # fmt: skip


def read_bench(path: Path) -> dict:
    """The file that experiments.bench writes; raises ResultsError for another one."""
    found = parsed(path.read_bytes(), path, NEEDS)
    if not all(isinstance(row, dict) and row.keys() >= set(OF_ROW) for row in found["rows"]):
        raise ResultsError(UNFIT, path, KEEP_IT)
    return found


def kind_of(found: Mapping) -> str:
    """The name of its published file: "cuda", or a CPU's "bf16", "avx2" ..."""
    if found["device_type"] == "cuda":
        return "cuda"
    words = found["instructions"].lower()
    return "bf16" if "bf16" in words else words


def table_of(found: Mapping) -> list[Part]:
    """Every comparison of one machine, and how it was measured."""
    lines = [
        [f"`{row['name']}`: {row['title']}", *(f"{f(row['ratios']):.2f}" for f in
         (min, statistics.median, max)), f"{1000 * row['seconds']:.1f}", row["checked"]]
        for row in found["rows"]
    ]  # fmt: skip
    header = ("usual / ours", "min", "median", "max", "ours, ms", "checked")
    caption = (
        f"{found['rounds']} rounds in turns, {found['threads']} thread; {found['device']}, "
        f"{found['instructions']}; torch {found['versions']['torch']}."
    )
    return [Rows(header, lines, ("---", *["---:"] * 4, "---")), caption]


def in_short(folder: Path = FOLDER) -> list[Part]:
    """The median ratios of IN_SHORT, a column for each published machine."""
    columns = [read_bench(path) for path in sorted(folder.glob("*.json"), reverse=True)]
    medians = [
        {row["name"]: statistics.median(row["ratios"]) for row in found["rows"]}
        for found in columns
    ]
    header = ["usual time / ours", *(f"{f['device']}, {f['instructions']}" for f in columns)]
    lines = [[words, *(ratios_in_words(names, found) for found in medians)]
             for words, names in IN_SHORT.items()]  # fmt: skip
    return [Rows(header, lines, ("---", "---:"))]


def ratios_in_words(names: Sequence[str], medians: Mapping[str, float]) -> str:
    """The ratios of some comparisons, as text."""
    return ", ".join(f"{medians[name]:.2f}" if name in medians else "-" for name in names)


def publish(path: Path, put: Callable[[str, list[Part]], None]) -> None:
    """Put the table of a file of bench into the docs by `put(name, parts)`; copy it to FOLDER.

    Raises ResultsError if comparisons of a CPU's short table are missing.
    """
    from zoo.weights.atomic import write_atomic

    found = read_bench(path)
    kind, names = kind_of(found), {row["name"] for row in found["rows"]}
    missing = {name for line in IN_SHORT.values() for name in line} - names
    if kind != "cuda" and missing:
        what = f"comparisons are missing: {', '.join(sorted(missing))}"
        raise ResultsError(what, path, "run python -m experiments.bench without --only")
    put(f"speed-{kind}", table_of(found))
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_atomic(FOLDER / f"{kind}.json", (json.dumps(found, indent=1) + "\n").encode())
