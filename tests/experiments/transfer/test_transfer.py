"""Transfer, whole: every strategy, what it leaves, and that nothing disturbs it."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT, assert_three_lines, run_and_kill
from PIL import Image

import zoo
from data import collection as pictures_module
from data.collection import Source, open_pictures
from data.views import View
from experiments.classifier import FP32, load_model, pretrained, save_classifier
from experiments.plumbing import resume as resumable
from experiments.plumbing.distributed import Group
from experiments.plumbing.resume import load_checkpoint
from experiments.train import Settings
from experiments.transfer import job as transfer_run
from experiments.transfer.job import Transfer, TransferJob, run_transfer
from experiments.transfer.recipes import RECIPES, evaluation_view
from experiments.transfer.report import read_history
from experiments.transfer.strategies import STRATEGIES
from zoo.weights import published

CPU = torch.device("cpu")
CLASSES = ("dots", "Übersee", "개")


def make_folder(root: Path, **splits: int) -> Path:
    """Three classes that differ in brightness, faintly; as many pictures of each as asked."""
    rng = np.random.default_rng(0)
    for split, count in splits.items():
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                low = 40 + 25 * label
                pixels = rng.integers(low, low + 120, (18 + i, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("pictures"), train=10, val=5, test=6)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(pictures_module, "CACHE", tmp_path_factory.getbasetemp() / "cache")


RECIPE = replace(RECIPES["default"], size=16, squash=True, epochs=3, batch_size=8)
RUN = Transfer("finetune", "resnet8", None, 0, RECIPE, Settings(channels_last=True))
OPTIONS = ("--model", "resnet8", "--weights", "none", "--size", 16, "--squash", "--batch-size", 8,
           "--epochs", 3, "--precision", "fp32", "--device", "cpu")  # fmt: skip


def run(folder: Path, output: Path, change: Transfer = RUN, **options) -> dict | None:
    pictures = open_pictures(Source(str(folder)), 0, 0)
    return run_transfer(change, pictures, output, CPU, Group(), **options)


@pytest.fixture(scope="module")
def everything(folder, tmp_path_factory):
    """`--strategy all` over two seeds, as a person types it."""
    output = tmp_path_factory.mktemp("all")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.transfer", str(folder), *map(str, OPTIONS),
         "--seeds", "2", "--output-dir", str(output)],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "2"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return output, done.stdout


@pytest.mark.slow
def test_all_strategies_leave_a_table_a_sentence_and_figures(everything):
    output, said = everything
    for name in (*STRATEGIES[:-1], "as in most notebooks"):
        assert name in said
    assert "Recipe default: epochs 3, batch_size 8, opt sgd" in said
    assert "Data " in said
    assert "30 train, 15 val, 18 test pictures, 3 classes" in said
    assert "Choose " in said
    assert "bounded by" in said
    assert "the accuracy is that on test" in " ".join(said.split())
    with (output / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert {row["strategy"] for row in rows} == set(STRATEGIES)
    lines = (output / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["name"] for line in lines] == [
        f"resnet8-{row['strategy']}-batch8-seed{row['seed']}" for row in rows
    ]
    for name in ("curves.png", "accuracy_time.png"):
        assert Image.open(output / name).size[0] > 300
    learning = {row["strategy"]: int(row["trainable"]) for row in rows}
    head, whole = 64 * 3 + 3, sum(p.numel() for p in zoo.build("resnet8", 3).parameters())
    assert learning == {
        "finetune": whole, "feature-extraction": head, "linear-probe": head, "lp-ft": whole,
        "scratch": whole, "moving-bn": head,
    }  # fmt: skip


@pytest.mark.slow
def test_rows_are_what_their_files_score(everything, folder):
    """The accuracy in every row is had again from best.safetensors, on test; right by picture."""
    output, _ = everything
    pictures = open_pictures(Source(str(folder)), 0, 0)
    for path in sorted(output.glob("*/row.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        model = load_model(path.parent / "best.safetensors")
        shown = pictures.pictures("test", model.view)
        guesses = model.logits(torch.stack([shown[i] for i in range(18)])).argmax(1)
        right = (guesses == pictures.labels("test")).int().tolist()
        assert row["right"] == "".join(map(str, right))
        assert row["accuracy"] == row["best_test_accuracy"] == sum(right) / 18
        assert row["tested_on"] == "test"
        assert model.classes == CLASSES
        history = read_history(path.parent)
        best = max(history["val_accuracy"])
        assert row["best_epoch"] == history["epoch"][history["val_accuracy"].index(best)]
        assert model.metrics["epoch"] == row["best_epoch"]
        assert model.metrics["chosen_by"] == "val accuracy"
        assert load_model(path.parent / "last.safetensors").metrics["epoch"] == row["last_epoch"]
        assert row["seconds"] >= row["training_seconds"] >= row["waiting_seconds"] >= 0


@pytest.mark.slow
def test_a_finished_campaign_is_not_made_again(everything, folder, invoke):
    output, _ = everything
    before = {path: path.stat().st_mtime_ns for path in output.glob("*/*")}
    done = invoke("experiments.transfer", folder, *OPTIONS, "--seeds", 2, "--output-dir", output)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in output.glob("*/*")} == before
    done = invoke("experiments.transfer", folder, *OPTIONS, "--seeds", 2, "--lr", 0.5,
                  "--output-dir", output)  # fmt: skip
    assert_three_lines(done, 3, "other settings", "row.json")
    done = invoke("experiments.report", output)
    assert "Choose " in done.stdout


# --- interruptions ---


def child(folder, output, change, threads, steps) -> None:
    torch.set_num_threads(threads)
    resumable.SAVE_SHARE = 1.0

    def note(step):
        if steps[0] < 0:
            steps[0] = step
        steps[1] = step
        time.sleep(0.002)

    run(Path(folder), Path(output), change, progress=note, save_every=0)


def attempt(folder, output, change, kill_at=None, threads=1):
    return run_and_kill(child, (str(folder), str(output), change, threads), kill_at)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "opt", "threads", "kills"),
    [("finetune", "sgd", 1, 3), ("feature-extraction", "adam", 1, 3), ("lp-ft", "adamw", 2, 1)],
)
def test_killed_runs_end_with_the_same_bits(folder, tmp_path, strategy, opt, threads, kills):
    change = replace(RUN, strategy=strategy, recipe=replace(RECIPE, opt=opt, epochs=6))
    assert attempt(folder, tmp_path / "whole", change, threads=threads)[0] == 0
    killed, rng, resumed = tmp_path / "killed", random.Random(strategy), 0
    for kill_at in sorted(rng.sample(range(4, 17), kills)):
        code, steps = attempt(folder, killed, change, kill_at, threads)
        assert code == -signal.SIGKILL
        resumed += steps[0] > 0
    code, steps = attempt(folder, killed, change, threads=threads)
    assert (code, steps[1]) == (0, 18)
    assert resumed + (steps[0] > 0)
    for name in ("best.safetensors", "last.safetensors", "history.csv"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    rows = [json.loads((tmp_path / which / "row.json").read_text(encoding="utf-8"))
            for which in ("whole", "killed")]  # fmt: skip
    for key in ("accuracy", "right", "best_epoch", "last_test_loss", "best_val_loss"):
        assert rows[0][key] == rows[1][key]
    assert not (killed / "checkpoint.pt").exists()


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(everything, folder, tmp_path, invoke):
    """Python shuffles its sets anew in every process; nothing that is written may depend on it."""
    output, _ = everything
    assert os.environ.get("PYTHONHASHSEED") != "2"  # as it was there; random if not set
    done = invoke("experiments.transfer", folder, *OPTIONS, "--strategy", "linear-probe",
                  "--seeds", 1, "--output-dir", tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    name = "resnet8-linear-probe-batch8-seed0/best.safetensors"
    assert (tmp_path / name).read_bytes() == (output / name).read_bytes()


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(folder, tmp_path):
    command = [
        sys.executable, "-m", "experiments.transfer", str(folder), *map(str, OPTIONS), "--seeds",
        "1", "--strategy", "finetune", "--epochs", "400", "--output-dir", str(tmp_path),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    run_folder = tmp_path / "resnet8-finetune-batch8-seed0"
    until = time.monotonic() + 60
    while not (run_folder / "history.csv").exists():
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "goes on from here" in said
    assert "Traceback" not in said
    assert 0 < load_checkpoint(run_folder / "checkpoint.pt")["step"] < 1200


# --- choosing, and what is said of it ---


def test_without_a_test_set_it_says_that_the_number_also_chose(tmp_path, invoke):
    folder = make_folder(tmp_path / "two", train=8, val=4)
    done = invoke("experiments.transfer", folder, *OPTIONS, "--seeds", 1, "--strategy",
                  "linear-probe", "finetune", "--output-dir", tmp_path / "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "there is no test set: val chose the epoch and is reported too" in said
    assert "two seeds or more are needed" in said


def test_one_folder_of_classes_is_split_and_the_split_written_down(tmp_path, invoke):
    folder = make_folder(tmp_path / "flat", **{".": 12})
    for _ in range(2):
        done = invoke("experiments.transfer", folder, *OPTIONS, "--seeds", 1, "--strategy",
                      "linear-probe", "--output-dir", tmp_path / "out")  # fmt: skip
        assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "split.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["path"] for row in rows}) == 36
    shares = [sum(row["split"] == split for row in rows) for split in ("train", "val", "test")]
    assert shares == [24, 6, 6]
    for split in ("val", "test"):
        assert {row["class"] for row in rows if row["split"] == split} == set(CLASSES)


def test_lists_of_models_and_batch_sizes_are_compared(folder, tmp_path, invoke):
    done = invoke(
        "experiments.transfer", folder, *OPTIONS, "--model", "resnet8", "plain8", "--batch-size",
        8, 16, "--seeds", 1, "--strategy", "finetune", "--output-dir", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for words in ("finetune resnet8 batch 8", "finetune plain8 batch 16"):
        assert words in done.stdout
    assert len(list(tmp_path.glob("*/row.json"))) == 4


def test_a_bad_picture_stops_the_run_unless_it_is_skipped(tmp_path, invoke):
    folder = make_folder(tmp_path / "set", train=8, val=4)
    bad = folder / "train" / "dots" / "3.png"
    bad.write_bytes(bad.read_bytes()[:200])
    command = ("experiments.transfer", folder, *OPTIONS, "--seeds", 1, "--strategy", "finetune",
               "--output-dir", tmp_path / "out")  # fmt: skip
    for more in ((), ("--cache-gb", 0)):  # stored, and streamed
        assert_three_lines(invoke(*command, *more), 3, str(bad), "1 of 24", "--skip-bad")
        spare = bad.read_bytes(), (folder / "val" / "dots" / "1.png").read_bytes()
        bad.write_bytes((folder / "train" / "dots" / "4.png").read_bytes() + b"0")
        (folder / "val" / "dots" / "1.png").write_bytes(spare[1][:200])
        assert_three_lines(invoke(*command, *more), 3, "dots/1.png", "1 of 12 in val")
        bad.write_bytes(spare[0])
        (folder / "val" / "dots" / "1.png").write_bytes(spare[1])
        assert not list((tmp_path / "out").glob("*/history.csv"))
        done = invoke(*command, *more, "--skip-bad", "--output-dir", tmp_path / f"skip{len(more)}")
        assert done.returncode == 0, done.stderr
        rows = [json.loads(path.read_text(encoding="utf-8"))
                for path in (tmp_path / f"skip{len(more)}").glob("*/row.json")]  # fmt: skip
        assert rows[0]["images"]["train"] == 23
    first, second = (
        (tmp_path / name / rows[0]["name"] / "last.safetensors").read_bytes()
        for name in ("skip0", "skip2")
    )
    assert first == second  # stored or streamed, the same pictures


def test_running_out_of_memory_says_what_to_do(folder, tmp_path, invoke, monkeypatch):
    real = transfer_run.ViewBatches.finish

    def short(self, batch):
        if len(batch[1]) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return real(self, batch)

    monkeypatch.setattr(transfer_run.ViewBatches, "finish", short)
    done = invoke("experiments.transfer", folder, *OPTIONS, "--batch-size", 12, "--seeds", 1,
                  "--strategy", "finetune", "--output-dir", tmp_path)  # fmt: skip
    assert_three_lines(done, 2, "out of memory", "smaller --batch-size")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "resnet19"), "there is no model 'resnet19'"),
        (("--seeds", 0), "give 1 to 1,000"),
        (("--batch-size", 1), "give 2 to 1,000,000"),
        (("--batch-size", 31), "choose a --batch-size from 2 to 30"),
        (("--scale", 0.5, 0.2), "--scale is not a range"),
        (("--hflip-prob", 2), "give 0 to 1"),
        (("--size", 5000), "give 1 to 2,048"),
        (("--workers", -1), "give 0 to 256"),
        (("--weights", "nowhere.pth"), "there is no such file"),
    ],
)
def test_bad_options_are_refused(folder, tmp_path, invoke, options, words):
    done = invoke("experiments.transfer", folder, *OPTIONS, "--strategy", "finetune", "--seeds", 1,
                  "--output-dir", tmp_path, *options)  # fmt: skip
    assert done.returncode in (2, 3, 4)
    assert_three_lines(done, done.returncode, words)


def test_tensorboard_gets_every_epoch(folder, tmp_path, invoke):
    tensorboard = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    done = invoke("experiments.transfer", folder, *OPTIONS, "--seeds", 1, "--strategy", "finetune",
                  "--tensorboard", "--output-dir", tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    run_folder = tmp_path / "resnet8-finetune-batch8-seed0"
    events = tensorboard.EventAccumulator(str(run_folder))
    events.Reload()
    values = [event.value for event in events.Scalars("val_accuracy")]
    assert values == pytest.approx(read_history(run_folder)["val_accuracy"])


# --- weights ---


def test_pretrained_weights_and_what_they_ask(tmp_path, monkeypatch):
    """A published name, by a file in place of the download; a plain twin takes the same weights."""
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    asked = []

    def local(url):
        asked.append(url)
        return zoo.weights.files.read_weights(tmp_path / "resnet18.pth")

    monkeypatch.setattr("zoo.weights.load.fetch", local)
    model, view = pretrained("resnet18", "IMAGENET1K_V1", 0)
    assert asked == [published.published("resnet18", "IMAGENET1K_V1").url]
    assert view == View(256, 224, "bilinear", input_size=224)
    assert torch.equal(
        model.stages[1][0].shortcut.conv.weight, state["layer2.0.downsample.0.weight"]
    )
    plain, _ = pretrained("plain18", "IMAGENET1K_V1", 0)
    assert torch.equal(plain.stages[1][0].conv1.weight, state["layer2.0.conv1.weight"])
    same = pretrained("resnet18", str(tmp_path / "resnet18.pth"), 0)[0].state_dict()
    assert all(torch.equal(value, same[key]) for key, value in model.state_dict().items())
    first, second = (pretrained("resnet8", None, seed)[0].head.weight for seed in (0, 1))
    assert not torch.equal(first, second)
    assert pretrained("resnet8", None, 0)[1] == View(32, 32, input_size=32)


def test_results_of_other_pictures_are_not_taken_for_these(tmp_path, invoke):
    """Same options, same output folder, one picture more: refused, and the split stays written."""
    folder = make_folder(tmp_path / "flat", **{".": 12})
    command = ("experiments.transfer", folder, *OPTIONS, "--seeds", 1, "--strategy",
               "linear-probe", "--output-dir", tmp_path / "out")  # fmt: skip
    assert invoke(*command).returncode == 0
    split = (tmp_path / "out" / "split.csv").read_bytes()
    done = invoke(*command, "--train-images", 12)
    assert_three_lines(done, 3, "other settings", "row.json")
    Image.new("RGB", (20, 20)).save(folder / "dots" / "new.png")
    assert_three_lines(invoke(*command), 3, "other settings", "row.json")
    assert (tmp_path / "out" / "split.csv").read_bytes() == split
    (folder / "dots" / "new.png").unlink()
    assert invoke(*command).returncode == 0
    Image.new("RGB", (20, 20)).save(folder / "dots" / "0.png")  # another picture of that name
    assert_three_lines(invoke(*command), 3, "other settings", "row.json")


def test_pictures_in_memory_are_shown_as_predict_shows_them(tmp_path):
    """32x32 pictures under a view that scales them first: 37 pixels, and 32 of the middle."""
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    part = pictures_module.Split(torch.arange(4), images=images)
    pictures = pictures_module.PictureSet(Source(""), "", CLASSES, {"val": part}, [], "", 0, 0)
    for view in (View(37, 32), View(32, 32), View(40, 32, squash=True), View(28, 24)):
        shown = pictures.pictures("val", view)
        assert all(torch.equal(shown[i], view(images[i])) for i in range(4)), view


def test_what_a_checkpoint_was_trained_at_is_asked_again():
    """Small pictures that were enlarged to 224: also when its weights are transferred further."""
    enlarged = View(32, 32, squash=True, input_size=224)
    assert evaluation_view(RECIPES["default"], enlarged) == enlarged
    assert evaluation_view(replace(RECIPES["default"], size=96), enlarged).input_size == 96


def test_skipping_says_so_and_does_not_lose_a_class(tmp_path, invoke):
    folder = make_folder(tmp_path / "set", train=8, val=4)
    for i in range(8):
        (folder / "train" / "개" / f"{i}.png").write_bytes(b"nothing %d" % i)
        if i < 3:
            (folder / "train" / "dots" / f"{i}.png").write_bytes(b"no dots %d" % i)
    command = ("experiments.transfer", folder, *OPTIONS, "--seeds", 1, "--strategy", "finetune",
               "--skip-bad", "--class-weights", "--output-dir", tmp_path / "out")  # fmt: skip
    assert_three_lines(invoke(*command), 3, "is left in train of 개")
    rng = np.random.default_rng(1)
    for i in range(8):
        pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "train" / "개" / f"{i}.png")
    done = invoke(*command)
    assert done.returncode == 0, done.stderr
    assert "train: 3 left out that cannot be decoded" in done.stdout
    assert "21 train" in done.stdout


def test_only_the_head_is_new(folder, tmp_path):
    """The pretrained backbone begins as it is in the file; the head is another one every seed."""
    torch.manual_seed(7)
    before = zoo.build("resnet8", 10)
    path = tmp_path / "weights.pth"
    torch.save(before.state_dict(), path)
    pictures = open_pictures(Source(str(folder)), 0, 0)
    jobs = [TransferJob(replace(RUN, weights=str(path), seed=seed), pictures, tmp_path, CPU,
                         Group()) for seed in (0, 0, 1)]  # fmt: skip
    for key, value in before.state_dict().items():
        if not key.startswith("head"):
            assert all(torch.equal(job.model.state_dict()[key], value) for job in jobs)
    heads = [job.model.head.weight for job in jobs]
    assert heads[0].shape == (3, 64)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    scratch = TransferJob(replace(RUN, weights=str(path), strategy="scratch"), pictures, tmp_path,
                           CPU, Group())  # fmt: skip
    assert not torch.equal(scratch.model.stem.conv.weight, before.stem.conv.weight)


def test_scratch_is_shown_the_same_pictures_as_the_others(folder, tmp_path):
    """What the weights' file asks for, though it takes none of the weights."""
    path, asked = tmp_path / "ours.safetensors", View(30, 24, "bicubic", mean=(0.1, 0.2, 0.3))
    save_classifier(path, "resnet8", zoo.build("resnet8", 4), tuple("abcd"), asked, {})
    pictures = open_pictures(Source(str(folder)), 0, 0)
    views = [
        TransferJob(replace(RUN, weights=str(path), strategy=strategy), pictures, tmp_path, CPU,
                     Group()).view
        for strategy in ("finetune", "scratch")
    ]  # fmt: skip
    assert views[0] == views[1]
    assert views[0].mean == (0.1, 0.2, 0.3)


