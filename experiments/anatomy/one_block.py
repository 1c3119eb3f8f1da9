"""Does the network still work when one block is deleted?

Veit et al. 2016 (arXiv 1605.06431), section 4.1: each residual branch F is removed in turn, and its
shortcut stays. In a plain network the block becomes y = x. They report that hardly anything
changes, for 110 layers; in a VGG, any deletion gives chance.

After a deletion, the batch norms behind it get maps with other means and variances than those they
stored. So the error is measured twice: with the stored statistics, and with all statistics
estimated anew on unlabelled images, in the intact network, too.
"""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from data.progress import Progress
from experiments.anatomy.chain import (
    ReadOut,
    adapted,
    blocks_of,
    can_be_deleted,
    error,
    keeps_shape,
    prefixes,
    without,
)
from experiments.anatomy.findings import (
    Finding,
    Found,
    Pairs,
    by_group,
    by_seed,
    errors_of,
    pooled,
    scope,
)
from experiments.anatomy.subjects import STOCHASTIC, Subject
from experiments.drawing.style import COLOURS
from experiments.plumbing.stats import Interval, judge_claim, mean_over, median_over

CHEAPER = "training with missing blocks makes deletions cheaper"
# The median rise of the error, in points, by layers: from the raw results of Veit's networks, which
# have pre-activation blocks (github.com/gcr/fb.resnet.torch-lesion-study, 73f4a94).
VEIT = {
    "resnet": {20: 36.3, 32: 10.0, 44: 5.7, 56: 3.1, 110: 0.42},
    STOCHASTIC: {20: 2.8, 56: -0.04, 110: 0.13},
}
NOTHING, MUCH, ALIKE = 1.0, 20.0, 3.0  # points, fixed beforehand
PANELS = None  # of the figure: one per network
WAYS = {"stored": "stored statistics", "adapted": "statistics of unlabelled images"}


def chosen(subjects: Sequence[Subject]) -> list[Subject]:
    """All networks."""
    return list(subjects)


def measure(subject: Subject) -> dict[str, Any]:
    """The error in percent, intact and without each block, with both statistics."""
    model, (images, labels, unlabelled) = subject.open()
    names, read_out = list(blocks_of(model)), ReadOut(model)
    stored = [model.stem, *blocks_of(model).values()]
    fresh = list(adapted(stored, unlabelled))  # its first blocks serve all later deletions
    intact = {
        "stored": error([*stored, read_out], images, labels),
        "adapted": error([*fresh, read_out], images, labels),
    }
    rows: list[dict[str, Any]] = []
    steps = zip(prefixes(stored, images), prefixes(fresh, images, unlabelled), strict=True)
    for (k, (x,)), (_, (y, u)) in Progress(steps, f"one block of {subject.name}", len(names)):
        block = stored[k]
        if can_be_deleted(block):
            rest, anew = ([without(of[k]), *of[k + 1 :]] for of in (stored, fresh))
            rows.append({
                "number": k, "block": names[k - 1], "keeps_shape": keeps_shape(block),
                "stored": error([*rest, read_out], x, labels),
                "adapted": error([*adapted(anew, u), read_out], y, labels),
            })  # fmt: skip
    return {"images": len(labels), "intact": intact, "blocks": rows}


def median_rise(result: dict[str, Any], way: str) -> Interval:
    """The median over blocks of how much the error rises, in points."""
    rises = [row[way] - result["intact"][way] for row in result["blocks"]]
    return median_over(rises, "blocks")


def mean_rise(result: dict[str, Any]) -> float:
    """The mean over blocks of how much the error rises, in points, with stored statistics."""
    rises = [row["stored"] - result["intact"]["stored"] for row in result["blocks"]]
    return sum(rises) / len(rises)


def findings(found: Found) -> list[Finding]:
    """For every network: does a deletion not matter; for a plain one: does it destroy?"""
    lines, groups = [], by_group(found)
    for pairs in groups.values():
        subject, first = pairs[0]
        rise, fresh = (pooled([median_rise(r, way) for _, r in pairs]) for way in WAYS)
        errors = errors_of(pairs)
        answer, why = judge_claim(rise, "below", NOTHING, errors)
        if subject.plain:
            answer, why = judge_claim(rise, "above", MUCH, errors)
        claim = f"more than {MUCH:g} points" if subject.plain else f"less than {NOTHING:g} point"
        theirs = VEIT.get(subject.kind, {}).get(subject.depth)
        beside = "" if theirs is None else f" (Veit et al., {subject.depth} layers: {theirs})"
        lines.append(Finding(
            f"deleting a block costs {claim}", scope(subject), answer,
            f"The error rises by {rise.show(1)} points in the median{beside}; {why}. "
            f"With statistics of unlabelled images: {fresh.show(1)}. "
            f"{first['images']:,} test images.",
        ))  # fmt: skip
    for pairs in groups.values():
        subject, _ = pairs[0]
        usual = groups.get(f"resnet{subject.depth}", ())
        if subject.kind == STOCHASTIC and by_seed(usual, pairs):
            lines.append(robustness(usual, pairs))
    return lines


def robustness(usual: Pairs, stochastic: Pairs) -> Finding:
    """Does stochastic depth make deletions cheaper (Huang et al. 2016, arXiv 1603.09382)?

    Only between networks with similar intact errors: one that has learned less has less to lose.
    """
    both = by_seed(usual, stochastic)
    gains = [median_rise(a, "stored").value - median_rise(b, "stored").value for a, b in both]
    gain = mean_over(gains, "seeds")
    mean = mean_over([mean_rise(a) - mean_rise(b) for a, b in both], "seeds")
    apart = mean_over([b["intact"]["stored"] - a["intact"]["stored"] for a, b in both], "seeds")
    answer, why = judge_claim(gain, "above", 0, errors_of([*usual, *stochastic]))
    if not abs(apart.value) <= ALIKE:
        answer, why = "cannot tell", f"the intact errors differ by more than {ALIKE:g} points"
    return Finding(
        CHEAPER, scope(stochastic[0][0]), answer,
        f"The median rise without it, minus that with it: {gain.show(1)} points; {why}. The same "
        f"for the mean over blocks: {mean.show(1)}. Intact error with it, minus that without it: "
        f"{apart.show(1)} points. {both[0][0]['images']:,} test images.",
    )  # fmt: skip


def draw(figure: Figure, found: Found) -> None:
    """The error without each block; one panel per network, its seeds as dots."""
    groups = by_group(found)
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for (group, pairs), panel in zip(groups.items(), panels, strict=True):
        for way, colour, dot in zip(WAYS, COLOURS[1:], "os", strict=False):
            for number, (_, result) in enumerate(pairs):
                places = [row["number"] for row in result["blocks"]]
                values = [row[way] for row in result["blocks"]]
                label = WAYS[way] if not number else None
                panel.plot(places, values, dot, color=colour, ms=4, mfc="none", label=label)
            intact = sum(result["intact"][way] for _, result in pairs) / len(pairs)
            panel.axhline(intact, color=colour, lw=1, ls=":")
        panel.set(title=group, xlabel="deleted block", ylim=(0, 100))
        panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    panels[0].set_ylabel("test error (%)")
    panels[0].legend(frameon=False, fontsize=10)
    figure.supxlabel("dotted: the intact network", size=11)
