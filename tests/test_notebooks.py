"""The notebooks run on tiny data; each .ipynb is its source, with small outputs of a real run."""

import ast
import base64
import re
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import zoo
from data.cifar import CLASSES
from experiments.classifier import save_classifier
from experiments.plumbing.preprocess import default_view
from notebooks.make import SOURCES, client

BUGS = {
    "DATA": "bugs", "MODEL": "resnet8", "WEIGHTS": "pretrained.safetensors", "EPOCHS": 1,
    "IMAGENET": False,
}  # fmt: skip
TINY = {  # for each notebook, all that its cell `parameters` sets
    "1_finetune_resnet50": BUGS | {"RUNS": "runs/1"},
    "2_two_strategies": BUGS | {"RUNS": "runs/2", "SEEDS": 1, "SIZE": None},
    "3_ants_and_bees": BUGS | {"RUNS": "runs/3"},
    "4_cifar10": {
        "DATA": "cifar10_subset", "OUTPUT": "runs/4", "MODEL": "resnet8", "VIT": "vit1",
        "SOURCE_TRAIN": 8, "TARGET_TRAIN": 8, "TARGET_VAL": 4, "TARGET_TEST": 4,
        "SOURCE_EPOCHS": 1, "EPOCHS": 1, "SEEDS": 1,
    },
    "5_resnet_by_hand": {
        "OUTPUT": "runs/5", "DEPTHS": [8], "SEEDS": 1, "EPOCHS": 1, "TRAIN_IMAGES": 64, "JOBS": 1,
        "GRADIENT_DEPTH": 8, "RESIDUAL_WEIGHTS": "missing", "PLAIN_WEIGHTS": "missing",
        "TEST_FOLDER": "missing", "TEST_IMAGES": 8,
    },
}  # fmt: skip
# Forget what the notebook before defined; all but __main__.__spec__, which worker processes need.
RESET = "%reset_selective -f ^[^_]"
LARGEST, LARGEST_IMAGE = 600_000, 150_000  # bytes of an .ipynb, and of an image in it
# Folders that a machine's paths begin with; in Colab, Drive is in /content on every machine.
HOMES = {"/home/", "/root/", "/tmp/", "/Users/", "/mnt/", f"/{ROOT.parts[1]}/"}
each_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A client whose kernel runs all notebooks, since its imports take the most time.

    Its folder has photos of ants and bees in train/ and val/, and a file of weights, drawn here.
    """
    folder, rng = tmp_path_factory.mktemp("notebooks"), np.random.default_rng(0)
    for split, count in {"train": 8, "val": 4}.items():
        for name in ("ants", "bees"):
            home = folder / BUGS["DATA"] / split / name
            home.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(home / f"{i}.jpg")
    for split, count in {"train": 12, "test": 4}.items():
        for name in CLASSES:
            home = folder / "cifar10_subset" / split / name
            home.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(home / f"{i}.png")
    network, classes = zoo.build("resnet8"), tuple(f"class {i}" for i in range(10))
    weights = folder / BUGS["WEIGHTS"]
    save_classifier(weights, "resnet8", network, classes, default_view(network), {})
    made = client(nbformat.v4.new_notebook(), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with made.setup_kernel():
            yield made


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


@each_notebook
def test_a_notebook_runs_on_tiny_data(source, kernel):
    notebook, values = jupytext.read(source), TINY[source.stem]
    (cell,) = [cell for cell in notebook.cells if "parameters" in tags(cell)]
    names = [node.targets[0].id for node in ast.parse(cell.source).body]
    assert set(names) == values.keys(), names
    cell.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    notebook.cells.insert(0, nbformat.v4.new_code_cell(RESET))
    kernel.nb = notebook
    kernel.reset_execution_trackers()
    for number, cell in enumerate(notebook.cells):
        kernel.execute_cell(cell, number)


@each_notebook
def test_every_text_is_in_korean_and_then_in_english(source):
    for cell in jupytext.read(source).cells:
        if cell.cell_type == "markdown":
            lines = cell.source.splitlines()
            headings = [line for line in lines if line.startswith("#")]
            paragraphs = "\n".join(line for line in lines if line not in headings).split("\n\n")
            for heading in headings:
                korean, _, english = heading.partition(" / ")
                assert is_korean(korean), heading
                assert english.isascii(), heading
            texts = [text for text in paragraphs if text.strip()]
            if texts:
                assert is_korean(texts[0]), texts
                assert not is_korean(texts[-1]), texts


def is_korean(text: str) -> bool:
    return re.search("[가-힣]", text) is not None


@each_notebook
def test_the_executed_notebook_is_the_source_with_small_outputs(source):
    path = source.with_suffix(".ipynb")
    made, written = nbformat.read(path, as_version=4), jupytext.read(source)
    nbformat.validate(made)
    content = path.read_text(encoding="utf-8")
    assert len(content) < LARGEST, len(content)
    machine = HOMES | {str(ROOT), str(Path.home()), sys.prefix, tempfile.gettempdir()}
    assert [place for place in machine if place in content] == []
    assert "\\r" not in content, "there is a progress bar"
    alike = [[(c.cell_type, c.source, tags(c)) for c in one.cells] for one in (made, written)]
    assert alike[0] == alike[1], f"make notebooks ARGS={source.relative_to(ROOT)}"
    for cell in made.cells:
        if cell.cell_type == "code":
            assert cell.execution_count, cell.source
            kinds = {output.output_type for output in cell.outputs}
            assert "error" not in kinds, cell.source
            assert kinds or not shows(cell) or "not-run" in tags(cell), cell.source
            for picture in pictures(cell):
                assert len(base64.b64decode(picture)) < LARGEST_IMAGE, cell.source


def shows(cell) -> bool:
    """Whether a cell prints, draws, or ends with a name."""
    last = ast.parse(cell.source).body[-1]
    named = isinstance(last, ast.Expr) and isinstance(last.value, ast.Name)
    return named or re.search(r"^(    )?(print|plt\.show)\(", cell.source, re.MULTILINE) is not None


def pictures(cell) -> list[str]:
    """The PNGs that a cell shows, in base64."""
    found = []
    for output in cell.outputs:
        data = output.get("data", {})
        found += [data["image/png"]] if "image/png" in data else []
        found += re.findall('data:image/png;base64,([^"]+)', data.get("text/html", ""))
    return found


def test_all_notebooks_are_tested():
    assert {source.stem for source in SOURCES} <= TINY.keys()
