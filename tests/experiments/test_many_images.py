"""predict, evaluate and saliency on many images, of any size, some of them damaged."""

import contextlib
import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, assert_prints, assert_three_lines, shaken
from PIL import Image

from data import decoding
from data.errors import DataError
from data.views import View
from experiments.classifier import load_model, predictions, save_classifier
from experiments.plumbing.cli import UsageError
from experiments.predict import SHOWN, show

CLASSES = ("ant", "bee", "개미")
OUT = {"predict": "--sheet", "evaluate": "--output-dir", "saliency": "--output"}
COMMANDS = tuple(OUT)
VIEW = View(24, 20, "bicubic", input_size=32)
DAMAGED = b"\xff\xd8 not much"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("data.collection.IMAGE_CACHE", tmp_path_factory.getbasetemp() / "cache")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vit1.safetensors"
    save_classifier(path, "vit1", shaken("vit1", 3), CLASSES, VIEW, {})
    return path


def as_classes(files: list[str], folder: Path) -> Path:
    """Copies of the files, with a folder for each class."""
    for i, file in enumerate(files):
        path = folder / CLASSES[i % 3] / Path(file).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Path(file).read_bytes())
    return folder


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (5, 0), (5, 2), (100, 1)])
def test_answers_depend_on_neither_batch_size_nor_workers(checkpoint, files, batch_size, workers):
    """Batches may be partly or wholly damaged, or shorter than the others."""
    for place in (0, 5, 6, 7, 8, 9):
        Path(files[place]).write_bytes(DAMAGED)
    model, paths = load_model(checkpoint), list(map(Path, files))[::-1]
    expected = list(predictions(model, paths))
    found = list(predictions(model, paths, 5, batch_size, workers))
    assert [path for path, _ in found] == paths
    assert [isinstance(answer, DataError) for _, answer in found].count(True) == 6
    for (path, one), (_, other) in zip(found, expected, strict=True):
        if isinstance(one, DataError):
            assert str(path) in str(one)
            continue
        assert [guess["label"] for guess in one] == [guess["label"] for guess in other]
        scores = [guess["score"] for guess in other]
        assert [guess["score"] for guess in one] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize(
    "view",
    [View(40, 32, input_size=32), View(20, 32, input_size=32), View(32, 32, squash=True,
     input_size=32), View(48, 48, input_size=48)],
)  # fmt: skip
def test_images_of_any_size_make_one_batch(tmp_path, view):
    """Even images smaller than the crop, and a crop larger than the resized image."""
    sizes = [(1, 1), (3, 200), (200, 3), (32, 32), (31, 33), (300, 200)]
    paths = [tmp_path / f"{width}x{height}.png" for width, height in sizes]
    for path, size in zip(paths, sizes, strict=True):
        Image.new("RGB", size, "red").save(path)
    save_classifier(tmp_path / "c.safetensors", "vit1", shaken("vit1", 3), CLASSES, view, {})
    model = load_model(tmp_path / "c.safetensors")
    together = list(predictions(model, paths))
    assert [answer[0]["score"] for _, answer in together] == pytest.approx(
        [answer[0]["score"] for _, answer in predictions(model, paths, batch_size=1)], abs=1e-5
    )


def test_no_more_than_a_batch_is_decoded_ahead(checkpoint, files, monkeypatch):
    decoded = []
    load = decoding.load_image
    monkeypatch.setattr(decoding, "load_image", lambda *args: decoded.append(args) or load(*args))
    answers = predictions(load_model(checkpoint), list(map(Path, files)), batch_size=2)
    for count, _ in enumerate(answers, 1):
        assert len(decoded) <= count + 2


def test_answers_are_printed_and_forgotten(capsys):
    answers = [(Path(f"{i}.png"), [{"label": "x", "score": 0.5}]) for i in range(SHOWN + 9)]
    good, shown = show(iter(answers), len(answers), as_json=True)
    assert (good, list(shown)) == (SHOWN + 9, [path for path, _ in answers[:SHOWN]])
    assert len(json.loads(capsys.readouterr().out)) == SHOWN + 9


def test_images_that_wait_for_a_batch_keep_no_files_open(checkpoint, tmp_path):
    """Each result that a worker sends is in shared memory, and that is an open file."""
    Image.new("RGB", (30, 30)).save(tmp_path / "one.png")
    paths, model = [tmp_path / "one.png"] * 300, load_model(checkpoint)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = len(list(Path("/proc/self/fd").iterdir())) + 150
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        assert len(list(predictions(model, paths, 1, 300, 1))) == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_json_names_files_of_any_name(checkpoint, tmp_path):
    """Even names that are not UTF-8: they are printed as Python decodes them."""
    names = [b"\xff.png", b'a "b" {c}.png', b"line\nbreak.png", "개미.png".encode()]
    (tmp_path / "images").mkdir()
    for name in names:
        Image.new("RGB", (9, 9)).save(tmp_path / "images" / os.fsdecode(name), "png")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.predict", checkpoint, tmp_path / "images", "--json",
         "--sheet", tmp_path / "sheet.png"],
        cwd=ROOT, capture_output=True, check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.decode("ascii"))
    found = {os.fsencode(Path(answer["image"]).name) for answer in answers}
    assert found == set(names)
    assert all(len(answer["predictions"]) == 3 for answer in answers)


def test_lines_name_files_of_any_name(checkpoint, tmp_path, invoke):
    name = os.fsdecode(b"\xff\n.png")
    Image.new("RGB", (9, 9)).save(tmp_path / name, "png")
    done = invoke("experiments.predict", checkpoint, tmp_path / name, "--sheet", tmp_path / "s.png")
    assert_prints(done, "\\udcff\\n.png  ", "개미")


