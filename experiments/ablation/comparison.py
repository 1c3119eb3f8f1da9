"""Is an arm worse than the reference after the same steps? Several arms, so Holm's correction."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from experiments.ablation.arms import ARMS, PUBLISHED, REFERENCE
from experiments.ablation.literature import PROTOCOL
from experiments.plumbing.stats import Estimate, estimate, holm, paired_p, wilson
from experiments.plumbing.tables import Part, Rows
from zoo.variants import VARIANTS

LEARNED = 0.25  # the largest training error of a reference that has learned enough to compare


class Arm(NamedTuple):
    """The runs of one arm and depth, and how their loss differs from the reference's."""

    name: str
    depth: int
    rows: list[dict]
    losses: list[float]  # by seed; a diverged run has the worst loss
    difference: Estimate  # of the final training loss, paired by seed
    p: float  # adjusted for the number of arms

    @property
    def failed(self) -> int:
        """The number of diverged runs."""
        return sum(row["status"] != "finished" for row in self.rows)


def arms_of(results: Sequence[dict]) -> list[Arm]:
    """Each arm of each depth beside its reference, in the order of the runs.

    A diverged run counts with the worst loss of all runs, or that of guessing if this is larger.
    """
    finished = [row["train_loss"] for row in results if row["status"] == "finished"]
    worst = max([*finished, math.log(10)])
    groups: dict[tuple[int, str], dict[int, dict]] = {}
    for row in results:
        groups.setdefault((row["depth"], row["network"]), {})[row["seed"]] = row

    def loss(row: dict) -> float:
        return row["train_loss"] if row["status"] == "finished" else worst

    arms: list[Arm] = []
    for depth in dict.fromkeys(depth for depth, _ in groups):
        reference = groups.get((depth, REFERENCE), {})
        names = [name for d, name in groups if d == depth]
        others = [name for name in names if name != REFERENCE]
        pairs = {
            name: [loss(row) - loss(reference[seed]) for seed, row in groups[depth, name].items()
                   if seed in reference]
            for name in names
        }  # fmt: skip
        adjusted = dict(zip(others, holm([paired_p(pairs[name]) for name in others]), strict=True))
        for name in names:
            rows = list(groups[depth, name].values())
            losses = [loss(row) for row in rows]
            p = adjusted.get(name, 1.0)
            arms.append(Arm(name, depth, rows, losses, estimate(pairs[name]), p))
    return arms


def answer(arm: Arm, reference: Arm) -> tuple[str, str]:
    """Is the arm worse? "yes", "no" (it is better) or "cannot tell", and the reason."""
    errors = [row["train_error"] for row in reference.rows if row["status"] == "finished"]
    error = max(errors, default=1.0) if not reference.failed else 1.0
    if error > LEARNED:
        return "cannot tell", (
            f"the reference has not learned enough: its training error is {100 * error:.0f} %"
        )
    if arm.difference.n < 2:
        return "cannot tell", "two seeds or more are needed"
    if not arm.p < 0.05:
        return "cannot tell", f"p = {arm.p:.2g} after Holm's correction"
    return "yes" if arm.difference.mean > 0 else "no", f"p = {arm.p:.2g} after Holm's correction"


def report_of_arms(results: Sequence[dict], question: str) -> list[Part]:
    """The table and one sentence per arm and depth."""
    arms = arms_of(results)
    paper = all(str(row.get(key)) == str(value) for row in results for key, value in PROTOCOL.items())
    header = ["block", "layers", "parameters", "train loss", "minus the reference's", "worse?",
              "test error %", "diverged", *["paper"] * paper]  # fmt: skip
    lines, sentences = [], []
    references = {arm.depth: arm for arm in arms if arm.name == REFERENCE}
    for arm in arms:
        finished = [row for row in arm.rows if row["status"] == "finished"]
        found = ("", "") if arm.name == REFERENCE else answer(arm, references[arm.depth])
        lines.append([
            arm.name, str(arm.depth), f"{arm.rows[0]['parameters']:,}",
            estimate(arm.losses).show(3),
            "" if arm.name == REFERENCE else arm.difference.signed, found[0],
            estimate([row["test_error"] for row in finished]).show(1, 100),
            diverged(arm), *[PUBLISHED[arm.name]] * paper,
        ])  # fmt: skip
        if arm.name != REFERENCE:
            sentences.append(f"- {arm.name}, {arm.depth} layers: {found[0]}; {found[1]}.")
    steps, n = results[0]["steps"], len(references[arms[0].depth].rows)
    lead = (
        f"**{question} Is the training loss higher than the reference's after {steps:,} steps? "
        f"n = {n} seeds, paired; t-test, Holm's correction over the arms of a depth.**"
    )
    return [Rows(header, lines, ("---", "---:")), lead + "\n\n" + "\n".join(sentences)]


def question_of(results: Sequence[dict]) -> str:
    """The question about blocks that these runs answer; "" if they answer another one."""
    networks = {row["network"] for row in results}
    fit = (a.question for a in ARMS.values() if networks <= {*a.axes["network"]})
    return next(fit, "") if networks & VARIANTS.keys() else ""


def diverged(arm: Arm) -> str:
    """How many runs diverged, with Wilson's interval of their share."""
    if not arm.failed:
        return "0"
    low, high = wilson(arm.failed, len(arm.rows))
    return f"{arm.failed} of {len(arm.rows)} ({100 * low:.0f} to {100 * high:.0f} %)"
