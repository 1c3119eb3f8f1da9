"""The figure of `experiments.attention`: attention maps over an image.

All maps share one colour bar, from 0 to the map's own maximum, which is written above the map. A
scale from the minimum would turn noise into visible differences.
"""

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from torch import Tensor

from experiments.drawing.style import fit, png

OPACITY = 0.75  # of the colours over the grey image


def draw_attention(
    path: Path, image: Tensor, title: str, heads: Tensor, rollout: Tensor, block: str, adds: bool
) -> None:
    """A PNG: on the left the image above the roll-out, on the right a grid of the heads.

    `image`: uint8 (3, S, S), as the network sees it; `heads` (h, rows, columns): the class token's
    attention to each patch, in one `block`; `rollout` (rows, columns): the same over all blocks;
    `adds`: whether the blocks add their attention to the stream. The grid has at least two rows, so
    that no head is larger than the image.
    """
    rows = max(2, math.isqrt(len(heads)))  # 12 heads: 3 rows of 4
    columns = math.ceil(len(heads) / rows)
    widths = [4, 8 * columns / rows + 0.9]  # inches; 0.9 for the colour bar
    with png(path, sum(widths), 9.4) as figure:
        left, right = figure.subfigures(1, 2, width_ratios=widths, squeeze=False)[0]
        figure.suptitle(fit(title, 72 * (sum(widths) - 0.5), 18), size=18)
        right.suptitle(f"Attention of the class token in {block}", size=13)
        left.suptitle("Image and roll-out over all blocks", size=13)
        above, below = left.subplots(2, 1)
        above.imshow(image.permute(1, 2, 0).numpy())
        above.set_title("what the network sees", size=11)
        draw_map(below, image, rollout, "roll-out")
        panels = right.subplots(rows, columns)
        for number, (head, panel) in enumerate(zip(heads, panels.flat, strict=False)):
            coloured = draw_map(panel, image, head, f"head {number}")
        for panel in (above, below, *panels.flat):
            panel.set_axis_off()
        bar = right.colorbar(coloured, ax=panels, ticks=[0, 1], aspect=40)
        bar.ax.set_facecolor("0.5")  # the colours as they look over medium grey
        bar.ax.set_yticklabels(["0", "highest"])
        figure.supxlabel(explain_rollout(rollout.numel(), adds), size=11)


def draw_map(axes: Axes, image: Tensor, heat: Tensor, name: str) -> AxesImage:
    """Draw a map, scaled from 0 to its maximum, over the image in grey."""
    grey = image.double().permute(1, 2, 0).numpy() @ np.array([0.299, 0.587, 0.114])
    side = len(grey)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
    axes.set_title(f"{name}: up to {percent(float(heat.max()))}", size=11)
    # Interpolated: the borders of squares would hide the edges in the image.
    return axes.imshow(
        heat.float().numpy() / (float(heat.max()) or 1.0), cmap="inferno", alpha=OPACITY, vmin=0,
        vmax=1, interpolation="catrom", extent=(-0.5, side - 0.5, side - 0.5, -0.5),
    )  # fmt: skip


def explain_rollout(patches: int, adds: bool) -> str:
    """The text under the figure: how the roll-out is computed, and how to read the scales."""
    even = 1 / (patches + 1)  # the class token attends to itself, too
    mixed = "half attention, half skip," if adds else "no skips here,"
    return (
        f"Roll-out: heads averaged, {mixed} multiplied over the blocks (Abnar and Zuidema 2020).\n"
        f"Every map has its own scale; even attention would give {percent(even)} to each patch."
    )


def percent(share: float) -> str:
    """A share (0 to 1) as a percentage; below 10 %, with two significant digits."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