def test_lp_ft_begins_where_the_probe_ends(folder, tmp_path):
    probe = run(folder, tmp_path / "probe", replace(RUN, strategy="linear-probe"))
    still = replace(RECIPE, lr=1e-12, epochs=1)
    tuned = run(folder, tmp_path / "lp-ft", replace(RUN, strategy="lp-ft", recipe=still))
    heads = [load_model(tmp_path / name / "last.safetensors").model.head.weight for name in
             ("probe", "lp-ft")]  # fmt: skip
    assert torch.allclose(heads[0], heads[1], atol=1e-5)
    assert probe["status"] == tuned["status"] == "finished"


def test_probes_can_learn_from_random_views_and_by_sgd(folder, tmp_path):
    for name, change in (("views", {"probe_views": 3}), ("sgd", {"probe_lr": 1.0}),
                         ("weighed", {"class_weights": True})):  # fmt: skip
        recipe = replace(RECIPE, **change)
        row = run(folder, tmp_path / name, replace(RUN, strategy="linear-probe", recipe=recipe))
        assert row["accuracy"] > 1 / 3, name
    heads = [load_model(tmp_path / name / "last.safetensors").model.head.weight for name in
             ("views", "sgd", "weighed")]  # fmt: skip
    assert not torch.equal(heads[0], heads[1])


