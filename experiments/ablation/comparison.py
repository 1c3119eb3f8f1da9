"""Does an arm learn less than the reference? Several arms, so Holm's correction.

An arm is one network of a question about blocks, at one depth and rate, with all its seeds.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from experiments.ablation.block_questions import (
    BLOCK_QUESTIONS,
    REFERENCE,
    TABLES_1_AND_2,
    TABLES_DEPTH,
    TUNING_SEED,
    BlockQuestion,
    best_rates,
    is_tuning,
)
from experiments.ablation.literature import PROTOCOL
from experiments.plumbing.stats import Estimate, estimate, holm, paired_p, wilson
from experiments.plumbing.tables import Part, Rows

ANSWERS = ("worse", "better", "cannot tell")
FAILED = (
    "A run has failed if it diverged, or if its loss (the mean of the last epoch) is larger than "
    "that of guessing; it counts with the loss of guessing."
)
BY_DELETION = (
    "The training loss does not answer this: blocks were missing while it was measured. "
    "`python -m experiments.anatomy --from FOLDER --questions one-block` does."
)
LEARNED = 0.25  # the largest training error of a reference that has learned enough to compare


class Key(NamedTuple):
    """What the runs of an arm have in common."""

    network: str
    norm: str
    depth: int
    lr: float

    @property
    def name(self) -> str:
        """The network, in a table."""
        return self.network + " without norms" * (self.norm == "none")

    @property
    def is_resnet(self) -> bool:
        """Whether it has BasicBlocks with batch norm."""
        return self.network == REFERENCE and self.norm != "none"


class Arm(NamedTuple):
    """The runs of one arm, and how their loss differs from the reference's."""

    key: Key
    rows: list[dict]
    losses: list[float]  # of these rows; a failed run has that of guessing
    is_reference: bool
    difference: Estimate  # of the final training loss, paired by seed
    p: float  # adjusted for the number of arms

    @property
    def largest_error(self) -> float:
        """The largest training error; 1 if a run diverged."""
        return max(row["train_error"] if row["status"] == "finished" else 1.0 for row in self.rows)


def has_failed(row: dict) -> bool:
    """Whether a run diverged, or ended with a larger loss than that of guessing."""
    return row["status"] != "finished" or not row["train_loss"] <= math.log(row["classes"])


def loss_of(row: dict) -> float:
    """The final training loss; of a failed run, the loss of guessing, which is the largest."""
    return math.log(row["classes"]) if has_failed(row) else row["train_loss"]


def question_of(results: Sequence[dict]) -> BlockQuestion | None:
    """The question about blocks that these runs answer; None if they answer another one.

    Their networks and rates tell: the first runs of a question with rates may be of one network.
    """
    arms = {(row["network"], row["norm"]) for row in results}
    rates, tuned = {row["lr"] for row in results}, any(map(is_tuning, results))
    if not tuned and len(rates) < 2 and {network for network, _ in arms} <= {REFERENCE, "plain"}:
        return None

    def asks(question: BlockQuestion) -> bool:
        own = {(name, "batch") for name in question.networks}
        own |= {(name, "none") for name in question.without_norm}
        fit = rates <= {*question.rates} if question.rates else len(rates) == 1
        return arms <= own and fit and tuned <= bool(question.rates and not question.all_rates)

    # Of several, the one with the fewest rates that could still come.
    found = filter(asks, BLOCK_QUESTIONS.values())
    return min(found, key=lambda question: len({*question.rates} - rates), default=None)


def groups_of(results: Sequence[dict], question: BlockQuestion) -> list[list[Arm]]:
    """Lists of arms that are compared with each other, those at their best rates first.

    One list per depth; if every arm has all rates, one per depth and rate.
    """
    by_key: dict[Key, dict[int, dict]] = {}
    for row in results:
        if not is_tuning(row):
            key = Key(row["network"], row["norm"], row["depth"], row["lr"])
            by_key.setdefault(key, {})[row["seed"]] = row
    best, names = best_rates(results), [*question.networks, *question.without_norm]

    def rank(key: Key) -> tuple[bool, int, bool]:
        own = best.get((key.network, key.norm, key.depth), key.lr)
        return key.lr != own, names.index(key.network), key.norm == "none"

    keys_of: dict[tuple, list[Key]] = {}
    for key in by_key:
        keys_of.setdefault((key.depth, key.lr if question.all_rates else 0), []).append(key)
    groups = []
    for _, keys in sorted(keys_of.items()):
        keys.sort(key=rank)
        reference = next((key for key in keys if key.name == question.reference), None)
        paired_with = by_key[reference] if reference else {}
        groups.append([
            arm_of(key, [*by_key[key].values()], key == reference, paired_with) for key in keys
        ])  # fmt: skip
    return [adjusted(group, groups) for group in groups]


