"""Files of results: written whole, and read or refused with advice that does not cost a sound one.

row.json       settings and results of one run; there only when the run is finished
history.csv    a row an epoch
results.csv    a row a run
"""

import csv
import functools
import io
import json
import platform
import subprocess
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from experiments.plumbing.cli import ResultsError, UsageError
from zoo.weights.atomic import write_atomic

UNFIT = "a results file is missing, damaged, or of another command or version"
KEEP_IT = "keep it, and choose another folder; or move it away, and it is made again"
NAME_IT = "name a whole folder of results, such as runs/quick or runs/transfer-NAME"
ALL_ROWS = "results.jsonl"  # of experiments.transfer: a row.json a line
# In the settings of a folder of results; those from before networks started alike lack it.
STARTS = {"starts": "as the residual network of the seed"}


RENAMED = {
    '"choose": ': '"holdout": ',
    '"pictures": "': '"dataset_id": "',
    '"schedule": "one-cycle"': '"schedule": "triangle"',
    '"schedule": "steps"': '"schedule": "step"',
}


def write_json(path: Path, content: object) -> None:
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


def write_csv(path: Path, rows: Iterable[Mapping], columns: Iterable[str]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    # A file's name may be bytes that are no text; a table of text has to hold it all the same.
    write_atomic(path, text.getvalue().encode("utf-8", "backslashreplace"))


def renamed(text: str) -> str:
    """A run's settings as JSON, in which earlier versions had other names for some of them."""
    for old, new in RENAMED.items():
        text = text.replace(old, new)
    return text


def parsed(content: bytes, path: Path, needs: Collection[str]) -> dict[str, Any]:
    """The JSON object in a file's content; ResultsError if there is none that has `needs`."""
    try:
        found = json.loads(renamed(content.decode()))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not found.keys() >= set(needs):
        raise ResultsError(UNFIT, path, KEEP_IT)
    return found


NEEDS = ("status", "train_loss", "test_error")


def read_row(folder: Path, run: Any = None, needs: Sequence[str] = NEEDS) -> dict | None:
    """The row of a finished run, None if there is none; refuses a damaged or foreign one.

    `run`: the dataclass that says how it was made; `needs`: what every row has.
    """
    path = folder / "row.json"
    if not path.exists():
        return None
    row = parsed(path.read_bytes(), path, ("run", *needs))
    if run is not None and row["run"] != json.loads(json.dumps(asdict(run))):
        fix = "choose another --output-dir, or the options and version that it was made with"
        raise ResultsError("a finished run with other settings is in the way", path, fix)
    return row


def to_do(folders: Sequence[Path], runs: int, how: str = "") -> str:
    """What is left of so many `runs`: those of `folders`, some of which may have been begun."""
    if not folders:
        return f"all {runs} runs are finished, and are not made again"
    begun = sum((folder / "checkpoint.pt").exists() for folder in folders)
    goes_on = f"; {begun} of them go on from their checkpoints" if begun else ""
    return f"{len(folders)} of {runs} runs to do{how}{goes_on}"


def read_rows(folder: Path, needs: Sequence[str] = NEEDS) -> list[dict]:
    """The rows of the finished runs in a folder of results."""
    rows = [read_row(path.parent, needs=needs) for path in sorted(folder.glob("*/row.json"))]
    return [row for row in rows if row is not None]


def say_skipped(row: Mapping) -> str:
    """The end of a sentence on a run, where fp16 had to skip steps."""
    skipped = row.get("skipped_steps")  # rows of earlier versions lack it
    return f"; {skipped} steps skipped, whose gradients overflowed in fp16" if skipped else ""


def read_history(folder: Path) -> dict[str, list[float]]:
    """The columns of a run's history.csv."""
    with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    return {name: [float(line[name]) for line in lines] for name in (lines[0] if lines else ())}


def read_csv(path: Path, kinds: Mapping[str, Callable[[str], Any]], fix: str) -> list[dict]:
    """The rows of a file with these columns, None for an empty cell; ResultsError without any."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = json.loads(renamed(json.dumps(list(csv.DictReader(file)))))
            rows = [
                {key: kind(line[key]) if line[key] else None for key, kind in kinds.items()}
                for line in lines
            ]
    except (OSError, KeyError, ValueError, csv.Error):
        rows = []
    if not rows:
        raise ResultsError(UNFIT, path, fix)
    return rows


def no_results(path: Path) -> ResultsError:
    """For a path without rows, why there are none."""
    if (path / "row.json").is_file():
        return ResultsError("this is one run of several", path, f"name {path.parent}")
    what = "there are no finished runs here" if path.exists() else "there is no such folder"
    return ResultsError(what, path, NAME_IT)


def is_of_transfer(folder: Path) -> bool:
    """Whether experiments.transfer has begun to write results into a folder."""
    return any((folder / name).is_file() for name in (ALL_ROWS, "transfer.json"))


def lock(output_dir: Path) -> AbstractContextManager:
    """Held while a command writes into the folder; refuses a second one."""
    output_dir.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(output_dir / ".lock", timeout=0).acquire()
    except Timeout:
        fix = "wait for it, or choose another --output-dir"
        raise UsageError("another process is writing results here", output_dir, fix) from None


# --- what computed a result ---


def machine(device: torch.device) -> dict:
    """Hardware, threads, versions and commit, for a row of results."""
    name = cpu_name()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "mps":
        name += ", mps"
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
        },
        "commit": commit(),
    }


def cpu_name() -> str:
    """What Linux calls the processor, or the next best name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return next(line.split(": ", 1)[1] for line in text.splitlines() if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@functools.cache
def commit() -> str:
    """The commit of this checkout, "-dirty" if it was changed since, or "unknown" without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    here = Path(__file__).parent
    try:
        described = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return described.stdout.strip() or "unknown"
