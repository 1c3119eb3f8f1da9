"""The figures of `experiments.saliency`: maps over an image.

All maps share one colour bar, from 0 to the map's own maximum. A scale from the minimum would turn
noise into visible differences.
"""

import math
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from torch import Tensor

from experiments.drawing.style import fit, png

OPACITY = 0.75  # of the colours over the grey image


def draw_cam(
    path: Path, image: Tensor, title: str, cam: Tensor, random: Tensor, verdict: str
) -> None:
    """A PNG: the image, its Grad-CAM, and that of a network with random weights.

    `image`: uint8 (3, S, S), as the network sees it; both maps (rows, columns).
    """
    with png(path, 11.5, 5.2) as figure:
        figure.suptitle(fit(title, 72 * 11, 18), size=18)
        panels = figure.subplots(1, 3)
        draw_image(panels[0], image)
        draw_map(panels[1], image, cam, "Grad-CAM")
        coloured = draw_map(panels[2], image, random, "Grad-CAM, random weights")
        add_bar(figure, coloured, panels)
        how = "of the predicted class, after the last stage (Selvaraju et al. 2017)"
        text = wrapped(verdict, 11.5)
        figure.supxlabel(f"{text}\nGrad-CAM {how}; every map has its own scale.", size=11)


def draw_rollout(
    path: Path, image: Tensor, title: str, rollout: Tensor, random: Tensor, verdict: str,
    heads: Tensor, block: str, adds: bool,
) -> None:  # fmt: skip
    """A PNG: on the left the image and roll-outs, on the right a grid of the heads.

    `image`: uint8 (3, S, S), as the network sees it; `heads` (h, rows, columns): the class token's
    attention to each patch, in one `block`; `rollout`, `random` (rows, columns): the same over all
    blocks, and that of a network with random weights; `adds`: whether the blocks add their
    attention to the stream. The grid has at least two rows, so that no head is larger than the
    image.
    """
    rows = max(2, math.isqrt(len(heads)))  # 12 heads: 3 rows of 4
    columns = math.ceil(len(heads) / rows)
    widths = [3.2, 8 * columns / rows + 0.9]  # inches; 0.9 for the colour bar
    with png(path, sum(widths), 9.8) as figure:
        left, right = figure.subfigures(1, 2, width_ratios=widths, squeeze=False)[0]
        figure.suptitle(fit(title, 72 * (sum(widths) - 0.5), 18), size=18)
        right.suptitle(f"Attention of the class token in {block}", size=13)
        left.suptitle("Roll-out over all blocks", size=13)
        above, middle, below = left.subplots(3, 1)
        draw_image(above, image)
        draw_map(middle, image, rollout, f"roll-out: {highest(rollout)}")
        draw_map(below, image, random, f"random weights: {highest(random)}")
        panels = right.subplots(rows, columns)
        for number, (head, panel) in enumerate(zip(heads, panels.flat, strict=False)):
            coloured = draw_map(panel, image, head, f"head {number}: {highest(head)}")
        for panel in panels.flat:
            panel.set_axis_off()
        add_bar(right, coloured, panels)
        text = wrapped(verdict, sum(widths))
        figure.supxlabel(f"{text}\n{explain_rollout(rollout.numel(), adds)}", size=11)


def draw_image(axes: Axes, image: Tensor) -> None:
    """Draw an image as it is."""
    axes.imshow(image.permute(1, 2, 0).numpy())
    axes.set_title("what the network sees", size=11)
    axes.set_axis_off()


def draw_map(axes: Axes, image: Tensor, heat: Tensor, title: str) -> AxesImage:
    """Draw a map, scaled from 0 to its maximum, over the image in grey."""
    grey = image.double().permute(1, 2, 0).numpy() @ np.array([0.299, 0.587, 0.114])
    side = len(grey)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
    axes.set_title(title, size=11)
    axes.set_axis_off()
    # Interpolated: the borders of squares would hide the edges in the image.
    return axes.imshow(
        heat.float().numpy() / (float(heat.max()) or 1.0), cmap="inferno", alpha=OPACITY, vmin=0,
        vmax=1, interpolation="catrom", extent=(-0.5, side - 0.5, side - 0.5, -0.5),
    )  # fmt: skip


def add_bar(figure: FigureBase, coloured: AxesImage, panels: NDArray) -> None:
    """The colour bar of all maps."""
    bar = figure.colorbar(coloured, ax=panels, ticks=[0, 1], aspect=40)
    bar.ax.set_facecolor("0.5")  # the colours as they look over medium grey
    bar.ax.set_yticklabels(["0", "highest"])


def highest(heat: Tensor) -> str:
    """The highest attention in a map, as text."""
    return f"up to {percent(float(heat.max()))}"


def wrapped(text: str, inches: float) -> str:
    """A sentence in lines that fit into a figure, at size 11."""
    return "\n".join(textwrap.wrap(text, int(12 * inches)))


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
