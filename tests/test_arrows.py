"""Allowed imports: commands -> packages -> drawing, proof -> plumbing -> zoo, data."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

ALLOWED = {
    "zoo": {"torch", "torchvision", "safetensors", "huggingface_hub"},
    "data": {"torch", "torchvision", "numpy", "PIL", "tqdm", "filelock", "imagehash"},
    "experiments": {
        "torch", "torchvision", "numpy", "PIL", "tqdm", "rich", "matplotlib", "tyro", "scipy",
        "sklearn", "threadpoolctl", "safetensors", "filelock", "onnxruntime", "jinja2",
        "pygments", "zoo", "data",
    },
}  # fmt: skip
FILES = [path for room in ALLOWED for path in sorted((ROOT / room).rglob("*.py"))]
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))

PACKAGES = (
    "ablation",
    "transfer",
    "anatomy",
    "bench",
    "train",
)  # each has a __main__, so it is a command
LIBRARIES = ("proof", "drawing", "plumbing")
LONGEST_CHAIN = 10


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def imported(source: str) -> set[str]:
    """Everything that a file imports, anywhere in it: modules, and names in them."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "there is a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages_in(source: str) -> set[str]:
    return {name.split(".")[0] for name in imported(source)} - sys.stdlib_module_names


@cache
def arrows(module: str) -> frozenset[str]:
    """The modules of the project that a module imports."""
    names = imported(MODULES[module].read_text(encoding="utf-8"))
    found = {name if name in MODULES else name.rpartition(".")[0] for name in names}
    return frozenset(found & MODULES.keys()) - {module}


def room_of(module: str) -> str:
    """A sub-folder of experiments, "command" for a file at its top, "zoo" or "data"."""
    parts = module.split(".")
    if parts[0] != "experiments":
        return parts[0]
    return parts[1] if len(parts) > 1 and parts[1] in (*PACKAGES, *LIBRARIES) else "command"


def may_import(importer: str, target: str) -> bool:
    """Within experiments. Every module may import the training loop and the notebooks' API."""
    below = dict.fromkeys(PACKAGES, LIBRARIES) | {
        "command": (*PACKAGES, *LIBRARIES),
        "bench": ("ablation", "anatomy", "transfer", *LIBRARIES),
        "anatomy": ("ablation", *LIBRARIES),  # it studies the networks of an ablation
        "drawing": ("plumbing",),
        "proof": ("plumbing",),
        "plumbing": (),
    }
    one, other = room_of(importer), room_of(target)
    api = ("experiments.train.loop", "experiments.classifier")
    if importer in api:
        shown = "experiments.drawing.sheet"  # how a notebook shows predictions
        return other == "plumbing" or target in ("experiments.train.loop", shown)
    return one == other != "command" or other in below[one] or target in api


@each_file
def test_a_file_imports_only_the_libraries_allowed_in_its_folder(path):
    room = path.relative_to(ROOT).parts[0]
    assert packages_in(path.read_text(encoding="utf-8")) <= ALLOWED[room] | {room}


@each_file
def test_imports_follow_the_arrows(path):
    module = name_of(path)
    for target in arrows(module):
        if room_of(target) in ("zoo", "data"):
            assert room_of(module) not in ("zoo", "data") or room_of(module) == room_of(target)
        elif target != "experiments":
            assert may_import(module, target), f"{module} imports {target}"


known: dict[str, tuple[str, ...]] = {}


def longest(start: str, above: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The longest chain of modules of one folder, each importing the next; no cycles."""
    assert start not in above, f"a cycle: {' -> '.join((*above, start))}"
    if start not in known:
        room = start.split(".")[0]
        below = [target for target in arrows(start) if target.split(".")[0] == room]
        chains = [longest(target, (*above, start)) for target in below]
        known[start] = (start, *max(chains, key=len, default=()))
    return known[start]


def test_there_are_no_cycles_and_no_long_chains():
    """Imports inside functions count, too."""
    for module in MODULES:
        chain = longest(module)
        if module.startswith("experiments"):
            assert len(chain) <= LONGEST_CHAIN, " -> ".join(chain)


def test_a_file_at_the_top_of_experiments_is_a_command_and_those_below_are_not():
    for path in (ROOT / "experiments").glob("*.py"):
        if path.stem not in ("__init__", "__main__", "classifier", "attention"):  # an old name
            assert "    cli.run(main, Options, " in path.read_text(encoding="utf-8"), path
    for path in (ROOT / "experiments").glob("*/*.py"):
        is_command = "cli.run(" in path.read_text(encoding="utf-8")
        assert is_command == (path.stem == "__main__"), path


def test_readers_of_the_networks_need_nothing_but_torch():
    for path in sorted((ROOT / "zoo").glob("*.py")):
        assert packages_in(path.read_text(encoding="utf-8")) <= {"torch", "zoo"}


@pytest.mark.parametrize(
    ("importer", "target"),
    [("experiments.predict", "experiments.evaluate"),
     ("experiments.transfer.job", "experiments.ablation.runs"),
     ("experiments.drawing.style", "experiments.ablation.runs"),
     ("experiments.plumbing.cli", "experiments.drawing.style"),
     ("experiments.plumbing.cli", "experiments.verify"),
     ("experiments.train.loop", "experiments.classifier")],
)  # fmt: skip
def test_an_arrow_the_wrong_way_would_be_seen(importer, target):
    assert not may_import(importer, target)
    assert packages_in("def f():\n    from data.batches import TensorBatches\n") - ALLOWED["zoo"]


def test_a_cycle_would_be_seen(monkeypatch):
    circle = {"zoo.blocks": frozenset({"zoo.plain"}), "zoo.plain": frozenset({"zoo.blocks"})}
    monkeypatch.setattr(sys.modules[__name__], "arrows", circle.__getitem__)
    monkeypatch.setattr(sys.modules[__name__], "known", {})
    with pytest.raises(AssertionError, match=r"a cycle: zoo.blocks -> zoo.plain -> zoo.blocks"):
        longest("zoo.blocks")


@each_file
def test_files_are_short_and_text_is_read_as_utf8(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 330
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name
        method = getattr(node.func, "attr", "") if isinstance(node, ast.Call) else ""
        if method in ("read_text", "write_text"):
            assert any(keyword.arg == "encoding" for keyword in node.keywords), path


def test_every_command_is_listed(command):
    done = command("experiments")
    listed = {line.split()[0] for line in done.stdout.splitlines()[2:]}
    assert listed == {
        "ablation", "anatomy", "bench", "bugs", "check_data", "convert", "diagnose", "doctor",
        "eject", "evaluate", "lesion", "predict", "publish", "report", "saliency", "shapes",
        "stages", "train", "transfer", "verify",
    }  # fmt: skip
