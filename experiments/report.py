"""From rows to a table, a verdict and README; report_vit.py says more of transformers.

python -m experiments.report runs/quick              the table and the verdict again, or advice
python -m experiments.report runs/quick --publish    and into README.md and docs/quick/
"""

import math
import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data.folder import readable
from experiments import cli, published
from experiments.cli import ResultsError
from experiments.results import is_of_transfer, no_results, read_csv
from experiments.run import csv_of, read_row
from zoo.weights.atomic import write_atomic

# 97.5 % quantiles of Student's t with 1 to 30 degrees of freedom; a test integrates the density.
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A mean and the half-width of its 95 % confidence interval (infinite for n = 1)."""

    mean: float
    half: float
    n: int

    def show(self, digits: int, scale: float = 1) -> str:
        if not self.n:
            return "-"
        mean = f"{self.mean * scale:.{digits}f}"
        return mean if math.isinf(self.half) else f"{mean} ± {self.half * scale:.{digits}f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Student's t interval of independent values."""
    n = len(values)
    if n < 2:
        return Estimate(values[0] if values else math.nan, math.inf, n)
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    # Beyond 30 degrees of freedom the last entry is a little too wide, never too narrow.
    return Estimate(mean, T_975[min(n - 1, len(T_975)) - 1] * math.sqrt(variance / n), n)


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927): holds near 0 and 1, and for small n."""
    z = 1.959964
    middle = (right + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(right * (n - right) / n + z * z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


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


def judge(difference: Estimate) -> tuple[str, str]:
    """Is it above 0? "yes", "no" (it is below) or "cannot tell", and what the interval says."""
    if difference.n < 2:
        return "cannot tell", "has no interval: two seeds or more are needed"
    if not abs(difference.mean) > difference.half:  # nor if one of them is not a number
        return "cannot tell", "does not exclude 0"
    return "yes" if difference.mean > 0 else "no", "excludes 0"


def unfinished(results: Sequence[dict]) -> str:
    """A sentence that names the runs that diverged; empty if none did."""
    diverged = [result for result in results if result["status"] != "finished"]
    if not diverged:
        return ""
    names = (f"{r['network']}{r['depth']} seed {r['seed']} {r['status']}" for r in diverged)
    return f" {len(diverged)} of {len(results)} runs did not finish: {', '.join(names)}."


def signed(value: Estimate) -> str:
    if not value.n:
        return "-"
    return f"{value.mean:+.3f}" + ("" if math.isinf(value.half) else f" ± {value.half:.3f}")


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
            line += [published.PAPER.get(name, "-"), published.REPLICATIONS.get(name, "-")]
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


def print_table(header: Sequence[str], lines: Sequence[Sequence[str]], console: Console) -> None:
    """The first column to the left, the others to the right; only those after six may wrap."""
    drawn = Table(*header, box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    for column in drawn.columns[:6]:  # without published figures it fits 80 columns
        column.no_wrap = True
    for column in drawn.columns[1:6]:
        column.justify = "right"
    for line in lines:
        drawn.add_row(*map(escape, line))
    console.print(drawn)


def show(results: Sequence[dict], console: Console) -> None:
    print_table(*table(results), console)
    console.print(caption(results) + "\n")
    console.print(f"Do plain networks degrade more with depth? {verdict(results).sentence}")


def markdown(results: Sequence[dict]) -> str:
    header, lines = table(results)
    drawn = markdown_table(header, lines, "---", *["---:"] * 5, "---")
    return f"{drawn}\n\n{caption(results)}.\n\n**{verdict(results).sentence}**"


def fill_in(text: str, name: str, content: str) -> str:
    """`text` with `content` between its lines <!-- name --> and <!-- /name -->."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ResultsError(
            f"README has no place for {name!r}",
            f"looked for <!-- {name} --> and <!-- /{name} -->",
            "add the two lines where the table belongs",
        )
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def put_into_readme(name: str, content: str) -> None:
    readme = Path("README.md")
    if not readme.is_file():
        raise ResultsError("there is no README.md here", Path.cwd(), "go to skipzoo's own folder")
    write_atomic(readme, fill_in(readme.read_text(encoding="utf-8"), name, content).encode())


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]], *align: str) -> str:
    """`align` of the columns, the last one for all that follow: "---" left, "---:" right."""
    aligned = [*align, *[align[-1]] * len(header)][: len(header)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, aligned, *lines))


def histories_csv(folder: Path) -> str:
    """Every run's history.csv in one, the run's name in front of each line."""
    lines = []
    for path in sorted(folder.glob("*/history.csv")):
        header, *rows = path.read_text(encoding="utf-8").splitlines()
        lines += [f"{path.parent.name},{row}" for row in rows]
    return "\n".join([f"run,{header}", *lines]) + "\n"


def publish(folder: Path, results: Sequence[dict], content: str) -> None:
    """Into README.md `content`, into docs/NAME/ the rows, epochs and figures."""
    if not any(folder.glob("*/history.csv")):
        raise ResultsError("there are no epochs to publish", folder, "name the folder of the runs")
    put_into_readme(folder.name, content)
    docs = Path("docs") / folder.name
    docs.mkdir(parents=True, exist_ok=True)
    write_atomic(docs / "results.csv", results_csv(results).encode())
    write_atomic(docs / "histories.csv", histories_csv(folder).encode())
    for made in (*folder.glob("*.png"), *folder.glob("collapse.csv")):
        shutil.copy(made, docs / made.name)
    print(f"README.md and {docs} are up to date")


@dataclass(frozen=True)
class Options:
    """Show the results of a campaign, or of experiments.transfer, again."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Where the campaign wrote its results."""
    publish: bool = False
    """Put the table into README.md, and rows and figures into docs/."""


def main(options: Options) -> None:
    if is_of_transfer(readable(options.folder)):
        from experiments import transfer_report  # here, because it imports this file

        transfer_report.main(transfer_report.Options(options.folder, options.publish))
        return
    results = read_results(options.folder)
    if any(result["norm"] == "layer" for result in results):
        from experiments import report_vit  # here, too

        folder = options.folder if options.folder.is_dir() else options.folder.parent
        residuals = report_vit.read_residuals(folder)
        report_vit.show(results, residuals, Console())
        content = report_vit.markdown(results, residuals)
    else:
        show(results, Console())
        content = markdown(results)
    if options.publish:
        publish(options.folder, results, content)


if __name__ == "__main__":
    cli.run(main, Options, "report")
