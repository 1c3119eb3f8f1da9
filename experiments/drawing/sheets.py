"""The figures that `predict`, `evaluate` and `transfer` leave.

draw_sheet            pictures, each with its likeliest classes (predict, evaluate)
draw_confusion        which class is taken for which (evaluate)
draw_curves           loss and accuracy by epoch, one colour a strategy (transfer)
draw_accuracy_time    accuracy against training time, one point a strategy (transfer)

Figures are built without pyplot, so a notebook keeps its own backend and nothing stays open.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from experiments.drawing.fonts import Typeface
from experiments.drawing.page import DPI, POINT, Box, Page, free_place, refuse_empty, save
from experiments.drawing.style import COLOURS

MOST_PICTURES, MOST_BARS = 30, 10
CELL, GAP, LINE = 220, 20, 21  # of the sheet, in pixels
TRUE, OTHER, WRONG = "#009E73", "#56B4E9", "#D55E00"  # Okabe and Ito's green, sky and vermilion
EMPTY, FRAME = "#EEEEEE", "#AAAAAA"
PALETTE = (*COLOURS, OTHER, WRONG)


@dataclass(frozen=True)
class Shown:
    """A picture and what the network says it is."""

    image: Tensor  # uint8 (3, H, W), any size
    name: str  # e.g. the file's name
    labels: tuple[str, ...]  # of the top-k classes, best first
    scores: tuple[float, ...]  # their probabilities, 0 to 1
    truth: str | None = None  # the true class, where it is known


def draw_sheet(path: Path, shown: Sequence[Shown], title: str) -> None:
    """A PNG of up to 30 pictures in a grid, each over its bars; `path`'s folder is made if need be.

    Raises DataError for no picture at all.
    """
    refuse_empty(len(shown), "picture", path)
    drawn = shown[:MOST_PICTURES]
    typeface = Typeface([title, *(text for s in drawn for text in (s.name, s.truth or ""))]
                        + [label for s in drawn for label in s.labels])  # fmt: skip
    columns = math.ceil(math.sqrt(len(drawn)))
    rows = math.ceil(len(drawn) / columns)
    bars = max(len(s.labels) for s in drawn)
    bars = bars if bars <= MOST_BARS else MOST_BARS + 1  # one line says how many there are not
    judged = any(s.truth is not None for s in drawn)
    row_height = CELL + LINE * (1 + judged + bars) + 2 * GAP
    grid_width = columns * (CELL + GAP) - GAP
    width = max(grid_width, 2 * CELL) + 2 * GAP  # a single column is too narrow for a title
    with typeface.style():
        page = Page(width, 3 * GAP + rows * row_height, typeface)
        note = f" (the first {len(drawn)} of {len(shown)})" if len(drawn) < len(shown) else ""
        room = width - 2 * GAP - typeface.width(note, 13) * POINT
        heading = typeface.fit(title, room / POINT, 13) + note
        page.text(width / 2, 1.5 * GAP, heading, width, 13, "center")
        for place, item in enumerate(drawn):
            row, column = divmod(place, columns)
            left = (width - grid_width) / 2 + column * (CELL + GAP)
            draw_cell(page, item, left, 3 * GAP + row * row_height, judged)
        save(page.figure, path)


def draw_cell(page: Page, item: Shown, x: float, y: float, judged: bool) -> None:
    """The picture, its name, right or wrong where some picture is `judged`, and the bars."""
    pixels = fitted(item.image, CELL)
    height, width = pixels.shape[:2]
    left, top = x + (CELL - width) // 2, y + (CELL - height) // 2
    wrong = item.truth is not None and item.labels[0] != item.truth
    page.picture(left, top, pixels)
    if wrong:
        page.box(left - 2, top - 2, width + 4, height + 4, WRONG, frame=4)
    else:
        page.box(left, top, width, height, FRAME, frame=1)
    y += CELL + LINE * 0.75
    page.text(x, y, item.name, CELL, 10)
    if judged:
        y += LINE
        if wrong:
            page.box(x, y - 9, CELL, 18, WRONG)
            verdict = "✗ wrong: it is "
            room = (CELL - 10) / POINT - page.typeface.width(verdict, 9)
            page.text(x + 5, y, verdict + page.typeface.fit(item.truth or "", room, 9), CELL)
        elif item.truth is not None:
            page.text(x + 5, y, "✓ right", CELL - 10)
    for label, score in list(zip(item.labels, item.scores, strict=True))[:MOST_BARS]:
        y += LINE
        page.box(x, y - 9, CELL, 18, EMPTY)
        page.box(x, y - 9, CELL * score, 18, TRUE if label == item.truth else OTHER)
        page.text(x + 5, y, label, CELL - 62)
        page.text(x + CELL - 5, y, f"{score:.1%}", 60, ha="right")
    if len(item.labels) > MOST_BARS:
        page.text(x + 5, y + LINE, f"and {len(item.labels) - MOST_BARS} more classes", CELL)


def fitted(image: Tensor, side: int) -> NDArray[np.uint8]:
    """uint8 (3, H, W) -> (h, w, 3), the longer of h and w `side`; small pictures show pixels."""
    picture = Image.fromarray(np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy()))
    scale = side / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    how = Image.Resampling.NEAREST if scale > 3 else Image.Resampling.LANCZOS
    return np.asarray(picture.resize((width, height), how))


def draw_confusion(path: Path, matrix: Tensor, classes: Sequence[str]) -> None:
    """A PNG of the counts `matrix`, integers (true class, predicted class).

    Colours are shares of a row; numbers stand in the cells up to 20 classes, names up to 120.
    Raises DataError for no class at all.
    """
    refuse_empty(len(classes), "class", path)
    count, counts = len(classes), matrix.cpu().numpy()
    named, size = count <= 120, 9 if count <= 20 else 7
    cell = min(max(440 / count, 46), 180) if count <= 20 else (15 if named else 1200 / count)
    side = cell * count
    typeface = Typeface(classes)
    with typeface.style():
        names = [typeface.fit(name, 160 / POINT, size) for name in classes] if named else []
        margin = max([40, *(typeface.width(name, size) * POINT for name in names)]) + 45
        page = Page(margin + max(side, 300) + 120, 50 + side + margin, typeface)
        axes = page.axes(margin, 50, side, side)
        total = counts.sum(1, keepdims=True)
        shares = np.ma.masked_where(np.broadcast_to(total == 0, counts.shape),
                                    counts / np.maximum(total, 1))  # fmt: skip
        axes.set_facecolor(EMPTY)  # the row of a class without pictures
        picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axes.grid(False)
        what = "class" if named else "class (its number)"
        axes.set(xlabel=f"predicted {what}", ylabel=f"true {what}")
        if named:
            axes.set_xticks(range(count), names, rotation=90, size=size)
            axes.set_yticks(range(count), names, size=size)
        if count <= 20:
            write_counts(axes, counts, shares, cell)
        bar = page.axes(margin + side + 20, 50, 15, side)
        page.figure.colorbar(picture, cax=bar, format=lambda share, _: f"{share:.0%}")
        bar.tick_params(labelsize=10)
        bar.grid(False)
        bar.set_ylabel("share of the true class", size=11)
        right, pictures = int(counts.trace()), int(counts.sum())
        accuracy = f" ({right / pictures:.1%})" if pictures else ""
        heading = f"{right:,} of {pictures:,} pictures right{accuracy}"
        page.text(page.width / 2, 25, heading, page.width, 13, "center")
        save(page.figure, path)


def write_counts(
    axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64], cell: float
) -> None:
    """A number in every cell, white on dark, as large as the longest allows."""
    size = min(11, cell / POINT / (0.7 * len(str(counts.max())) + 0.5))
    for (row, column), number in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black" if number else "#999999"
        axes.text(column, row, str(number), size=size, color=colour, ha="center", va="center")


def draw_curves(path: Path, curves: Mapping[str, Sequence[Mapping[str, Sequence[float]]]]) -> None:
    """A PNG of histories, one a seed, with keys epoch, train_loss, train_accuracy, val_loss and
    val_accuracy (0 to 1), lists of one length. Mean over seeds, band from min to max, as far as
    every seed came; a single point becomes a horizontal line.

    Raises DataError for no strategy at all.
    """
    refuse_empty(len(curves), "strategy", path)
    typeface = Typeface(curves)
    with typeface.style():
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.03)  # the first: inches
        figure = Figure(figsize=(11, 5), dpi=DPI, layout=layout)
        panels = figure.subplots(1, 2)
        handles, labels = [], []
        for (name, histories), colour in zip(curves.items(), cycle(PALETTE), strict=False):
            length = min((len(history["epoch"]) for history in histories), default=0)
            for panel, what in zip(panels, ("loss", "accuracy"), strict=True):
                if length:
                    draw_histories(panel, histories, what, length, colour)
            note = {0: " (no epoch)", 1: " (a single point)"}.get(length, "")
            labels.append(typeface.fit(name, 220, 11) + note)
            handles.append(Line2D([], [], color=colour, linewidth=2.2))
        labels += ["validation", "training"]
        handles += [Line2D([], [], color="#777777"), Line2D([], [], color="#777777", ls="--")]
        for panel, words in zip(panels, ("loss", "accuracy (%)"), strict=True):
            panel.set(xlabel="epoch", ylabel=words)
            panel.xaxis.get_major_locator().set_params(integer=True)
        panels[1].set_ylim(top=min(panels[1].get_ylim()[1], 101))
        widest = max(typeface.width(label, 11) for label in labels) + 60
        figure.legend(handles, labels, loc="outside lower center", frameon=False, fontsize=11,
                      ncols=max(1, min(len(labels), int(750 / widest))))  # fmt: skip
        save(figure, path)


def draw_histories(
    panel: Axes, histories: Sequence[Mapping[str, Sequence[float]]], what: str, length: int,
    colour: str,
) -> None:  # fmt: skip
    epochs = np.array(histories[0]["epoch"][:length])
    for part, style, width in (("train", "--", 1.2), ("val", "-", 2.2)):
        values = np.array([history[f"{part}_{what}"][:length] for history in histories])
        values = values * 100 if what == "accuracy" else values  # (seeds, epochs)
        low, middle, high = values.min(0), values.mean(0), values.max(0)
        if length == 1:
            panel.axhline(middle[0], linestyle=style, color=colour, linewidth=width)
            panel.axhspan(low[0], high[0], color=colour, alpha=0.12, linewidth=0)
        else:
            panel.plot(epochs, middle, style, color=colour, linewidth=width)
            panel.fill_between(epochs, low, high, color=colour, alpha=0.12, linewidth=0)


def draw_accuracy_time(
    path: Path, points: Sequence[tuple[str, float, float, float, float]]
) -> None:
    """A PNG of (name, seconds, half-width, accuracy from 0 to 1, half-width); inf: no error bar.

    Raises DataError for no point at all.
    """
    refuse_empty(len(points), "point", path)
    typeface = Typeface(point[0] for point in points)
    points = [(n, max(t, 1e-3), w, a, h) for n, t, w, a, h in points]  # a log axis has no zero
    with typeface.style():
        page = Page(900, 560, typeface)
        axes = page.axes(90, 30, 780, 450)
        axes.set(xscale="log", xlabel="training time", ylabel="accuracy (%)")
        taken: list[Box] = []
        axes.set_xlim(*time_limits([point[1:3] for point in points]))
        low, high = accuracy_limits([point[3:] for point in points])
        axes.set_ylim(low, high)
        axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= min(high, 100)])
        for (_, *numbers), colour in zip(points, cycle(PALETTE), strict=False):
            taken += draw_point(page, axes, numbers, colour)
        for (name, seconds, _, accuracy, _), colour in zip(points, cycle(PALETTE), strict=False):
            x, y = axes.transData.transform((seconds, 100 * accuracy))
            y = page.height - y
            words = typeface.fit(name, 230, 10)
            size = (typeface.width(words, 10) * POINT, 18)
            box = free_place((x, y), size, taken, (92, 32, 868, 478))
            taken.append(box)
            page.text(box[0], (box[1] + box[3]) / 2, words, page.width, 10)
            near = (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))
            page.line((x, y), near, colour)
        label_times(axes)
        save(page.figure, path)


def finite(width: float) -> float:
    return width if math.isfinite(width) else 0


def time_limits(times: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """A fifth of the axis free on both sides; a bar down to zero and below has no end to show."""
    lows = [t - finite(w) if t > finite(w) else t for t, w in times]
    low, high = min(lows), max(t + finite(w) for t, w in times)
    spare = max(2.0, (high / low) ** 0.3)
    return low / spare, high * spare


def accuracy_limits(accuracies: Sequence[tuple[float, float]]) -> tuple[float, float]:
    low = 100 * min(a - finite(w) for a, w in accuracies)
    high = 100 * max(a + finite(w) for a, w in accuracies)
    spare = max(2.0, 0.2 * (high - low))
    return low - spare, high + spare


def draw_point(page: Page, axes: Axes, numbers: Sequence[float], colour: str) -> list[Box]:
    """Returns what it covers: the dot, the horizontal bar, the vertical bar."""
    seconds, wide, accuracy, high = numbers
    left, right = max(seconds - finite(wide), axes.get_xlim()[0]), seconds + finite(wide)
    low, top = 100 * (accuracy - finite(high)), 100 * (accuracy + finite(high))
    axes.plot([left, right], [100 * accuracy] * 2, "|-", color=colour, linewidth=1.5)
    axes.plot([seconds] * 2, [low, top], "_-", color=colour, linewidth=1.5)
    axes.plot([seconds], [100 * accuracy], "o", color=colour, markersize=8)
    (x, y) = axes.transData.transform((seconds, 100 * accuracy))
    (x0, y0), (x1, y1) = axes.transData.transform([(left, low), (right, top)])
    y, y0, y1 = page.height - y, page.height - y0, page.height - y1
    return [(x - 6, y - 6, x + 6, y + 6), (x0, y - 3, x1, y + 3), (x - 3, y1, x + 3, y0)]


def label_times(axes: Axes) -> None:
    """Ticks at 1, 2, 5 seconds and so on, at round minutes and hours; every nth if crowded."""
    units = {"ms": 1e-3, "s": 1, "min": 60, "h": 3600}
    counts = {"ms": (1, 2, 5, 10, 20, 50, 100, 200, 500), "s": (1, 2, 5, 10, 20, 30),
              "min": (1, 2, 5, 10, 20, 30), "h": (1, 2, 5, 10, 20, 50, 100, 200, 500)}  # fmt: skip
    low, high = axes.get_xlim()
    times = [(n * second, f"{n} {unit}") for unit, second in units.items() for n in counts[unit]]
    times = [(seconds, words) for seconds, words in times if low <= seconds <= high]
    times = times[:: 1 + len(times) // 11]
    axes.set_xticks([seconds for seconds, _ in times], [words for _, words in times])
    axes.set_xticks([], minor=True)
