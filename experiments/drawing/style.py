"""How every figure looks, how it becomes a file, and how names of any script and length fit in.

Figures are built without pyplot, so a notebook keeps its own backend and nothing stays open.
"""

import io
import logging
import math
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.textpath import text_to_path

from zoo.weights.atomic import write_atomic

# Okabe and Ito's colours, told apart by colour-blind people too.
COLOURS = ("#E69F00", "#0072B2", "#000000", "#009E73", "#CC79A7")
STYLE: dict[Any, Any] = {"font.size": 12, "axes.grid": True, "grid.alpha": 0.3,
         "axes.spines.top": False, "axes.spines.right": False}  # fmt: skip
# The first comes with matplotlib; each of the others draws what those before it do not have.
FAMILIES = (
    "DejaVu Sans", "Noto Sans CJK KR", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans KR",
    "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo", "AppleGothic", "Hiragino Sans",
    "PingFang SC", "Yu Gothic", "Microsoft YaHei", "Noto Sans", "Noto Sans Arabic",
    "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji", "Nirmala UI",
    "Segoe UI", "Leelawadee UI", "Arial Unicode MS",
)  # fmt: skip
LONGEST = 400  # letters; no figure has room for more
UNDRAWN = dict.fromkeys((0x200C, 0x200D, 0xFE0E, 0xFE0F))  # joiners and variation selectors
log = logging.getLogger("zoo")


@contextmanager
def png(path: Path, width: float, height: float, mathtext: bool = False) -> Iterator[Figure]:
    """An empty figure of so many inches; it becomes the PNG `path` when the block ends.

    The file is whole or not there; its folder is made if need be. The user's matplotlib settings
    have no effect. $ _ \\ are letters like others, unless `mathtext`: then 10^-2 stands on an axis.
    """
    settings: dict[Any, Any] = {
        "font.family": installed_families(), "text.parse_math": mathtext, "text.hinting": "none",
        "figure.constrained_layout.w_pad": 0.1, "figure.constrained_layout.h_pad": 0.1,
    }  # fmt: skip
    with matplotlib.style.context(["default", {**STYLE, **settings}]):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


@cache
def installed_families() -> list[str]:
    """Those of FAMILIES; matplotlib's own list is as old as its first start on this machine."""
    known = {font.fname for font in fontManager.ttflist}
    for path in set(font_manager.findSystemFonts()) - known:
        with suppress(RuntimeError, OSError, ValueError):  # not every file is a whole font
            fontManager.addfont(path)
    names = set(fontManager.get_font_names())
    return [family for family in FAMILIES if family in names]


@cache
def drawable() -> set[int]:
    """The code points of all letters that the fonts have."""
    files = map(font_manager.findfont, installed_families())
    return {letter for file in files for letter in font_manager.get_font(file).get_charmap()}


@cache
def warn_of_missing_fonts() -> None:
    """Said once: the answer is kept."""
    log.warning(
        "letters that no font on this machine has are drawn as escapes such as \\ud55c; to see "
        "them, install a font that has them, such as Noto Sans CJK for Chinese, Japanese and "
        "Korean (fonts.google.com/noto)"
    )


def one_line(text: str) -> str:
    """Without line breaks; a letter and its accent as one character, as most fonts have them."""
    return " ".join(unicodedata.normalize("NFC", text.translate(UNDRAWN)).split())


def letter_or_escape(letter: str) -> str:
    if letter.isprintable() and ord(letter) in drawable():
        return letter
    if letter.isprintable():
        warn_of_missing_fonts()
    return ascii(letter)[1:-1]


def text_width(text: str, size: float) -> float:
    """In points, in the fonts of the surrounding `png`."""
    font = FontProperties(size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def fit(text: str, width: float, size: float) -> str:
    """One line of at most `width` points at the font's `size`.

    A longer text loses its middle: names often differ at their ends. A letter that no font has
    becomes its escape, such as \\ud55c, which can be looked up, unlike an empty box.
    """
    line = one_line(text)
    line = line if len(line) <= 2 * LONGEST else line[:LONGEST] + line[-LONGEST:]
    letters = [letter_or_escape(letter) for letter in line]
    words, kept = "".join(letters), len(letters)
    while kept and (actual := text_width(words, size)) > width:
        kept = min(kept - 1, math.ceil(kept * width / actual))
        words = "".join([*letters[: (kept + 1) // 2], "…", *letters[len(letters) - kept // 2 :]])
    return words
