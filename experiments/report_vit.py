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
# Rounding in fp64 leaves about 4e-16 of tokens that are equal, and nothing below this is compared.
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


def curves(residuals: Sequence[dict]) -> Curves:
    found: Curves = defaultdict(lambda: defaultdict(list))
    for row in sorted(residuals, key=lambda row: row["block"]):
        found[row["network"], row["state"]][row["seed"]].append(row["residual"])
    return found


def paired(found: Curves, one: str, other: str, state: str) -> list[tuple[list[float], ...]]:
    """The residuals by block of two networks, of every seed that both have."""
    a, b = found[one, state], found[other, state]
    return [(a[seed], b[seed]) for seed in sorted(set(a) & set(b))]


def log10(residual: float) -> float:
    return math.log10(max(residual, VISIBLE))


def slowed(found: Curves, with_it: str, without: str, state: str) -> Estimate:
    """By how many powers of ten residuals are larger with it, a block; paired by seed.

    Where both are below VISIBLE a block counts as no difference, so that the mean over the blocks
    says too little rather than too much.
    """
    pairs = paired(found, with_it, without, state)
    return estimate([
        math.fsum(log10(a) - log10(b) for a, b in zip(*pair, strict=True)) / (len(pair[0]) - 1)
        for pair in pairs  # the patches, which are the same, are no block
    ])  # fmt: skip


def collapse_verdict(residuals: Sequence[dict], state: str) -> Verdict:
    """Do the additions keep tokens apart? Yes or no if the t-interval excludes 0."""
    pairs = paired(curves(residuals), "vit", "plainvit", state)
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


def slowing_table(residuals: Sequence[dict]) -> list[list[tuple[str, ...]]]:
    """Of everything that may slow the collapse: the answer, the figure and n, in every state."""
    found = curves(residuals)
    lines = []
    for what, with_it, without in SLOWING:
        line: list[tuple[str, ...]] = [(what, f"{with_it} / {without}")]
        for state in STATES:
            difference = slowed(found, with_it, without, state)
            line.append((judge(difference)[0], signed(difference), f"(n = {difference.n})"))
        lines.append(line)
    return lines


def networks_table(
    results: Sequence[dict], residuals: Sequence[dict]
) -> tuple[list[str], list[list[str]]]:
    """A line a network, mean ± 95 % CI over its seeds; residuals are the deepest networks'."""
    found = curves(residuals)
    deepest = max(row["depth"] for row in residuals)
    lines = []
    for network in ORDER:
        of_network = [result for result in results if result["network"] == network]
        depths = sorted({result["depth"] for result in of_network})
        for line, depth in zip(table(of_network)[1], depths, strict=True):
            name, parameters, train_loss, _, test_error, n = line[:6]
            ends = [
                [log10(by_block[-1]) for by_block in found[network, state].values()]
                for state in STATES
            ]
            shown = [estimate(end).show(1) if depth == deepest else "-" for end in ends]
            lines.append([name, parameters, train_loss, test_error, *shown, n])
    return ["network", "parameters", "train loss", "test error %", *STATES, "n"], lines


NOTE = (
    "log10 of the relative residual after the last block, in fp64, -14 for less: initial, before "
    f"training (n = {INITIAL_SEEDS}); removed, of a trained vit with its parts removed; trained, "
    "of the network itself"
)
SLOWS = "does it slow the collapse?"
RATIO = "log10 of the ratio of relative residuals, mean over the blocks"


def stalling(results: Sequence[dict]) -> Verdict:
    return verdict(results, "plainvit", "vit", "blocks")


def verdicts(results: Sequence[dict], residuals: Sequence[dict]) -> list[str]:
    """The sentences of the two questions."""
    parts = [result for result in results if result["network"] not in ("vit", "plainvit")]
    return [
        f"Does training stall without additions? {stalling(results).sentence}{unfinished(parts)}",
        "Do additions keep the tokens apart? "
        + " ".join(collapse_verdict(residuals, state).sentence for state in STATES),
    ]


def show(results: Sequence[dict], residuals: Sequence[dict], console: Console) -> None:
    header, lines = networks_table(results, residuals)
    # Without the parameters it fits 80 columns.
    narrow = [[name, *rest] for name, _, *rest in (header, *lines)]
    print_table(narrow[0], narrow[1:], console)
    console.print(f"{caption(results)}; {NOTE}\n")
    console.print("\n".join(verdicts(results, residuals)) + "\n")
    drawn = [["\n".join(cell[:2]) for cell in line] for line in slowing_table(residuals)]
    print_table([SLOWS, *STATES], drawn, console)
    console.print(RATIO)


def markdown(results: Sequence[dict], residuals: Sequence[dict]) -> str:
    networks = markdown_table(*networks_table(results, residuals), "---", "---:")
    lines = [
        [": ".join(what), *(f"{answer}: {figure} {n}" for answer, figure, n in answers)]
        for what, *answers in slowing_table(residuals)
    ]
    slowing = markdown_table([SLOWS, *STATES.values()], lines, "---")
    said = "\n\n".join(f"**{sentence}**" for sentence in verdicts(results, residuals))
    return f"{networks}\n\n{caption(results)}; {NOTE}.\n\n{said}\n\n{slowing}\n\n{RATIO}."


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
