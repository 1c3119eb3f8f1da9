"""experiments.eject: its plain code ends with the run's weights, without our packages."""

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT, assert_prints, assert_three_lines, same
from PIL import Image
from sample_images import noise

import zoo
from data import collection
from data.collection import Source, identity, open_dataset
from experiments.classifier import load_model
from experiments.plumbing.distributed import Group
from experiments.plumbing.recipes import DEFAULT
from experiments.plumbing.results import write_json
from experiments.train.loop import Settings
from experiments.transfer.job import Transfer, run_transfer
from zoo.weights import published
from zoo.weights.files import Metadata, Weights

pytestmark = pytest.mark.slow  # its runs take half a minute
EJECT = "experiments.eject"
RECIPE = replace(DEFAULT, size=32, epochs=2, batch_size=4)
# Every kind of line in ejected.txt: (strategy, weights, memory layout, number of classes). The
# images of three classes are split by the run.
RUNS = {
    "tuned": ("finetune", "FILE", True, 2),
    "head": ("feature-extraction", "DEFAULT", False, 3),
    "probe": ("linear-probe", "DEFAULT", True, 2),
    "probe3": ("linear-probe", "FILE", False, 3),
}
# Runs scripts, and the cells of notebooks, in one new process, each in a folder of its own.
RUNNER = """
import json, os, sys, torch
for path in sys.argv[1:]:
    code = open(path, encoding="utf-8").read()
    if path.endswith(".ipynb"):
        cells = [c["source"] for c in json.loads(code)["cells"] if c["cell_type"] == "code"]
    else:
        cells = [code]
    os.makedirs(path + ".out")
    os.chdir(path + ".out")
    names = {}
    for cell in cells:
        exec(cell, names)
    torch.save(names["model"].state_dict(), "last.pth")
assert not {"zoo", "data", "experiments"} & {name.partition(".")[0] for name in sys.modules}
"""


