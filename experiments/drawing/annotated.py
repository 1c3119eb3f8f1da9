"""Make a page of a source file, with docstrings and comments beside the code that they explain.

A page has no text of its own: prose and code come from the source file, drawings and shapes from
running its modules (module_graph.py), Korean from docs/ko/reading.toml. A page is one file, has no
scripts, and loads no other files.
"""

import ast
import importlib
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from experiments.drawing.module_graph import Step, steps_of, svg
from experiments.plumbing.cli import UsageError
from zoo.weights.atomic import write_atomic

# Pygments' styles for light and dark screens: both have enough contrast on the page (tested).
STYLES = {"light": "xcode", "dark": "lightbulb"}
# What is drawn below a class or function: the input's shape, and the calls that make the modules.
DRAWN = {
    (1, 64, 56, 56): (
        "BasicBlock(64, 64)", "BasicBlock(64, 128, 2)", "Identity()", "Projection(64, 128, 2)",
        "ZeroPad(64, 128, 2)", "PlainBasicBlock(BasicBlock(64, 64))"),
    (1, 256, 56, 56): ("Bottleneck(256, 64)", "PlainBottleneck(Bottleneck(256, 64))"),
    (1, 3, 32, 32): ("CifarStem(16)", "resnet('resnet8')", "vit('vit2')"),
    (1, 3, 224, 224): ("ImageNetStem(64)", "resnet('resnet18')"),
    (1, 65, 64): ("Attention(64, 4)", "MLP(64, 256)", *(f"{name}(64, 4, 256, 1e-6)" for name in (
        "EncoderBlock", "PlainEncoderBlock", "AttentionSkipOnly", "MlpSkipOnly", "AttentionBlock",
        "PlainAttentionBlock"))),
}  # fmt: skip

# What as_html() marks. In HTML, > is &gt;.
TERM = r"(?:\d+ )?[\w()\[\]^/']+"
MARKS = re.compile(
    r"`(?P<code>[^`]+)`|arXiv (?P<arxiv>\d{4}\.\d{5})|\b[a-z_/]+\.py\b"
    r"|(?:\w+\(\w+\) -&gt; )?\((?:[1CDLN]|images),[^()]*\)(?: -&gt; \([^()]*\))*"  # shapes
    rf"|{TERM}(?: [+*/-] {TERM})* = {TERM}(?: [+*/-] {TERM})*",  # a formula
    re.ASCII,  # Korean particles follow without a space
)
# The entries of a dimension key, "N batch, H W height and width": symbols, and what they mean.
SYMBOLS = re.compile(
    r"(?:^|[,;] )(\w = \S+|[A-Z]'?(?: [A-Z](?= ))*|\w) (.+?)(?=[,;] [A-Za-z]'? |$)"
)


class Language:
    """A page's language: translates English texts, and keeps those without a translation.

    `all_files` have a page, `files` have one in this language, and `pairs` are the translations:
    [{"en": ..., "ko": ...}, ...].
    """

    def __init__(
        self, code: str, all_files: Sequence[str], files: Sequence = (), pairs: Sequence = ()
    ) -> None:
        self.code, self.files = code, files
        self.pages = {f: f"{Path(f).stem}{f'.{code}' * (f in files)}.html" for f in all_files}
        self.texts = {" ".join(p["en"].split()): " ".join(p[code].split()) for p in pairs}
        self.asked: set[str] = set()  # the English texts of the pages

    def say(self, english: str) -> str:
        english = " ".join(english.split())
        self.asked.add(english)
        return self.texts.get(english, english)

    def as_html(self, text: str) -> str:
        """Show code, formulas and shapes in monospace; link papers, and files that have a page."""

        def mark(found: re.Match) -> str:
            if found["arxiv"]:
                return f'<a href="https://arxiv.org/abs/{found["arxiv"]}">{found[0]}</a>'
            code, page = f"<code>{found['code'] or found[0]}</code>", self.pages.get(found[0])
            return f'<a href="{page}">{code}</a>' if page else code

        return MARKS.sub(mark, escape(text, quote=False))


class Segment(NamedTuple):
    """Code, and the prose beside it."""

    name: str  # of the class or function that begins here, "Class.method" for a method; or ""
    prose: list[str]  # paragraphs
    code: list[tuple[int, str]]  # line numbers in the file, and lines as HTML


