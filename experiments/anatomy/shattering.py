"""Do the gradients of neighbouring images have anything in common, before training?

Balduzzi et al. 2017, "The Shattered Gradients Problem" (arXiv 1702.08591): with depth, a plain
network's gradient turns into white noise: the correlation between the gradients of two inputs is
2^-L after L layers. With skips it falls like 1 / sqrt(L) only.

Left: the paper's setting, an MLP with random weights and Gaussian inputs. Batch norms have fixed
statistics, since gradients of single images do not exist otherwise. Their centring changes the
residual law: ReLU adds a mean, which the norm subtracts again, so a block adds 1 - 1/pi to the
variance of the stream instead of 1. Right: the zoo's networks, along a line between two images.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import relu

import zoo
from data.batches import channel_normalize
from data.progress import Progress
from data.synthetic import synthetic
from experiments.anatomy.chain import adapted
from experiments.anatomy.findings import Finding, Found
from experiments.anatomy.subjects import INITIAL, Subject
from experiments.drawing.style import COLOURS
from experiments.plumbing.stats import judge_claim, judge_equal, mean_over

PANELS = 2
WIDTH, INPUTS, SEEDS = 256, 256, 8
PLAIN_DEPTHS, RESIDUAL_DEPTHS = (1, 2, 4, 6, 8), (4, 8, 16, 32, 50)
DEPTHS, NET_SEEDS = (8, 20, 32, 56), 4
SIDE = 16  # pixels
POINTS = 64  # on the line; neighbours are 1/63 apart


def correlation(gradients: Tensor) -> float:
    """Mean cosine of all pairs of rows (n, D), weighted by their lengths."""
    squares = gradients.square().sum()
    pairs = gradients.sum(0).square().sum() - squares
    return float(pairs / ((len(gradients) - 1) * squares))


def of_mlp(depth: int, residual: bool, seed: int) -> float:
    """The correlation of the input gradients of `depth` layers h = W relu(norm(h)), or h + that."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(INPUTS, WIDTH, generator=generator, requires_grad=True)
    h = x
    for _ in range(depth):
        weight = torch.randn(WIDTH, WIDTH, generator=generator) * math.sqrt(2 / WIDTH)  # He
        mean, std = h.detach().mean(0), h.detach().std(0, correction=0)
        new = relu((h - mean) / std) @ weight
        h = h + new if residual else new
    readout = torch.randn(WIDTH, generator=generator)
    return correlation(torch.autograd.grad((h @ readout).sum(), x)[0])


def of_network(name: str, images: Tensor, ends: Tensor, seed: int) -> float:
    """The mean cosine between the input gradients of neighbours on the line between two images."""
    torch.manual_seed(seed)
    random = zoo.build(name)
    model = adapted([random], images)  # the statistics of these images, which then stay fixed
    share = torch.linspace(0, 1, POINTS).view(-1, 1, 1, 1)
    line = ((1 - share) * ends[0] + share * ends[1]).requires_grad_()
    readout = torch.randn(random.head.out_features)
    gradients = torch.autograd.grad((model(line) @ readout).sum(), line)[0].flatten(1)
    return float(torch.cosine_similarity(gradients[1:], gradients[:-1]).mean())


def chosen(subjects: Sequence[Subject]) -> list[Subject]:
    """No trained network."""
    return [INITIAL]


def measure(subject: Subject) -> dict[str, Any]:
    """For each number of layers, the values of all seeds."""
    result: dict[str, Any] = {"plain": {}, "residual": {}, "networks": {}}
    for arm, depths in (("plain", PLAIN_DEPTHS), ("residual", RESIDUAL_DEPTHS)):
        for depth in depths:
            values = [of_mlp(depth, arm == "residual", seed) for seed in range(SEEDS)]
            result[arm][str(depth)] = values
    data = synthetic(130, 10).resized(SIDE)
    images = channel_normalize(data.train_images)(data.train_images)
    names = [f"{kind}{depth}" for kind in ("plain", "resnet") for depth in DEPTHS]
    for name in Progress(names, "gradients along a line"):
        values = [of_network(name, images[2:], images[:2], seed) for seed in range(NET_SEEDS)]
        result["networks"][name] = values
    return result


