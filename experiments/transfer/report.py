"""What the strategies came to: a table, a sentence, curves, accuracy against time."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.listing import readable
from experiments.plumbing.results import (
    ALL_ROWS,
    no_results,
    parsed,
    read_history,
    read_rows,
    write_csv,
)
from experiments.plumbing.stats import Estimate, estimate, wilson
from experiments.plumbing.tables import Part, Rows
from experiments.transfer.figures import draw_accuracy_time, draw_curves
from experiments.transfer.job import NEEDS
from experiments.transfer.strategies import STRATEGIES
from zoo.weights.atomic import write_atomic

NOTEBOOKS = "as in most notebooks"  # what the table calls the strategy moving-bn
FIELDS = (
    "model", "weights", "strategy", "seed", "batch_size", "recipe_opt", "recipe_lr", "epochs",
    "status", "train_images", "val_images", "test_images", "tested_on", "accuracy",
    "best_epoch", "best_val_accuracy", "best_test_accuracy", "last_val_accuracy",
    "last_test_accuracy", "parameters", "trainable", "seconds", "training_seconds",
    "waiting_seconds", "images_per_second", "processes", "precision", "channels_last", "device",
    "threads", "python", "torch", "torchvision", "commit",
)  # fmt: skip


def flatten(row: dict) -> dict:
    """What row.json has in groups, as one dict with the keys of FIELDS."""
    run, recipe = row["run"], row["run"]["recipe"]
    flat = {**run["base"], **recipe, **run, **row["versions"], **row}
    flat |= {f"{name}_images": count for name, count in row["images"].items()}
    flat |= {"recipe_opt": recipe["opt"], "recipe_lr": recipe["lr"]}
    if run["weights"] and "://" not in run["weights"] and not run["weights"].startswith("hf:"):
        flat["weights"] = Path(run["weights"]).name  # what is published names no one's folders
    return {key: flat.get(key) for key in FIELDS}


@dataclass(frozen=True)
class Arm:
    """The seeds of one strategy, model and batch size."""

    label: str
    strategy: str
    rows: list[dict]  # the finished ones, by seed
    started: int

    def mean(self, key: str) -> Estimate:
        return estimate([row[key] for row in self.rows if row[key] is not None])

    @property
    def last(self) -> Estimate:
        """Accuracy of the last epoch, which nothing chose."""
        return self.mean(f"last_{self.rows[0]['tested_on']}_accuracy")

    @property
    def loading(self) -> float:
        """Share of the training time spent waiting for pictures."""
        training = sum(row["training_seconds"] for row in self.rows)
        return sum(row["waiting_seconds"] for row in self.rows) / training if training else 0.0


def arms(rows: Sequence[dict]) -> list[Arm]:
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        run = row["run"]
        place = STRATEGIES.index(run["strategy"])
        groups[run["model"], run["recipe"]["batch_size"], place].append(row)
    several = [len({key[i] for key in groups}) > 1 for i in (0, 1)]
    found = []
    for (model, batch_size, place), group in groups.items():
        name = NOTEBOOKS if STRATEGIES[place] == "moving-bn" else STRATEGIES[place]
        label = " ".join([name] + [model] * several[0] + [f"batch {batch_size}"] * several[1])
        group = sorted(group, key=lambda row: row["run"]["seed"])
        finished = [row for row in group if row["status"] == "finished"]
        found.append(Arm(label, STRATEGIES[place], finished, len(group)))
    return found


HEADER = (
    "strategy", "accuracy %", "last epoch", "seconds", "learning", "images/s", "waits", "n",
)  # fmt: skip


def table(rows: Sequence[dict]) -> Rows:
    drawn = []
    for arm in arms(rows):
        n = f"{len(arm.rows)}" + (f" of {arm.started}" if len(arm.rows) < arm.started else "")
        if not arm.rows:
            drawn.append([arm.label, *["-"] * (len(HEADER) - 2), n])
            continue
        drawn.append(
            [
                arm.label,
                arm.mean("accuracy").show(1, 100),
                arm.last.show(1, 100),
                f"{arm.mean('seconds').mean:.1f}",
                f"{arm.rows[0]['trainable']:,}",
                f"{arm.mean('images_per_second').mean:,.0f}",
                f"{100 * arm.loading:.0f} %",
                n,
            ]
        )
    return Rows(HEADER, drawn)


def caption(rows: Sequence[dict]) -> str:
    first = rows[0]
    run, images, on = first["run"], first["images"], first["tested_on"]
    counts = ", ".join(f"{count:,} {name}" for name, count in images.items())
    best = max((row["accuracy"] for row in rows if row["accuracy"] is not None), default=0.5)
    low, high = wilson(round(best * images[on]), images[on])
    chosen = (
        "the epoch is chosen on val, the accuracy is that on test"
        if on == "test"
        else "there is no test set: val chose the epoch and is reported too, so 'accuracy' is a "
        "little too good; nothing chose the last epoch"
    )
    weights = sorted({str(row["run"]["weights"] or "random weights") for row in rows})
    return (
        f"{counts} pictures; {' and '.join(sorted({row['run']['model'] for row in rows}))} from "
        f"{', '.join(Path(w).name for w in weights)}; {run['recipe']['epochs']} epochs, "
        f"{run['recipe']['opt']}; {chosen}; mean ± 95 % CI over n seeds (besides, {images[on]:,} "
        f"pictures leave ± {50 * (high - low):.1f} points); {run['base']['precision']}, "
        f"{first['threads']} threads, {first['device']}."
    )


def advice(rows: Sequence[dict]) -> str:
    """The sentence that says which strategy to choose here."""
    return choose(rows)[0]


def choose(rows: Sequence[dict]) -> tuple[str, Arm | None]:
    """Which strategy to choose here: the quickest of those that are as good as the best.

    As good as: the 95 % interval of the best one's lead does not exclude 0.
    """
    running = [arm for arm in arms(rows) if arm.rows and arm.strategy != "moving-bn"]
    if not running:
        return "Nothing to choose from: no run of these strategies finished.", None
    best = max(running, key=lambda arm: arm.mean("accuracy").mean)
    leads = {arm.label: lead(best, arm) for arm in running if arm is not best}
    if not leads:
        return f"{best.label} alone cannot be compared: {show(best)}.", best
    if any(value.n < 2 for value in leads.values()):
        return (
            f"Cannot tell which to choose: of the strategies {best.label} has the highest "
            f"accuracy, {show(best)}, but two seeds or more are needed."
        ), best
    as_good = [
        arm for arm in running if arm is best or leads[arm.label].mean <= leads[arm.label].half
    ]
    chosen = min(as_good, key=lambda arm: arm.mean("seconds").mean)
    if chosen is best:
        second = max(
            (arm for arm in running if arm is not best), key=lambda arm: arm.mean("accuracy").mean
        )
        value = leads[second.label]
        verb = "excludes" if value.mean > value.half else "does not exclude"
        return (
            f"Choose {best.label} here: {show(best)}; next comes {second.label} with "
            f"{show(second)}, {points(value)} less, which {verb} 0."
        ), best
    value = leads[chosen.label]
    return (
        f"Choose {chosen.label} here: {show(chosen)}; {best.label} has {show(best)}, but its lead "
        f"of {points(value)} does not exclude 0."
    ), chosen


def lead(best: Arm, other: Arm) -> Estimate:
    """By how much `best` is more accurate, over the seeds that both have.

    Its half-width allows for both kinds of chance: other seeds, and other pictures.
    """
    pairs = [
        (first, second)
        for first in best.rows
        for second in other.rows
        if first["run"]["seed"] == second["run"]["seed"]
    ]
    seeds = estimate([first["accuracy"] - second["accuracy"] for first, second in pairs])
    if not pairs:
        return seeds
    # For every picture, how much more often the one names it right than the other.
    right = np.array([[[int(r) for r in row["right"]] for row in pair] for pair in pairs])
    differences = (right[:, 0] - right[:, 1]).mean(0)
    if len(differences) < 2:
        return Estimate(seeds.mean, math.inf, seeds.n)
    pictures = 1.96 * differences.std(ddof=1) / math.sqrt(len(differences))
    return Estimate(seeds.mean, math.hypot(seeds.half, pictures), seeds.n)


def show(arm: Arm) -> str:
    return f"{arm.mean('accuracy').show(1, 100)} % in {arm.mean('seconds').mean:.0f} s"


def points(value: Estimate) -> str:
    return f"{value.show(1, 100)} points (n = {value.n}, paired by seed and picture, 95 %)"


def bound_by(row: dict) -> str:
    """What a run waited for."""
    training, waiting = row["training_seconds"], row["waiting_seconds"]
    share = waiting / training if training else 0.0
    what = "loading pictures" if share > 0.5 else "computing"
    return f"bounded by {what} ({100 * share:.0f} % of its training time went into loading)"


def write_all(rows: Sequence[dict], folder: Path) -> list[Path]:
    """results.csv, results.jsonl and the figures."""
    write_csv(folder / "results.csv", map(flatten, rows), FIELDS)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomic(folder / ALL_ROWS, text.encode())
    shown = [arm for arm in arms(rows) if arm.rows]
    curves = {arm.label: [read_history(folder / row["name"]) for row in arm.rows] for arm in shown}
    points = [
        (arm.label, *spread(arm.mean("seconds")), *spread(arm.mean("accuracy"))) for arm in shown
    ]
    if not shown:
        return []
    draw_curves(folder / "curves.png", curves)
    draw_accuracy_time(folder / "accuracy_time.png", points)
    return [folder / "curves.png", folder / "accuracy_time.png"]


def spread(value: Estimate) -> tuple[float, float]:
    return value.mean, value.half


def report(rows: Sequence[dict]) -> list[Part]:
    return [table(rows), caption(rows), f"**{advice(rows)}**"]


def report_of(folder: Path) -> list[Part]:
    """The report of finished runs, and whether some are not."""
    rows = read_all(folder)
    if (folder / ALL_ROWS).is_file():
        return report(rows)
    more = "the command that made them makes those that are not"
    return [*report(rows), f"{len(rows)} runs are finished; {more}"]


def read_all(folder: Path) -> list[dict]:
    """What the last command compared; of one that was interrupted, the runs that are finished."""
    path = folder / ALL_ROWS
    if path.is_file():
        rows = [parsed(row, path, ("run", *NEEDS)) for row in path.read_bytes().splitlines()]
    else:
        rows = sorted(read_rows(readable(folder), NEEDS), key=place_of)
    if not rows:
        raise no_results(folder)
    return rows


def place_of(row: dict) -> tuple:
    """Where experiments.transfer has a run: one seed of everything first."""
    run = row["run"]
    size, strategy = run["recipe"]["batch_size"], STRATEGIES.index(run["strategy"])
    return run["seed"], run["model"], size, strategy