def segments(source: str) -> list[Segment]:
    """Split a file: a segment begins at each class, function and comment, and after a function.

    A docstring, or a comment on lines of its own, is a segment's prose; other lines are its code.
    """
    lines, coloured = source.splitlines(), colour(source)
    names, prose = defaultdict[int, str](str), defaultdict[int, str](str)  # by first line
    cuts, hidden, last = {1, len(lines) + 1}, set[int](), 0
    for name, node in definitions(ast.parse(source)):
        text = ast.get_docstring(node) or ""
        if text:
            hidden |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
        if name:
            first = min(n.lineno for n in (node, *node.decorator_list))
            names[first], prose[first] = name, text
            cuts |= {first, node.end_lineno + 1}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.line.strip().startswith("#"):
            number = token.start[0]
            first, last = first if number == last + 1 else number, number
            prose[first] += token.string.strip("# -") + "\n"
            cuts.add(first)
            hidden.add(number)
    pieces = []
    for start, end in pairwise(sorted(cuts)):
        shown = [n for n in range(start, end) if n not in hidden]
        full = [n for n in shown if lines[n - 1].strip()]
        code = [(n, coloured[n - 1]) for n in shown if full and full[0] <= n <= full[-1]]
        paragraphs = [text for text in prose[start].strip().split("\n\n") if text]
        if code or paragraphs:
            pieces.append(Segment(names[start], paragraphs, code))
    return pieces


def definitions(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The module itself, and all classes, functions and methods in it, by qualified name."""
    yield name, node
    for inner in node.body:
        if isinstance(inner, ast.ClassDef | ast.FunctionDef):
            yield from definitions(inner, f"{name}.{inner.name}".strip("."))


def colour(source: str) -> list[str]:
    """The lines of a file as HTML, with Pygments' classes."""
    from pygments import formatters, highlight, lexers

    nowrap = formatters.HtmlFormatter(nowrap=True)
    text = highlight(source, lexers.PythonLexer(stripnl=False), nowrap)
    return text.rstrip("\n").split("\n")


def introduction(docstring: str, language: Language) -> list[str | list]:
    """The paragraphs of a file's docstring; a line such as "Paper: ..." also begins one.

    A dimension key becomes a list: its title, and pairs (symbol, meaning).
    """
    parts: list[str | list] = []
    for paragraph in re.split(r"\n\n|\n(?=[A-Z][a-z, ]+: )", docstring):
        text, is_key = language.say(paragraph), paragraph.startswith("Dimension key: ")
        title, _, key = text.removesuffix(".").partition(": ")
        parts.append([title, *SYMBOLS.findall(key)] if is_key else text)
    return parts


def drawings(file: str) -> dict[str, list[tuple[str, str, list[Step]]]]:
    """For each class or function of a file: the calls that were run, their SVGs and their steps."""
    found = defaultdict(list)
    module = vars(importlib.import_module(file.removesuffix(".py").replace("/", ".")))
    for shape, call in [(shape, call) for shape, calls in DRAWN.items() for call in calls]:
        name = call.partition("(")[0]
        if getattr(module.get(name), "__module__", "") == module["__name__"]:
            steps = steps_of(eval(call, dict(module)), shape)  # runs what the page shows
            found[name].append((call, svg(steps, call), steps))
    return found


def write_pages(files: Sequence[str], folder: Path, other: Language) -> Path:
    """Write a page for each file, for some also one in `other`, and index.html; return its path.

    Raises UsageError if jinja2, which fills in the template, or pygments is missing.
    """
    if missing := [name for name in ("jinja2", "pygments") if find_spec(name) is None]:
        why = f"the pages need packages that are not installed: {', '.join(missing)}"
        raise UsageError(why, f"they would be in {folder}", f"pip install {' '.join(missing)}")
    from jinja2 import Environment, StrictUndefined
    from pygments.formatters import HtmlFormatter

    styles = {key: HtmlFormatter(style=s).get_style_defs(".code") for key, s in STYLES.items()}
    environment = Environment(trim_blocks=True, autoescape=True, undefined=StrictUndefined)
    text = Path(__file__).with_name("annotated.html.j2").read_text(encoding="utf-8")
    template = environment.from_string(text, styles)
    folder.mkdir(parents=True, exist_ok=True)
    english, contents = Language("en", files), []
    for place, file in enumerate(files):
        source = Path(file).read_text(encoding="utf-8")
        docstring = ast.get_docstring(ast.parse(source)) or ""
        languages = [english, other] if file in other.files else [english]
        contents.append((file, docstring.partition("\n")[0], source.count("\n"), languages))
        content = {
            "file": file, "segments": segments(source), "drawings": drawings(file),
            "languages": languages, "before": files[:place][-1:], "after": files[place + 1 :][:1],
        }  # fmt: skip
        for each in languages:
            parts = introduction(docstring, each)
            page = template.render(content, language=each, introduction=parts)
            write_atomic(folder / each.pages[file], page.encode())
    page = template.render(file="", contents=contents, language=english, languages=[])
    write_atomic(folder / "index.html", page.encode())
    return folder / "index.html"
