"""Files of results: written whole, and read or refused with advice that does not cost a sound one.

row.json       settings and results of one run; there only when the run is finished
history.csv    a row an epoch
results.csv    a row a run
"""

import csv
import io
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from experiments.plumbing.cli import ResultsError, UsageError
from zoo.weights.atomic import write_atomic

ELSEWHERE = "choose another --output-dir, or the options that it was made with"
ALL_ROWS = "results.jsonl"  # of experiments.transfer: a row.json a line
# In the settings of a folder of results; those from before networks started alike lack it.
STARTS = {"starts": "as the residual network of the seed"}


def write_json(path: Path, content: object) -> None:
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


def write_csv(path: Path, rows: Iterable[Mapping], columns: Sequence[str]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    # A file's name may be bytes that are no text; a table of text has to hold it all the same.
    write_atomic(path, text.getvalue().encode("utf-8", "backslashreplace"))


def read_object(path: Path, needs: Collection[str]) -> dict[str, Any]:
    """The JSON object in a file; ResultsError if it is damaged, or lacks one of `needs`."""
    return parsed(path.read_bytes(), path, needs)


def parsed(content: bytes, path: Path, needs: Collection[str]) -> dict[str, Any]:
    try:
        found = json.loads(content.decode("utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    except (ValueError, RecursionError) as error:
        raise ResultsError(
            f"a results file is damaged: {error}",
            path,
            "delete this file, and the command that made it makes it again",
        ) from error
    missing = [name for name in needs if name not in found]
    if missing:
        raise ResultsError(
            f"a results file of another command or version: it has no {missing[0]!r}",
            path,
            "keep it, and choose another folder",
        )
    return found


NEEDS = ("status", "train_loss", "test_error")


def read_row(folder: Path, run: Any = None, needs: Sequence[str] = NEEDS) -> dict | None:
    """The row of a finished run, None if there is none; refuses a damaged or foreign one.

    `run`: the dataclass that says how it was made; `needs`: what every row has.
    """
    path = folder / "row.json"
    if not path.exists():
        return None
    row = read_object(path, ("run", *needs))
    if run is not None and row["run"] != json.loads(json.dumps(asdict(run))):
        raise ResultsError("a finished run with other settings is in the way", path, ELSEWHERE)
    return row


def read_rows(folder: Path, needs: Sequence[str] = NEEDS) -> list[dict]:
    """The rows of the finished runs in a folder of results."""
    rows = [read_row(path.parent, needs=needs) for path in sorted(folder.glob("*/row.json"))]
    return [row for row in rows if row is not None]


def read_history(folder: Path) -> dict[str, list[float]]:
    """The columns of a run's history.csv."""
    with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    return {name: [float(line[name]) for line in lines] for name in (lines[0] if lines else ())}


def read_csv(path: Path, kinds: Mapping[str, Callable[[str], Any]]) -> list[dict]:
    """The rows of an ablation's results.csv, or of that in a folder; ResultsError for another."""
    path = path / "results.csv" if path.is_dir() else path
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                {key: kind(line[key]) if line[key] else None for key, kind in kinds.items()}
                for line in csv.DictReader(file)
            ]
    except OSError as error:
        raise ResultsError(
            f"cannot read the file: {error.strerror}", path, "check that you may read it"
        ) from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        why = f"it has no column {error}" if isinstance(error, KeyError) else str(error)[:100]
        raise ResultsError(
            f"this is no results.csv of an ablation: {why}", path, NAME_IT
        ) from error


NAME_IT = "name a whole folder of results, such as runs/quick or runs/transfer-NAME"


def no_results(path: Path) -> ResultsError:
    """What is said of a path that holds none."""
    if not path.exists():
        what = "there is no such file or folder"
    elif (path / "row.json").is_file():
        what = "this is one run of several"
    else:
        what = "there are no finished runs"
    return ResultsError(what, path, NAME_IT)


def is_of_transfer(folder: Path) -> bool:
    """Whether experiments.transfer has begun to write results into a folder."""
    return any((folder / name).is_file() for name in (ALL_ROWS, "transfer.json"))


def refuse_folder_with(folder: Path, name: str) -> None:
    """UsageError for a folder that another command keeps its results in, under the same names."""
    if (folder / name).exists():
        raise UsageError(
            "another command has its results here", folder / name, "choose another --output-dir"
        )


def lock(output_dir: Path) -> FileLock:
    """Held while a command writes into the folder; refuses a second one."""
    output_dir.mkdir(parents=True, exist_ok=True)
    held = FileLock(output_dir / ".lock", timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise UsageError(
            "another process is writing results here",
            output_dir,
            "wait for it, or choose another --output-dir",
        ) from None
    return held
