"""Results files: written atomically; no error message advises deleting an intact one.

row.json       settings and results of one run; exists only when the run is finished
history.csv    one row per epoch
results.csv    one row per run
"""

import csv
import functools
import io
import json
import platform
import shlex
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from experiments.plumbing.cli import ResultsError, UsageError
from zoo.weights.atomic import write_atomic

UNFIT = "a results file is missing, damaged, or of another command or version"
KEEP_IT = "keep it, and choose another folder; or move it away, and it is created again"
FINDINGS = "findings.csv"  # of experiments.anatomy
NAME_IT = "give a folder of results, such as runs/quick or runs/transfer-NAME"


def write_json(path: Path, content: object) -> None:
    """Write JSON, atomically."""
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


def write_csv(path: Path, rows: Iterable[Mapping], columns: Iterable[str]) -> None:
    """Write a table of these columns, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    # A file name may have bytes that are not UTF-8; they are written as escapes.
    write_atomic(path, text.getvalue().encode("utf-8", "backslashreplace"))


def parsed(content: bytes, path: Path, needs: Collection[str]) -> dict[str, Any]:
    """The JSON object in a file's content; raises ResultsError if it lacks a key of `needs`."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or not data.keys() >= set(needs):
        raise ResultsError(UNFIT, path, KEEP_IT)
    return data


NEEDS = ("status", "train_loss", "test_error")


def read_row(folder: Path, run: Any = None, needs: Sequence[str] = NEEDS) -> dict | None:
    """The row of a finished run, or None; raises ResultsError if it is damaged or of another run.

    `run`: the dataclass with the run's settings; `needs`: keys that every row has.
    """
    path = folder / "row.json"
    if not path.exists():
        return None
    row = parsed(path.read_bytes(), path, ("run", *needs))
    row["run"] = completed(row["run"])
    asked = row["run"] if run is None else json.loads(json.dumps(asdict(run)))
    if row["run"] != asked:
        raise other_settings("a finished run", row["run"], asked, path, folder.parent)
    return row


def completed(run: Any) -> Any:
    """The settings of a run, with the defaults of those that earlier versions did not have."""
    for key in ("settings", "base"):
        if isinstance(run, dict) and isinstance(run.get(key), dict):
            run = run | {key: {"compiled": False} | run[key]}
    return run


def other_settings(what: str, here: dict, asked: dict, path: Path, output: Path) -> ResultsError:
    """The error for `what` in the file `path`, made with the settings `here`, not those `asked`."""
    found = f"{what} with other settings is here: {difference(here, asked)}"
    fix = f"give another folder, such as --output-dir {shlex.quote(f'{output}-2')}"
    return ResultsError(found, path, f"{fix}; or the options and version that it was made with")


def difference(here: Any, asked: Any, name: str = "") -> str:
    """The first setting that differs, by its path of names: "recipe.lr is 0.1, not 0.2"."""
    if isinstance(here, dict) and isinstance(asked, dict):
        for key in here | asked:
            if here.get(key) != asked.get(key):
                return difference(here.get(key), asked.get(key), f"{name}.{key}".lstrip("."))
    return f"{name} is {here!r:.60}, not {asked!r:.60}"


def to_do(folders: Sequence[Path], runs: int, how: str = "") -> str:
    """One line on the runs left to do: those of `folders`, of `runs` in all."""
    if not folders:
        return f"all {runs} runs are finished, and are not repeated"
    begun = sum((folder / "checkpoint.pt").exists() for folder in folders)
    resumed = f"; {begun} of them resume from their checkpoints" if begun else ""
    return f"{len(folders)} of {runs} runs to do{how}{resumed}"


def read_rows(folder: Path, needs: Sequence[str] = NEEDS) -> list[dict]:
    """The rows of the finished runs in a folder of results."""
    paths = sorted(folder.glob("*/row.json"))
    return [parsed(path.read_bytes(), path, ("run", *needs)) for path in paths]


def say_skipped(row: Mapping) -> str:
    """How many steps fp16 had to skip, to be appended to a line on a run; empty for none."""
    skipped = row.get("skipped_steps")
    return f"; {skipped} steps skipped: their gradients overflowed in fp16" if skipped else ""


def read_history(folder: Path) -> dict[str, list[float]]:
    """The columns of a run's history.csv, by name."""
    with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    return {name: [float(line[name]) for line in lines] for name in (lines[0] if lines else ())}


def read_csv(path: Path, kinds: Mapping[str, Callable[[str], Any]], fix: str) -> list[dict]:
    """The rows of a file, with these columns converted and None for empty cells.

    Raises ResultsError if a column is missing, or if there are no rows.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                {key: kind(line[key]) if line[key] else None for key, kind in kinds.items()}
                for line in csv.DictReader(file)
            ]
    except (OSError, KeyError, ValueError, csv.Error):
        rows = []
    if not rows:
        raise ResultsError(UNFIT, path, fix)
    return rows


def no_results(path: Path) -> ResultsError:
    """The error for a path without rows, which says why there are none."""
    if (path / "row.json").is_file():
        return ResultsError("this is one run of several", path, f"name {path.parent}")
    if (path / "results.csv").is_file():
        what = "these are the results of runs, without their folders and networks"
        return ResultsError(what, path, "repeat their command, and give its folder in runs/")
    what = "there are no finished runs here" if path.exists() else "there is no such folder"
    return ResultsError(what, path, NAME_IT)


def is_of_transfer(folder: Path) -> bool:
    """Whether a folder has results of experiments.transfer, complete or not."""
    return (folder / "transfer.json").is_file()


def lock(output_dir: Path, patience: float = 0) -> AbstractContextManager:
    """Acquire the lock of a folder of results; the end of the `with` block releases it.

    Waits up to `patience` seconds for another process, then raises UsageError. (The runs of an
    ablation have locks of their own: see claim.)
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    file_lock = FileLock(output_dir / ".lock")
    try:
        return file_lock.acquire(timeout=0)
    except Timeout:
        fix = "wait for it, or choose another --output-dir"
        refused = UsageError("another process is writing results here", output_dir, fix)
    if not patience:
        raise refused
    print(f"waiting for another process, which is writing into {output_dir}")
    try:
        return file_lock.acquire(timeout=patience)
    except Timeout:
        raise refused from None


@contextmanager
def claim(folder: Path) -> Iterator[bool]:
    """Yield True and reserve the run in `folder` for this process; False if another one has it.

    The claim ends with the `with` block, or when the process ends, even if it is killed.
    """
    claims = folder.parent / ".claims"
    claims.mkdir(parents=True, exist_ok=True)
    mine = FileLock(claims / folder.name, timeout=0)
    try:
        mine.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        mine.release()


# --- hardware and software that computed a result ---


def machine(device: torch.device) -> dict:
    """Hardware, threads, versions and commit, for a row of results."""
    name = cpu_name() + f", {device.type}" * (device.type != "cpu")
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    python, torchvision = platform.python_version(), version("torchvision")
    versions = {"python": python, "torch": torch.__version__, "torchvision": torchvision}
    threads = torch.get_num_threads()
    return {"device": name, "threads": threads, "versions": versions, "commit": commit()}


def cpu_name() -> str:
    """The processor's name: Linux's if there is one, else Python's."""
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
