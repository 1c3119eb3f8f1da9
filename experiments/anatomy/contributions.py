"""What does each block add to the stream?

Three measurements on one network:

- Read-out: the error when the head reads the stream after each block of the last stage.
- Responses: the standard deviation s of the last batch norm of F, before the addition. He et al.
  2015 (arXiv 1512.03385), section 4.2 and figure 7: deeper ResNets have smaller responses. A batch
  norm's output has mean beta and variance gamma^2 per channel, so s^2 = mean(gamma^2) + var(beta)
  without any image: the figure shows gamma.
- Balance: the variance of F(x) over that of the shortcut, at initialisation and trained. De and
  Smith 2020 (arXiv 2002.10444), section 2: with batch norm, block l of a stage has about 1 / l at
  initialisation, so deep networks begin close to the identity.
"""

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.anatomy.chain import ReadOut, blocks_of, error, last_norm, through
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
from experiments.anatomy.subjects import Subject
from experiments.drawing.style import COLOURS
from experiments.plumbing.stats import Interval, judge_claim, mean_over
from zoo.resnet import ResNet

PANELS = 3
IMAGES = 200


def predicted_std(norm: nn.BatchNorm2d) -> float:
    """The standard deviation of a norm's output over images, channels and places, from gamma, beta.

    Channels have variance gamma^2 and mean beta; the means of the channels vary, too.
    """
    gamma, beta = norm.weight.detach().double(), norm.bias.detach().double()
    return float((gamma.square().mean() + beta.var(correction=0)).sqrt())


