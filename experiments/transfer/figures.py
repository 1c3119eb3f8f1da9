"""The figures of a comparison, with one colour per strategy.

draw_curves           loss and accuracy by epoch
draw_accuracy_time    accuracy against training time
draw_stages           accuracy of the probes: by stage, and by number of images
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from experiments.drawing.style import COLOURS, png
from experiments.plumbing.stats import Estimate
from experiments.transfer.learning_curve import Floats, law_of
from experiments.transfer.stages import accuracy

Histories = Sequence[Mapping[str, Sequence[float]]]  # of a strategy, one per seed


def draw_curves(path: Path, curves: Mapping[str, Histories], conditions: str) -> None:
    """Draw loss and accuracy by epoch as a PNG: the mean over seeds, and a band from min to max.

    `conditions` (n, images, networks) go into the caption. A history has the keys epoch,
    train_loss, train_accuracy, val_loss and val_accuracy (0 to 1), lists of equal length. Curves
    end with the shortest history. A single point, such as a probe's, becomes a horizontal line.
    """
    with png(path, 11, 5.4) as figure:
        panels = figure.subplots(1, 2)
        handles = []
        for (name, histories), colour in zip(curves.items(), cycle(COLOURS), strict=False):
            length = min(len(history["epoch"]) for history in histories)
            for panel, what in zip(panels, ("loss", "accuracy"), strict=True):
                draw_histories(panel, histories, what, length, colour)
            note = " (no epochs: a line)" * (length == 1)
            handles.append(Line2D([], [], color=colour, linewidth=2.2, label=name + note))
        handles.append(Line2D([], [], color="#777777", label="validation"))
        handles.append(Line2D([], [], color="#777777", linestyle="--", label="training"))
        for panel, label in zip(panels, ("loss", "accuracy (%)"), strict=True):
            panel.set(xlabel="epoch", ylabel=label)
            panel.xaxis.get_major_locator().set_params(integer=True)
        panels[1].set_ylim(top=min(panels[1].get_ylim()[1], 101))
        columns = 4 if max(map(len, curves)) < 26 else 2
        caption = f"mean over seeds, shaded: minimum to maximum; {conditions}"
        looks = {"ncols": columns, "fontsize": 11, "title_fontsize": 11, "frameon": False}
        figure.legend(handles=handles, loc="outside lower center", title=caption, **looks)


def draw_histories(panel: Axes, histories: Histories, what: str, length: int, colour: str) -> None:
    """Draw one strategy's curves of `what`: training dashed, validation solid."""
    epochs = histories[0]["epoch"][:length]
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
    path: Path, points: Sequence[tuple[str, Sequence[float], Estimate]], conditions: str
) -> None:
    """A PNG of (name, seconds of all seeds, accuracy 0 to 1) points.

    `conditions` (n, images, networks) go into the caption.
    """
    long = max(max(seconds) for _, seconds, _ in points) >= 120
    unit, second = ("minutes", 60) if long else ("seconds", 1)
    with png(path, 10, 5.6) as figure:
        axes = figure.subplots()
        looks = zip(points, cycle(COLOURS), cycle("os^Dv"), strict=False)
        for (name, seconds, accuracy), colour, marker in looks:
            times = np.maximum(seconds, 1e-3) / second  # a logarithmic axis has no zero
            time, high = times.mean(), np.nan_to_num(100 * accuracy.half, posinf=0)
            axes.errorbar(
                time, 100 * accuracy.mean, high, [[time - times.min()], [times.max() - time]],
                marker, color=colour, markersize=8, capsize=4, label=name,
            )  # fmt: skip
        axes.set(xscale="log", xlabel=f"training time ({unit})", ylabel="accuracy (%)")
        low, high = axes.get_xlim()
        axes.set_xlim(low / 2, high * 2)  # wide enough to contain ticks
        bottom, top = axes.get_ylim()
        bottom = max(bottom, 0)
        axes.set_ylim(bottom, min(top, 100 + 0.06 * (100 - bottom)))  # accuracy ends at 100 %
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        how = "means over seeds; accuracy: 95 % CI; time: minimum to maximum"
        figure.supxlabel(f"{how}\n{conditions}", size=11)
        figure.legend(loc="outside right upper", fontsize=11, frameon=False)


def draw_stages(path: Path, found: Mapping[str, Mapping]) -> None:
    """A PNG of every network's probes (see stages.py): by stage, and by number of images."""
    first = next(iter(found.values()))
    tested = len(next(iter(first["stages"].values())))
    with png(path, 11, 5.2) as figure:
        by_stage, by_images = figure.subplots(1, 2, sharey=True)
        by_images.set_xscale("log")
        by_images.minorticks_off()
        names = list(dict.fromkeys(name for one in found.values() for name in one["stages"]))
        handles, sizes = [], set[float]()
        for number, (model, one) in enumerate(found.items()):
            # Beside each other, so that intervals of several networks do not hide each other.
            beside, colour = 0.08 * (number - (len(found) - 1) / 2), COLOURS[number % len(COLOURS)]
            handles.append(Line2D([], [], color=colour, marker="o", label=model))
            shares = [accuracy(text) for text in one["stages"].values()]
            places = [names.index(name) + beside for name in one["stages"]]
            values, low, high = np.array([share[:3] for share in shares]).T
            draw_interval(by_stage, places, values, low, high, colour)
            if one["curve"]:
                law = law_of(one["curve"])
                high, low = 100 * (1 - law.spread)
                x = law.sizes * 2 ** (0.6 * beside)
                draw_interval(by_images, x, 100 * (1 - law.errors), low, high, colour)
                by_images.plot(law.sizes, 100 * (1 - law.predicted), ":", color=colour)
                sizes |= set(law.sizes.tolist())
        by_stage.set(xlabel="probe after", ylabel=f"accuracy on {first['tested_on']} (%)")
        by_stage.set_xticks(range(len(names)), names)
        by_images.set_xticks(sorted(sizes), [f"{size:,.0f}" for size in sorted(sizes)])
        by_images.set(xlabel="training images, probe after the last stage")
        handles.append(Line2D([], [], color="#777777", linestyle=":", label="power law"))
        caption = f"95 % intervals over {tested:,} images, on the right also over samples"
        looks = {"ncols": len(handles), "fontsize": 11, "title_fontsize": 11, "frameon": False}
        figure.legend(handles=handles, loc="outside lower center", title=caption, **looks)


def draw_interval(
    panel: Axes, x: Sequence[float] | Floats, values: Floats, low: Floats, high: Floats, colour: str
) -> None:
    """Points with intervals, joined by a line."""
    ends = np.array([values - low, high - values]).clip(0)
    panel.errorbar(x, values, ends, None, "o-", color=colour, capsize=4)
