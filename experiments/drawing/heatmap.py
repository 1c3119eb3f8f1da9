"""The figure that `experiments.attention` leaves: where a network looks, on a slide.

All maps share one colour bar, from nothing to the highest value of each map, which is written
over it: starting at the lowest would make differences out of noise.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from torch import Tensor

from experiments.drawing.style import fit, png

SHARE = 0.75  # of the colours; the image under them has the rest, in grey


@dataclass(frozen=True)
class AttentionView:
    """An image, what a network says it is, and what its class token takes of each patch."""

    image: Tensor  # uint8 (3, S, S), as the network sees it
    name: str  # e.g. the file's name
    label: str  # the most probable class
    score: float  # its probability, 0 to 1
    heads: Tensor  # (h, rows, columns), the attention of one block
    rollout: Tensor  # (rows, columns)
    block: str  # which block
    adds: bool  # whether the network's blocks add their attention to the stream


def draw_attention(path: Path, view: AttentionView) -> None:
    """A PNG: on the left the image over the roll-out, on the right a grid of the heads.

    The grid has two rows at least, so that no head is larger than the image.
    """
    heads = len(view.heads)
    rows = max(2, math.isqrt(heads))  # 12 heads: 3 rows of 4
    columns = math.ceil(heads / rows)
    widths = [4, 8 * columns / rows + 0.9]  # inches; the colour bar has the rest
    with png(path, sum(widths), 9.4) as figure:
        left, right = figure.subfigures(1, 2, width_ratios=widths, squeeze=False)[0]
        words = f"{view.name}: {view.label}, {100 * view.score:.1f} %"
        figure.suptitle(fit(words, 72 * (sum(widths) - 0.5), 18), size=18)
        right.suptitle(f"Attention of the class token in {view.block}", size=13)
        left.suptitle("Image and roll-out over all blocks", size=13)
        image, rollout = left.subplots(2, 1)
        image.imshow(view.image.permute(1, 2, 0).numpy())
        image.set_title("what the network sees", size=11)
        draw_map(rollout, view, view.rollout, "roll-out")
        panels = right.subplots(rows, columns)
        for number, (head, panel) in enumerate(zip(view.heads, panels.flat, strict=False)):
            coloured = draw_map(panel, view, head, f"head {number}")
        for panel in (image, rollout, *panels.flat):
            panel.set_axis_off()
        bar = right.colorbar(coloured, ax=panels, ticks=[0, 1], aspect=40)
        bar.ax.set_facecolor("0.5")  # the colours as they are over middle grey
        bar.ax.set_yticklabels(["0", "highest"])
        figure.supxlabel(explain(view), size=11)


def draw_map(axes: Axes, view: AttentionView, heat: Tensor, name: str) -> AxesImage:
    """The map from 0 to its highest value (if there is one), over the image in grey."""
    grey = view.image.double().permute(1, 2, 0).numpy() @ np.array([0.299, 0.587, 0.114])
    side = len(grey)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
    axes.set_title(f"{name}: up to {percent(float(heat.max()))}", size=11)
    # Smooth: squares would hide the image's edges.
    return axes.imshow(
        heat.float().numpy() / (float(heat.max()) or 1.0), cmap="inferno", alpha=SHARE, vmin=0,
        vmax=1, interpolation="catrom", extent=(-0.5, side - 0.5, side - 0.5, -0.5),
    )  # fmt: skip


def explain(view: AttentionView) -> str:
    even = 1 / (view.rollout.numel() + 1)  # the class token takes of itself too
    mixed = "half attention, half skip," if view.adds else "no skips here,"
    return (
        f"Roll-out: heads averaged, {mixed} multiplied over the blocks (Abnar and Zuidema 2020).\n"
        f"Every map has its own scale; even attention would give {percent(even)} to each patch."
    )


def percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
