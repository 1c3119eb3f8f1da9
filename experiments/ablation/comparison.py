"""Is an arm worse than the reference after the same steps? Several arms, so Holm's correction."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from experiments.ablation.arms import (
    ARMS,
    PUBLISHED,
    PUBLISHED_DEPTH,
    REFERENCE,
    TUNING_SEED,
    Arms,
    best_rates,
)
from experiments.ablation.literature import PROTOCOL
from experiments.plumbing.stats import Estimate, estimate, holm, paired_p, wilson
from experiments.plumbing.tables import Part, Rows

WORDS = {"yes": "worse", "no, it is better": "better", "cannot tell": "cannot tell"}
LEARNED = 0.25  # the largest training error of a reference that has learned enough to compare
Key = tuple[str, str, int, float]  # of an arm: network, norm, depth, rate


class Arm(NamedTuple):
    """The runs of one arm, and how their loss differs from the reference's."""

    network: str
    norm: str
    depth: int
    lr: float
    rows: list[dict]  # by seed
    losses: list[float]  # by seed; a failed run has that of guessing
    difference: Estimate  # of the final training loss, paired by seed
    p: float  # adjusted for the number of arms

    @property
    def name(self) -> str:
        """The network, in a table."""
        return self.network + " without norms" * (self.norm == "none")

    @property
    def is_reference(self) -> bool:
        """Whether it is BasicBlock with batch norm."""
        return self.network == REFERENCE and self.norm != "none"

    @property
    def failed(self) -> int:
        """The number of failed runs."""
        return sum(map(has_failed, self.rows))

    @property
    def error(self) -> float:
        """The largest training error; 1 if a run diverged."""
        return max(row["train_error"] if row["status"] == "finished" else 1.0 for row in self.rows)


def has_failed(row: dict) -> bool:
    """Whether a run diverged, or ended with a larger loss than that of guessing."""
    return row["status"] != "finished" or row["train_loss"] > math.log(row["classes"])


def question_of(results: Sequence[dict]) -> Arms | None:
    """The question about blocks that these runs answer; None if they answer another one."""
    networks = {row["network"] for row in results}
    if len({row["lr"] for row in results}) > 1 and networks == set(ARMS["rate"].networks):
        return ARMS["rate"]
    if networks <= {REFERENCE, "plain"}:
        return None
    named = (arms for arms in ARMS.values() if networks <= {*arms.networks, *arms.without_norm})
    return next(named, None)


def groups_of(results: Sequence[dict], arms: Arms) -> list[list[Arm]]:
    """The arms that are compared with each other, the reference first: of one depth (and one rate).

    A failed run counts with the loss of guessing, which is the largest.
    """
    rows = [row for row in results if row["seed"] != TUNING_SEED]

    def loss(row: dict) -> float:
        return math.log(row["classes"]) if has_failed(row) else row["train_loss"]

    by_arm: dict[Key, dict[int, dict]] = {}
    for row in rows:
        key = row["network"], row["norm"], row["depth"], row["lr"]
        by_arm.setdefault(key, {})[row["seed"]] = row
    best = best_rates(results)

    def place(key: Key) -> tuple[bool, int, bool]:  # at their best rates first, the reference first
        network, norm, depth, lr = key
        named = [*arms.networks, *arms.without_norm]
        return best.get((network, norm, depth), lr) != lr, named.index(network), norm == "none"

    groups = []
    for group in dict.fromkeys((depth, lr * arms.all_rates) for _, _, depth, lr in by_arm):
        keys = [key for key in by_arm if (key[2], key[3] * arms.all_rates) == group]
        keys.sort(key=place)
        reference = by_arm[keys[0]] if keys[0][0] == REFERENCE and keys[0][1] != "none" else {}
        pairs = [
            [loss(row) - loss(reference[seed]) for seed, row in by_arm[key].items()
             if seed in reference]
            for key in keys
        ]  # fmt: skip
        adjusted = [1.0, *holm([paired_p(values) for values in pairs[1:]])]
        groups.append([
            Arm(*key, list(by_arm[key].values()), [loss(row) for row in by_arm[key].values()],
                estimate(values), p)
            for key, values, p in zip(keys, pairs, adjusted, strict=True)
        ])  # fmt: skip
    return groups


def answer(arm: Arm) -> tuple[str, str]:
    """Is the arm worse than the reference? "yes", "no" (better) or "cannot tell", and the reason.

    It counts only if the reference has learned enough: see unlearned().
    """
    if arm.difference.n < 2:
        return "cannot tell", "two seeds or more are needed"
    why = f"{arm.difference.signed}, p = {arm.p:.2g}"
    if not arm.p < 0.05:
        return "cannot tell", why
    return "yes" if arm.difference.mean > 0 else "no, it is better", why


def unlearned(groups: Sequence[Sequence[Arm]], depth: int) -> str:
    """Why nothing can be told of a depth: the reference has not learned, at any rate; else ""."""
    errors = [g[0].error for g in groups if g[0].depth == depth and g[0].is_reference]
    if min(errors, default=1.0) <= LEARNED:
        return ""
    return (
        f"- Cannot tell: with {depth} layers, resnet has not learned enough: its training "
        f"error is {100 * min(errors, default=1.0):.0f} % (the limit is {100 * LEARNED:.0f} %)."
    )


