"""Names in any script and of any length, files, and the user's own matplotlib settings."""

import logging
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import pytest
from figures import drawn, words
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager
from PIL import Image

from experiments.drawing import style
from experiments.drawing.style import fit, png, text_width

pytestmark = pytest.mark.filterwarnings("error")


def write(path, *texts):
    """Draw the texts, one below the other."""
    with png(path, 4, 3) as figure:
        for line, text in enumerate(texts):
            figure.text(0.1, 0.8 - 0.1 * line, fit(text, 200, 12), size=12)


def build_font(path):
    """A font of one syllable, drawn as a full square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "han"])
    builder.setupCharacterMap({ord("한"): "han"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "han": pen.glyph()})
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", "han"), (1000, 0)))
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "NanumGothic", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


@pytest.fixture
def only_dejavu(monkeypatch):
    """A machine that has only the fonts that come with matplotlib."""
    bundled = [font for font in fontManager.ttflist if "mpl-data" in font.fname]
    monkeypatch.setattr(fontManager, "ttflist", bundled)
    monkeypatch.setattr(style.font_manager, "findSystemFonts", list)
    for remembers in (style.installed_families, style.drawable, style.warn_of_missing_fonts):
        monkeypatch.setattr(style, remembers.__name__, cache(remembers.__wrapped__))


@pytest.mark.usefixtures("only_dejavu")
def test_a_font_of_this_machine_draws_what_dejavu_lacks(tmp_path, monkeypatch, caplog):
    build_font(tmp_path / "squares.ttf")
    (tmp_path / "damaged.ttf").write_bytes((tmp_path / "squares.ttf").read_bytes()[:300])
    # matplotlib's list lacks fonts that were installed later; the font folders have them.
    found = [str(tmp_path / "damaged.ttf"), str(tmp_path / "squares.ttf")]
    monkeypatch.setattr(style.font_manager, "findSystemFonts", lambda: found)
    figure = drawn(write, tmp_path / "s.png", "한", "한 cat")
    assert words(figure) == ["한", "한 cat"]
    assert not caplog.records
    box = figure.boxes[0][1]
    with Image.open(tmp_path / "s.png") as image:
        grey = np.asarray(image.convert("L"))[::-1]  # y goes up, as in the box
    inside = grey[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]
    assert (inside < 60).mean() > 0.6, "not a full square, but a hollow box"


@pytest.mark.usefixtures("only_dejavu")
def test_letters_without_any_font_are_drawn_as_escapes_with_one_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "zoo"):
        figure = drawn(write, tmp_path / "s.png", "한국", "🦊\u200d", "ねこ")
        write(tmp_path / "s.png", "犬")
    assert words(figure) == ["\\ud55c\\uad6d", "\\U0001f98a", "\\u306d\\u3053"]
    assert len(caplog.records) == 1
    assert "install a font that has them, such as Noto Sans CJK" in caplog.text


def test_what_dejavu_draws_and_what_cannot_be_printed(tmp_path):
    texts = ["déjà vu", "кот γάτα قطة ✓", "line\n  line", "\u202ea\udcff", "e\u0301", "$_x$ \\a"]
    shown = ["déjà vu", "кот γάτα قطة ✓", "line line", "\\u202ea\\udcff", "é", "$_x$ \\a"]
    assert words(drawn(write, tmp_path / "a.png", *texts)) == shown


def test_a_long_name_loses_its_middle_and_keeps_both_ends(tmp_path):
    with png(tmp_path / "a.png", 4, 3):
        short = fit("holiday_" + "x" * 100_000 + "_0001.jpg", 150, 10)
        assert 140 < text_width(short, 10) <= 150
        assert fit("short", 150, 10) == "short"
    head, tail = short.split("…")
    assert len(head) - len(tail) in (0, 1)
    assert head.startswith("holiday_")
    assert tail.endswith("_0001.jpg")


def test_the_same_bytes_whatever_the_users_settings_and_no_pyplot_figure_left(tmp_path):
    before = plt.rcParams.copy()
    write(tmp_path / "1.png", "$x$")
    with plt.rc_context({"font.size": 30, "text.usetex": True, "figure.facecolor": "red"}):
        write(tmp_path / "2.png", "$x$")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    assert not plt.get_fignums()
    assert plt.rcParams.copy() == before


def test_a_figure_that_fails_leaves_the_old_file_as_it_was(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"before")
    with pytest.raises(KeyError), png(path, 4, 3):
        raise KeyError
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"before"]
