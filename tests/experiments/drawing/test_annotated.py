"""The annotated pages have all of the code and of its prose, and load nothing."""

import re
import shutil
import tomllib
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import ROOT

from experiments import publish
from experiments.drawing import annotated
from experiments.drawing.annotated import Language, segments, write_pages
from experiments.plumbing.cli import UsageError

KOREAN = ("zoo/blocks.py", "zoo/plain.py")
FOLDER, TEXTS = Path("runs/read"), Path("docs/ko/reading.toml")


class Page(HTMLParser):
    """What the tests need of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.tags, self.lines, self.open = text, [], [], []
        self.prose = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if "data-n" in attributes:
            self.lines.append([int(attributes["data-n"]), ""])
        self.prose += " " * (tag not in ("a", "code"))
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "pre" in self.open:
            if self.lines:
                self.lines[-1][1] += data
        elif not {"style", "svg"} & set(self.open):
            self.prose += data

    def all(self, key: str) -> list[str]:
        return [attributes[key] for _, attributes in self.tags if key in attributes]


def words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.replace("`", "")))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of the pages, and what the command prints; made from a copy of the files."""
    root = tmp_path_factory.mktemp("read")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for path in (*publish.reading_path(), TEXTS):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / path)
        patch.chdir(root)
        said: list[str] = []
        patch.setattr("builtins.print", said.append)
        publish.write_reading()
    return root / FOLDER, said


@pytest.fixture(scope="module")
def pages(written):
    folder = written[0]
    return {path.name: Page(path.read_text(encoding="utf-8")) for path in folder.glob("*.html")}


