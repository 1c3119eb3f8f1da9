"""Shared by tests of drawings: what a saved figure shows, and whether it is readable."""

import itertools
from unittest.mock import patch

from matplotlib.figure import Figure
from matplotlib.text import Text

NASTY = ("$a_b\\frac$ {x} ^2_", "two\nlines\tand\x00\x1b[31m", "W" * 200, "", "_hidden",
         "déjà vu кот γάτα قطة", "고양이 猫 ねこ 🦊", "\u202egnp.cat", "e\u0301" * 30,
         "\udcff.png")  # fmt: skip


def drawn(function, *arguments) -> Figure:
    """The figure that function(*arguments) saves; its `boxes` are its texts with their places."""
    boxes, figures = {}, []

    def draw(self, renderer):
        if self.get_text() and self.get_visible():
            boxes[self] = (self.get_text(), self.get_window_extent(renderer))
        draw_text(self, renderer)

    def savefig(self, *args, **kwargs):
        figures.append(self)
        save(self, *args, **kwargs)

    draw_text, save = Text.draw, Figure.savefig
    with patch.object(Text, "draw", draw), patch.object(Figure, "savefig", savefig):
        function(*arguments)
    (figure,) = figures
    figure.boxes = list(boxes.values())
    return figure


def readable(function, *arguments) -> Figure:
    """The same figure, which must be readable."""
    figure = drawn(function, *arguments)
    assert_readable(figure)
    return figure


def words(figure) -> list[str]:
    return [text for text, _ in figure.boxes]


def assert_readable(figure) -> None:
    """No text leaves the figure or overlaps another one."""
    width, height = figure.bbox.size
    for text, box in figure.boxes:
        assert box.x0 >= 0 and box.y0 >= 0, text  # noqa: PT018
        assert box.x1 <= width and box.y1 <= height, text  # noqa: PT018
    for (one, a), (other, b) in itertools.combinations(figure.boxes, 2):
        across, up = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(across, up) < 2, (one, other)
