"""Results of the strategies: a table, a recommendation, curves, accuracy against time."""

import math
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import zoo
from data.listing import readable
from experiments.plumbing.cli import ResultsError, python
from experiments.plumbing.results import no_results, read_history, read_rows, write_csv
from experiments.plumbing.stats import Estimate, estimate, seed_count, wilson
from experiments.plumbing.tables import Part, Rows
from experiments.transfer.job import NEEDS
from experiments.transfer.stages import read, report_of_stages
from experiments.transfer.strategies import PROBE, STRATEGIES
from zoo.registry import owner
from zoo.weights.published import published_name

ALL_RUNS = "results.csv"  # written once all runs are finished
MOVING = "moving BatchNorm"  # the strategy moving-bn in the table
FIELDS = (
    "model", "weights", "strategy", "seed", "batch_size", "recipe_opt", "recipe_lr", "epochs",
    "status", "train_images", "val_images", "test_images", "tested_on", "accuracy",
    "best_epoch", "best_val_accuracy", "best_test_accuracy", "last_val_accuracy",
    "last_test_accuracy", "parameters", "trainable", "seconds", "training_seconds",
    "waiting_seconds", "images_per_second", "processes", "precision", "channels_last", "device",
    "threads", "python", "torch", "torchvision", "commit",
)  # fmt: skip


def flatten(row: dict) -> dict:
    """The content of row.json as a flat dict with the keys of FIELDS."""
    run, recipe = row["run"], row["run"]["recipe"]
    flat = {**run["base"], **recipe, **run, **row["versions"], **row}
    flat |= {f"{name}_images": count for name, count in row["images"].items()}
    flat |= {"recipe_opt": recipe["opt"], "recipe_lr": recipe["lr"]}
    if run["weights"] and "://" not in run["weights"] and not run["weights"].startswith("hf:"):
        flat["weights"] = Path(run["weights"]).name  # never publish the user's folder names
    return {key: flat.get(key) for key in FIELDS}


@dataclass(frozen=True)
class Arm:
    """The runs of one strategy, model and batch size, which differ in their seeds."""

    label: str
    strategy: str
    rows: list[dict]  # of finished runs, sorted by seed
    started: int  # number of runs, finished or diverged

    def mean(self, key: str) -> Estimate:
        """Mean of a value over seeds, with its 95 % interval."""
        return estimate([row[key] for row in self.rows if row[key] is not None])

    def __str__(self) -> str:
        return f"{self.mean('accuracy').show(1, 100)} % in {self.mean('seconds').mean:.0f} s"


def arms(rows: Sequence[dict]) -> list[Arm]:
    """Group rows by model, batch size and strategy; labels name only what differs."""
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["run"]["seed"]):
        run = row["run"]
        groups[run["model"], run["recipe"]["batch_size"], run["strategy"]].append(row)
    several = [len({key[i] for key in groups}) > 1 for i in (0, 1)]
    grouped = []
    for (model, batch_size, strategy), group in groups.items():
        name = MOVING if strategy == "moving-bn" else strategy
        label = " ".join([name] + [model] * several[0] + [f"batch {batch_size}"] * several[1])
        finished = [row for row in group if row["status"] == "finished"]
        grouped.append(Arm(label, strategy, finished, len(group)))
    return grouped


HEADER = (
    "strategy", "accuracy %", "last epoch", "seconds", "trainable", "images/s", "loading", "n",
)  # fmt: skip


def table(rows: Sequence[dict]) -> Rows:
    """One line per arm, with the columns HEADER."""
    lines = []
    for arm in arms(rows):
        n = f"{len(arm.rows)}" + (f" of {arm.started}" if len(arm.rows) < arm.started else "")
        cells = ["-"] * (len(HEADER) - 2)
        if arm.rows:
            first = arm.rows[0]
            cells = [
                arm.mean("accuracy").show(1, 100),
                arm.mean(f"last_{first['tested_on']}_accuracy").show(1, 100),
                f"{arm.mean('seconds').mean:.1f}", f"{first['trainable']:,}",
                f"{arm.mean('images_per_second').mean:,.0f}", f"{100 * waiting(arm.rows):.0f} %",
            ]  # fmt: skip
        lines.append([arm.label, *cells, n])
    return Rows(HEADER, lines)


def waiting(rows: Sequence[dict]) -> float:
    """Share (0 to 1) of the training time that was spent waiting for images."""
    training = sum(row["training_seconds"] for row in rows)
    return sum(row["waiting_seconds"] for row in rows) / training if training else 0.0


def bound_by(row: dict) -> str:
    """Say whether loading images or computing took most of a run's training time."""
    share = waiting([row])
    what = "loading images" if share > 0.5 else "computing"
    return f"bounded by {what} ({100 * share:.0f} % of its training time went into loading)"


