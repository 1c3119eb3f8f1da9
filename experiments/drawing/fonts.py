"""Names in any script: which fonts have their letters, how wide they are, how to shorten them.

matplotlib's own font has Latin, Greek, Cyrillic, Arabic and many signs. Where a name has other
letters, the fonts of this machine are searched; a letter that none of them has is drawn as its
escape, such as \\uD55C, which can be read and looked up, unlike an empty box.
"""

import logging
import unicodedata
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import matplotlib.style
from matplotlib import font_manager
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.textpath import text_to_path

from experiments.drawing.style import STYLE

BASE = "DejaVu Sans"  # comes with matplotlib
LONGEST = 400  # letters and escapes; no picture has room for more
JOINERS = dict.fromkeys((0x200C, 0x200D, 0xFE0E, 0xFE0F))  # they draw nothing themselves
log = logging.getLogger("zoo")
warned: set[str] = set()


class Typeface:
    """The fonts for some texts: text that is drawn inside `style()` was made by `fit` here."""

    def __init__(self, texts: Iterable[str]) -> None:
        letters = set().union(*map(clean, texts)) - {" "}
        unprintable = {letter for letter in letters if not letter.isprintable()}
        letters -= unprintable
        missing = letters - drawn_by(path_of(BASE), letters)
        self.families = [BASE]
        if missing:
            more, missing = find_fonts(missing)
            self.families += more
            warn_once(missing)
        self.escaped = unprintable | missing

    def style(self) -> AbstractContextManager[None]:
        """matplotlib's settings: the same on every machine, and $ _ \\ are letters like others."""
        ours: dict[Any, Any] = {
            "font.family": self.families, "text.parse_math": False, "text.usetex": False
        }  # fmt: skip
        return matplotlib.style.context(["default", {**STYLE, **ours}])

    def width(self, text: str, size: float) -> float:
        """Of text that came from `fit`, in points."""
        font = FontProperties(family=self.families, size=size)
        return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])

    def fit(self, text: str, width: float, size: float) -> str:
        """In one line, with escapes, and without its middle where it is wider (all in points)."""
        letters = [escape(c) if c in self.escaped else c for c in clean(text)]
        if len(letters) <= LONGEST and self.width("".join(letters), size) <= width:
            return "".join(letters)
        low, high = 0, min(len(letters), LONGEST)  # low letters fit, high do not
        while high - low > 1:
            middle = (low + high) // 2
            if self.width(shorten(letters, middle), size) <= width:
                low = middle
            else:
                high = middle
        return shorten(letters, low)


def shorten(letters: list[str], count: int) -> str:
    """`count` of the letters, from both ends."""
    return "".join([*letters[: (count + 1) // 2], "…", *letters[len(letters) - count // 2 :]])


def clean(text: str) -> str:
    """One line; letters and their accents as one character, as most fonts have them."""
    return " ".join(unicodedata.normalize("NFC", text.translate(JOINERS)).split())


def escape(letter: str) -> str:
    code = ord(letter)
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


def find_fonts(letters: set[str]) -> tuple[list[str], set[str]]:
    """Families that together draw as many of the letters as possible, and the letters left over."""
    known = {font.fname for font in fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:  # matplotlib's list is as old as its first start on this machine
            try:
                fontManager.addfont(path)
            except (RuntimeError, OSError, ValueError):  # not every file there is a whole font
                continue
    found: dict[str, int] = {}
    for font in fontManager.ttflist:
        if (font.style, font.stretch) == ("normal", "normal") and "Last Resort" not in font.name:
            found[font.name] = max(found.get(font.name, 0), len(drawn_by(font.fname, letters)))
    missing, families = set(letters), []
    # Noto is made to be mixed; without it, few fonts that draw much look better than many.
    for name in sorted(found, key=lambda n: ("Noto" not in n, "Sans" not in n, -found[n], n)):
        drawn = drawn_by(path_of(name), missing) if found[name] and missing else set()
        if drawn:
            families.append(name)
            missing -= drawn
    return families, missing


def path_of(family: str) -> str:
    """The file that matplotlib takes for upright text of normal weight."""
    return str(font_manager.findfont(FontProperties(family=[family])))


def drawn_by(path: str, letters: set[str]) -> set[str]:
    """Those of the letters that the font has, with ink: coloured emoji are empty here."""
    try:
        font = FT2Font(path)
        font.set_size(12, 72)
        present = {letter for letter in letters if font.get_char_index(ord(letter))}
        return {letter for letter in present if font.load_char(ord(letter)).width > 0}
    except (RuntimeError, OSError):  # made of bitmaps only, or damaged
        return set()


def warn_once(missing: set[str]) -> None:
    if not missing or warned:
        return
    warned.update(missing)
    first = min(missing)
    log.warning(
        "no font on this machine has %s (%s)%s: drawn as escapes; to see them, install a font that "
        "has them, such as Noto Sans CJK for Chinese, Japanese and Korean (fonts.google.com/noto)",
        f"U+{ord(first):04X}", unicodedata.name(first, "no name"),
        f" and {len(missing) - 1} more" if len(missing) > 1 else "",
    )  # fmt: skip
