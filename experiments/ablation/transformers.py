"""What is said about transformers without additions: does training stall, do tokens collapse?

Paper: Dong et al. 2021 (arXiv 2103.03404), section 3.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from experiments.ablation.collapse import COLUMNS, INITIAL_SEEDS, STATES, VISIBLE
from experiments.ablation.tables import table
from experiments.ablation.verdict import Verdict, unfinished, verdict
from experiments.plumbing.cli import ResultsError
from experiments.plumbing.stats import Estimate, estimate, judge, signed
from experiments.plumbing.tables import Rows

ORDER = ("vit", "plainvit", "attention-skip", "mlp-skip", "no-mlp", "pure-attention")
SLOWING = (  # what may slow the collapse: the network that has it, the one that has not
    ("both additions", "vit", "plainvit"),
    ("attention's addition alone", "attention-skip", "plainvit"),
    ("the MLP's addition alone", "mlp-skip", "plainvit"),
    ("the addition, without MLPs", "no-mlp", "pure-attention"),
    ("MLPs, with additions", "vit", "no-mlp"),
    ("MLPs, without additions", "plainvit", "pure-attention"),
)

Curves = dict[tuple[str, str], dict[int, list[float]]]  # (network, state) -> seed -> by block


def curves(residuals: Sequence[dict], column: str) -> Curves:
    found: Curves = defaultdict(lambda: defaultdict(list))
    for row in sorted(residuals, key=lambda row: row["block"]):
        found[row["network"], row["state"]][row["seed"]].append(row[column])
    return found


def paired(found: Curves, one: str, other: str, state: str) -> list[tuple[list[float], ...]]:
    """What two networks have by block, of every seed that both have."""
    a, b = found[one, state], found[other, state]
    return [(a[seed], b[seed]) for seed in sorted(set(a) & set(b))]


def slowed(residuals: Sequence[dict], with_it: str, without: str, state: str) -> Estimate:
    """By how many powers of ten residuals are larger with it, mean over the blocks and pictures.

    Paired by seed. Below VISIBLE nothing is compared: where both are there, they count as equal.
    """
    pairs = paired(curves(residuals, "log10"), with_it, without, state)
    return estimate([
        math.fsum(a - b for a, b in zip(one[1:], other[1:], strict=True)) / len(one[1:])
        for one, other in pairs  # [0] is of the patches
    ])  # fmt: skip


def collapse_verdict(residuals: Sequence[dict], state: str) -> Verdict:
    """Do the additions keep tokens apart? Yes or no if the t-interval excludes 0."""
    pairs = paired(curves(residuals, "residual"), "vit", "plainvit", state)
    ends = [[end if end > VISIBLE else 0.0 for end in (a[-1], b[-1])] for a, b in pairs]
    vit, plain = (estimate([pair[arm] for pair in ends]) for arm in (0, 1))
    difference = estimate([a - b for a, b in ends])
    answer, reason = judge(difference)
    return Verdict(
        answer,
        f"{answer.capitalize()}, {STATES[state]}: the relative residual after the last block is "
        f"{vit.show(3)} in vit and {plain.show(3)} in plainvit; the difference, "
        f"{signed(difference)} (n = {difference.n}, paired by seed, 95 % t-interval), {reason}.",
    )


def networks_table(results: Sequence[dict]) -> Rows:
    """The table of every ablation, in our order."""
    groups = [[r for r in results if r["network"] == network] for network in ORDER]
    lines = [line for group in groups if group for line in table(group).lines]
    return Rows(table(results).header, lines)


def residuals_table(residuals: Sequence[dict]) -> Rows:
    """Of every network, the residual after the last block, and n, in every state."""
    found = curves(residuals, "residual")
    depth = max(row["depth"] for row in residuals)
    lines = []
    for network in ORDER:
        ends = [[last[-1] for last in found[network, state].values()] for state in STATES]
        cells = (f"{estimate(values).show(3)}\n(n = {len(values)})" for values in ends)
        lines.append([f"{network}{depth}", *cells])
    return Rows(["network", *HEADINGS], lines)


def slowing_table(residuals: Sequence[dict]) -> Rows:
    """Of everything that may slow the collapse: the answer, the figure and n, in every state."""
    lines = []
    for what, with_it, without in SLOWING:
        line = [f"{what}:\n{with_it} / {without}"]
        for state in STATES:
            difference = slowed(residuals, with_it, without, state)
            answer, _ = judge(difference)
            line.append(f"{answer}:\n{signed(difference)}\n(n = {difference.n})")
        lines.append(line)
    return Rows(["does it slow the collapse?", *HEADINGS], lines, ("---",))


HEADINGS = ["\n".join(heading.split(" ", 1)) for heading in STATES.values()]
RATIO = "Log10 of the ratio of relative residuals, mean over pictures and blocks, paired by seed."
NOTE = (
    "Relative residual after the last block, mean over pictures, ± 95 % CI: before training "
    f"({INITIAL_SEEDS} seeds), of the trained vit once the parts are removed, and of the network "
    "as it was trained; 0: all tokens of a picture are the same."
)


def stalling(results: Sequence[dict]) -> Verdict:
    return verdict(results, "plainvit", "vit", "blocks")


def verdicts(results: Sequence[dict], residuals: Sequence[dict]) -> list[str]:
    """The sentences of the two questions."""
    parts = [result for result in results if result["network"] not in ("vit", "plainvit")]
    return [
        "Does depth hurt training more without additions? "
        + stalling(results).sentence
        + unfinished(parts),
        "Do additions keep the tokens apart? "
        + " ".join(collapse_verdict(residuals, state).sentence for state in STATES),
    ]


def read_residuals(folder: Path) -> list[dict]:
    """The rows of collapse.csv, whole: every block of every network in every state."""
    path = folder / "collapse.csv"
    kinds = dict(zip(COLUMNS, (str, int, int, str, int, float, float, float, float), strict=True))
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{k: kinds[k](line[k]) for k in COLUMNS} for line in csv.DictReader(file)]
        refuse_gaps(rows)
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise ResultsError(
            f"the residuals are missing or damaged: {error}",
            path,
            "run `make ablation-vit` again; what is trained stays",
        ) from error
    return rows


def refuse_gaps(rows: Sequence[dict]) -> None:
    for row in rows:
        values = [row[name] for name in COLUMNS[-4:]]
        if not all(map(math.isfinite, values)) or min(row["residual"], row["p10"]) < 0:
            raise ValueError(f"no such residuals: {row}"[:200])
    depths = {row["depth"] for row in rows}
    blocks = defaultdict(list)
    for row in rows:
        blocks[row["network"], row["state"], row["seed"]].append(row["block"])
    for arm, found in blocks.items():
        if sorted(found) != list(range(max(depths) + 1)):
            raise ValueError(f"blocks {found} of {arm}")
    missing = {(n, "initial") for n in ORDER} - {arm[:2] for arm in blocks}
    strange = {arm[:2] for arm in blocks} - {(n, state) for n in ORDER for state in STATES}
    if missing or strange:
        raise ValueError(f"missing {sorted(missing)}, unknown {sorted(strange)}")
