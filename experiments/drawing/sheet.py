"""The figures of `predict` and `evaluate`.

draw_sheet        images, each with its most probable classes
draw_confusion    a confusion matrix
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from data.errors import DataError
from experiments.drawing.style import fit, png, text_width

MOST_BARS = 10  # most classes under an image
CELL, LINE = 2.3, 0.21  # inches: width of a cell, height of its image; height of a line of text
TRUE, OTHER, WRONG = "#009E73", "#56B4E9", "#D55E00"  # Okabe and Ito's green, sky and vermilion
EMPTY, FRAME = "#EEEEEE", "#AAAAAA"


@dataclass(frozen=True)
class LabelledImage:
    """An image, its predicted classes and, if known, its true class."""

    image: Tensor  # uint8 (3, H, W), any size
    name: str  # e.g. the file's name
    labels: tuple[str, ...]  # of the top-k classes, best first
    scores: tuple[float, ...]  # their probabilities, 0 to 1
    truth: str | None = None  # the true class, where it is known

    @property
    def wrong(self) -> bool:
        """True if the first prediction is known to be wrong."""
        return self.truth is not None and self.labels[0] != self.truth


def draw_sheet(path: Path | io.BytesIO, images: Sequence[LabelledImage], title: str) -> None:
    """A PNG of all images in a grid, each above its name and a bar for every class.

    Raises DataError if there are no images.
    """
    if not images:
        raise DataError("no image to draw", str(path), "give at least one image")
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    # Lines: the verdict, the bars, the number of omitted classes. The name is above line 0.
    bars = min(max(len(item.labels) for item in images), MOST_BARS + 1)
    lines = bars + any(item.truth is not None for item in images)
    width, below = max(columns, 2) * CELL, lines * LINE  # one column is too narrow for a title
    with png(path, width, rows * (CELL + below) + 0.5) as figure:
        figure.suptitle(fit(title, 72 * (width - 0.4), 13), size=13)
        axes = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[CELL, below] * rows)
        for panel in axes.flat:
            panel.set_axis_off()
        for item, panel, under in zip(images, axes[::2].flat, axes[1::2].flat, strict=False):
            draw_image(panel, item)
            under.set(xlim=(0, 1), ylim=(lines, 0))
            draw_lines(under, item, width / columns)


def thumbnail(image: Tensor) -> Tensor:
    """Shrink an image to at most 500 pixels a side, uint8 (3, H, W) -> (3, h, w)."""
    small = Image.fromarray(np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy()))
    small.thumbnail((500, 500))
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def draw_image(axes: Axes, item: LabelledImage) -> None:
    """Draw the image in its aspect ratio; with a thick frame if the first class is wrong."""
    axes.imshow(thumbnail(item.image).permute(1, 2, 0).numpy())  # matplotlib shrinks slowly
    axes.set_axis_on()
    axes.set_anchor("S")  # directly above its name
    axes.set(xticks=[], yticks=[])
    colour, linewidth = (WRONG, 3) if item.wrong else (FRAME, 1)
    axes.spines[:].set(visible=True, color=colour, linewidth=linewidth)


def draw_lines(axes: Axes, item: LabelledImage, width: float) -> None:
    """Draw the name above lines of height 1; a bar of probability 1 is `width` inches long."""
    lines = [("", item.name, "", 0.0, OTHER)]
    if item.truth is not None:
        wrong = ("✗ wrong: it is ", item.truth, "", 1.0, WRONG)
        lines.append(wrong if item.wrong else ("✓ right", "", "", 0.0, OTHER))
    for label, score in list(zip(item.labels, item.scores, strict=True))[:MOST_BARS]:
        lines.append(("", label, f"{score:.1%}", score, TRUE if label == item.truth else OTHER))
    if len(item.labels) > MOST_BARS:
        lines.append((f"and {len(item.labels) - MOST_BARS} more classes", "", "", 0.0, OTHER))
    look: dict[str, Any] = {"size": 9, "va": "center_baseline", "in_layout": False}
    middles = np.arange(len(lines)) - 0.5
    axes.barh(middles, [bool(end) for _, _, end, *_ in lines], 0.85, color=EMPTY)
    axes.barh(middles, [line[3] for line in lines], 0.85, color=[line[4] for line in lines])
    for y, (start, text, end, *_) in zip(middles, lines, strict=True):
        room = 72 * (width - 0.4) - text_width(start, 9) - text_width(end, 9)
        axes.text(0.02, y, start + fit(text, room, 9), **look)
        axes.text(0.98, y, end, ha="right", **look)


def draw_confusion(path: Path, matrix: Tensor, classes: Sequence[str]) -> None:
    """A PNG of `matrix`: counts, integers (K, K), by true class and predicted class.

    Colours are shares of a row. Up to 20 classes, the cells contain the counts; above that, the ten
    largest confusions are listed. Up to 120 classes, the axes show their names.
    """
    count, counts = len(classes), matrix.cpu().numpy()
    few, named = count <= 20, count <= 120
    side = max(4, 0.45 * count) if few else min(max(9, 0.15 * count), 18)  # inches, at least
    with png(path, side + 4, side + (3.2 if few else 5.2)) as figure:
        axes = figure.subplots()
        axes.grid(False)
        axes.set_facecolor(EMPTY)  # the row of a class without images
        total = counts.sum(1, keepdims=True)
        shares = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        bar = figure.colorbar(image, format="{x:.0%}", shrink=0.8, aspect=30, fraction=0.08)
        bar.set_label("share of the true class")
        what = "class" if named else "class (its number)"
        right, images = int(counts.trace()), int(counts.sum())
        share = f"{right / max(images, 1):.1%}"
        figure.suptitle(f"{right:,} of {images:,} images right ({share})", size=13)
        axes.set(xlabel=f"predicted {what}", ylabel=f"true {what}")
        if named:
            names = [fit(name, 160, 9) for name in classes]
            axes.set_xticks(range(count), names, rotation=90, size=9)
            axes.set_yticks(range(count), names, size=9)
        if few:  # white on dark, as large as the longest number allows
            size = min(11, 72 * side / count / (len(str(counts.max())) + 0.5))
            for (row, column), number in np.ndenumerate(counts):
                colour = "white" if shares[row, column] > 0.65 else "black" if number else "#999999"
                axes.text(column, row, number, size=size, color=colour, ha="center", va="center")
        else:
            figure.supxlabel(largest_confusions(counts, classes), size=12, ma="left")


def largest_confusions(counts: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Lines such as "12 of 50: dog taken for cat", at most ten, the largest first."""
    mistakes = counts * ~np.eye(len(counts), dtype=bool)
    lines = ["Largest confusions"]
    for place in (-mistakes).argsort(axis=None, kind="stable")[:10]:
        true, predicted = divmod(int(place), len(counts))
        if mistakes[true, predicted]:
            names = [fit(classes[label], 200, 12) for label in (true, predicted)]
            share = f"{mistakes[true, predicted]:,} of {counts[true].sum():,}"
            lines.append(f"{share}: {names[0]} taken for {names[1]}")
    return "\n".join(lines)