def arm_of(key: Key, rows: list[dict], is_reference: bool, reference: dict[int, dict]) -> Arm:
    """The arm of some rows; `reference`: the rows of the reference, by seed."""
    pairs = [(row, reference[row["seed"]]) for row in rows if row["seed"] in reference]
    differences = [loss_of(row) - loss_of(other) for row, other in pairs]
    p = paired_p(differences)
    return Arm(key, rows, [*map(loss_of, rows)], is_reference, estimate(differences), p)


def adjusted(group: list[Arm], groups: Sequence[list[Arm]]) -> list[Arm]:
    """The arms of a group, with p adjusted for all comparisons of this depth."""
    arms = [arm for each in groups if each[0].key.depth == group[0].key.depth for arm in each]
    raw = {arm.key: arm.p for arm in arms if not arm.is_reference}
    p_values = dict(zip(raw, holm([*raw.values()]), strict=True))
    return [arm._replace(p=p_values.get(arm.key, 1.0)) for arm in group]


def answer(arm: Arm) -> tuple[str, str]:
    """One of ANSWERS, compared with the reference, and the reason.

    It counts only if the reference has learned enough: see unlearned().
    """
    if arm.difference.n < 2:
        missing = "the reference has no run with these seeds"
        return "cannot tell", "two seeds or more are needed" if arm.difference.n else missing
    why = f"{arm.difference.signed}, p = {arm.p:.3g}"
    if not arm.p < 0.05:
        return "cannot tell", why
    return "worse" if arm.difference.mean > 0 else "better", why


def unlearned(groups: Sequence[Sequence[Arm]], depth: int) -> str:
    """Why nothing can be told of a depth: the reference has not learned, at any rate; else ""."""
    errors = [g[0].largest_error for g in groups if g[0].key.depth == depth and g[0].key.is_resnet]
    if min(errors, default=1.0) <= LEARNED:
        return ""
    if not errors:
        return f"- Cannot tell: there is no run of resnet with {depth} layers."
    return (
        f"- Cannot tell: with {depth} layers, resnet has not learned enough: its largest training "
        f"error is {100 * min(errors):.0f} % (the limit is {100 * LEARNED:.0f} %). "
        "Train longer: --epochs."
    )


def report_of_blocks(results: Sequence[dict], question: BlockQuestion) -> list[Part]:
    """A table of all arms, and an answer for each; if rates were chosen, those that were tried."""
    groups = groups_of(results, question)
    if not groups:  # so far, rates were tried
        return tried(results, question)
    paper = is_the_papers(results, question)
    header = ["block", "layers", *["rate"] * bool(question.rates), "parameters", "train loss",
              "test error %", "failed", *["paper"] * paper]  # fmt: skip
    lines, sentences = [], []
    for group in groups:
        if (reason := unlearned(groups, group[0].key.depth)) and reason not in sentences:
            sentences.append(reason)
        for arm in group:
            network, _, depth, lr = arm.key
            finished = [row for row in arm.rows if row["status"] == "finished"]
            lines.append([
                arm.key.name, str(depth), *[f"{lr:g}"] * bool(question.rates),
                f"{arm.rows[0]['parameters']:,}", estimate(arm.losses).show(3),
                estimate([row["test_error"] for row in finished]).show(1, 100)
                + f" (n = {len(finished)})" * (len(finished) < len(arm.rows)),
                failures(arm), *[TABLES_1_AND_2.get(network, "")] * paper,
            ])  # fmt: skip
            if not (reason or arm.is_reference or question.by_deletion):
                where = f"{depth} layers" + (f", rate {lr:g}" if question.rates else "")
                sentences.append(f"- {arm.key.name}, {where}: {' ('.join(answer(arm))}).")
        sentences += rate_sentences(group) if question.common_rate else []
    table = Rows(header, lines, ("---", "---:"))
    if question.by_deletion:
        return [table, f"**{question.question}** {BY_DELETION}", *sentences, FAILED]
    steps = results[0]["steps"]
    pairs = sorted({a.difference.n for group in groups for a in group if not a.is_reference})
    n = " to ".join(map(str, dict.fromkeys((*pairs[:1], *pairs[-1:])))) or "0"
    lead = (
        f"**{question.question} Compared with {question.reference} by the final training loss "
        f"after {steps:,} steps (n = {n}, paired by seed; ±: 95 % for each alone; p of a t-test, "
        "corrected for the number of comparisons at this depth by Holm's method):**"
    )
    return [table, lead + "\n\n" + "\n".join(sentences), FAILED, *tried(results, question)]


