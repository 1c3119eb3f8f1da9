"""Curves, and accuracy against time: the numbers that are drawn, and that names are readable."""

import math

import numpy as np
import pytest
from figures import readable, words

from experiments.plumbing.stats import Estimate
from experiments.transfer.figures import draw_accuracy_time, draw_curves

pytestmark = pytest.mark.filterwarnings("error")


def history(epochs, val, train=0.9):
    flat = {f"{part}_{what}": [value] * epochs for part, value in (("train", train), ("val", val))
            for what in ("loss", "accuracy")}  # fmt: skip
    return {"epoch": list(range(1, epochs + 1)), **flat}


def test_curves_are_means_over_seeds_with_bands_and_a_probe_is_a_line_across(tmp_path):
    curves = {"scratch": [history(8, 0.4), history(8, 0.6)], "probe": [history(1, 0.7)]}
    figure = readable(draw_curves, tmp_path / "c.png", curves, "n = 2")
    for panel, scale in zip(figure.axes, (1, 100), strict=True):
        train, val, probe_train, probe_val = panel.lines
        assert list(val.get_xdata()) == list(range(1, 9))
        assert np.allclose(val.get_ydata(), 0.5 * scale)
        assert np.allclose(probe_val.get_ydata(), 0.7 * scale)
        assert len(probe_val.get_xdata()) == 2, "the line does not go from side to side"
        styles = [line.get_linestyle() for line in (train, val, probe_train, probe_val)]
        assert styles == ["--", "-", "--", "-"]
        band = panel.collections[1].get_paths()[0].get_extents()
        assert (band.y0, band.y1) == pytest.approx((0.4 * scale, 0.6 * scale))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["scratch", "probe (no epochs: a line)", "validation", "training"]
    assert "mean over seeds, shaded: minimum to maximum; n = 2" in words(figure)


def test_curves_of_different_lengths(tmp_path):
    curves = {"two": [history(3, 0.5), history(2, 0.5)]}
    long = {f"as in most notebooks resnet50 batch {2**i}": [history(3, 0.5)] for i in range(9)}
    figure = readable(draw_curves, tmp_path / "c.png", {**curves, **long}, "n = 2")
    assert len(figure.axes[0].lines[0].get_xdata()) == 2, "not as far as every seed came"


def test_accuracy_against_time_has_error_bars_where_they_are_known(tmp_path):
    points = [("probe", [4.5, 6.0, 7.5], Estimate(0.7, 0.02, 3)),
              ("scratch", [700.0], Estimate(0.9, math.inf, 1)),
              ("wide", [1.0, 119.0], Estimate(0.8, 0.01, 2)),
              ("no time", [0.0], Estimate(0.0, 0.0, 1))]  # fmt: skip
    figure = readable(draw_accuracy_time, tmp_path / "a.png", points, "n = 2")
    (axes,) = figure.axes
    probe, scratch, *_ = axes.containers
    across, up = (bar.get_segments()[0] for bar in probe.lines[2])
    assert across[:, 0].tolist() == pytest.approx([4.5 / 60, 7.5 / 60])
    assert up[:, 1].tolist() == pytest.approx([68, 72])
    across, up = (bar.get_segments()[0] for bar in scratch.lines[2])
    assert np.ptp(across[:, 0]) == np.ptp(up[:, 1]) == 0, "there is an error bar"
    assert axes.get_xscale() == "log"
    assert {"probe", "scratch", "wide", "training time (minutes)", "1"} <= set(words(figure))
    assert {"means over seeds; accuracy: 95 % CI; time: minimum to maximum\nn = 2"} <= set(
        words(figure)
    )


@pytest.mark.parametrize("spread", [0.0, 0.02, 1.0])
def test_strategies_with_nearly_equal_results_can_be_told_apart(spread, tmp_path):
    points = [
        (f"strategy {i}", [100 * (1 + spread * i)], Estimate(0.9 + 0.01 * spread * i, 0.001, 2))
        for i in range(12)
    ]
    figure = readable(draw_accuracy_time, tmp_path / "a.png", points, "n = 2")
    looks = {
        (line.lines[0].get_color(), line.lines[0].get_marker())
        for line in figure.axes[0].containers
    }
    assert len(looks) == 12
    assert len(figure.axes[0].get_xticks()) >= 3


def test_one_perfect_point_alone_has_no_tick_above_100(tmp_path):
    points = [("one", [0.4], Estimate(1.0, math.inf, 1))]
    figure = readable(draw_accuracy_time, tmp_path / "a.png", points, "n = 2")
    low, high = figure.axes[0].get_ylim()
    assert max(tick for tick in figure.axes[0].get_yticks() if low <= tick <= high) == 100