def report_of_arms(results: Sequence[dict], arms: Arms) -> list[Part]:
    """A table of all arms, and an answer for each; if rates were chosen, those that were tried."""
    groups = groups_of(results, arms)
    if not groups:  # so far, rates were tried
        return tried(results, arms)
    paper = is_the_papers(results, arms)
    header = ["block", "layers", *["rate"] * bool(arms.rates), "parameters", "train loss",
              "test error %", "failed", *["paper"] * paper]  # fmt: skip
    lines, sentences = [], []
    for group in groups:
        if (reason := unlearned(groups, group[0].depth)) and reason not in sentences:
            sentences.append(reason)
        for arm in group:
            finished = [row for row in arm.rows if row["status"] == "finished"]
            lines.append([
                arm.name, str(arm.depth), *[f"{arm.lr:g}"] * bool(arms.rates),
                f"{arm.rows[0]['parameters']:,}", estimate(arm.losses).show(3),
                estimate([row["test_error"] for row in finished]).show(1, 100),
                failed(arm), *[PUBLISHED.get(arm.network, "")] * paper,
            ])  # fmt: skip
            if not reason and not (arm.is_reference and arm is group[0]):
                found, why = answer(arm)
                at = f", rate {arm.lr:g}" * bool(arms.rates)
                sentences.append(f"- {arm.name}, {arm.depth} layers{at}: {found} ({why}).")
        sentences += rate_sentences(group) if arms.common_rate else []
    steps, n = results[0]["steps"], len(groups[0][0].rows)
    lead = (
        f"**{arms.question} Is the training loss higher than resnet's after {steps:,} "
        f"steps? n = {n} seeds, paired by seed; p of a t-test, with Holm's correction.** A run "
        "that diverged, or whose loss is larger than that of guessing, has failed and counts with "
        "the loss of guessing."
    )
    table = Rows(header, lines, ("---", "---:"))
    return [table, lead + "\n\n" + "\n".join(sentences), *tried(results, arms)]


def is_the_papers(results: Sequence[dict], arms: Arms) -> bool:
    """Whether the published errors may stand beside these: same networks, images and training."""
    return {*arms.networks} <= PUBLISHED.keys() and not arms.rates and all(
        row["depth"] == PUBLISHED_DEPTH and str(row.get(key)) == str(value)
        for row in results for key, value in PROTOCOL.items()
    )  # fmt: skip


def in_short(results: Sequence[dict], arms: Arms) -> str:
    """The answers in one line, for a table over all ablations."""
    groups, texts = groups_of(results, arms), []
    for group in groups:
        named: dict[str, list[str]] = {}
        reason = unlearned(groups, group[0].depth)
        for arm in group:
            if arm is not group[0]:
                found = "cannot tell" if reason else answer(arm)[0]
                rate = f" at {arm.lr:g}" * bool(arms.common_rate)
                named.setdefault(WORDS[found], []).append(arm.name + rate)
        where = f"{group[0].depth} layers" + f", rate {group[0].lr:g}" * arms.all_rates
        words = "; ".join(f"{word}: {', '.join(named[word])}" for word in WORDS.values()
                          if word in named)  # fmt: skip
        texts.append(f"{where}: {words}" if len(groups) > 1 else words)
    return ". ".join(texts)


def rate_sentences(group: Sequence[Arm]) -> list[str]:
    """For every network at two rates: what the common rate costs it."""
    sentences = []
    for arm in group:
        own = next(a for a in group if (a.network, a.norm) == (arm.network, arm.norm))
        if arm is not own:
            cost = estimate([a - b for a, b in zip(arm.losses, own.losses, strict=True)])
            sentences.append(
                f"- {arm.name}, {arm.depth} layers: rate {arm.lr:g} instead of its own, "
                f"{own.lr:g}, changes the loss by {cost.signed} (n = {cost.n} seeds, paired)."
            )
    return sentences


def tried(results: Sequence[dict], arms: Arms) -> list[Part]:
    """The held-out loss of every arm at every rate that was tried; nothing if none was chosen."""
    rows = [row for row in results if row["seed"] == TUNING_SEED]
    if not rows:
        return []
    losses = {
        (row["network"], row["norm"], row["depth"], row["lr"]):
            f"{row['test_loss']:.3f}" if row["status"] == "finished" else "diverged"
        for row in rows
    }  # fmt: skip
    lines = [
        [network + " without norms" * (norm == "none"), str(depth),
         *(losses.get((network, norm, depth, lr), "") for lr in arms.rates), f"{best:g}"]
        for (network, norm, depth), best in best_rates(rows).items()
    ]  # fmt: skip
    header = ["block", "layers", *(f"rate {lr:g}" for lr in arms.rates), "chosen"]
    words = (
        f"Rates were chosen by the loss on held-out training images (seed {TUNING_SEED}, n = 1)."
    )
    return [words, Rows(header, lines, ("---", "---:"))]


def failed(arm: Arm) -> str:
    """How many runs failed, with Wilson's interval of their share."""
    if not arm.failed:
        return "0"
    low, high = wilson(arm.failed, len(arm.rows))
    return f"{arm.failed} of {len(arm.rows)} ({100 * low:.0f} to {100 * high:.0f} %)"