def is_the_papers(results: Sequence[dict], question: BlockQuestion) -> bool:
    """Whether the published errors may stand beside these: same networks, images and training."""
    known = {*question.networks} <= TABLES_1_AND_2.keys() and not question.rates
    return known and all(
        row["depth"] == TABLES_DEPTH and str(row.get(key)) == str(value)
        for row in results for key, value in PROTOCOL.items()
    )  # fmt: skip


def in_short(results: Sequence[dict], question: BlockQuestion) -> str:
    """The answers in one line, for a table over all ablations."""
    groups = groups_of(results, question)
    found: dict[str, list[str]] = {}  # answer -> the depths with it
    depths = sorted({group[0].key.depth for group in groups})
    for depth in depths:
        named: dict[str, list[str]] = {word: [] for word in ANSWERS}
        reason = unlearned(groups, depth)
        arms = [arm for group in groups for arm in group if arm.key.depth == depth]
        for arm in (arm for arm in arms if not arm.is_reference):
            rate = f" at {arm.key.lr:g}" if question.common_rate or question.all_rates else ""
            named["cannot tell" if reason else answer(arm)[0]].append(arm.key.name + rate)
        words = "; ".join(f"{word}: {', '.join(names)}" for word, names in named.items() if names)
        found.setdefault(words, []).append(str(depth))
    texts = [f"{' and '.join(at)} layers: {words}" for words, at in found.items()]
    other = f"compared with {question.reference}: " * (question.reference != REFERENCE)
    return other + ". ".join(texts)


def rate_sentences(group: Sequence[Arm]) -> list[str]:
    """For every network at two rates: what the common rate costs it."""
    sentences = []
    for arm in group:
        own = next(a for a in group if a.key.name == arm.key.name)
        if arm is not own:
            of_seed = {row["seed"]: loss_of(row) for row in own.rows}
            cost = estimate([loss_of(row) - of_seed[row["seed"]] for row in arm.rows
                             if row["seed"] in of_seed])  # fmt: skip
            sentences.append(
                f"- {arm.key.name}, {arm.key.depth} layers: rate {arm.key.lr:g} instead of its "
                f"own, {own.key.lr:g}, changes the loss by {cost.signed} (n = {cost.n} seeds)."
            )
    return sentences


def tried(results: Sequence[dict], question: BlockQuestion) -> list[Part]:
    """The held-out loss of every arm at every rate that was tried; nothing if none was chosen."""
    rows = list(filter(is_tuning, results))
    if not rows:
        return []
    losses = {
        (row["network"], row["norm"], row["depth"], row["lr"]):
            f"{row['test_loss']:.3f}" if row["status"] == "finished" else "diverged"
        for row in rows
    }  # fmt: skip
    lines = [
        [Key(*arm, best).name, str(arm[2]),
         *(losses.get((*arm, lr), "") for lr in question.rates), f"{best:g}"]
        for arm, best in best_rates(rows).items()
    ]  # fmt: skip
    names = [*question.networks, *question.without_norm]
    lines.sort(key=lambda line: (names.index(line[0].split()[0]), line[0]))
    header = ["block", "layers", *(f"rate {lr:g}" for lr in question.rates),
              "chosen" if all(map(all, lines)) else "best so far"]  # fmt: skip
    words = (
        f"Rates were chosen by the loss on held-out training images (seed {TUNING_SEED}, n = 1)."
    )
    return [words, Rows(header, lines, ("---", "---:"))]


def failures(arm: Arm) -> str:
    """How many runs failed, with Wilson's interval of their share."""
    if not (failed := sum(map(has_failed, arm.rows))):
        return "0"
    low, high = wilson(failed, len(arm.rows))
    return f"{failed} of {len(arm.rows)} ({100 * low:.0f} to {100 * high:.0f} %)"
