"""Do the gradients of a deep network with batch norm vanish before training?

They explode. Yang et al. 2019, "A Mean Field Theory of Batch Normalization" (arXiv 1902.08129):
with ReLU, wide layers and large batches, the squared gradient grows by pi / (pi - 1) = 1.467 from
each layer to the one before it. Skips nearly stop that.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn.functional import batch_norm, relu

from experiments.anatomy.findings import Finding, Found
from experiments.anatomy.subjects import INITIAL, Subject
from experiments.drawing.style import COLOURS
from experiments.plumbing.stats import judge_equal, mean_over

PANELS = 1
WIDTH, BATCH, LAYERS, SEEDS = 512, 256, 30, 5
THEORY = math.pi / (math.pi - 1)
MARGIN = 0.02  # fixed beforehand


def squared_gradients(residual: bool, seed: int) -> list[float]:
    """The squared gradient at the input of each layer h = W relu(norm(h)), or h + that."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(BATCH, WIDTH, generator=generator, requires_grad=True)
    streams = [h]
    for _ in range(LAYERS):
        weight = torch.randn(WIDTH, WIDTH, generator=generator) * math.sqrt(2 / WIDTH)  # He
        new = relu(batch_norm(h, None, None, training=True)) @ weight
        h = h + new if residual else new
        streams.append(h)
    gradient = torch.randn(BATCH, WIDTH, generator=generator)
    found = torch.autograd.grad(h, streams[:-1], gradient)
    return [float(part.square().sum()) for part in found]


def chosen(subjects: Sequence[Subject]) -> list[Subject]:
    """No trained network."""
    return [INITIAL]


def measure(subject: Subject) -> dict[str, Any]:
    """For both arms, squared gradients by seed and layer."""
    return {
        arm: [squared_gradients(arm == "residual", seed) for seed in range(SEEDS)]
        for arm in ("plain", "residual")
    }


def growth(squares: Sequence[float]) -> float:
    """The factor from a layer to the one before it; without the first and last one."""
    logs = np.log(squares[1:-1])
    return float(np.exp((logs[0] - logs[-1]) / (len(logs) - 1)))


def findings(found: Found) -> list[Finding]:
    """Is the growth pi / (pi - 1)?"""
    (result,) = found.values()
    plain, skips = (
        mean_over([growth(squares) for squares in result[arm]], "seeds") for arm in result
    )
    answer, why = judge_equal(plain, THEORY, MARGIN)
    return [Finding(
        "without skips, gradients explode by pi/(pi-1) a layer",
        f"MLP of {LAYERS} layers with batch norm, random weights", answer,
        f"The factor is {plain.show(3)}; {why}. With "
        f"skips {skips.show(3)}.",
    )]  # fmt: skip


def draw(figure: Figure, found: Found) -> None:
    """Squared gradients by layer, relative to the last one."""
    (result,) = found.values()
    panel, layers = figure.subplots(), np.arange(1, LAYERS + 1)
    for (arm, seeds), colour in zip(result.items(), (COLOURS[6], COLOURS[1]), strict=True):
        for number, squares in enumerate(seeds):
            label = arm if not number else None
            panel.semilogy(layers, np.array(squares) / squares[-1], color=colour, lw=1, label=label)
    panel.semilogy(layers, THEORY ** (LAYERS - layers), "k:", label="pi/(pi-1) a layer")
    panel.set(xlabel="layer", ylabel="squared gradient (last layer: 1)")
    panel.legend(frameon=False, fontsize=10)
    figure.supxlabel(f"MLP with random weights, n = {SEEDS} seeds", size=11)
