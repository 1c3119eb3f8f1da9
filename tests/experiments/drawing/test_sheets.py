"""The pictures of predict and evaluate: what they say, that it is readable, in any script."""

import itertools
import logging
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.colors import to_rgb
from matplotlib.font_manager import fontManager
from PIL import Image

from data.errors import DataError
from experiments.drawing import fonts, heatmaps, page, sheets
from experiments.drawing.fonts import Typeface
from experiments.drawing.heatmaps import Looked, draw_attention
from experiments.drawing.sheets import (
    Shown,
    draw_accuracy_time,
    draw_confusion,
    draw_curves,
    draw_sheet,
)

NASTY = ("$a_b\\frac$ {x} ^2_", "two\nlines\tand\x00\x1b[31m", "W" * 200, "", "_hidden",
         "déjà vu кот γάτα قطة", "고양이 猫 ねこ 🦊", "\u202egnp.cat", "e\u0301" * 30,
         "\udcff.png")  # fmt: skip
INF = math.inf
# A glyph that no font has is a warning of matplotlib's: never here.
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def figure(monkeypatch):
    """Calls a drawing function; the figure as it was saved, with `boxes`: each text, its place."""
    drawn, kept = {}, []

    def draw_text(self, renderer):
        if self.get_text() and self.get_visible():
            drawn[self] = (self.get_text(), self.get_window_extent(renderer))
        original(self, renderer)

    def save(figure, path):
        drawn.clear()
        page.save(figure, path)
        figure.boxes = list(drawn.values())
        kept.append(figure)

    original = plt.Text.draw
    monkeypatch.setattr(plt.Text, "draw", draw_text)
    for module in (sheets, heatmaps):
        monkeypatch.setattr(module, "save", save)

    def draw(function, *arguments):
        function(*arguments)
        return kept[-1]

    return draw


def shown(labels=("cat", "dog", "cow"), scores=(0.5, 0.3, 0.2), truth=None, name="a.png", size=32):
    height, width = (size, size) if isinstance(size, int) else size
    return Shown(torch.zeros(3, height, width, dtype=torch.uint8), name, labels, scores, truth)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def matches(path, colour):
    """bool (H, W): the pixels of exactly this colour."""
    return (pixels(path) == np.round(np.array(to_rgb(colour)) * 255)).all(-1)


def words(figure):
    return [text for text, _ in figure.boxes]


def assert_readable(figure):
    """No text leaves the figure or lies on another one."""
    width, height = figure.bbox.size
    boxes = [(text, *box.extents) for text, box in figure.boxes]
    for text, left, low, right, high in boxes:
        assert left >= 0, text
        assert low >= 0, text
        assert right <= width, text
        assert high <= height, text
    for (one, l1, b1, r1, t1), (other, l2, b2, r2, t2) in itertools.combinations(boxes, 2):
        assert min(min(r1, r2) - max(l1, l2), min(t1, t2) - max(b1, b2)) < 2, (one, other)


@pytest.mark.parametrize("count", [1, 2, 7, 30])
def test_a_sheet_of_any_length_is_readable(count, figure, tmp_path):
    items = []
    for i in range(count):
        labels = NASTY[i % 7 : i % 7 + 3]
        items.append(shown(labels, (0.3,) * 3, NASTY[i % 9], NASTY[-1 - i % 9], (9 + i, 30)))
    items[0] = shown(name="x" * 300, size=(1, 3000))
    drawn = figure(draw_sheet, tmp_path / "deep" / "sheet.png", items, "title " * 99)
    assert_readable(drawn)
    height, width, _ = pixels(tmp_path / "deep" / "sheet.png").shape
    assert (width, height) == pytest.approx(tuple(drawn.bbox.size), abs=1)
    assert any("…" in text and text.startswith("xxx") for text in words(drawn))


def test_bars_are_as_long_as_the_scores_and_the_true_class_has_its_own_colour(tmp_path):
    path = tmp_path / "sheet.png"
    draw_sheet(path, [shown(scores=(0.5, 0.3, 0.1), truth="dog")], "title")
    other, true = (matches(path, colour).sum(1) for colour in (sheets.OTHER, sheets.TRUE))
    assert other.max() == pytest.approx(0.5 * sheets.CELL, abs=2)
    assert true.max() == pytest.approx(0.3 * sheets.CELL, abs=2)
    assert matches(path, sheets.WRONG).any(), "the top class is wrong"


