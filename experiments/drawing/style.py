"""The style of all figures, how they are saved, and how text of any script and length fits in.

Figures are built without pyplot, so a notebook keeps its own backend and no figure stays open.
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

# Okabe and Ito's colours, which colour-blind people can distinguish, too; without the yellow.
COLOURS = ("#E69F00", "#0072B2", "#000000", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
STYLE: dict[Any, Any] = {"font.size": 12, "axes.grid": True, "grid.alpha": 0.3,
         "axes.spines.top": False, "axes.spines.right": False}  # fmt: skip
# The first comes with matplotlib; each other family supplies letters that those before it lack.
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
def png(
    path: Path | io.BytesIO, width: float, height: float, mathtext: bool = False
) -> Iterator[Figure]:
    """Yield an empty figure, `width` x `height` inches; afterwards write it as a PNG to `path`.

    The file is written atomically; its folder is created if necessary. The user's matplotlib
    settings have no effect. $ _ \\ are ordinary letters, unless `mathtext`, for axes with 10^-2.
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
    if isinstance(path, io.BytesIO):
        path.write(buffer.getvalue())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


@cache
def installed_families() -> list[str]:
    """Those of FAMILIES that are installed, even if later than matplotlib cached its own list."""
    known = {font.fname for font in fontManager.ttflist}
    for path in set(font_manager.findSystemFonts()) - known:
        with suppress(RuntimeError, OSError, ValueError):  # a damaged font file
            fontManager.addfont(path)
    names = set(fontManager.get_font_names())
    return [family for family in FAMILIES if family in names]


@cache
def drawable() -> set[int]:
    """The code points of all letters in the installed families."""
    files = map(font_manager.findfont, installed_families())
    return {letter for file in files for letter in font_manager.get_font(file).get_charmap()}


@cache
def warn_of_missing_fonts() -> None:
    """Warn once per process: the result is cached."""
    log.warning(
        "letters that no font on this machine has are drawn as escapes such as \\ud55c; to see "
        "them, install a font that has them, such as Noto Sans CJK for Chinese, Japanese and "
        "Korean (fonts.google.com/noto)"
    )


def letter_or_escape(letter: str) -> str:
    """The letter, or an escape such as \\ud55c if no font has it."""
    if letter.isprintable() and ord(letter) in drawable():
        return letter
    if letter.isprintable():
        warn_of_missing_fonts()
    return ascii(letter)[1:-1]


def text_width(text: str, size: float) -> float:
    """Width in points, in the fonts of the surrounding png()."""
    font = FontProperties(size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def fit(text: str, width: float, size: float) -> str:
    """Shorten text to one line of at most `width` points at font size `size`.

    A longer text loses its middle, since names often differ at their ends. A letter that no font
    has becomes an escape such as \\ud55c, which can be looked up, unlike an empty box.
    """
    # Each accented letter becomes one character, as in most fonts.
    line = " ".join(unicodedata.normalize("NFC", text.translate(UNDRAWN)).split())
    line = line if len(line) <= 2 * LONGEST else line[:LONGEST] + line[-LONGEST:]
    letters = [letter_or_escape(letter) for letter in line]
    words, kept = "".join(letters), len(letters)
    while kept and (actual := text_width(words, size)) > width:
        kept = min(kept - 1, math.ceil(kept * width / actual))
        words = "".join([*letters[: (kept + 1) // 2], "…", *letters[len(letters) - kept // 2 :]])
    return words