@torch.no_grad()
def arms(model: ResNet, images: Tensor) -> list[tuple[float, float]]:
    """Of every residual block: the standard deviations of F(x) and of the shortcut."""
    blocks = list(blocks_of(model).values())
    parts = [part for block in blocks for part in (last_norm(block), block.shortcut)]
    stds: list[float] = []
    hooks = [
        part.register_forward_hook(lambda _, __, out: stds.append(float(out.double().std())))
        for part in parts
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    return list(zip(stds[::2], stds[1::2], strict=True))  # a block runs its branch first


def measure(subject: Subject) -> dict[str, Any]:
    """Read-out by block of the last stage; responses and predictions; balance before and after."""
    model, data = subject.open()
    images, labels = data.first(IMAGES)
    named = blocks_of(model)
    streams, outputs = through([model.stem], images), {}
    for name, block in named.items():
        outputs[name] = streams = through([block], streams)
    last = [name for name in named if name.startswith(f"stages.{len(model.stages) - 1}.")]
    initial = copy.deepcopy(model)
    torch.manual_seed(subject.seed)
    initial.init_weights()
    for module in initial.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return {
        "images": len(labels),
        "stages": [len(list(stage.children())) for stage in model.stages.children()],
        "readout": [error([ReadOut(model)], outputs[name], labels) for name in last],
        "trained": arms(model, images),
        "initial": arms(initial.train(), images),  # batch statistics: none are stored yet
        "predicted": [predicted_std(last_norm(block)) for block in named.values()],
    }


def chosen(subjects: Sequence[Subject]) -> list[Subject]:
    """ResNets: a plain block has one arm only, and stochastic depth leaves it out at random."""
    return [subject for subject in subjects if subject.kind == "resnet"]


def log_response(result: dict[str, Any]) -> Interval:
    """The logarithm of the responses, mean over blocks."""
    return mean_over([math.log(branch) for branch, _ in result["trained"]], "blocks")


def balance(result: dict[str, Any], state: str) -> list[list[float]]:
    """For each stage: the variance of F(x) over the shortcut's, block by block."""
    ratios = [(branch / skip) ** 2 for branch, skip in result[state]]
    ends = np.cumsum([0, *result["stages"]])
    return [ratios[first:end] for first, end in pairwise(ends)]


def slope(stage: Sequence[float]) -> float:
    """The exponent p of ratio = l^p for the blocks l = 2, 3 ... of a stage.

    Without the first block, whose shortcut may change the shape.
    """
    places = range(2, 1 + len(stage))
    return float(np.polyfit(np.log(places), np.log(stage[1:]), 1)[0])


def findings(found: Found) -> list[Finding]:
    """Do deeper networks respond less; does a branch add ever less to its stage at the start?"""
    lines, groups = [], by_group(found)
    for family in {subject.family: None for subject in found}:
        of_family = [pairs for pairs in groups.values() if pairs[0][0].family == family]
        of_family.sort(key=lambda pairs: pairs[0][0].depth)
        if len(of_family) > 1:
            lines.append(compare_responses(of_family[0], of_family[-1]))
    for group, pairs in groups.items():
        first = pairs[0][1]
        if min(first["stages"]) < 4:
            continue  # too few blocks in a stage for a slope
        stages = [[slope(stage) for stage in balance(result, "initial")] for _, result in pairs]
        fall = pooled([mean_over(slopes, "stages") for slopes in stages])
        answer, why = judge_claim(fall, "below", 0, {})
        lines.append(Finding(
            "at the start, later blocks of a stage add less", f"{group}, but random weights",
            answer, f"Var F(x) / var x goes with l^p in a stage, p = "
            f"{fall.show(2)}; {why}; De and Smith: -1",
        ))  # fmt: skip
    return lines


def compare_responses(shallow: Pairs, deep: Pairs) -> Finding:
    """Are the responses of the deeper network smaller?"""
    shared = by_seed(deep, shallow)
    if len(shared) > 1:
        values = [log_response(b).value - log_response(a).value for a, b in shared]
        difference = mean_over(values, "seeds")
    else:
        a, b = log_response(deep[0][1]), log_response(shallow[0][1])
        half = math.hypot(a.high - a.value, b.high - b.value)
        middle = b.value - a.value
        difference = Interval(middle, middle - half, middle + half, a.n + b.n, "blocks")
    answer, why = judge_claim(difference, "above", 0, errors_of([*shallow, *deep]))
    (one, first), (other, last) = shallow[0], deep[0]
    means = [np.mean([branch for branch, _ in r["trained"]]) for r in (first, last)]
    known = np.corrcoef([branch for branch, _ in last["trained"]], last["predicted"])[0, 1]
    return Finding(
        "deeper ResNets have smaller responses", f"{scope(one)}, and {other.group}", answer,
        f"Mean std {means[0]:.2f} and {means[1]:.2f}; difference "
        f"of the logarithms {difference.show(2)}; {why}. The norms' weights alone predict them: "
        f"correlation {known:.2f} over blocks. {first['images']} images.",
    )  # fmt: skip


def draw(figure: Figure, found: Found) -> None:
    """Read-out, responses and balance by block."""
    panels = figure.subplots(1, 3)
    for (group, pairs), colour in zip(by_group(found).items(), COLOURS, strict=False):
        results = [result for _, result in pairs]
        readout, trained, initial, predicted = (
            np.mean([result[key] for result in results], axis=0)
            for key in ("readout", "trained", "initial", "predicted")
        )
        depth = np.linspace(0, 1, len(trained))
        stage = np.linspace(0, 1, len(readout))
        panels[0].plot(stage, readout, "o-", color=colour, ms=4, label=group)
        panels[1].plot(depth, trained[:, 0], "-", color=colour)
        panels[1].plot(depth, predicted, ":", color=colour)
        for values, line in ((initial, "--"), (trained, "-")):
            panels[2].semilogy(depth, (values[:, 0] / values[:, 1]) ** 2, line, color=colour)
    panels[0].set(title="head reads after each block", ylabel="test error (%)",
                  xlabel="block of the last stage: first to last")  # fmt: skip
    panels[1].set(title="responses", ylabel="std of F(x)", xlabel="block: first to last")
    panels[2].set(title="balance", ylabel="var F(x) / var shortcut", xlabel="block: first to last")
    panels[0].legend(frameon=False, fontsize=10)
    figure.supxlabel("dotted: from the norms' weights alone; dashed: random weights", size=11)