@pytest.mark.parametrize(
    ("truth", "word", "marked"), [("cat", "✓ right", 0), ("cow", "✗ wrong: it is cow", 1),
                                  ("owl", "✗ wrong: it is owl", 1), (None, "", 0)],
)  # fmt: skip
def test_a_wrong_prediction_is_marked_by_colour_and_word(truth, word, marked, figure, tmp_path):
    drawn = figure(draw_sheet, tmp_path / "s.png", [shown(truth=truth)], "title")
    assert [text for text in words(drawn) if "right" in text or "wrong" in text] == [word] * bool(
        word
    )
    assert matches(tmp_path / "s.png", sheets.WRONG).any() == marked
    assert matches(tmp_path / "s.png", sheets.TRUE).any() == (truth in ("cat", "cow"))


def test_a_long_truth_does_not_push_out_the_word_wrong(figure, tmp_path):
    drawn = figure(draw_sheet, tmp_path / "s.png", [shown(truth="W" * 200)], "title")
    assert any(text.startswith("✗ wrong: it is W") and "…" in text for text in words(drawn))


@pytest.mark.parametrize(("size", "expected"), [((50, 100), (110, 220)), ((900, 300), (220, 73))])
def test_the_picture_keeps_its_shape_and_its_colours(size, expected, tmp_path):
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None].expand(3, *size)
    draw_sheet(tmp_path / "s.png", [Shown(red, "red", ("a",), (1.0,))], "title")
    there = matches(tmp_path / "s.png", "#FF0000")
    assert there.any(1).sum() == pytest.approx(expected[0], abs=2)
    assert there.any(0).sum() == pytest.approx(expected[1], abs=2)


def test_one_class_and_all_classes_can_be_shown(figure, tmp_path):
    drawn = figure(draw_sheet, tmp_path / "one.png", [shown(("cat",), (1.0,))], "title")
    assert {"cat", "100.0%"} <= set(words(drawn))
    names = tuple(f"class {i}" for i in range(100))
    drawn = figure(draw_sheet, tmp_path / "all.png", [shown(names, (0.01,) * 100)] * 3, "title")
    assert words(drawn).count("class 9") == words(drawn).count("and 90 more classes") == 3
    assert "class 10" not in words(drawn)
    assert_readable(drawn)


def test_pictures_after_the_thirtieth_are_left_out_and_the_title_says_so(figure, tmp_path):
    items = [shown(name=f"number {i}") for i in range(31)]
    drawn = figure(draw_sheet, tmp_path / "s.png", items, "a long title " * 40)
    assert "number 29" in words(drawn)
    assert "number 30" not in words(drawn)
    assert any(text.endswith("title (the first 30 of 31)") for text in words(drawn))