def make_images(root: Path, classes: int) -> Path:
    """Images that decoding and cropping can get wrong: large, long, turned, grey, transparent."""
    rng = np.random.default_rng(0)
    for split in ("train", "val") if classes == 2 else ("",):
        for name in ("개", "bee", "ant")[-classes:]:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i, size in enumerate([(90, 110), (30, 200), (40, 33), (40, 41), (150, 30)]):
                image = Image.fromarray(noise(rng, *size, 0, 255))
                exif = image.getexif()
                exif[0x0112] = 6
                if i < 3:
                    image.save(folder / f"{i}.jpg", exif=exif if i == 2 else b"")
                else:
                    image.putalpha(image.getchannel("R"))
                    image.convert("RGBA" if i == 3 else "L").save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The runs of RUNS, each in a folder, and their cached "published" weights."""
    top = tmp_path_factory.mktemp("e")
    torch.manual_seed(1)
    state = torchvision.models.resnet18().state_dict()
    weights, cached = top / "w.pth", top / "hub/checkpoints/resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    for path in (weights, cached):
        torch.save(state, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collection, "IMAGE_CACHE", top / "cache")
        patch.setattr(published, "fetch", lambda url, **_: Weights(state, Metadata(), url))
        patch.chdir(top)
        torch.set_num_threads(1)
        for name, (strategy, source, channels_last, classes) in RUNS.items():
            images = Path(f"images{classes}")  # relative, as a user types it
            if not images.exists():
                make_images(images, classes)
            dataset = open_dataset(Source(str(images)), 0, 0)
            source = str(weights) if source == "FILE" else source
            base = Settings(channels_last=channels_last)
            run = Transfer(strategy, "resnet18", source, 3, RECIPE, base, identity(dataset))
            folder = top / name / "run"
            run_transfer(run, dataset, folder, torch.device("cpu"), Group())
            (top / name / "split.csv").write_text(dataset.table, encoding="utf-8")
    return top


@pytest.fixture
def eject(runs, invoke, monkeypatch):
    """Eject a run; return the finished process."""
    monkeypatch.chdir(runs)
    return lambda run, *options: invoke(EJECT, run, *options)


def execute(runs: Path, *paths: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", RUNNER, *map(str, paths)], cwd=runs, capture_output=True,
        text=True, timeout=200, check=False, env=os.environ | {"TORCH_HOME": str(runs)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def reached(path: Path, name: str) -> dict:
    return torch.load(Path(f"{path}.out") / name, weights_only=True)


def test_the_code_ends_with_the_weights_of_the_run(runs, eject, tmp_path):
    outputs = {name: tmp_path / f"{name}.py" for name in RUNS}
    for name, output in outputs.items():
        assert_prints(eject(runs / name / "run", "--output", output), f"{output}: ")
        lines = [line for line in output.read_text(encoding="utf-8").splitlines() if line.strip()]
        assert 60 <= len(lines) <= 90, (name, len(lines))
    outputs["probe"].unlink()  # run from a notebook instead
    outputs["probe"] = tmp_path / "probe.ipynb"
    checkpoint = runs / "probe/run/best.safetensors"
    eject(checkpoint, "--as", "notebook", "--output", outputs["probe"])
    other = tmp_path / "other.py"
    code = outputs["head"].read_text(encoding="utf-8")
    other.write_text(code.replace("BATCH_SIZE = 3, ", "BATCH_SIZE = 4, "), encoding="utf-8")
    execute(runs, *outputs.values(), other)
    for name, output in outputs.items():
        for which, file in (("best", "ejected.pth"), ("last", "last.pth")):
            model = load_model(runs / name / f"run/{which}.safetensors").model
            assert same(zoo.export(model), reached(output, file)), (name, which)
    assert not same(reached(outputs["head"], "last.pth"), reached(other, "last.pth"))  # a seed
    count = RUNS["tuned"][3]
    torchvision.models.resnet18(num_classes=count).load_state_dict(
        reached(outputs["tuned"], "ejected.pth")
    )


@pytest.mark.parametrize("name", RUNS)
def test_ruff_accepts_the_code(name, runs, eject, tmp_path):
    pytest.importorskip("ruff")
    output = tmp_path / "x.py"
    eject(runs / name / "run", "--output", output)
    for check in (["check", "--ignore", "E501"], ["format", "--check"]):  # E501: a long path
        command = [sys.executable, "-m", "ruff", *check, "--no-cache", "--config"]
        subprocess.run([*command, ROOT / "pyproject.toml", output], check=True)


def changed(runs: Path, folder: Path, name: str = "tuned", **changes) -> Path:
    """A copy of a run with other entries in row.json; those of run and recipe by their names."""
    row = json.loads((runs / name / "run/row.json").read_text(encoding="utf-8"))
    for key, value in changes.items():
        run = row["run"]
        places = (place for place in (row, run, run["recipe"], run["base"]) if key in place)
        next(places)[key] = value
    (folder / "run").mkdir()
    write_json(folder / "run/row.json", row)
    (folder / "run/best.safetensors").symlink_to(runs / name / "run/best.safetensors")
    shutil.copy(runs / name / "split.csv", folder)
    return folder / "run"


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"strategy": "lp-ft"}, "lp-ft"), ({"model": "resnet20"}, "resnet20"),
     ({"precision": "bf16"}, "bf16"), ({"processes": 2}, "2 processes"),
     ({"opt": "adam", "augment": "shift"}, "opt, augment"), ({"weights": None}, "None"),
     ({"weights": "run/best.safetensors"}, "weights"), ({"status": "diverged at step 3"}, "step 3"),
     ({"dataset_id": "0"}, "images2"), ({"data": "cifar10"}, "cifar10")],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_other_runs_are_refused(changes, word, runs, eject, tmp_path):
    run = changed(runs, tmp_path, **changes)
    if word == "cifar10":
        (tmp_path / "split.csv").unlink()  # transfer writes none
    assert_three_lines(eject(run), 2, word, "supported: linear-probe, feature-extraction")
    assert not (run / "ejected.py").exists()


def test_other_lists_of_images_are_read_from_split_csv_or_refused(runs, eject, tmp_path):
    """A file that is no image for the project, but is one for torchvision."""
    run = changed(runs, tmp_path)
    extra = runs / "images2/train/bee/.hidden.png"
    shutil.copy(runs / "images2/train/bee/3.png", extra)
    assert eject(run).returncode == 0
    extra.unlink()
    assert "split_of" in (run / "ejected.py").read_text(encoding="utf-8")
    assert_three_lines(eject(run), 2, "ejected.py", "--output")  # it may have been edited
    (runs / "images2/val/cat").mkdir()
    try:
        done = eject(run, "--output", tmp_path / "y.py")
    finally:
        (runs / "images2/val/cat").rmdir()
    assert_three_lines(done, 2, "ImageFolder")
    assert_three_lines(eject(runs), 3, "no finished run", "row.json")


@pytest.mark.parametrize("pixels", [np.full((9, 9), 999, np.uint16), np.zeros((2, 200), np.uint8)])
def test_images_that_pillow_reads_otherwise_are_refused(pixels, runs, eject, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(runs / "images2", images)
    Image.fromarray(pixels).save(images / "val/bee/odd.png")
    unchanged = identity(open_dataset(Source(str(images)), 0, 0))
    run = changed(runs, tmp_path, data=str(images), dataset_id=unchanged)
    assert_three_lines(eject(run), 2, "odd.png", "is thin, or Pillow")


def test_an_image_replaced_by_one_of_the_same_size_is_named(runs, eject, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(runs / "images2", images)
    path = images / "val/bee/0.jpg"
    path.write_bytes(b"x" * path.stat().st_size)
    unchanged = identity(open_dataset(Source(str(images)), 0, 0))
    run = changed(runs, tmp_path, data=str(images), dataset_id=unchanged)
    assert_three_lines(eject(run), 3, "0.jpg")


def test_row_json_cannot_become_code(runs, eject, tmp_path):
    """A shared folder of results is data: what stands in it must not run here or in the script."""
    mark = tmp_path / "ran"
    attack = f"1) or open({str(mark)!r}, 'w').close() or (1"
    for name in ("threads", "seed", "lr", "versions"):
        (tmp_path / name).mkdir()
        value = {"torch": f"2\n({attack})"} if name == "versions" else attack
        run = changed(runs, tmp_path / name, **{name: value})
        done = eject(run)
        assert done.returncode in (0, 3), done.stderr
        assert not mark.exists(), name
        if done.returncode == 0:
            code = ast.parse((run / "ejected.py").read_text(encoding="utf-8"))
            called = [node.func for node in ast.walk(code) if isinstance(node, ast.Call)]
            assert "open" not in [getattr(function, "id", "") for function in called], name


@pytest.mark.parametrize("change", [{"run": {}}, {"run": None}, {"versions": 3}, {"data": 3},
                                    {"base": []}])  # fmt: skip
def test_a_damaged_row_is_refused(change, runs, eject, tmp_path):
    run = changed(runs, tmp_path, **change)
    assert_three_lines(eject(run), 3, "damaged", "row.json")


def test_the_form_and_the_folder_of_the_output_are_as_asked(runs, eject, tmp_path):
    output = tmp_path / "new" / "code"
    assert_prints(eject(runs / "probe/run", "--as", "notebook", "--output", output), "lines of")
    assert json.loads(output.read_text(encoding="utf-8"))["nbformat"] == 4
