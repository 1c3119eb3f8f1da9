"""How long are the paths that the gradient takes?

Veit et al. 2016 (arXiv 1605.06431), sections 3 and 5: y = x + F(x) at each of L blocks gives 2^L
paths; a path of length k goes through k residual branches. C(L, k) paths have length k, so most
have about L/2; they report that the gradient comes from the short ones.

Here the gradient is decomposed exactly. Let V_k be the sum over all paths of length k from the
output back to this place (V_0 = the gradient itself at the output). One block further back,

    V_k becomes S' V_k + F' V_(k-1)

where S' and F' are the transposed Jacobians of the shortcut and of the branch, the last ReLU
included. The sum of all V_k is the true gradient; share_k = <V_k, g> / <g, g> sums to 1. Eval mode,
fp64, at the stem's output.
"""

from collections.abc import Callable, Sequence
from math import comb
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import cross_entropy

from data.progress import Progress
from experiments.anatomy.chain import Block, ReadOut, blocks_of
from experiments.anatomy.findings import Finding, Found, by_group, errors_of, pooled, scope
from experiments.anatomy.subjects import Subject
from experiments.drawing.style import COLOURS
from experiments.plumbing.stats import Interval, judge_claim, mean_over
from zoo.resnet import ResNet

IMAGES, BATCHES = 30, 6  # at most; in a batch, images with a larger gradient count more
SAMPLED = 3  # paths of each length, for Veit's estimate
PANELS = None  # of the figure: one per network
Arms = Callable[[Tensor], tuple[Tensor, ...]]  # v -> (F' v, S' v)


def arms_of(block: Block, x: Tensor) -> tuple[Tensor, Arms]:
    """The block's output, and v -> (F' v, S' v): how each arm carries a gradient back to x."""
    branch, skip = x.detach().requires_grad_(), x.detach().requires_grad_()
    carried = block.shortcut(skip)
    hook = block.shortcut.register_forward_hook(lambda *_: carried)
    y = block(branch)  # relu(F(branch) + shortcut(skip))
    hook.remove()
    return y, lambda v: torch.autograd.grad(y, (branch, skip), v, retain_graph=True)


def chain(model: ResNet, images: Tensor, labels: Tensor) -> tuple[list[Arms], Tensor]:
    """The arms of all blocks, from the first to the last, and the gradient at the last output."""
    arms, x = [], model.stem(images)
    for block in blocks_of(model).values():
        x, both = arms_of(block, x)
        arms.append(both)
    last = x.detach().requires_grad_()
    loss = cross_entropy(ReadOut(model)(last), labels, reduction="sum")
    return arms, torch.autograd.grad(loss, last)[0]


def by_length(arms: list[Arms], gradient: Tensor) -> list[Tensor]:
    """V_0 ... V_L at the input of the first block."""
    parts = [gradient]
    for both in reversed(arms):
        carried = [both(part) for part in parts]  # (F' v, S' v) of each
        longer = [torch.zeros_like(carried[0][0]), *(branch for branch, _ in carried)]
        same = [*(skip for _, skip in carried), torch.zeros_like(longer[0])]
        parts = [a + b for a, b in zip(same, longer, strict=True)]
    return parts


def one_path(arms: list[Arms], gradient: Tensor, through: set[int]) -> Tensor:
    """What one path carries: through the branches of some blocks, and the other blocks' skips."""
    for k in reversed(range(len(arms))):
        branch, skip = arms[k](gradient)
        gradient = branch if k in through else skip
    return gradient


def sampled(arms: list[Arms], gradient: Tensor) -> list[float]:
    """Veit's estimate by path length: the number of paths times the mean norm of SAMPLED paths.

    It adds up lengths of vectors that partly cancel, so it says more than 100 % in all.
    """
    depth, rng = len(arms), np.random.default_rng(0)
    estimates = []
    for length in range(depth + 1):
        draws = [set(rng.permutation(depth)[:length].tolist()) for _ in range(SAMPLED)]
        norms = [one_path(arms, gradient, draw).norm().item() for draw in draws]
        estimates.append(comb(depth, length) * sum(norms) / SAMPLED)
    return estimates


def chosen(subjects: Sequence[Subject]) -> list[Subject]:
    """The shallowest and the deepest networks with skips."""
    skips = [subject for subject in subjects if not subject.plain]
    depths = [subject.depth for subject in skips]
    return [subject for subject in skips if subject.depth in (min(depths), max(depths))]


def measure(subject: Subject) -> dict[str, Any]:
    """Shares by path length for each batch; Veit's estimate for the first batch."""
    model, data = subject.open()
    model = model.double()
    images, labels = data.first(IMAGES)
    batches = list(zip(images.double().chunk(BATCHES), labels.chunk(BATCHES), strict=True))
    shares = []
    for x, y in Progress(batches, f"path lengths, {subject.name}"):
        arms, gradient = chain(model, x, y)
        parts = torch.stack(by_length(arms, gradient))  # (L + 1, N, C, H, W)
        whole = parts.sum(0)
        shares.append(((parts * whole).flatten(1).sum(1) / whole.square().sum()).tolist())
    arms, gradient = chain(model, *batches[0])
    return {"images": len(labels), "shares": shares, "sampled": sampled(arms, gradient)}


def mean_length(result: dict[str, Any]) -> Interval:
    """The mean path length, weighted by share, minus L / 2."""
    lengths = [sum(k * share for k, share in enumerate(batch)) for batch in result["shares"]]
    half = (len(result["shares"][0]) - 1) / 2
    return mean_over([length - half for length in lengths], "batches")


def findings(found: Found) -> list[Finding]:
    """Short: the interval of the mean length minus L / 2 is below 0."""
    lines = []
    for pairs in by_group(found).values():
        subject, result = pairs[0]
        excess = pooled([mean_length(result) for _, result in pairs])
        answer, why = judge_claim(excess, "below", 0, errors_of(pairs))
        half = (len(result["shares"][0]) - 1) / 2
        lines.append(Finding(
            "the gradient takes short paths", scope(subject), answer,
            f"The mean length is {excess.value + half:.1f} of {2 * half:.0f} "
            f"blocks; minus half of them, {excess.show(1)}; {why}. {result['images']} images.",
        ))  # fmt: skip
    return lines


def draw(figure: Figure, found: Found) -> None:
    """Shares by length: exact, Veit's estimate (scaled to a sum of 1), and the number of paths."""
    groups = by_group(found)
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    for (group, pairs), panel in zip(groups.items(), panels, strict=True):
        exact = np.mean([result["shares"] for _, result in pairs], axis=(0, 1))
        veit = np.mean([result["sampled"] for _, result in pairs], axis=0)
        counts = np.array([comb(len(exact) - 1, k) for k in range(len(exact))], dtype=float)
        panel.bar(range(len(exact)), exact, color=COLOURS[5], label="share of the gradient")
        panel.plot(veit / veit.sum(), "--", color=COLOURS[6], label="Veit's estimate")
        panel.plot(counts / counts.sum(), ":", color="black", label="share of the paths")
        panel.set(title=group, xlabel="residual branches on the path")
    panels[-1].legend(frameon=False, fontsize=10, loc="upper right")  # deep: short paths
    words = "mean over batches; lines have a sum of 1;"
    figure.supxlabel(f"{words}\nVeit's estimate: {SAMPLED} paths of each length", size=11)
