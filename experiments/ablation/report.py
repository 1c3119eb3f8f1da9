"""From rows to a table and a verdict: everything that is said about residual networks.

report_vit.py says more of transformers.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from data.listing import readable
from experiments.ablation import literature
from experiments.plumbing.results import no_results, read_csv, read_row
from experiments.plumbing.stats import estimate, judge, signed
from experiments.plumbing.tables import csv_of, markdown_table, print_table


@dataclass(frozen=True)
class Verdict:
    answer: str  # "yes", "no" or "cannot tell"
    sentence: str


def verdict(
    results: Sequence[dict], plain: str = "plain", residual: str = "resnet", unit: str = "layers"
) -> Verdict:
    """Do plain networks degrade more with depth than residual ones?

    Degradation is the final training loss of the deepest minus that of the shallowest network,
    paired by seed. The answer is yes or no if the t-interval of plain minus residual excludes 0.
    """
    arms = (plain, residual)
    results = [r for r in results if r["norm"] != "none" and r["network"] in arms]
    depths = sorted({result["depth"] for result in results})
    if len(depths) < 2:
        return Verdict("cannot tell", "Cannot tell: one depth alone shows no degradation.")
    losses = {
        (result["network"], result["depth"], result["seed"]): result["train_loss"]
        for result in results
        if result["status"] == "finished"
    }

    def degradation(network: str, seed: int) -> float:
        deepest, shallowest = (losses.get((network, depths[end], seed)) for end in (-1, 0))
        return math.nan if deepest is None or shallowest is None else deepest - shallowest

    seeds = sorted({result["seed"] for result in results})
    pairs = [tuple(degradation(network, seed) for network in arms) for seed in seeds]
    pairs = [pair for pair in pairs if not math.isnan(sum(pair))]
    worse = [estimate([pair[arm] for pair in pairs]) for arm in (0, 1)]
    difference = estimate([pair[0] - pair[1] for pair in pairs])
    answer, reason = judge(difference)
    return Verdict(
        answer,
        f"{answer.capitalize()}: from {depths[0]} to {depths[-1]} {unit} the final training loss "
        f"changes by {signed(worse[0])} in plain networks and by {signed(worse[1])} in residual "
        f"ones; plain minus residual, {signed(difference)} (n = {difference.n}, paired by seed, "
        f"95 % t-interval), {reason}." + unfinished(results),
    )


def unfinished(results: Sequence[dict]) -> str:
    """A sentence that names the runs that diverged; empty if none did."""
    diverged = [result for result in results if result["status"] != "finished"]
    if not diverged:
        return ""
    names = (f"{r['network']}{r['depth']} seed {r['seed']} {r['status']}" for r in diverged)
    return f" {len(diverged)} of {len(results)} runs did not finish: {', '.join(names)}."


# --- results as flat rows: one line of results.csv each ---

FIELDS = {
    "network": str, "depth": int, "norm": str, "seed": int, "status": str, "parameters": int,
    "train_loss": float, "train_error": float, "test_loss": float, "test_error": float,
    "seconds": float, "source": str, "size": int, "train_images": int, "test_images": int,
    "choose": str, "normalize": str, "steps": int, "batch_size": int, "schedule": str,
    "lr": float, "weight_decay": float, "precision": str, "channels_last": str, "device": str,
    "threads": int, "python": str, "torch": str, "torchvision": str, "commit": str,
}  # fmt: skip


def flatten(row: dict) -> dict:
    """What row.json has in groups, as one dict with the keys of FIELDS."""
    run = row["run"]
    flat = {**run["settings"], **run["data"], **run, **row["versions"], **row}
    flat["train_images"], flat["test_images"] = row["images"]
    return {key: flat[key] for key in FIELDS}


def results_csv(results: Sequence[dict]) -> str:
    return csv_of(results, tuple(FIELDS))


def read_results(path: Path) -> list[dict]:
    """The rows of the row.json files below a folder, or else of its results.csv."""
    rows = [read_row(file.parent) for file in sorted(readable(path).glob("*/row.json"))]
    results = [flatten(row) for row in rows if row is not None] or read_csv(path, FIELDS)
    if not results:
        raise no_results(path)
    return results


# --- the table ---


def is_paper_protocol(result: dict) -> bool:
    """Section 4.2 in all that options change but precision: then published figures are shown."""
    return (
        result["source"] == "cifar10" and result["size"] == 32 and result["steps"] == 64_000
        and result["batch_size"] == 128 and result["schedule"] == "steps" and result["lr"] == 0.1
        and result["normalize"] == "pixel-mean" and result["train_images"] == 50_000
        and str(result["choose"]) == "False"
    )  # fmt: skip


def table(results: Sequence[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: one line a network, mean ± 95 % CI over its seeds."""
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for result in results:
        groups[result["norm"] == "none", result["network"], result["depth"]].append(result)
    paper = all(is_paper_protocol(result) for result in results)
    header = ["network", "parameters", "train loss", "train error %", "test error %", "n"]
    header += ["paper", "replications"] if paper else []
    lines = []
    for (without_norm, network, depth), group in sorted(groups.items()):
        finished = [result for result in group if result["status"] == "finished"]
        name = f"{network}{depth}"
        line = [
            name + (" no BN" if without_norm else ""),
            f"{group[0]['parameters']:,}",
            estimate([result["train_loss"] for result in finished]).show(3),
            estimate([result["train_error"] for result in finished]).show(1, 100),
            estimate([result["test_error"] for result in finished]).show(2 if paper else 1, 100),
            f"{len(finished)}" + (f" of {len(group)}" if len(finished) < len(group) else ""),
        ]
        if paper:
            line += [literature.PAPER.get(name, "-"), literature.REPLICATIONS.get(name, "-")]
        lines.append(line)
    return header, lines


def caption(results: Sequence[dict]) -> str:
    """What was done, in one sentence: data, steps, precision, machine, time."""
    first = results[0]
    seconds = sum(result["seconds"] for result in results)
    source = {"embedded": "embedded pictures", "cifar10": "CIFAR-10"}.get(
        first["source"], "a folder"
    )
    return (
        f"{source} at {first['size']}x{first['size']}, {first['train_images']:,} training and "
        f"{first['test_images']:,} test pictures, {first['steps']:,} steps of "
        f"{first['batch_size']}, last epoch; mean ± 95 % CI over n seeds; "
        f"{first['precision']}, {first['device']}, {seconds / 60:.1f} process-minutes"
    )


def show(results: Sequence[dict], console: Console) -> None:
    print_table(*table(results), console)
    console.print(caption(results) + "\n")
    console.print(f"Do plain networks degrade more with depth? {verdict(results).sentence}")


def markdown(results: Sequence[dict]) -> str:
    header, lines = table(results)
    drawn = markdown_table(header, lines, "---", *["---:"] * 5, "---")
    return f"{drawn}\n\n{caption(results)}.\n\n**{verdict(results).sentence}**"