def images_and_models(rows: Sequence[dict]) -> str:
    """The number of images of each split, and the networks."""
    counts = ", ".join(f"{count:,} {name}" for name, count in rows[0]["images"].items())
    return f"{counts} images; {' and '.join(sorted({row['run']['model'] for row in rows}))}"


def caption(rows: Sequence[dict]) -> str:
    """The text under the table: data, weights, settings, uncertainty and hardware."""
    first = rows[0]
    run, images, on = first["run"], first["images"], first["tested_on"]
    accuracies = [row["accuracy"] for row in rows if row["accuracy"] is not None] or [0.5]
    intervals = [wilson(round(accuracy * images[on]), images[on]) for accuracy in accuracies]
    least = 50 * min(high - low for low, high in intervals)
    chosen = (
        "the epoch is chosen on val, the accuracy is that on test"
        if on == "test"
        else "there is no test set: val chose the epoch and is reported too, so 'accuracy' is a "
        "little too good; 'last epoch' is not"
    )
    weights = sorted({str(row["run"]["weights"] or "random weights") for row in rows})
    trained = f"{run['recipe']['epochs']} epochs, {run['recipe']['opt']}{unusual(rows)}"
    if all(row["run"]["strategy"] == PROBE for row in rows):
        trained, chosen = "logistic regression on frozen features", f"accuracy on {on}"
    precision = run["base"]["precision"]
    if precision != "fp32":
        precision = f"trained in {precision}, measured in fp32"
    seeds = {row["run"]["seed"] for row in rows}
    spread = "mean ± 95 % CI over n seeds (in addition, each"
    if len(seeds) == 1:
        spread = "one seed (each"
    return (
        f"{images_and_models(rows)} from {', '.join(Path(w).name for w in weights)}; "
        f"{trained}; {chosen}; {spread} accuracy is uncertain by at least ± {least:.1f} points, "
        f"since there are {images[on]:,} images); "
        f"{precision}, {first['threads']} thread{'s' * (first['threads'] > 1)}, "
        f"{first['device']}."
    )


def unusual(rows: Sequence[dict]) -> str:
    """Unusual settings of the recipe, as text; with the strategies, if only some have them."""
    found: dict[str, set[str]] = {}
    for row in rows:
        for key in ("unfreeze", "lr_decay", "augment"):
            if (value := row["run"]["recipe"].get(key)) not in (None, "crop"):
                setting = f", {key.replace('_', '-')} {value}"
                found.setdefault(setting, set()).add(row["run"]["strategy"])
    everyone = {row["run"]["strategy"] for row in rows}
    return "".join(
        setting + f" ({', '.join(sorted(some))})" * (some != everyone)
        for setting, some in found.items()
    )


def about_weights(weights: Mapping[str, str | None]) -> str:
    """What makes networks with these weights unlike, besides their skips; empty if nothing does.

    `weights`: by network, a file or a published name; None for random ones.
    """
    borrowing = [
        name for name, given in weights.items()
        if zoo.twin(name) != name and published_name(given) and owner(name, given) != name
    ]  # fmt: skip
    if borrowing:
        name = borrowing[0]
        return (
            f"{name} starts from the weights of {zoo.twin(name)}, with which it was never trained: "
            "this does not show what the skips are worth"
        )
    if len(set(weights.values())) > 1:
        each = ", ".join(f"{name} from {given}" for name, given in weights.items())
        return f"{each}: trained in different ways, so not only the networks differ"
    return ""


def how_compared(drawn: Sequence[Arm]) -> str:
    """The number of seeds, images, networks and epochs (a probe has none), for a caption."""
    rows = [row for arm in drawn for row in arm.rows]
    n = seed_count([len(arm.rows) for arm in drawn])
    epochs = {row["run"]["recipe"]["epochs"] for row in rows if row["run"]["strategy"] != PROBE}
    return ", ".join((f"{n}; {images_and_models(rows)}", *(f"{count} epochs" for count in epochs)))


def choose(rows: Sequence[dict]) -> tuple[str, Arm | None]:
    """A sentence that recommends the fastest of the strategies that match the best, and its arm.

    A strategy matches the best if the 95 % interval of the best one's lead includes 0. Where
    nothing can be recommended, the arm is the best one, or None if no run finished.
    """
    running = [arm for arm in arms(rows) if arm.rows and arm.strategy != "moving-bn"]
    if not running:
        return "Nothing to choose from: no run of these strategies finished.", None
    # If several are equally accurate: the fastest.
    best = max(running, key=lambda arm: (arm.mean("accuracy").mean, -arm.mean("seconds").mean))
    others = [arm for arm in running if arm is not best]
    leads = {arm.label: lead(best, arm) for arm in others}
    if not others:
        return f"{best.label} alone cannot be compared: {best}.", best
    if any(value.n < 2 for value in leads.values()):
        equal = [arm.label for arm in others if arm.mean("accuracy") == best.mean("accuracy")]
        return (
            f"Cannot tell which to choose: of the strategies {' and '.join([best.label, *equal])} "
            f"{'have' if equal else 'has'} the highest accuracy, {best}, but two seeds or more are "
            "needed."
        ), best
    as_good = [arm for arm in others if leads[arm.label].mean <= leads[arm.label].half]
    chosen = min([best, *as_good], key=lambda arm: arm.mean("seconds").mean)
    if chosen is best:
        second = max(others, key=lambda arm: arm.mean("accuracy").mean)
        value = leads[second.label]
        verb = "excludes" if value.mean > value.half else "does not exclude"
        return (
            f"Choose {best.label} here: {best}; next comes {second.label} with {second}, "
            f"{points(value)} less, which {verb} 0."
        ), best
    return (
        f"Choose {chosen.label} here: {chosen}; {best.label}, {best}, is not shown to be better: "
        f"the interval of the difference, {points(leads[chosen.label])}, does not exclude 0."
    ), chosen


