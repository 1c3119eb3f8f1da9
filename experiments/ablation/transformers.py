"""Tables and verdicts on transformers without skips: does training stall, do tokens collapse?

Paper: Dong et al. 2021 (arXiv 2103.03404), section 3.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from experiments.ablation.collapse import COLUMNS, INITIAL_SEEDS, STATES, VISIBLE
from experiments.ablation.verdict import compare_arms, unfinished, verdict
from experiments.plumbing.cli import ResultsError
from experiments.plumbing.results import UNFIT, read_csv
from experiments.plumbing.stats import Estimate, estimate, judge
from experiments.plumbing.tables import Rows

QUESTION = "Does depth hurt training more without skips?"
ORDER = ("vit", "plainvit", "attention-skip", "mlp-skip", "no-mlp", "pure-attention")
SLOWING = (  # what may slow the collapse, a network with it, a network without it
    ("both skips", "vit", "plainvit"),
    ("the skip around attention alone", "attention-skip", "plainvit"),
    ("the skip around the MLP alone", "mlp-skip", "plainvit"),
    ("the skip, without MLPs", "no-mlp", "pure-attention"),
    ("MLPs, with skips", "vit", "no-mlp"),
    ("MLPs, without skips", "plainvit", "pure-attention"),
)
HEADINGS = ["\n".join(heading.split(" ", 1)) for heading in STATES.values()]
RATIO = (
    "By how many powers of ten the first network's relative residual is larger: log10 of the "
    "ratio, mean over images and all blocks (not only the last), paired by seed."
)
NOTE = (
    "Relative residual after the last block, arithmetic mean over images, ± 95 % CI: at "
    f"initialisation ({INITIAL_SEEDS} seeds), in a trained vit after removing the parts that the "
    "row's network lacks, and in that network when trained from the start. 0: all tokens of an "
    "image are identical (0.000: below 0.0005)."
)


def by_block(
    residuals: Sequence[dict], network: str, state: str, column: str = "residual"
) -> dict[int, list[float]]:
    """Seed -> the values of one column, from the patches to the last block."""
    values: dict[int, list[float]] = defaultdict(list)
    for row in residuals:
        if (row["network"], row["state"]) == (network, state):
            values[row["seed"]].append(row[column])
    return values


def slowed(residuals: Sequence[dict], with_it: str, without: str, state: str) -> Estimate:
    """log10 ratio of residuals with and without a part, mean over blocks and images.

    Paired by seed. Two residuals below VISIBLE count as equal.
    """
    larger, smaller = (by_block(residuals, n, state, "log10") for n in (with_it, without))
    ratios = []
    for seed in sorted(larger.keys() & smaller.keys()):
        logs = list(zip(larger[seed], smaller[seed], strict=True))[1:]  # without the patches
        ratios.append(math.fsum(a - b for a, b in logs) / len(logs))
    return estimate(ratios)


def collapse_verdict(residuals: Sequence[dict], state: str) -> str:
    """Do skips keep tokens apart? Yes or no if the t-interval excludes 0."""
    ends = [
        {seed: blocks[-1] if blocks[-1] > VISIBLE else 0.0 for seed, blocks in by_seed.items()}
        for by_seed in (by_block(residuals, network, state) for network in ("vit", "plainvit"))
    ]
    seeds = sorted(ends[0].keys() & ends[1].keys())
    pairs = [(ends[0][seed], ends[1][seed]) for seed in seeds]
    answer, difference, vit, plain = compare_arms(pairs)
    return (
        f"- {STATES[state]}: {answer.lower()}; the relative residual after the last block is "
        f"{vit.show(3)} in vit and {plain.show(3)} in plainvit; the difference, {difference}"
    )


def verdicts(results: Sequence[dict], residuals: Sequence[dict]) -> list[str]:
    """The two questions with their answers: does training stall, do tokens collapse?"""
    parts = [result for result in results if result["network"] not in ("vit", "plainvit")]
    stalling = verdict(results) + unfinished(parts)
    collapsing = "\n".join(collapse_verdict(residuals, state) for state in STATES)
    return [f"**{QUESTION} {stalling}**", f"**Do skips keep the tokens apart?**\n\n{collapsing}"]


def residuals_table(residuals: Sequence[dict]) -> Rows:
    """One line per network: the residual after the last block and n, in each state."""

    def cell(network: str, state: str) -> str:
        ends = [blocks[-1] for blocks in by_block(residuals, network, state).values()]
        return f"{estimate(ends).show(3)}\n(n = {len(ends)})"

    depth = max(row["depth"] for row in residuals)
    lines = [[f"{name}{depth}", *(cell(name, state) for state in STATES)] for name in ORDER]
    return Rows(["network", *HEADINGS], lines)


def slowing_table(residuals: Sequence[dict]) -> Rows:
    """One line per part that may slow the collapse: answer, log10 ratio and n, in each state."""

    def cell(with_it: str, without: str, state: str) -> str:
        difference = slowed(residuals, with_it, without, state)
        close = f"{abs(difference.mean):.3f}" == f"{difference.half:.3f}"
        number = difference.show(4 if close else 3, sign="+")
        return f"{judge(difference)[0]}:\n{number}\n(n = {difference.n})"

    lines = [
        [f"{what}:\n{one} / {other}", *(cell(one, other, state) for state in STATES)]
        for what, one, other in SLOWING
    ]
    return Rows(["what slows the collapse? (log10 ratio)", *HEADINGS], lines, ("---",))


def read_residuals(folder: Path) -> list[dict]:
    """The rows of collapse.csv; raises ResultsError if a network, a block or a value is missing."""
    path, fix = folder / "collapse.csv", "run `make ablation-vit` again; it keeps finished runs"
    rows = sorted(read_csv(path, COLUMNS, fix), key=lambda row: row["block"] or 0)
    arms: dict[tuple, list[int]] = defaultdict(list)
    for row in rows:
        arms[row["network"], row["state"], row["seed"]].append(row["block"])
    networks, states, _ = map(set, zip(*arms, strict=True))
    blocks = list(range(len(next(iter(arms.values())))))  # 0: the patches
    gaps = any(present != blocks for present in arms.values())
    # log10 may be any finite number; the other columns are residuals, which are not negative.
    lowest = {"log10": -math.inf, "residual": 0, "p10": 0, "p90": 0}
    for column, least in lowest.items():
        values = [math.nan if row[column] is None else row[column] for row in rows]
        gaps |= not all(math.isfinite(value) and value >= least for value in values)
    if gaps or networks != set(ORDER) or not states <= STATES.keys():
        raise ResultsError(UNFIT, path, fix)
    return rows
