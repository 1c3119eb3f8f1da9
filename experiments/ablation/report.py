"""Report an ablation: flat rows, which are also the lines of results.csv; tables and verdicts."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from data.listing import readable
from experiments.ablation import transformers
from experiments.ablation.block_questions import is_tuning
from experiments.ablation.comparison import question_of, report_of_blocks
from experiments.ablation.literature import PROTOCOL, PUBLISHED
from experiments.ablation.runs import in_words
from experiments.ablation.verdict import verdict
from experiments.plumbing.cli import ResultsError
from experiments.plumbing.results import NAME_IT, no_results, read_csv, read_rows
from experiments.plumbing.stats import estimate
from experiments.plumbing.tables import Part, Rows

FIELDS = {
    "network": str, "depth": int, "norm": str, "seed": int, "status": str, "parameters": int,
    "train_loss": float, "train_error": float, "test_loss": float, "test_error": float,
    "seconds": float, "source": str, "size": int, "classes": int, "train_images": int,
    "test_images": int, "augment": str, "holdout": str, "normalize": str, "steps": int,
    "batch_size": int, "schedule": str, "lr": float, "weight_decay": float, "precision": str,
    "channels_last": str, "device": str, "threads": int, "python": str, "torch": str,
    "torchvision": str, "commit": str,
}  # fmt: skip
MEASURED = ("train_loss", "train_error", "test_loss", "test_error")
QUESTION = "Do plain networks degrade more with depth?"
ORDER = ("plain", "resnet", *transformers.ORDER)  # of the networks in the table


def flatten(row: dict) -> dict:
    """The content of row.json, which is nested, as one dict with the keys of FIELDS."""
    run = row["run"]
    since = {"classes": 10, "augment": True}  # older rows lack these
    flat = since | run["settings"] | run["data"] | run | row["versions"] | row
    flat["train_images"], flat["test_images"] = row["images"]
    return {key: flat[key] for key in FIELDS}


def read_results(path: Path) -> list[dict]:
    """The rows of the row.json files in a folder, else of its results.csv.

    Raises ResultsError if there are none, or if they are damaged or of several ablations.
    """
    file = path / "results.csv" if path.is_dir() else path
    rows = list(map(flatten, read_rows(readable(path))))
    if not rows and not file.is_file():
        raise no_results(path)
    rows = rows or read_csv(file, FIELDS, NAME_IT)
    for number, row in enumerate(rows, 1):
        measured = () if row["status"] == "finished" else MEASURED  # a diverged run lacks these
        numbers = (key for key, kind in FIELDS.items() if kind in (int, float))
        missing = [key for key in ("status", *numbers) if row[key] is None and key not in measured]
        if missing:
            raise ResultsError(f"row {number} has no {missing[0]}", path, NAME_IT)
    networks = {row["network"] for row in rows}
    if not (question_of(rows) or networks <= {*ORDER}):
        what = f"no ablation compares {', '.join(map(str, sorted(networks, key=str)))}"
        raise ResultsError(what, path, NAME_IT)
    return rows


def table(results: Sequence[dict]) -> Rows:
    """One line per network: mean ± 95 % CI over its seeds."""
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for result in results:
        network = ORDER.index(result["network"])
        groups[result["norm"] == "none", network, result["depth"]].append(result)
    # Published errors are shown only if the protocol is the same.
    paper = all(str(r[key]) == str(value) for r in results for key, value in PROTOCOL.items())
    header = ["network", "parameters", "train loss", "train error %", "test error %", "n"]
    header += ["paper", "replications"] if paper else []
    lines = []
    for (without_norm, network, depth), group in sorted(groups.items()):
        finished = [result for result in group if result["status"] == "finished"]
        name = f"{ORDER[network]}{depth}"
        lines.append([
            name + (" no BN" if without_norm else ""),
            f"{group[0]['parameters']:,}",
            estimate([result["train_loss"] for result in finished]).show(3),
            estimate([result["train_error"] for result in finished]).show(1, 100),
            estimate([result["test_error"] for result in finished]).show(2 if paper else 1, 100),
            f"{len(finished)}" + f" of {len(group)} finished" * (len(finished) < len(group)),
            *(PUBLISHED.get(name, ("-", "-")) if paper else ()),
        ])  # fmt: skip
    return Rows(header, lines, ("---", *["---:"] * 5, "---"))


def caption(results: Sequence[dict]) -> str:
    """What was done: data, steps, precision, machine and time in one sentence."""
    first = next((row for row in results if not is_tuning(row)), results[0])
    plainly = " not augmented," * (str(first["augment"]) == "False")
    layout = " channels_last" * (str(first["channels_last"]) == "True")
    return (
        f"{in_words(first['source'], first['size'])}, {first['train_images']:,} training and "
        f"{first['test_images']:,} test images,{plainly} {first['steps']:,} steps, batch "
        f"{first['batch_size']}, last epoch; mean ± 95 % CI over n seeds; "
        f"{first['precision']}{layout}, {first['device']}, "
        f"{sum(result['seconds'] for result in results) / 60:.1f} minutes in all, summed over "
        "processes."
        + " The rows without BN are for the figure of gradients, and do not count in the answer."
        * (any(row["norm"] == "none" for row in results) and not question_of(results))
    )


def describe(name: str, result: dict) -> str:
    """One finished run, in one line; `name`: its folder."""
    if result["status"] != "finished":
        return f"{name}: {result['status']}"
    tested_on = "held-out" if str(result["holdout"]) == "True" else "test"
    return (
        f"{name}: training loss {result['train_loss']:.3f}, error "
        f"{100 * result['train_error']:.1f} %; {tested_on} error "
        f"{100 * result['test_error']:.1f} %; {result['seconds']:.0f} s"
    )


def report(results: Sequence[dict], residuals: Sequence[dict]) -> list[Part]:
    """Tables, caption and verdicts; `residuals`: the rows of collapse.csv, for transformers."""
    if about_blocks := question_of(results):
        return [*report_of_blocks(results, about_blocks), caption(results)]
    if not residuals:
        of_transformers = any(result["norm"] == "layer" for result in results)
        question = transformers.QUESTION if of_transformers else QUESTION
        return [table(results), caption(results), f"**{question} {verdict(results)}**"]
    return [
        table(results), caption(results),
        transformers.residuals_table(residuals), transformers.NOTE,
        *transformers.verdicts(results, residuals),
        transformers.slowing_table(residuals), transformers.RATIO,
    ]  # fmt: skip


def report_of(path: Path) -> list[Part]:
    """The report of the finished runs in a folder, or of a results.csv."""
    results = read_results(path)
    of_transformers = any(result["norm"] == "layer" for result in results)
    folder = path if path.is_dir() else path.parent
    return report(results, transformers.read_residuals(folder) if of_transformers else [])