def test_evaluation_depends_on_neither_batch_size_nor_workers(checkpoint, files, tmp_path, invoke):
    folder, tables = as_classes(files, tmp_path / "all"), []
    for size, workers in ((64, 0), (5, 2)):
        out = tmp_path / str(size)
        done = invoke("experiments.evaluate", checkpoint, folder, "--output-dir", out,
                      "--batch-size", size, "--workers", workers)  # fmt: skip
        assert_prints(done, "12;", "device CPU: no CUDA device" if size == 64 else "device")
        with (out / "predictions.csv").open(encoding="utf-8") as file:
            tables.append(list(csv.DictReader(file)))
    for one, other in zip(*tables, strict=True):
        assert float(one.pop("score")) == pytest.approx(float(other.pop("score")), abs=1e-5)
        assert one == other


def test_saliency_of_several_images_is_a_folder(checkpoint, files, tmp_path, invoke):
    """One figure per image, even with equal names; a damaged image does not affect the others."""
    (tmp_path / "more").mkdir()
    same = tmp_path / "more" / Path(files[0]).name
    same.write_bytes(Path(files[0]).read_bytes())
    Path(files[1]).write_bytes(DAMAGED)
    done = invoke("experiments.saliency", checkpoint, *files[:3], same, "--output",
                  tmp_path / "out" / "heads.png", "--device", "cpu")  # fmt: skip
    assert_prints(done, "device cpu: as requested", f"{same}: ", code=3)
    assert files[1] in done.stderr
    drawn = sorted(path.name for path in (tmp_path / "out" / "heads").iterdir())
    stems = [Path(file).stem for file in (files[0], files[2], files[0])]
    assert drawn == [f"{n}-{stem}.png" for n, stem in zip((1, 3, 4), stems, strict=True)]
    assert done.stdout.count("saliency: ") == 3


# --- devices ---


@pytest.mark.parametrize("name", COMMANDS)
def test_the_network_moves_to_the_device(name, checkpoint, files, tmp_path, invoke, monkeypatch):
    seen = []

    def stop(model, *_):
        seen.append(next(model.model.parameters()).device.type)
        raise UsageError("work", "begins", "here")

    for works in ("classifier.predictions", "evaluate.evaluate_on", "saliency.draw_one"):
        monkeypatch.setattr(f"experiments.{works}", stop)
    for user in ("classifier", "plumbing.device"):
        choose = f"experiments.{user}.choose_device"
        monkeypatch.setattr(choose, lambda asked: (torch.device("meta"), f"{asked}: planted"))
    folder = as_classes(files, tmp_path / "all")
    out = tmp_path / ("out" if name == "evaluate" else "out.png")
    done = invoke(f"experiments.{name}", checkpoint, folder, "--device", "cuda:7", OUT[name], out)
    assert_three_lines(done, 2, "begins")
    assert done.stdout.startswith(f"{checkpoint}: 3 classes; device cuda:7: planted\n")
    assert seen == ["meta"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_device_that_is_not_there_is_refused(name, checkpoint, files, invoke):
    done = invoke(f"experiments.{name}", checkpoint, Path(files[0]).parent, "--device", "cuda:99")
    assert_three_lines(done, 2, "--device cuda:99", "--device auto")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
def test_a_gpu_gives_the_same_answers(checkpoint, files):
    model, paths = load_model(checkpoint), list(map(Path, files))
    expected = [answer[0] for _, answer in predictions(model, paths)]
    model.model.to("cuda")
    found = [answer[0] for _, answer in predictions(model, paths, 5, 4, 2)]
    assert [guess["label"] for guess in found] == [guess["label"] for guess in expected]
    scores = [guess["score"] for guess in expected]
    assert [guess["score"] for guess in found] == pytest.approx(scores, abs=1e-2)


# --- starting and ending ---


def many(folder: Path, count: int) -> Path:
    """`count` images in two classes, most of them links."""
    for name in CLASSES[:2]:
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (400, 300), "red").save(folder / name / "0.png")
        for i in range(1, count // 2):
            (folder / name / f"{i}.png").symlink_to(folder / name / "0.png")
    return folder


def start(name: str, checkpoint: Path, folder: Path) -> subprocess.Popen:
    """Start a command in its own session, so that it can be signalled as by a terminal."""
    out = folder.parent / ("out" if name == "evaluate" else "out.png")
    command = [sys.executable, "-m", f"experiments.{name}", checkpoint, folder, OUT[name], out]
    return subprocess.Popen(
        list(map(str, [*command, "--workers", 2])), cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def alive_in(group: int) -> list[str]:
    """The processes of a group that are not zombies."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of, *_ = file.read_text(encoding="utf-8").rpartition(")")[2].split()
            found += [str(file)] * (int(of) == group and state != "Z")
    return found


def test_a_closed_pipe_ends_a_command_quietly(checkpoint, tmp_path):
    """The reader closes the pipe after the first line."""
    process = start("predict", checkpoint, many(tmp_path / "all", 40))
    assert "3 classes" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 141
    # Only the lines that a slow machine prints while it works.
    assert all(line.endswith(" ...\n") for line in process.stderr)


@pytest.mark.parametrize("name", ["predict", "evaluate"])
def test_ctrl_c_ends_a_command_and_its_processes(name, checkpoint, tmp_path):
    process = start(name, checkpoint, many(tmp_path / "all", 4000))
    assert "3 classes" in process.stdout.readline()
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "interrupted"
    deadline = time.monotonic() + 10
    while left := alive_in(process.pid):
        assert time.monotonic() < deadline, left
