"""A page for a source file: its docstrings and comments stand beside the code that they explain.

Nothing is written for a page alone: prose and code come from the file, drawings and shapes from
running its modules (module_graph.py), other languages from docs/ko/reading.toml. A page is one
file without scripts, and loads nothing.
"""

import ast
import importlib
import io
import re
import tokenize
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiments.drawing.module_graph import Step, steps_of, svg
from experiments.plumbing.cli import UsageError
from zoo.weights.atomic import write_atomic

PACKAGES = ("jinja2", "pygments")  # one fills in the template, the other colours code
# Pygments' styles for light and dark screens: both have enough contrast on the page (tested).
STYLES = {"light": "xcode", "dark": "lightbulb"}

SKIP_SIZES = "(64, heads=4, hidden=256, eps=1e-6)"  # of an encoder block
# What is drawn below a class or function: a call of it, and the shape of the input.
DRAWN: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("BasicBlock(64, 64)", "BasicBlock(64, 128, stride=2)", "Identity()",
                     "Projection(64, 128, stride=2)", "ZeroPad(64, 128, stride=2)",
                     "PlainBasicBlock(BasicBlock(64, 64))"), (1, 64, 56, 56)),
    **dict.fromkeys(("Bottleneck(256, 64)", "PlainBottleneck(Bottleneck(256, 64))"), (1, 256, 56, 56)),
    **dict.fromkeys(("CifarStem(16)", "resnet('resnet8')", "vit('vit2')"), (1, 3, 32, 32)),
    **dict.fromkeys(("ImageNetStem(64)", "resnet('resnet18')"), (1, 3, 224, 224)),
    **dict.fromkeys(("Attention(64, heads=4)", "MLP(64, hidden=256)"), (1, 65, 64)),
    **dict.fromkeys((f"{name}{SKIP_SIZES}" for name in (
        "EncoderBlock", "PlainEncoderBlock", "AttentionSkipOnly", "MlpSkipOnly", "AttentionBlock",
        "PlainAttentionBlock")), (1, 65, 64)),
}  # fmt: skip


class Texts:
    """A language: what a page says for an English text, which is itself said if there is nothing.

    `files` have pages in this language.
    """

    def __init__(self, code: str, files: Sequence[str], pairs: Sequence[dict[str, str]]) -> None:
        self.code, self.files = code, files
        self.texts = {" ".join(p["en"].split()): " ".join(p[code].split()) for p in pairs}
        self.asked: set[str] = set()

    def __call__(self, english: str) -> str:
        english = " ".join(english.split())
        self.asked.add(english)
        return self.texts.get(english, english)


def read_texts(path: Path) -> Texts:
    """The language of docs/ko/reading.toml; the folder's name is the language's code."""
    return Texts(path.parent.name, **tomllib.loads(path.read_text(encoding="utf-8")))


class Segment(NamedTuple):
    """Code, and the prose beside it."""

    name: str  # of the class or function that begins here, "Class.method" for a method; or ""
    prose: list[str]  # paragraphs
    code: list[tuple[int, str]]  # line numbers in the file, and lines as HTML


def segments(source: str) -> list[Segment]:
    """A file in pieces: one begins with each class, function and comment, and after a function.

    A docstring, or a comment on lines of its own, is a piece's prose. Its code has the other lines.
    """
    lines, coloured = source.splitlines(), colour(source)
    names, prose = defaultdict[int, str](str), defaultdict[int, str](str)  # by a piece's first line
    cuts, hidden = {1, len(lines) + 1}, set[int]()
    tree = ast.parse(source)
    for name, node in [("", tree), *definitions(tree)]:
        first = min((n.lineno for n in (node, *node.decorator_list)), default=0) if name else 0
        if name:
            cuts |= {first, node.end_lineno + 1}
        names[first], prose[first] = name, ast.get_docstring(node) or ""
        if prose[first]:
            hidden |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    previous = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.line.strip().startswith("#"):
            number = token.start[0]
            first = first if number == previous + 1 else number
            prose[first] += token.string.strip("# -") + "\n"
            cuts.add(first)
            hidden.add(previous := number)
    pieces = []
    for start, end in pairwise(sorted(cuts)):
        shown = [n for n in range(start, end) if n not in hidden]
        full = [n for n in shown if lines[n - 1].strip()]
        code = [(n, coloured[n - 1]) for n in shown if full and full[0] <= n <= full[-1]]
        paragraphs = [text for text in prose[start].split("\n\n") if text]
        if code or paragraphs:
            pieces.append(Segment(names[start], paragraphs, code))
    return pieces


