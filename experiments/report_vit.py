"""What is said about transformers without additions: does training stall, do tokens collapse?

experiments.report shows and publishes it, as it does with the other campaigns.
Paper: Dong et al. 2021 (arXiv 2103.03404), section 3.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.cli import ResultsError
from experiments.collapse import INITIAL_SEEDS, STATES
from experiments.report import (
    Estimate,
    Verdict,
    caption,
    estimate,
    judge,
    markdown_table,
    print_table,
    signed,
    table,
    unfinished,
    verdict,
)

ORDER = ("vit", "plainvit", "attention-skip", "mlp-skip", "no-mlp", "pure-attention")
WHEN = dict(zip(STATES, ("at initialisation", "after training"), strict=True))
# Rounding in fp64 leaves about 4e-16 of tokens that are equal; below this it may be all there is.
VISIBLE = 1e-14
SLOWING = (  # what may slow the collapse: the network that has it, the one that has not
    ("both additions", "vit", "plainvit"),
    ("attention's addition alone", "attention-skip", "plainvit"),
    ("the MLP's addition alone", "mlp-skip", "plainvit"),
    ("the addition, without MLPs", "no-mlp", "pure-attention"),
    ("MLPs, with additions", "vit", "no-mlp"),
    ("MLPs, without additions", "plainvit", "pure-attention"),
)

Curves = dict[tuple[str, str], dict[int, list[float]]]  # (network, state) -> seed -> by block


def curves(residuals: Sequence[dict], depth: int) -> Curves:
    """log10 of the relative residual, of the networks of `depth` blocks."""
    found: Curves = defaultdict(lambda: defaultdict(list))
    for row in sorted(residuals, key=lambda row: row["block"]):
        if row["depth"] == depth:
            log = math.log10(max(row["residual"], 1e-16))  # 0 is rounding too
            found[row["network"], row["state"]][row["seed"]].append(log)
    return found


def slowed(found: Curves, with_it: str, without: str, state: str) -> tuple[Estimate, int]:
    """By how many powers of ten residuals are larger with it, paired by seed; after which block.

    The last block at which rounding hides no network of the two: beyond it an interval would
    compare rounding errors.
    """
    one, other = found[with_it, state], found[without, state]
    seeds = sorted(set(one) & set(other))
    logs = zip(*(arm[seed] for arm in (one, other) for seed in seeds), strict=True)
    block = max((b for b, log in enumerate(logs) if min(log) > math.log10(VISIBLE)), default=0)
    return estimate([one[seed][block] - other[seed][block] for seed in seeds]), block


def deepest(residuals: Sequence[dict]) -> int:
    return max(row["depth"] for row in residuals)


def collapse_verdict(residuals: Sequence[dict], state: str) -> Verdict:
    """Do the additions keep tokens apart? Yes or no if the t-interval excludes 0."""
    depth = deepest(residuals)
    difference, block = slowed(curves(residuals, depth), "vit", "plainvit", state)
    answer, reason = judge(difference)
    return Verdict(
        answer,
        f"{answer.capitalize()} {WHEN[state]}: log10 of the relative residual after block {block} "
        f"of {depth}, vit minus plainvit, {signed(difference)} (n = {difference.n}, paired by "
        f"seed, 95 % t-interval), {reason}.",
    )


def slowing_table(residuals: Sequence[dict]) -> tuple[list[str], list[list[str]]]:
    """A line for everything that may slow the collapse."""
    found = curves(residuals, deepest(residuals))
    lines = []
    for what, with_it, without in SLOWING:
        line = [what, f"{with_it} / {without}"]
        for state in STATES:
            difference, block = slowed(found, with_it, without, state)
            said = f"{judge(difference)[0]}: {signed(difference)}"
            line.append(f"{said} (block {block}, n = {difference.n})" if difference.n else "-")
        lines.append(line)
    return ["does it slow the collapse?", "log10 of", *WHEN.values()], lines


def networks_table(
    results: Sequence[dict], residuals: Sequence[dict]
) -> tuple[list[str], list[list[str]]]:
    """A line a network, mean ± 95 % CI over its seeds."""
    lines = []
    for network in ORDER:
        _, drawn = table([result for result in results if result["network"] == network])
        depths = sorted({r["depth"] for r in results if r["network"] == network})
        for line, depth in zip(drawn, depths, strict=True):
            found = curves(residuals, depth)
            ends = [[logs[-1] for logs in found[network, state].values()] for state in STATES]
            drawn_ends = [estimate(logs).show(1) for logs in ends]
            lines.append([*line[:3], line[4], *drawn_ends, line[5]])
    return ["network", "parameters", "train loss", "test error %", *STATES, "n"], lines


NOTE = (
    f"{' and '.join(STATES)}: log10 of the relative residual after the last block, before training "
    f"(n = {INITIAL_SEEDS}) and after, in fp64, where rounding leaves about -15.4"
)


def stalling(results: Sequence[dict]) -> Verdict:
    return verdict(results, "plainvit", "vit", "blocks")


def verdicts(results: Sequence[dict], residuals: Sequence[dict]) -> list[str]:
    """The sentences of the two questions."""
    parts = [result for result in results if result["network"] not in ("vit", "plainvit")]
    apart = " ".join(collapse_verdict(residuals, state).sentence for state in STATES)
    return [
        f"Does training stall without additions? {stalling(results).sentence}{unfinished(parts)}",
        f"Do additions keep the tokens apart? {apart}",
    ]


def show(results: Sequence[dict], residuals: Sequence[dict], console: Console) -> None:
    header, lines = networks_table(results, residuals)
    # Without the parameters it fits 80 columns.
    narrow = [[name, *rest] for name, _, *rest in (header, *lines)]
    print_table(narrow[0], narrow[1:], console)
    console.print(f"{caption(results)}; {NOTE}\n")
    console.print("\n".join(verdicts(results, residuals)) + "\n")
    console.print("What slows the collapse? log10 of the ratio of relative residuals:")
    for what, ratio, *answers in slowing_table(residuals)[1]:
        said = "; ".join(map(" ".join, zip(WHEN.values(), answers, strict=True)))
        console.print(f"{what}, {ratio}: {said}")


def markdown(results: Sequence[dict], residuals: Sequence[dict]) -> str:
    networks = markdown_table(*networks_table(results, residuals), "---", "---:")
    slowing = markdown_table(*slowing_table(residuals), "---")
    said = "\n\n".join(f"**{sentence}**" for sentence in verdicts(results, residuals))
    return f"{networks}\n\n{caption(results)}; {NOTE}.\n\n{said}\n\n{slowing}"


def read_residuals(folder: Path) -> list[dict]:
    """The rows of collapse.csv."""
    path = folder / "collapse.csv"
    if not path.is_file():
        raise ResultsError("the residuals are missing", path, "run `make ablation-vit` again")
    kinds = {"depth": int, "seed": int, "block": int, "residual": float}
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {name: kinds.get(name, str)(value) for name, value in line.items()}
            for line in csv.DictReader(file)
        ]