def test_a_run_that_diverges_says_so(folder, tmp_path, invoke):
    row = run(
        folder, tmp_path / "one", replace(RUN, recipe=replace(RECIPE, lr=1e30, lr_warmup_epochs=0))
    )
    assert row["status"].startswith("diverged at step")
    assert row["accuracy"] is None
    done = invoke(
        "experiments.transfer", folder, *OPTIONS, "--lr", 1e30, "--lr-warmup-epochs", 0,
        "--strategy", "finetune", "--seeds", 1, "--output-dir", tmp_path / "x",
    )  # fmt: skip
    assert_three_lines(done, 5, "every run diverged", "lower --lr")


def test_weights_that_the_last_step_ruins_have_diverged_too(folder, tmp_path, monkeypatch):
    """No further loss would say so."""

    def ruin(state, *_, **__) -> bool:
        state.step += 1
        state.model.head.bias.data[0] = float("nan")
        return True

    monkeypatch.setattr(transfer_run, "train_resumably", ruin)
    assert run(folder, tmp_path)["status"] == "diverged at step 1"


@pytest.mark.slow
def test_imagenets_recipe_runs_dry(folder, tmp_path, invoke):
    """torchvision's V1 recipe on a tiny folder: its rate, its views, one epoch of it."""
    done = invoke(
        "experiments.transfer", folder, "--recipe", "imagenet", "--strategy", "scratch", "--model",
        "resnet18", "--weights", "none", "--size", 32, "--batch-size", 8, "--epochs", 1, "--seeds",
        1, "--precision", "fp32", "--device", "cpu", "--output-dir", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "lr 0.1" in done.stdout
    assert "scale (0.08, 1.0)" in done.stdout


def test_cifar10_is_taken_as_it_is(tmp_path, monkeypatch):
    """32x32 pictures, a tenth held out to choose by, enlarged to 224 in their batch."""
    from data.dataset import Dataset

    count = 40
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(count) % 10
    whole = Dataset("CIFAR-10", tuple("abcdefghij"), images, labels, images, labels)
    monkeypatch.setattr(pictures_module, "cifar10", lambda _: whole)
    pictures = open_pictures(Source("cifar10", test_images=20), 0, 0)
    assert [len(part.labels) for part in pictures.splits.values()] == [36, 4, 20]
    recipe = replace(RECIPES["cifar10"], batch_size=4)
    job = TransferJob(replace(RUN, recipe=recipe), pictures, tmp_path, CPU, Group())
    assert job.batches().batch(0)[0].shape == (4, 3, 224, 224)
    assert pictures.pictures("val", job.view) is pictures.splits["val"].images
    assert job.view.mean == (0.4914, 0.4822, 0.4465)


@pytest.mark.slow
def test_ants_and_bees_with_cifar10s_network(real_data, tmp_path, invoke, monkeypatch):
    """At least 75 %, and 10 points above random weights (2 seeds; LOG.md has 5)."""
    import zipfile

    with zipfile.ZipFile(real_data / "hymenoptera_data.zip") as archive:
        archive.extractall(tmp_path)
    accuracies = {}
    for weights, seeds in ((real_data / "weights" / "resnet32-d509ac18.th", 1), ("none", 2)):
        output = tmp_path / f"out{seeds}"
        done = invoke(
            "experiments.transfer", tmp_path / "hymenoptera_data", "--model", "resnet32",
            "--weights", weights, "--size", 96, "--squash", "--strategy", "linear-probe",
            "--seeds", seeds, "--precision", "fp32", "--device", "cpu", "--output-dir", output,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        rows = (output / "results.jsonl").read_text(encoding="utf-8").splitlines()
        accuracies[seeds] = [json.loads(row)["accuracy"] for row in rows]
        assert "imageNotFound.gif" in done.stdout
        assert json.loads(rows[0])["images"] == {"train": 244, "val": 153}
    assert accuracies[1][0] >= 0.75
    assert accuracies[1][0] - np.mean(accuracies[2]) >= 0.10


def test_scores_are_computed_in_the_layout_that_predict_uses(folder, tmp_path):
    """Where maps are one pixel a network trained in the other layout would round differently."""
    pictures = open_pictures(Source(str(folder)), 0, 0)
    contiguous = replace(RUN, base=Settings(channels_last=False))
    job = TransferJob(contiguous, pictures, tmp_path, CPU, Group())
    weight = job.model.stem.conv.weight
    assert weight.is_contiguous()
    job.answers(job.model, "val", FP32)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_fp32_is_what_is_reported():
    assert (FP32.precision, FP32.channels_last) == ("fp32", True)
