"""A figure measured in pixels from its upper left corner, and how a figure becomes a file."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.transforms import IdentityTransform
from numpy.typing import NDArray

from data.errors import DataError
from experiments.drawing.fonts import Typeface
from zoo.weights.atomic import write_atomic

DPI = 100
POINT = DPI / 72  # pixels
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the page


class Page:
    """Text, boxes, pictures and axes at places in pixels."""

    def __init__(self, width: float, height: float, typeface: Typeface) -> None:
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        self.width, self.height, self.typeface = width, height, typeface

    def text(
        self, x: float, y: float, words: str, width: float, size: float = 9, ha: str = "left"
    ) -> None:
        """One line with its middle at height y, shortened to the width."""
        words = self.typeface.fit(words, width / POINT, size)
        self.figure.text(
            x / self.width, 1 - y / self.height, words, size=size, ha=ha, va="center_baseline"
        )

    def box(
        self, x: float, y: float, width: float, height: float, colour: str, frame: float = 0
    ) -> None:
        """Filled, or with `frame` an outline of that many pixels."""
        self.figure.add_artist(
            Rectangle(
                (x, self.height - y - height), width, height, transform=IdentityTransform(),
                facecolor="none" if frame else colour, edgecolor=colour, linewidth=frame / POINT,
            )
        )  # fmt: skip

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
        across, down = zip(start, end, strict=True)
        up = [self.height - y for y in down]
        self.figure.add_artist(
            Line2D(across, up, transform=IdentityTransform(), color=colour, linewidth=0.8)
        )

    def picture(self, x: float, y: float, pixels: NDArray[np.uint8]) -> None:
        """uint8 (H, W, 3), one pixel to a pixel."""
        bottom = self.height - y - len(pixels)
        self.figure.figimage(pixels, round(x), round(bottom), origin="upper")

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        w, h = self.width, self.height
        return self.figure.add_axes((x / w, 1 - (y + height) / h, width / w, height / h))


def save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def refuse_empty(count: int, what: str, path: Path) -> None:
    if not count:
        raise DataError(f"no {what} to draw", str(path.absolute()), f"give at least one {what}")


def free_place(
    at: tuple[float, float], size: tuple[float, float], taken: Sequence[Box], inside: Box
) -> Box:
    """Near the point, where least is covered; the first such of eight places at three distances."""
    (x, y), (width, height) = at, size
    places = []
    for far in (10, 24, 40):
        for dx in (0, -1, -0.5):  # right of the point, left, in the middle
            for dy in (0, -1, 1):
                left = x + dx * width + {0: far, -1: -far, -0.5: 0}[dx]
                top = y - height / 2 + dy * (height / 2 + far)
                if (dx, dy) != (-0.5, 0):
                    places.append((left, top, left + width, top + height))
    return min(places, key=lambda box: covered(box, taken) + outside(box, inside))


def covered(box: Box, taken: Sequence[Box]) -> float:
    """Pixels of the box that others have."""
    return sum(
        max(0, min(box[2], other[2]) - max(box[0], other[0]))
        * max(0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in taken
    )


def outside(box: Box, frame: Box) -> float:
    """Pixels of the box that are not in the frame."""
    return (box[2] - box[0]) * (box[3] - box[1]) - covered(box, [frame])