def slopes(by_depth: dict[str, list[float]], logarithmic: bool) -> list[float]:
    """For each seed: the slope of log2(correlation) by depth, or by log2(depth)."""
    depths = np.array(list(map(float, by_depth)))
    x = np.log2(depths) if logarithmic else depths
    # Above 8 plain layers, the correlation is smaller than its noise.
    rows = np.log2(np.maximum(list(by_depth.values()), 1e-6))  # (depths, seeds)
    return np.polyfit(x, rows, 1)[0].tolist()


def residual_law(depth: int) -> float:
    """The correlation after `depth` residual layers if a block adds 1 - 1/pi to the variance."""
    sizes = [1 + (1 - 1 / math.pi) * layer for layer in range(depth)]
    return math.prod((1 + 0.5 / size) / (1 + 1 / size) for size in sizes)


def findings(found: Found) -> list[Finding]:
    """The two laws, and whether skips help in the zoo's networks."""
    (result,) = found.values()
    plain = mean_over(slopes(result["plain"], False), "seeds")
    skips = mean_over(slopes(result["residual"], True), "seeds")
    deepest = DEPTHS[-1]
    with_skips, without = (result["networks"][f"{kind}{deepest}"] for kind in ("resnet", "plain"))
    gain = mean_over([a - b for a, b in zip(with_skips, without, strict=True)], "seeds")
    ends = (RESIDUAL_DEPTHS[0], RESIDUAL_DEPTHS[-1])
    laws = [math.log2(residual_law(depth)) for depth in ends]
    expected = (laws[1] - laws[0]) / (math.log2(ends[1]) - math.log2(ends[0]))
    one, two = judge_equal(plain, -1, 0.1), judge_equal(skips, -0.5, 0.05)
    three = judge_claim(gain, "above", 0, {})
    return [
        Finding("a plain layer halves the correlation of gradients", "MLP, random weights", one[0],
                f"Log2 changes by {plain.show(2)} a layer; {one[1]}."),
        Finding("with skips it falls like 1/sqrt(L)", "MLP, random weights", two[0],
                f"{ends[0]} to {ends[1]} layers: exponent {skips.show(2)}; "
                f"{two[1]}. With the centring of batch norm: {expected:.2f}."),
        Finding("skips keep the gradients of neighbouring images similar",
                f"resnet{deepest} and plain{deepest}, random weights", three[0],
                f"Difference of the cosine {gain.show(2)}; "
                f"{three[1]}."),
    ]  # fmt: skip


def draw(figure: Figure, found: Found) -> None:
    """The MLP with its laws (left), the zoo's networks (right)."""
    (result,) = found.values()
    left, right = figure.subplots(1, 2)
    for arm, colour in (("plain", COLOURS[6]), ("residual", COLOURS[1])):
        depths = list(map(int, result[arm]))
        means = [np.mean(values) for values in result[arm].values()]
        left.plot(depths, means, "o", color=colour, label=f"{arm} MLP")
    layers = np.arange(1, 51)
    left.plot(layers, 0.5**layers, ":", color=COLOURS[6], label="2^-L")
    law = [residual_law(layer) for layer in range(1, 51)]
    left.plot(layers, law, ":", color=COLOURS[1], label="with centring")
    left.plot(layers, layers**-0.5, "k:", label="1/sqrt(L)")
    left.set(xscale="log", yscale="log", ylim=(1e-3, 1.2), xlabel="layers L",
             ylabel="correlation of input gradients")  # fmt: skip
    left.legend(frameon=False, fontsize=10)
    for kind, colour in (("plain", COLOURS[6]), ("resnet", COLOURS[1])):
        for depth in DEPTHS:
            values = result["networks"][f"{kind}{depth}"]
            right.plot([depth] * len(values), values, "o", color=colour, mfc="none")
        means = [np.mean(result["networks"][f"{kind}{depth}"]) for depth in DEPTHS]
        right.plot(DEPTHS, means, color=colour, label=kind)
    right.set(xlabel="layers", ylabel="cosine of neighbours' gradients", ylim=(-0.1, 1))
    right.legend(frameon=False, fontsize=10)
    figure.supxlabel(f"random weights; n = {SEEDS} seeds (left), {NET_SEEDS} (right)", size=11)
