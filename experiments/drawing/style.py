"""How every figure looks, how it becomes a file, and how names of any script and length fit in.

Figures are built without pyplot, so a notebook keeps its own backend and nothing stays open.
"""

import io
import logging
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, FontProperties, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.textpath import text_to_path

from zoo.weights.atomic import write_atomic

# Okabe and Ito's colours, told apart by colour-blind people too.
COLOURS = ("#E69F00", "#0072B2", "#000000", "#009E73", "#CC79A7")
STYLE: dict[Any, Any] = {"font.size": 12, "axes.grid": True, "grid.alpha": 0.3, "savefig.dpi": 110,
         "axes.spines.top": False, "axes.spines.right": False}  # fmt: skip
BASE = "DejaVu Sans"  # comes with matplotlib
LONGEST = 400  # letters; no figure has room for more
UNDRAWN = dict.fromkeys((0x200C, 0x200D, 0xFE0E, 0xFE0F))  # joiners and variation selectors
NO_FONT: set[str] = set()  # letters that no font of this machine has, as far as seen
log = logging.getLogger("zoo")


@contextmanager
def png(path: Path, width: float, height: float, texts: Iterable[str] = ()) -> Iterator[Figure]:
    """An empty figure of so many inches; it becomes the PNG `path` when the block ends.

    `texts`: the names that it will show, whose letters decide which fonts are needed. The file is
    whole or not there; its folder is made if need be. The user's matplotlib settings have no
    effect, and $ _ \\ are letters like others.
    """
    settings: dict[Any, Any] = {
        "font.family": find_families(texts), "text.parse_math": False, "text.hinting": "none",
        "figure.constrained_layout.w_pad": 0.1, "figure.constrained_layout.h_pad": 0.1,
    }  # fmt: skip
    with matplotlib.style.context(["default", {**STYLE, **settings}]):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def find_families(texts: Iterable[str]) -> list[str]:
    """matplotlib's own font, then installed ones with letters that those before do not have."""
    letters = {letter for text in texts for letter in one_line(text) if letter.isprintable()}
    families, missing = [BASE], letters - drawn_by(font_manager.findfont(BASE), letters)
    for font in installed_fonts() if missing else ():
        drawn = drawn_by(font.fname, missing)
        families += [font.name] if drawn else []
        missing -= drawn
    if missing and not NO_FONT:  # said once
        log.warning(
            "letters that no font on this machine has are drawn as escapes such as %s; to see "
            "them, install a font that has them, such as Noto Sans CJK for Chinese, Japanese and "
            "Korean (fonts.google.com/noto)", ascii(min(missing))[1:-1],
        )  # fmt: skip
    NO_FONT.update(missing)
    return families


def installed_fonts() -> list[FontEntry]:
    """Upright ones, regular weights first, then Noto Sans, which is made to be mixed with others.

    matplotlib's own list is as old as its first start on this machine, so new files are added.
    """
    known = {font.fname for font in fontManager.ttflist}
    for path in set(font_manager.findSystemFonts()) - known:
        with suppress(RuntimeError, OSError, ValueError):  # not every file is a whole font
            fontManager.addfont(path)
    # Colour emoji are empty in matplotlib; Last Resort draws only which script a letter is of.
    fonts = [
        font for font in fontManager.ttflist
        if font.style == "normal" and not re.search("Color|Last ?Resort", font.name)
    ]  # fmt: skip
    return sorted(fonts, key=lambda f: (f.weight != 400, "Noto Sans" not in f.name, f.name))


def drawn_by(path: str, letters: set[str]) -> set[str]:
    """Those of the letters that the font in this file has."""
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):  # removed since matplotlib made its list
        return set()
    return {letter for letter in letters if font.get_char_index(ord(letter))}


def one_line(text: str) -> str:
    """Without line breaks; a letter and its accent as one character, as most fonts have them."""
    return " ".join(unicodedata.normalize("NFC", text.translate(UNDRAWN)).split())


def text_width(text: str, size: float) -> float:
    """In points, in the fonts of the surrounding `png`."""
    font = FontProperties(size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def fit(text: str, width: float, size: float) -> str:
    """One line of at most `width` points at the font's `size`, of a text that `png` was given.

    A longer text loses its middle: names often differ at their ends. A letter that no font has
    becomes its escape, such as \\ud55c, which can be looked up, unlike an empty box.
    """
    line = one_line(text)
    line = line if len(line) <= 2 * LONGEST else line[:LONGEST] + line[-LONGEST:]
    letters = [ascii(c)[1:-1] if c in NO_FONT or not c.isprintable() else c for c in line]
    words, kept = "".join(letters), len(letters)
    while kept and (actual := text_width(words, size)) > width:
        kept = min(kept - 1, math.ceil(kept * width / actual))
        words = "".join([*letters[: (kept + 1) // 2], "…", *letters[len(letters) - kept // 2 :]])
    return words