def definitions(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Classes, functions and methods, by qualified name."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from definitions(node, f"{prefix}{node.name}.")


def colour(source: str) -> list[str]:
    """The lines of a file as HTML, with Pygments' classes."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    text = highlight(source, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True))
    return text.rstrip("\n").split("\n")


TERM = r"(?:\d+ )?[\w()\[\]^/']+"
MARKS = re.compile(
    r"`(?P<code>[^`]+)`|arXiv (?P<arxiv>\d{4}\.\d{5})|\b[a-z_/]+\.py\b"
    r"|\((?:[1CDLN]|images),[^()]*\)(?: -> \([^()]*\))*"  # a shape, or a change of it
    rf"|{TERM}(?: [+*/-] {TERM})* = {TERM}(?: [+*/-] {TERM})*"  # a formula
)


def as_html(text: str, pages: dict[str, str]) -> str:
    """A paragraph: code, formulas and shapes in monospace; papers and files of `pages` as links."""

    def mark(found: re.Match) -> str:
        if found["arxiv"]:
            return f'<a href="https://arxiv.org/abs/{found["arxiv"]}">{found[0]}</a>'
        code = f"<code>{found['code'] or found[0]}</code>"
        return f'<a href="{pages[found[0]]}">{code}</a>' if found[0] in pages else code

    return MARKS.sub(mark, escape(text, quote=False))


def introduction(docstring: str, say: Texts) -> list[str | list]:
    """The paragraphs of a file's docstring; a line such as "Paper: ..." begins one.

    Of its dimension key, a list: what it is called, and pairs (symbol, meaning).
    """
    parts: list[str | list] = []
    for paragraph in re.split(r"\n\n|\n(?=[A-Z][a-z, ]+: )", docstring):
        text = say(paragraph)
        if paragraph.startswith("Dimension key: "):
            title, _, key = text.removesuffix(".").partition(": ")
            entry = re.compile(r"(\w = \S+|[A-Z]'?(?: [A-Z](?= ))*|\w) (.+)")
            pairs = [entry.findall(words)[0] for words in re.split(r"[,;] (?=[A-Za-z]'? )", key)]
            parts.append([title, *pairs])
        else:
            parts.append(text)
    return parts


def drawings(path: Path) -> dict[str, list[tuple[str, str, list[Step]]]]:
    """For each class or function of a file: the calls that were run, their SVGs and their steps."""
    found = defaultdict(list)
    module = vars(importlib.import_module(".".join(path.with_suffix("").parts)))
    for call, shape in DRAWN.items():
        name = call.partition("(")[0]
        if getattr(module.get(name), "__module__", "") == module["__name__"]:
            with torch.device("meta"):
                steps = steps_of(eval(call, dict(module)), shape)
            found[name].append((call, svg(steps, call), steps))
    return found


def write_pages(paths: Sequence[Path], folder: Path, other: Texts) -> Path:
    """A page for each file, some in another language, too; and index.html, which is returned.

    Raises UsageError if one of PACKAGES is missing.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        why = f"the pages need packages that are not installed: {', '.join(missing)}"
        raise UsageError(why, f"they would be in {folder}", f"pip install {' '.join(missing)}")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from pygments.formatters import HtmlFormatter

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, undefined=StrictUndefined
    )
    styles = {
        key: HtmlFormatter(style=name).get_style_defs(".code") for key, name in STYLES.items()
    }
    template = environment.get_template("annotated.html.j2", globals=styles | {"as_html": as_html})
    folder.mkdir(parents=True, exist_ok=True)
    english = Texts("en", [str(path) for path in paths], ())
    in_english = {str(path): f"{path.stem}.html" for path in paths}
    in_other = {file: f"{Path(file).stem}.{other.code}.html" for file in other.files}
    pages = {"en": in_english, other.code: in_english | in_other}
    contents = []
    for place, path in enumerate(paths):
        source = path.read_text(encoding="utf-8")
        lead, _, rest = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")
        content = {
            "path": str(path), "segments": segments(source), "drawings": drawings(path),
            "languages": [say for say in (english, other) if str(path) in say.files], 
            "before": paths[:place][-1:], "after": paths[place + 1:][:1], "pages": pages,
        }  # fmt: skip
        contents.append((str(path), lead, source.count("\n"), content["languages"]))
        for say in content["languages"]:
            intro = introduction(rest, say)
            page = template.render(content, say=say, lead=say(lead), introduction=intro)
            write_atomic(folder / pages[say.code][str(path)], page.encode())
    page = template.render(path="", contents=contents, say=english, pages=pages, languages=[])
    write_atomic(folder / "index.html", page.encode())
    return folder / "index.html"
