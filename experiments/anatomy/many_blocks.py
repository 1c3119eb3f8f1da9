"""Does the error grow smoothly with the number of blocks that are deleted, or out of order?

Veit et al. 2016 (arXiv 1605.06431), sections 4.2 and 4.3: k random blocks are deleted, or pairs of
blocks swapped; only blocks that keep the shape, and swaps within a stage. Disorder is measured by
Kendall's rank correlation tau of the blocks' places: 1 as trained, 0 in random order.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import nn

from data.progress import Progress
from experiments.anatomy.chain import ReadOut, blocks_of, error, keeps_shape, without
from experiments.anatomy.findings import (
    Finding,
    Found,
    by_group,
    deepest_pair,
    errors_of,
    pooled,
    scope,
)
from experiments.anatomy.subjects import Subject
from experiments.drawing.style import COLOURS
from experiments.plumbing.stats import Interval, estimate, judge_claim

DRAWS = 5
DELETED, SWAPS = (1, 2, 4, 6, 8, 10), (1, 2, 4, 8)
# Mean errors of 15 to 55 draws, from the raw results of Veit's network with 110 layers: see
# one_block.py. Number deleted: error in percent; 0: intact.
VEIT_DELETED = {0: 6.0, 1: 6.8, 2: 7.5, 3: 7.9, 5: 10.5, 7: 12.2, 10: 20.5, 15: 37.1, 20: 59.0}
PANELS = 2
STEP = 15.0  # points: a smooth curve has no larger step from one deletion to the next
chosen = deepest_pair


def deletions(blocks: Mapping[str, nn.Module]) -> Iterator[tuple[int, float, list[nn.Module]]]:
    """How many are deleted, the disorder (none), and the blocks that are left."""
    free = [name for name, block in blocks.items() if keeps_shape(block)]
    for count in (0, *DELETED):
        for draw in range(DRAWS if 0 < count < len(free) else count == 0):
            chosen = set(np.random.default_rng((count, draw)).permutation(free)[:count].tolist())
            yield count, 1.0, [without(b) if n in chosen else b for n, b in blocks.items()]


def swaps(blocks: Mapping[str, nn.Module]) -> Iterator[tuple[int, float, list[nn.Module]]]:
    """How many pairs are swapped one after the other, Kendall's tau, and the blocks in that order.

    A pair is two blocks of a stage that keep the shape, drawn at random.
    """
    from scipy.stats import kendalltau  # slow to import, so only here

    names = list(blocks)
    free = [i for i, block in enumerate(blocks.values()) if keeps_shape(block)]
    stage = [name.rpartition(".")[0] for name in names]  # "stages.0.1" -> "stages.0"
    pairs = [(i, j) for i in free for j in free if i < j and stage[i] == stage[j]]
    for count in (0, *SWAPS) if pairs else (0,):
        for draw in range(DRAWS if count else 1):
            order = np.arange(len(names))
            for place in np.random.default_rng((count, draw)).integers(0, len(pairs), count):
                i, j = pairs[place]
                order[[i, j]] = order[[j, i]]
            tau = float(kendalltau(order, np.arange(len(names))).statistic)
            yield count, tau, [list(blocks.values())[i] for i in order]


def measure(subject: Subject) -> dict[str, Any]:
    """For deletions and for swaps: lists of [how many, tau, error in percent], one per draw."""
    model, (images, labels, _) = subject.open()
    blocks, read_out = blocks_of(model), ReadOut(model)
    result: dict[str, Any] = {"images": len(labels)}
    for name, changes in (("deleted", deletions(blocks)), ("swapped", swaps(blocks))):
        bar = Progress(list(changes), f"blocks {name}, {subject.name}")
        result[name] = [
            [count, tau, error([model.stem, *changed, read_out], images, labels)]
            for count, tau, changed in bar
        ]
    return result


def curve(result: dict[str, Any], name: str) -> dict[int, list[float]]:
    """How many -> the errors of all draws."""
    errors: dict[int, list[float]] = {}
    for count, _, error_now in result[name]:
        errors.setdefault(count, []).append(error_now)
    return errors


def largest_step(result: dict[str, Any]) -> Interval:
    """The largest rise of the mean error per deleted block, from one number to the next.

    Its interval holds for all steps together (Bonferroni), since the largest one is picked.
    """
    errors = curve(result, "deleted")
    means = {k: estimate(values, len(errors) - 1) for k, values in errors.items()}
    means[0] = replace(means[0], half=0.0)  # nothing is drawn when nothing is deleted
    steps = []  # each with its lower and upper end
    for (k, before), (n, after) in pairwise(means.items()):
        rise, half = after.mean - before.mean, math.hypot(before.half, after.half)
        steps.append([change / (n - k) for change in (rise, rise - half, rise + half)])
    value, low, high = map(max, zip(*steps, strict=True))
    return Interval(value, low, high, DRAWS, "draws")


def findings(found: Found) -> list[Finding]:
    """Smooth: no step from one number of deletions to the next is larger than STEP."""
    lines = []
    for pairs in by_group(found).values():
        subject, result = pairs[0]
        if len(curve(result, "deleted")) < 2:
            continue  # too few blocks to delete
        step = pooled([largest_step(result) for _, result in pairs])
        answer, why = judge_claim(step, "below", STEP, errors_of(pairs))
        means = {k: sum(v) / len(v) for k, v in curve(result, "deleted").items()}
        some = ", ".join(f"{k}: {mean:.0f} %" for k, mean in means.items())
        lines.append(Finding(
            "the error grows smoothly with the number of deleted blocks", scope(subject), answer,
            f"The largest step per block is {step.show(1)} points; {why}. Mean "
            f"error by number deleted: {some}. {result['images']:,} test images.",
        ))  # fmt: skip
    return lines


def draw(figure: Figure, found: Found) -> None:
    """Error against the number deleted (left), and against tau (right)."""
    left, right = figure.subplots(1, 2, sharey=True)
    for (group, pairs), colour in zip(by_group(found).items(), COLOURS[1:], strict=False):
        for number, (_, result) in enumerate(pairs):
            label = group if not number else None
            for panel, name, column in ((left, "deleted", 0), (right, "swapped", 1)):
                points = np.array(result[name])
                panel.plot(points[:, column], points[:, 2], "o", color=colour, ms=4, mfc="none")
                counts = np.unique(points[:, 0])
                means = np.array([points[points[:, 0] == count].mean(0) for count in counts])
                panel.plot(means[:, column], means[:, 2], color=colour, label=label)
    left.plot(*zip(*VEIT_DELETED.items(), strict=True), "k:", label="Veit, 110 layers")
    left.set(xlabel="blocks deleted", ylabel="test error (%)", ylim=(0, 100))
    right.set(xlabel="Kendall's tau of the order")
    right.invert_xaxis()  # from the trained order to disorder
    left.legend(frameon=False, fontsize=10)
    figure.supxlabel(f"{DRAWS} draws of each number; lines: their means", size=11)