@pytest.mark.parametrize("draw", [
    lambda path: draw_sheet(path, [], "title"),
    lambda path: draw_confusion(path, torch.zeros(0, 0, dtype=torch.int64), []),
    lambda path: draw_curves(path, {}),
    lambda path: draw_accuracy_time(path, []),
])  # fmt: skip
def test_nothing_to_draw_is_an_error_and_leaves_no_file(draw, tmp_path):
    with pytest.raises(DataError, match=r"nothing\.png"):
        draw(tmp_path / "nothing.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [1, 2, 10, 20, 100])
def test_a_confusion_matrix_is_readable(count, figure, tmp_path):
    matrix = torch.full((count, count), 123456)
    classes = [*NASTY, *(f"class {i}" for i in range(90))][:count]
    drawn = figure(draw_confusion, tmp_path / "c.png", matrix, classes)
    assert_readable(drawn)
    assert words(drawn).count("123456") == (count**2 if count <= 20 else 0)


def test_rows_are_the_truth_and_colours_are_shares_of_a_row(figure, tmp_path):
    matrix = torch.tensor([[0, 0, 0], [10, 0, 30], [0, 0, 1]])
    drawn = figure(draw_confusion, tmp_path / "c.png", matrix, ["a", "b", "c"])
    axes = drawn.axes[0]
    shares = axes.images[0].get_array()
    assert shares.mask.tolist() == [[True] * 3, [False] * 3, [False] * 3], "a has no pictures"
    assert shares[1:].tolist() == [[0.25, 0, 0.75], [0, 0, 1]]
    assert [text.get_text() for text in axes.texts] == ["0", "0", "0", "10", "0", "30", "0", "0",
                                                       "1"]  # fmt: skip
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert "1 of 41 pictures right (2.4%)" in words(drawn)


def test_a_thousand_classes_go_by_number(figure, tmp_path):
    matrix = torch.eye(1000, dtype=torch.int32)
    drawn = figure(draw_confusion, tmp_path / "c.png", matrix, ["name"] * 1000)
    assert "name" not in words(drawn)
    assert "true class (its number)" in words(drawn)


def history(epochs, val, train=0.9):
    flat = {f"{part}_{what}": [value] * epochs for part, value in (("train", train), ("val", val))
            for what in ("loss", "accuracy")}  # fmt: skip
    return {"epoch": list(range(1, epochs + 1)), **flat}


def test_curves_are_means_over_seeds_with_bands_and_a_probe_is_a_line_across(figure, tmp_path):
    curves = {"scratch": [history(8, 0.4), history(8, 0.6)], "_probe $1$": [history(1, 0.7)]}
    drawn = figure(draw_curves, tmp_path / "c.png", curves)
    assert_readable(drawn)
    loss, accuracy = drawn.axes
    for panel, scale in ((loss, 1), (accuracy, 100)):
        train, val, probe_train, probe_val = panel.lines
        assert list(val.get_xdata()) == list(range(1, 9))
        assert np.allclose(val.get_ydata(), 0.5 * scale)
        assert np.allclose(probe_val.get_ydata(), 0.7 * scale)
        assert len(probe_val.get_xdata()) == 2, "from side to side"
        styles = [line.get_linestyle() for line in (train, val, probe_train, probe_val)]
        assert styles == ["--", "-", "--", "-"]
        band = panel.collections[1].get_paths()[0].get_extents()
        assert (band.y0, band.y1) == pytest.approx((0.4 * scale, 0.6 * scale))
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert labels == ["scratch", "_probe $1$ (a single point)", "validation", "training"]
    legend = drawn.legends[0].get_window_extent()
    assert all(legend.y1 < panel.get_tightbbox().y0 for panel in drawn.axes), "nothing is hidden"


def test_curves_of_different_lengths_long_names_and_no_epoch_at_all(figure, tmp_path):
    curves = {name: [history(3 + i, 0.5), history(2 + i, 0.5)] for i, name in enumerate(NASTY)}
    drawn = figure(draw_curves, tmp_path / "c.png", {"none": [], "zero": [history(0, 1)], **curves})
    assert_readable(drawn)
    assert len(drawn.axes[0].lines[0].get_xdata()) == 2, "as far as every seed came"
    assert "none (no epoch)" in words(drawn)


def test_accuracy_against_time_has_error_bars_where_they_are_known(figure, tmp_path):
    points = [("probe", 2.0, 0.5, 0.7, 0.02), ("scratch", 700.0, INF, 0.9, INF),
              ("wide", 60.0, 90.0, 0.8, 0.01)]  # fmt: skip
    drawn = figure(draw_accuracy_time, tmp_path / "a.png", points)
    assert_readable(drawn)
    axes = drawn.axes[0]
    across, down = axes.lines[0::3], axes.lines[1::3]
    assert axes.get_xscale() == "log"
    assert list(across[0].get_xdata()) == [1.5, 2.5]
    assert list(down[0].get_ydata()) == pytest.approx([68, 72])
    assert list(across[1].get_xdata()) == [700, 700], "no bar"
    assert list(down[1].get_ydata()) == [90, 90], "no bar"
    assert list(across[2].get_xdata()) == [axes.get_xlim()[0], 150], "below zero: from the edge"
    assert {"probe", "scratch", "wide", "10 min", "training time"} <= set(words(drawn))


@pytest.mark.parametrize("spread", [0.001, 0.02, 1.0])
def test_names_beside_the_points_do_not_overlap(spread, figure, tmp_path):
    points = [(name, 100 * (1 + spread * i), 1.0, 0.9 + 0.01 * spread * i, 0.001)
              for i, name in enumerate(("full", "head", "W" * 99, "LoRA", "_$x$"))]  # fmt: skip
    assert_readable(figure(draw_accuracy_time, tmp_path / "a.png", points))


def test_times_from_nothing_to_days_and_one_point_alone(figure, tmp_path):
    points = [("no time", 0.0, 0.0, 0.0, 0.0), ("day " * 99, 4e5, 1.0, 1.0, 0.0)]
    assert_readable(figure(draw_accuracy_time, tmp_path / "a.png", points))
    drawn = figure(draw_accuracy_time, tmp_path / "a.png", [("one", 0.4, INF, 1.0, INF)])
    assert_readable(drawn)
    assert max(drawn.axes[0].get_yticks()) <= 100


def looked(maps, name="a.png", label="cat", skips=True):
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    return Looked(image, name, label, 0.5, maps, maps[0].double(), "blocks.11, the last", skips)


@pytest.mark.parametrize(("heads", "side"), [(1, 1), (2, 3), (3, 14), (4, 8), (12, 14), (16, 14)])
def test_a_page_of_attention_is_readable(heads, side, figure, tmp_path):
    for i, skips in enumerate((True, False)):
        page = looked(torch.rand(heads, side, side), NASTY[heads % 10], NASTY[i], skips)
        drawn = figure(draw_attention, tmp_path / "deep" / "a.png", page)
        assert_readable(drawn)
        said = [text for text in words(drawn) if "…" not in text]
        assert sum(text.startswith("head ") for text in said) == heads, "whole"
        assert any("no skips" in text for text in said) == (not skips)
        assert sum(text.startswith(("Roll-out", "Every map", "Attention of")) for text in said) == 4


def test_twelve_heads_stand_in_three_rows_of_four_beside_the_picture():
    layout = heatmaps.lay_out(12)
    places = [(panel.y, panel.x) for panel in layout.heads]
    assert places == sorted(places), "row by row"
    assert (len({y for y, _ in places}), len({x for _, x in places})) == (3, 4)
    assert layout.heads[0].y == layout.picture.y
    assert layout.heads[-1].y + layout.heads[-1].side == pytest.approx(
        layout.rollout.y + layout.rollout.side, abs=2
    )


def test_a_map_of_nothing_is_as_dark_as_the_scales_end(tmp_path):
    """All of the class token's attention on itself."""
    draw_attention(tmp_path / "a.png", looked(torch.zeros(4, 8, 8)))
    panel = heatmaps.lay_out(4).heads[3]
    inside = pixels(tmp_path / "a.png")[panel.y :, panel.x :][: panel.side, : panel.side]
    assert inside.max() < 5


def test_the_same_bytes_twice_and_no_pyplot_figure_left(tmp_path):
    draws = {
        "sheet": lambda path: draw_sheet(path, [shown(truth="dog")] * 3, "title"),
        "confusion": lambda path: draw_confusion(path, torch.eye(3).int(), ["a", "b", "c"]),
        "curves": lambda path: draw_curves(path, {"a": [history(3, 0.5)]}),
        "time": lambda path: draw_accuracy_time(path, [("a", 3.0, 1.0, 0.5, 0.1)]),
        "attention": lambda path: draw_attention(path, looked(torch.ones(4, 8, 8))),
    }
    before = plt.rcParams.copy()
    for draw in draws.values():
        draw(tmp_path / "1.png")
        with plt.rc_context({"font.size": 30, "text.usetex": True, "figure.facecolor": "red"}):
            draw(tmp_path / "2.png")
        assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    assert not plt.get_fignums()
    assert plt.rcParams.copy() == before


def build_font(path):
    """A font of one syllable, drawn as a full square, and of another one without ink."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    empty = TTGlyphPen(None).glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "han", "guk"])
    builder.setupCharacterMap({ord("한"): "han", ord("국"): "guk"})
    builder.setupGlyf({".notdef": empty, "han": pen.glyph(), "guk": empty})
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", "han", "guk"), (1000, 0)))
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Test Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


@pytest.fixture
def only_dejavu(monkeypatch):
    """A machine without any font but those that came with matplotlib."""
    bundled = [font for font in fontManager.ttflist if "mpl-data" in font.fname]
    monkeypatch.setattr(fontManager, "ttflist", bundled)
    monkeypatch.setattr(fonts.font_manager, "findSystemFonts", list)
    monkeypatch.setattr(fonts, "warned", set())


@pytest.mark.usefixtures("only_dejavu")
def test_a_font_of_this_machine_draws_what_dejavu_lacks(tmp_path, figure, monkeypatch, caplog):
    build_font(tmp_path / "squares.ttf")
    (tmp_path / "damaged.ttf").write_bytes((tmp_path / "squares.ttf").read_bytes()[:300])
    # The list of matplotlib does not know a font installed since; the folders do.
    found = [str(tmp_path / "damaged.ttf"), str(tmp_path / "squares.ttf")]
    monkeypatch.setattr(fonts.font_manager, "findSystemFonts", lambda: found)
    drawn = figure(draw_sheet, tmp_path / "s.png", [shown(("한",), (0.0,))], "title")
    assert Typeface(["한"]).families == ["DejaVu Sans", "Test Squares"]
    assert not caplog.records
    box = next(box for text, box in drawn.boxes if text == "한")
    height = drawn.bbox.height
    rows, columns = (
        slice(int(height - box.y1), int(height - box.y0)),
        slice(*map(int, box.intervalx)),
    )
    dark = pixels(tmp_path / "s.png")[rows, columns].max(-1) < 60
    assert dark.mean() > 0.6, "a full square, no hollow box"


@pytest.mark.usefixtures("only_dejavu")
def test_letters_without_any_font_are_drawn_as_escapes_with_one_warning(tmp_path, figure, caplog):
    item = shown(("한국", "🦊\u200d"), (0.6, 0.4), truth="猫")
    with caplog.at_level(logging.WARNING, "zoo"):
        drawn = figure(draw_sheet, tmp_path / "s.png", [item], "ねこ")
        draw_confusion(tmp_path / "c.png", torch.eye(1).int(), ["犬"])
    assert {"\\uD55C\\uAD6D", "\\U0001F98A", "\\u306D\\u3053"} <= set(words(drawn))
    assert "✗ wrong: it is \\u732B" in words(drawn)
    assert len(caplog.records) == 1
    assert "U+3053 (HIRAGANA LETTER KO) and 5 more" in caplog.text
    assert "install a font" in caplog.text


@pytest.mark.usefixtures("only_dejavu")
def test_a_glyph_without_ink_counts_as_none(tmp_path, monkeypatch):
    build_font(tmp_path / "squares.ttf")
    monkeypatch.setattr(fonts.font_manager, "findSystemFonts", lambda: [tmp_path / "squares.ttf"])
    typeface = Typeface(["한국"])
    assert typeface.fit("한국", 500, 10) == "한\\uAD6D"


def test_fonts_are_looked_for_only_when_dejavu_lacks_a_letter(monkeypatch):
    def search(_letters):
        raise AssertionError("searched")

    monkeypatch.setattr(fonts, "find_fonts", search)
    typeface = Typeface(["déjà vu", "кот γάτα قطة ✓", "line\nline", "\u202e\udcff", "e\u0301"])
    assert typeface.fit("line\n  line", 500, 10) == "line line"
    assert typeface.fit("\u202ea\udcff", 500, 10) == "\\u202Ea\\uDCFF"
    assert typeface.fit("e\u0301", 500, 10) == "é"
    with pytest.raises(AssertionError, match="searched"):
        Typeface(["한"])


def test_a_long_name_loses_its_middle_and_keeps_both_ends():
    typeface = Typeface([])
    name = "holiday_" + "x" * 100_000 + "_0001.jpg"
    short = typeface.fit(name, 150, 10)
    assert 140 < typeface.width(short, 10) <= 150
    head, tail = short.split("…")
    assert len(head) - len(tail) in (0, 1)
    assert head.startswith("holiday_")
    assert tail.endswith("_0001.jpg")
    assert typeface.fit("short", 150, 10) == "short"
