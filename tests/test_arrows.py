"""experiments -> zoo, experiments -> data; zoo and data do not know each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "zoo": {"torch", "torchvision", "safetensors", "tqdm", "huggingface_hub"},
    "data": {"torch", "torchvision", "numpy", "PIL", "tqdm", "filelock"},
    "experiments": {
        "torch", "torchvision", "numpy", "PIL", "tqdm", "rich", "matplotlib", "tyro",
        "safetensors", "filelock", "zoo", "data",
    },
}  # fmt: skip
FILES = [(room, path) for room in ALLOWED for path in sorted((ROOT / room).rglob("*.py"))]
STANDARD = __import__("sys").stdlib_module_names


def imported(source: str) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "no relative imports"
            names.add(node.module.split(".")[0])
    return names - STANDARD


@pytest.mark.parametrize(("room", "path"), FILES, ids=lambda v: getattr(v, "name", v))
def test_imports_follow_the_arrows(room, path):
    assert imported(path.read_text(encoding="utf-8")) <= ALLOWED[room] | {room}


def test_readers_of_the_networks_need_nothing_but_torch():
    for path in sorted((ROOT / "zoo").glob("*.py")):
        assert imported(path.read_text(encoding="utf-8")) <= {"torch", "zoo"}


def test_an_arrow_the_wrong_way_would_be_seen():
    assert imported("def f():\n    from data.batches import Batches\n") - ALLOWED["zoo"] == {"data"}


@pytest.mark.parametrize(("room", "path"), FILES, ids=lambda v: getattr(v, "name", v))
def test_files_are_short_and_text_is_read_as_utf8(room, path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 330
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in (
            "read_text",
            "write_text",
        ):
            assert any(keyword.arg == "encoding" for keyword in node.keywords), path
