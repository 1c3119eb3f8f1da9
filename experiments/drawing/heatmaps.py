"""The picture that `experiments.attention` leaves: what a network looks at, in colours, on a slide.

All maps share one colour bar, from nothing to the highest value of each map, which is written
under it: starting at the lowest would make differences out of noise.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from experiments.drawing.fonts import Typeface
from experiments.drawing.page import Page, save
from experiments.drawing.sheets import FRAME, fitted

SIDE, GAP, LINE = 352, 24, 30  # of the large pictures, around and under all, in pixels
TOP, BOTTOM, BAR = 70, 100, 20
COLOURS = "inferno"  # even steps to the eye; its lightness alone says all, also when colours fail
SHARE = 0.75  # of the colours; the picture under them has the rest, in grey

Grey = NDArray[np.float64]  # (H, W), 0 to 1


@dataclass(frozen=True)
class Looked:
    """A picture, what a network says it is, and what its class token takes of each patch."""

    image: Tensor  # uint8 (3, S, S), as the network sees it
    name: str  # e.g. the file's name
    label: str  # the most probable class
    score: float  # its probability, 0 to 1
    heads: Tensor  # (h, rows, columns), the attention of one block
    rollout: Tensor  # (rows, columns)
    where: str  # which block
    skips: bool  # whether the network's blocks add their attention


class Panel(NamedTuple):
    """A square on the page, in pixels from its upper left corner."""

    x: int
    y: int
    side: int


class Layout(NamedTuple):
    """On the left the picture and under it the roll-out, on the right a grid of the heads."""

    picture: Panel
    rollout: Panel
    heads: list[Panel]
    bar: Panel  # as high as its side
    width: int
    height: int


def lay_out(heads: int) -> Layout:
    """Two rows and columns at least, so that no head is larger than the picture; 12 make 3 x 4."""
    rows = max(2, math.isqrt(heads))
    columns = max(2, math.ceil(heads / rows))
    down = SIDE + 2 * LINE + GAP  # from the picture to the roll-out
    left, right, top, height = GAP, SIDE + 3 * GAP, TOP + LINE, down + SIDE
    side = min(SIDE, (height - (rows - 1) * (LINE + GAP // 2)) // rows)
    step = (height - side) // (rows - 1)
    grid = [
        Panel(right + column * (side + GAP), top + row * step, side)
        for row, column in (divmod(head, columns) for head in range(heads))
    ]
    bar = Panel(right + columns * (side + GAP), top, height)
    return Layout(
        Panel(left, top, SIDE), Panel(left, top + down, SIDE), grid, bar,
        bar.x + BAR + 90, top + height + LINE + BOTTOM,
    )  # fmt: skip


def draw_attention(path: Path, looked: Looked) -> None:
    """A PNG for a slide; `path`'s folder is made if need be."""
    typeface = Typeface([looked.name, looked.label])
    layout = lay_out(len(looked.heads))
    even = 1 / (looked.rollout.numel() + 1)
    with typeface.style():
        page = Page(layout.width, layout.height, typeface)
        room = layout.width - 2 * GAP
        page.text(
            GAP, TOP / 2, f"{looked.name}: {looked.label}, {100 * looked.score:.1f} %", room, 20
        )
        draw_picture(page, looked, layout.picture)
        draw_map(page, looked, looked.rollout, layout.rollout, "roll-out")
        title(page, layout.rollout, "Roll-out over all blocks", SIDE)
        words = f"Attention of the class token in {looked.where}, head by head"
        title(page, layout.heads[0], words, layout.width - layout.heads[0].x)
        for number, (head, panel) in enumerate(zip(looked.heads, layout.heads, strict=True)):
            draw_map(page, looked, head, panel, f"head {number}")
        draw_bar(page, layout.bar)
        for line, words in enumerate(explained(looked.skips, even)):
            page.text(GAP, layout.height - BOTTOM + 34 + line * 28, words, room, 14)
        save(page.figure, path)


def explained(skips: bool, even: float) -> Iterator[str]:
    mixed = "half attention, half skip," if skips else "no skips here,"
    yield f"Roll-out: heads averaged, {mixed} multiplied over the blocks (Abnar and Zuidema 2020)."
    yield f"Every map has its own scale; even attention would give {percent(even)} to each patch."


def percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def title(page: Page, panel: Panel, words: str, width: float) -> None:
    page.text(panel.x, panel.y - LINE / 2, words, width, 15)


def draw_picture(page: Page, looked: Looked, panel: Panel) -> None:
    title(page, panel, "What the network sees", SIDE)
    page.picture(panel.x, panel.y, fitted(looked.image, panel.side))
    page.box(*panel, panel.side, FRAME, frame=1)


def draw_map(page: Page, looked: Looked, heat: Tensor, panel: Panel, name: str) -> None:
    """The map from 0 to its highest value (if there is one), over the picture in grey."""
    highest = float(heat.max()) or 1.0
    grey = fitted(looked.image, panel.side) @ np.array([0.299, 0.587, 0.114]) / 255
    page.picture(panel.x, panel.y, laid_over(grey, enlarged(heat / highest, panel.side)))
    words = f"{name}: up to {percent(float(heat.max()))}"
    room = panel.side + GAP / 2
    page.text(panel.x, panel.y + panel.side + LINE / 2, words, room, min(14, panel.side / 15))


def enlarged(heat: Tensor, side: int) -> Grey:
    """(rows, columns), 0 to 1 -> (side, side), smooth: squares would hide the picture's edges."""
    small = Image.fromarray(heat.float().numpy())
    large = small.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(large, dtype=np.float64).clip(0, 1)


def laid_over(grey: Grey, heat: Grey) -> NDArray[np.uint8]:
    """uint8 (H, W, 3); both maps from 0 to 1."""
    colours = matplotlib.colormaps[COLOURS](heat)[..., :3]
    mixed = SHARE * colours + (1 - SHARE) * grey[..., None]
    return np.round(255 * mixed).astype(np.uint8)


def draw_bar(page: Page, panel: Panel) -> None:
    """The colours as they are over middle grey."""
    heat = np.repeat(np.linspace(1, 0, panel.side)[:, None], BAR, 1)
    page.picture(panel.x, panel.y, laid_over(np.full_like(heat, 0.5), heat))
    for words, y in (("highest", panel.y + 9), ("0", panel.y + panel.side - 9)):
        page.text(panel.x + BAR + 6, y, words, 70, 13)
