"""Is the loss smoother around the weights of a network with skips?

Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets" (arXiv 1712.09913), section 4: the
weights w move by a times a random direction d, whose filters have the lengths of the network's own
filters. Batch norms and biases stay, and so do the norms' statistics.

    rise(a) = mean over d of (L(w + a d) + L(w - a d)) / 2 - L(w)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from data.progress import Progress
from experiments.anatomy.chain import CHUNK
from experiments.anatomy.findings import (
    Finding,
    Found,
    Pairs,
    by_group,
    by_seed,
    deepest_pair,
    errors_of,
    scope,
)
from experiments.anatomy.subjects import Subject
from experiments.drawing.style import COLOURS
from experiments.plumbing.stats import Interval, judge_claim, mean_over

PANELS = 3
RADII = (0.1, 0.25, 0.5, 1.0)
JUDGED = 0.25  # the radius of the verdict
DIRECTIONS = 4
ON_PLANE = 100  # images for the contours; the plane takes more points than the lines
chosen = deepest_pair


def moved(model: nn.Module) -> list[nn.Parameter]:
    """The weights that move: those of convolutions and of the head, without biases and norms."""
    return [weight for weight in model.parameters() if weight.dim() > 1]


def direction(weights: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Random tensors of the weights' shapes, each filter as long as the network's own."""
    generator = torch.Generator().manual_seed(seed)
    steps = []
    for weight in weights:
        drawn = torch.randn(weight.shape, generator=generator).to(weight)
        lengths = [t.flatten(1).norm(dim=1).clamp(min=1e-12) for t in (weight, drawn)]
        ratio = (lengths[0] / lengths[1]).view(-1, *[1] * (weight.dim() - 1))
        steps.append(drawn * ratio)
    return steps


@torch.no_grad()
def loss_at(
    model: nn.Module, images: Tensor, labels: Tensor, *steps: tuple[float, Sequence[Tensor]]
) -> float:
    """The mean loss with the weights moved by steps (a, d); they are put back afterwards."""
    weights = moved(model)
    before = [weight.clone() for weight in weights]
    for a, d in steps:
        for weight, change in zip(weights, d, strict=True):
            weight.add_(change, alpha=a)
    total = sum(
        cross_entropy(model(x), y, reduction="sum").item()
        for x, y in zip(images.split(CHUNK), labels.split(CHUNK), strict=True)
    )
    for weight, old in zip(weights, before, strict=True):
        weight.copy_(old)
    return total / len(labels)


def measure(subject: Subject, grid: int = 11) -> dict[str, Any]:
    """The loss; its rise by radius for each direction; and the loss on a plane of grid x grid."""
    model, data = subject.open()
    images, labels = data.images, data.labels
    weights = moved(model)
    directions = [direction(weights, seed) for seed in range(DIRECTIONS)]
    here = loss_at(model, images, labels)
    rises: dict[str, list[float]] = {str(radius): [] for radius in RADII}
    jobs = [(d, radius) for d in directions for radius in RADII]
    for d, radius in Progress(jobs, f"lines, {subject.name}"):
        ends = [loss_at(model, images, labels, (a, d)) for a in (radius, -radius)]
        rises[str(radius)].append(sum(ends) / 2 - here)
    places = np.linspace(-1, 1, grid).tolist()
    some, one, other = data.first(ON_PLANE), *directions[:2]
    plane = [
        [loss_at(model, *some, (x, one), (y, other)) for x in places]
        for y in Progress(places, f"plane, {subject.name}")
    ]
    return {"images": len(labels), "loss": here, "rises": rises, "plane": plane}


def rise(result: dict[str, Any], radius: float) -> Interval:
    """The rise at a radius, over directions."""
    return mean_over(result["rises"][str(radius)], "directions")


def findings(found: Found) -> list[Finding]:
    """Plain minus residual, at one radius."""
    arms: dict[bool, Pairs] = {pairs[0][0].plain: pairs for pairs in by_group(found).values()}
    if len(arms) < 2:
        return []
    plain, skips = arms[True], arms[False]
    shared = by_seed(plain, skips)
    values = [rise(p, JUDGED).value - rise(s, JUDGED).value for p, s in shared]
    if len(values) > 1:
        difference = mean_over(values, "seeds")
    else:
        pairs = zip(*(arm[0][1]["rises"][str(JUDGED)] for arm in (plain, skips)), strict=True)
        difference = mean_over([one - other for one, other in pairs], "directions")
    answer, why = judge_claim(difference, "above", 0, errors_of([*plain, *skips]))
    radii = "; ".join(
        f"{radius}: {rise(plain[0][1], radius).value:.3g}, {rise(skips[0][1], radius).value:.3g}"
        for radius in RADII
    )
    return [Finding(
        "the loss is smoother with skips", f"{scope(plain[0][0])}, and {skips[0][0].group}", answer,
        f"Rise of the loss at {JUDGED}, plain minus residual: "
        f"{difference.show(2)}; {why}. By radius, plain and residual: {radii}. "
        f"{plain[0][1]['images']:,} test images.",
    )]  # fmt: skip


def draw(figure: Figure, found: Found) -> None:
    """Contours of the loss on a plane, for both networks with the same levels; then the lines."""
    groups = by_group(found)
    panels = figure.subplots(1, 1 + len(groups))
    levels = np.geomspace(0.1, 100, 13)
    for (group, pairs), panel, colour in zip(
        groups.items(), panels, (COLOURS[6], COLOURS[1]), strict=False
    ):
        plane = np.clip(np.array(pairs[0][1]["plane"]), levels[0], levels[-1])
        places = np.linspace(-1, 1, len(plane))
        lines = panel.contour(places, places, np.log10(plane), np.log10(levels), cmap="viridis")
        for label in panel.clabel(lines, fmt=lambda value: f"{10**value:.2g}", fontsize=8):
            if max(map(abs, label.get_position())) > 0.9:  # the frame would cut it
                label.remove()
        panel.set(title=f"{group}: loss", aspect="equal", xlabel="first direction")
        for number, (_, result) in enumerate(pairs):
            means = [max(rise(result, radius).value, 1e-3) for radius in RADII]
            panels[-1].loglog(RADII, means, "o-", color=colour, label=group if not number else None)
    panels[0].set_ylabel("second direction")
    panels[-1].set(title="rise of the loss", xlabel="distance, in filter lengths")
    panels[-1].legend(frameon=False, fontsize=10)