def sources() -> list[tuple[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        files = publish.reading_path()
    korean = [(f"{Path(file).stem}.ko.html", file) for file in KOREAN]
    return [(f"{path.stem}.html", str(path)) for path in files] + korean


def test_the_command_writes_a_page_per_file_and_says_where(written, pages):
    assert written[1][0] == f"open {FOLDER / 'index.html'}"
    assert set(pages) == {"index.html", *(name for name, _ in sources())}


@pytest.mark.parametrize(("name", "file"), sources())
def test_every_line_is_on_the_page_once_as_code_or_as_prose(pages, name, file):
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    shown = [(number, text.rstrip("\n")) for number, text in pages[name].lines]
    numbers = [number for number, _ in shown]
    assert numbers == sorted(set(numbers))
    assert all(lines[number - 1] == text for number, text in shown)
    hidden = [line.strip() for n, line in enumerate(lines, 1) if line and n not in numbers]
    assert len(hidden) < len(lines) / 2
    assert not any(text.strip().startswith("#") for _, text in shown)
    if ".ko." in name:  # the next test but one compares these with docs/ko/reading.toml
        return
    prose = words(pages[name].prose)
    for line in hidden:
        assert words(line) in prose, line


SOURCE = '''"""Idea."""

x = 1


# Why.
#
# More.


@f
def g():
    """Does."""
    # How.
    return """
# no comment
"""  # inline


y = 2
'''


def test_comments_and_docstrings_stand_beside_what_they_explain():
    pieces = segments(SOURCE)
    found = [(piece.name, piece.prose, [n for n, _ in piece.code]) for piece in pieces]
    assert found == [
        ("", [], [3]), ("", ["Why.", "More."], []), ("g", ["Does."], [11, 12]),
        ("", ["How."], [15, 16, 17]), ("", [], [20]),
    ]  # fmt: skip


def test_pages_are_whole_and_load_nothing(pages):
    for name, page in pages.items():
        assert not page.open, name
        ids, links = page.all("id"), page.all("href")
        assert len(ids) == len(set(ids)), name
        tags = [tag for tag, _ in page.tags]
        assert tags.count("main") == tags.count("h1") == 1
        assert not {"script", "img", "iframe", "object", "source"} & set(tags)
        assert not page.all("src")
        assert re.findall(r"@import|url\((?!#)", page.text) == []
        assert [a["href"] for tag, a in page.tags if tag == "link"] == ["data:,"]
        for link in links:
            local, _, anchor = link.partition("#")
            assert (
                link.startswith(("https://arxiv.org/abs/", "data:")) or not local or local in pages
            )
            assert not anchor or anchor in pages[local or name].all("id")
        levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
        assert all(b <= a + 1 for a, b in pairwise(levels)), name
        drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
        assert all(a.get("aria-label") or a.get("aria-hidden") for a in drawings)
        assert page.tags[1 if page.tags[0][0] == "!doctype" else 0][1]["lang"] == (
            "ko" if ".ko." in name else "en"
        )


def test_pages_lead_from_file_to_file_in_order_and_from_language_to_language(pages):
    names = [name for name, _ in sources() if ".ko." not in name]
    index = pages["index.html"].all("href")
    assert [link for link in index if link in names] == names
    for before, after in pairwise(names):
        assert after in pages[before].all("href")
        assert before in pages[after].all("href")
    for name in ("blocks", "plain"):
        assert f"{name}.ko.html" in pages[f"{name}.html"].all("href")
        assert f"{name}.html" in pages[f"{name}.ko.html"].all("href")
        assert f"{name}.ko.html" in index


def test_every_block_is_drawn_with_its_shapes(pages):
    drawn = {
        name: [label.split("(")[0] for label in page.all("aria-label") if "(" in label]
        for name, page in pages.items()
    }
    assert drawn["blocks.html"] == drawn["blocks.ko.html"] == ["BasicBlock"] * 2 + ["Bottleneck"]
    assert drawn["plain.html"] == ["PlainBasicBlock", "PlainBottleneck"]
    assert drawn["shortcuts.html"] == ["Identity", "Projection", "ZeroPad"]
    assert {"EncoderBlock", "Attention", "vit"} <= set(drawn["vit.html"])
    assert sum(map(len, drawn.values())) == 3 + sum(map(len, annotated.DRAWN.values())) + 2
    assert "stages.1.0 (1, 32, 16, 16)" in " ".join(pages["resnet.html"].prose.split())


def test_every_text_has_its_korean_and_no_korean_is_left_over(written, pages):
    """If not: docs/ko/reading.toml needs the text that is named, or no longer has a use for it."""
    without = [line for line in written[1] if line.startswith("docs/ko/reading.toml has no Korean")]
    assert not without
    korean = [page for name, page in pages.items() if ".ko." in name]
    shown = words(" ".join(page.prose + " ".join(page.all("aria-label")) for page in korean))
    for pair in tomllib.loads((ROOT / TEXTS).read_text(encoding="utf-8"))["pairs"]:
        assert re.search("[가-힣]", pair["ko"])
        assert words(pair["ko"]) in shown, pair["en"]


def test_a_text_without_korean_is_shown_in_english():
    korean = Language("ko", [], ["a.py"], [{"en": "One\n text.", "ko": "한 글."}])
    assert [korean.say("One text."), korean.say("Another.")] == ["한 글.", "Another."]
    assert korean.asked - korean.texts.keys() == {"Another."}


def test_code_formulas_shapes_and_links_in_prose():
    language = Language("en", ["zoo/vit.py"])
    html = language.as_html("y = x + F(x)를, `a < b` (N, L) -> (N,); arXiv 1512.03385, zoo/vit.py.")
    assert html == (
        "<code>y = x + F(x)</code>를, <code>a &lt; b</code> <code>(N, L) -&gt; (N,)</code>; "
        '<a href="https://arxiv.org/abs/1512.03385">arXiv 1512.03385</a>, '
        '<a href="vit.html"><code>zoo/vit.py</code></a>.'
    )


# --- contrast ---


def luminance(colour: str) -> float:
    colour = colour.lstrip("#")
    colour = "".join(2 * digit for digit in colour) if len(colour) == 3 else colour
    parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_at_least_four_and_a_half_in_both_schemes(pages):
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    used = {name for page in pages.values() for name in page.all("class")}
    style = re.search("(?s)<style>(.*?)</style>", pages["vit.html"].text)[1]
    light, _, dark = style.partition("@media screen and (prefers-color-scheme: dark)")
    for css in (light, dark.partition("* { box-sizing")[0]):
        named = dict(re.findall(r"--(\w+): (#\w+)", css))
        assert {"page", "text", "quiet", "link", "code"} <= named.keys()
        for text in ("text", "quiet", "link"):
            assert min(contrast(named[text], named[ground]) for ground in ("page", "code")) >= 4.5
        rules = dict(re.findall(r"\.code \.(\w+) \{[^}]*?\bcolor: (#\w+)", css))
        assert len(rules.keys() & used) >= 8
        assert min(contrast(rules[name], named["code"]) for name in rules.keys() & used) >= 4.5
        assert contrast(named["text"], named["mark"]) >= 4.5
        assert contrast(named["skip"], named["code"]) >= 3  # a line, not text


def test_without_the_optional_packages_there_are_three_lines(monkeypatch, tmp_path):
    monkeypatch.setattr(annotated, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as error:
        write_pages([], tmp_path / "read", Language("ko", []))
    assert len(str(error.value).splitlines()) == 3
    assert "jinja2, pygments" in str(error.value)
    assert "pip install jinja2 pygments" in str(error.value)
    assert not (tmp_path / "read").exists()