def points(value: Estimate) -> str:
    """A lead in percentage points, with its interval."""
    return f"{value.show(1, 100)} points (n = {value.n}, paired by seed and image, 95 %)"


def lead(best: Arm, other: Arm) -> Estimate:
    """The lead of `best` in accuracy (0 to 1): mean over the seeds that both have.

    The half-width of its interval includes the variation over seeds and that over images.
    """
    theirs = {row["run"]["seed"]: row for row in other.rows}
    pairs = [(row, theirs[row["run"]["seed"]]) for row in best.rows if row["run"]["seed"] in theirs]
    seeds = estimate([first["accuracy"] - second["accuracy"] for first, second in pairs])
    if not pairs:
        return seeds
    # Per image: the lead in the share of seeds that classify it correctly.
    right = np.array([[[int(r) for r in row["right"]] for row in pair] for pair in pairs])
    differences = (right[:, 0] - right[:, 1]).mean(0)
    if len(differences) < 2:
        return Estimate(seeds.mean, math.inf, seeds.n)
    images = 1.96 * differences.std(ddof=1) / math.sqrt(len(differences))
    return Estimate(seeds.mean, math.hypot(seeds.half, images), seeds.n)


def report(rows: Sequence[dict]) -> list[Part]:
    """The table, its caption and the recommendation."""
    parts: list[Part] = [table(rows), caption(rows), f"**{choose(rows)[0]}**"]
    note = about_weights({row["run"]["model"]: row["run"]["weights"] for row in rows})
    return [*parts, note + "."] if note else parts


def about_others(rows: Sequence[dict], folder: Path) -> list[str]:
    """A line on other finished runs in the folder, if there are any."""
    finished = len(list(folder.glob("*/row.json")))
    if finished <= len(rows):
        return []
    command = f"{python()} -m experiments.report {shlex.quote(str(folder))}"
    return [
        f"{finished} finished runs are here, {len(rows)} of them in this report; all: {command}"
    ]


def report_of(folder: Path) -> list[Part]:
    """The report of all finished runs in a folder; raises ResultsError without any."""
    rows = sorted(read_rows(readable(folder), NEEDS), key=planned_order)
    if not rows:
        raise no_results(folder)
    if len({row["run"].get("dataset_id") for row in rows}) > 1:
        what = "the runs here are of different images, so they cannot be compared"
        raise ResultsError(what, folder, "move those of one dataset to another folder")
    more = "repeat the command to train the others"
    complete = (folder / ALL_RUNS).is_file()
    left = [] if complete else [f"{len(rows)} runs are finished; {more}"]
    return report(rows) + report_of_stages(read(folder)) + left


def planned_order(row: dict) -> tuple:
    """A sort key for the order in which experiments.transfer trains: by seed first."""
    run = row["run"]
    size, strategy = run["recipe"]["batch_size"], STRATEGIES.index(run["strategy"])
    return run["seed"], run["model"], size, strategy


def write_all(rows: Sequence[dict], folder: Path, probes: Mapping[str, dict]) -> list[Path]:
    """Write results.csv and the figures; return the paths of the figures."""
    # Imported here, so that a transfer prints its first line without waiting for matplotlib.
    from experiments.transfer.figures import draw_accuracy_time, draw_curves, draw_stages

    write_csv(folder / ALL_RUNS, map(flatten, rows), FIELDS)
    drawn = [arm for arm in arms(rows) if arm.rows]
    if not drawn:
        return []
    curves = {arm.label: [read_history(folder / row["name"]) for row in arm.rows] for arm in drawn}
    draw_curves(folder / "curves.png", curves, how_compared(drawn))
    ends = [
        (arm.label, [row["seconds"] for row in arm.rows], arm.mean("accuracy")) for arm in drawn
    ]
    draw_accuracy_time(folder / "accuracy_time.png", ends, how_compared(drawn))
    paths = [folder / "curves.png", folder / "accuracy_time.png"]
    if probes:
        paths.append(folder / "stages.png")
        draw_stages(paths[-1], probes)
    return paths
