"""The whole of transfer: every strategy, its files, interruptions, options and bad input."""

import contextlib
import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT, assert_three_lines, run_and_kill
from PIL import Image
from sample_images import noise

import zoo
from data import collection as collection_module
from data.collection import ImageDataset, Source, open_dataset
from data.dataset import Dataset
from data.views import View
from experiments.classifier import FP32, load_model, predict, pretrained, save_classifier
from experiments.plumbing import resume as resumable
from experiments.plumbing.cli import UsageError, python
from experiments.plumbing.distributed import ALONE, Group
from experiments.plumbing.recipes import RECIPES
from experiments.plumbing.results import read_rows, to_do
from experiments.plumbing.resume import load_checkpoint
from experiments.train.loop import Settings
from experiments.transfer import comparison
from experiments.transfer import job as transfer_run
from experiments.transfer.comparison import bar_of
from experiments.transfer.job import NEEDS, Transfer, TransferJob, run_transfer
from experiments.transfer.report import read_history
from experiments.transfer.strategies import STRATEGIES
from zoo.weights import published
from zoo.weights.files import Metadata, read_weights, write_weights
from zoo.weights.settings import settings_of

CPU = torch.device("cpu")
CLASSES = ("dots", "Übersee", "개")


def make_folder(root: Path, **splits: int) -> Path:
    """Three classes that differ slightly in brightness; `splits`: images per class."""
    rng = np.random.default_rng(0)
    for split, count in splits.items():
        for label, name in enumerate(CLASSES):
            folder, low = root / split / name, 40 + 25 * label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = noise(rng, 18 + i, 20, low, low + 120)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images"), train=10, val=5, test=6)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(collection_module, "IMAGE_CACHE", tmp_path_factory.getbasetemp() / "cache")


RECIPE = replace(RECIPES["default"], size=16, squash=True, epochs=3, batch_size=8)
RUN = Transfer("finetune", "resnet8", None, 0, RECIPE, Settings(channels_last=True))
OPTIONS = ("--model", "resnet8", "--weights", "none", "--size", 16, "--squash", "--batch-size", 8,
           "--epochs", 3, "--precision", "fp32", "--device", "cpu")  # fmt: skip
FINETUNE = "resnet8-finetune-batch8-seed0"  # the folder of a run


def opened(folder: Path) -> ImageDataset:
    return open_dataset(Source(str(folder)), 0, 0)


def run(folder: Path, output: Path, change: Transfer = RUN, **options) -> dict | None:
    return run_transfer(change, opened(folder), output, CPU, Group(), **options)


def job(folder: Path, output: Path, **changes) -> TransferJob:
    return TransferJob(replace(RUN, **changes), opened(folder), output, CPU, Group())


def row(folder: Path) -> dict:
    return json.loads((folder / "row.json").read_text(encoding="utf-8"))


def head(folder: Path) -> torch.Tensor:
    return load_model(folder / "last.safetensors").model.head.weight


def typed(folder: Path, output: Path, *options: object) -> list[str]:
    """The command as a user types it."""
    options = (folder, *OPTIONS, *options, "--output-dir", output)
    return [sys.executable, "-m", "experiments.transfer", *map(str, options)]


@pytest.fixture
def transfer(invoke):
    """Fine-tune once, unless the options say otherwise; return stdout, and check a refusal."""

    def once(folder: Path, output: Path, *options: object, refused: tuple | None = None) -> str:
        default = ("--strategy", "finetune", "--seeds", 1, "--output-dir", output)
        done = invoke("experiments.transfer", folder, *OPTIONS, *default, *options)
        if refused:
            assert_three_lines(done, *refused)
        else:
            assert done.returncode == 0, done.stderr
        return done.stdout

    return once


def test_a_notebook_gets_the_same_weights_whatever_it_set_and_keeps_its_settings(folder, tmp_path):
    """In a kernel with gradients off and fp64: an unusual state that a cell before it left."""
    options = {"model": "resnet8", "weights": "none", "strategy": "finetune", "seeds": 1,
               "size": 16, "squash": True, "batch_size": 8, "epochs": 1, "precision": "fp32",
               "device": "cpu"}  # fmt: skip
    usual = comparison.transfer(folder, output_dir=tmp_path / "a", **options)
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_float32_matmul_precision("medium")
    torch.backends.mkldnn.enabled = False
    try:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            odd = comparison.transfer(folder, output_dir=tmp_path / "b", **options)
            model = load_model(odd.best)
            assert torch.get_default_device().type == "meta"
            torch.set_default_device(None)
            answers = predict(model, next((folder / "val").glob("*/*.png")))
            assert torch.get_default_dtype() == torch.float64
            assert torch.is_inference_mode_enabled()
            assert torch.get_float32_matmul_precision() == "medium"
            assert not torch.backends.mkldnn.enabled
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_float32_matmul_precision("highest")
        torch.backends.mkldnn.enabled = True
    assert torch.equal(before, torch.get_rng_state())
    assert usual.best.read_bytes() == odd.best.read_bytes()
    for wrong in (0, "2", 2.0):
        with pytest.raises(UsageError, match="whole number"):
            predict(model, next((folder / "val").glob("*/*.png")), k=wrong)
    assert model.model.head.weight.dtype == torch.float32
    assert len(answers) == len(CLASSES)


def test_a_notebook_gets_the_weights_of_the_command_in_bf16(folder, tmp_path):
    """`transfer` turns the autocast of a cell before it off, so its own one is inside another."""
    options = {"model": "resnet8", "weights": "none", "strategy": "finetune", "seeds": 1,
               "size": 16, "squash": True, "batch_size": 8, "epochs": 2, "precision": "bf16",
               "device": "cpu"}  # fmt: skip
    words = comparison.options_from(
        comparison.Options, folder, output_dir=tmp_path / "command", **options
    )
    comparison.carry_out(words)
    comparison.transfer(folder, output_dir=tmp_path / "notebook", **options)
    usual, ours = sorted(tmp_path.glob("*/*/last.safetensors"))
    assert usual.read_bytes() == ours.read_bytes()


def test_in_one_kernel_a_file_with_other_weights_is_read_again(folder, tmp_path):
    options = {"model": "resnet8", "strategy": "linear-probe", "seeds": 1, "size": 16,
               "squash": True, "batch_size": 8, "precision": "fp32", "device": "cpu"}  # fmt: skip
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        write_weights(tmp_path / "w.safetensors", zoo.build("resnet8").state_dict(),
                      Metadata("resnet8", settings_of(zoo.build("resnet8"))))  # fmt: skip
        output = tmp_path / str(seed)
        result = comparison.transfer(
            folder, weights=str(tmp_path / "w.safetensors"), output_dir=output, **options
        )
        found.append(load_model(result.best).model.stem.conv.weight)
    assert not torch.equal(*found)


@pytest.fixture(scope="module")
def everything(folder, tmp_path_factory):
    """`--strategy all` over two seeds, as a user types it."""
    output = tmp_path_factory.mktemp("all")
    done = subprocess.run(
        typed(folder, output, "--seeds", 2), cwd=ROOT, capture_output=True, text=True, timeout=200,
        check=False, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "2"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return output, done.stdout


def test_a_batch_that_cannot_be_filled_is_refused_before_any_work_and_a_probe_needs_none(
    folder, transfer, tmp_path
):
    large = "--batch-size", 32  # of 30 images
    transfer(folder, tmp_path / "a", *large, refused=(3, "no training batch of 32", "2 to 30"))
    assert not (tmp_path / "a").exists()
    assert "linear-probe" in transfer(folder, tmp_path / "b", *large, "--strategy", "linear-probe")


def test_few_images_make_small_batches_unless_a_size_is_asked_for(folder, transfer, tmp_path):
    said = transfer(folder, tmp_path, "--epochs", 1, "--batch-size")
    assert "Batch size 7: 30 images do not fill the recipe's batch of 32" in said
    assert (tmp_path / "resnet8-finetune-batch7-seed0" / "row.json").exists()


@pytest.mark.slow
def test_all_strategies_leave_a_table_a_sentence_and_figures(everything):
    output, said = everything
    for words in (*STRATEGIES[:-1], "moving BatchNorm", "Data ", "Choose ", "bounded by",
                  "is right for 33.3 % of val",
                  "Recipe default: epochs 3, batch-size 8, opt sgd",
                  "30 train, 15 val, 18 test images, 3 classes",
                  "the accuracy is that on test"):  # fmt: skip
        assert words in " ".join(said.split())
    line = r"^epoch (\d)/3: train loss [\d.]+ acc [\d.]+ %, val loss .* %, [\d.]+ s(.*)$"
    lines = re.findall(line, said, re.MULTILINE)
    assert len(lines) == 2 * 6 * 3  # a linear probe has no epochs
    assert all(best == ", best" for epoch, best in lines if epoch == "1")
    assert any(best == "" for _, best in lines)
    with (output / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    *_, best, time_taken, command = said.splitlines()
    name = re.fullmatch(r"best on val of [a-z-]+: [\d.]+ % in epoch [123] of (\S+)", best)[1]
    assert re.fullmatch(r"all 14 runs took \d+:\d\d minutes", time_taken)
    assert command == (
        f"use it: {python()} -m experiments.predict {output / name / 'best.safetensors'} IMAGES"
    )
    assert len(rows) == 14
    assert {row["strategy"] for row in rows} == set(STRATEGIES)
    for name in ("curves.png", "accuracy_time.png", "stages.png"):
        assert Image.open(output / name).size[0] > 300
    assert "How far to unfreeze resnet8?" in said
    learning = {row["strategy"]: int(row["trainable"]) for row in rows}
    network = zoo.build("resnet8", 3)
    whole, stage = (sum(p.numel() for p in part.parameters())
                    for part in (network, network.stages[2]))  # fmt: skip
    last = 64 * 3 + 3
    assert learning == {
        "finetune": whole, "feature-extraction": last, "linear-probe": last, "lp-ft": whole,
        "scratch": whole, "moving-bn": last, "partial": last + stage,
    }  # fmt: skip


@pytest.mark.slow
def test_rows_are_what_their_files_score(everything, folder):
    """best.safetensors gives the test accuracy in its row again, and `right`, image by image."""
    images = opened(folder)
    for path in everything[0].glob("resnet8-*"):
        found, history = row(path), read_history(path)
        model = load_model(path / "best.safetensors")
        shown = images.images("test", model.view)
        guesses = model.logits(torch.stack([shown[i] for i in range(18)])).argmax(1)
        right = (guesses == images.labels("test")).int().tolist()
        assert found["right"] == "".join(map(str, right))
        assert found["accuracy"] == found["best_test_accuracy"] == sum(right) / 18
        assert found["tested_on"] == "test"
        assert model.classes == CLASSES
        best = max(history["val_accuracy"])
        assert found["best_epoch"] == history["epoch"][history["val_accuracy"].index(best)]
        assert model.metrics["epoch"] == found["best_epoch"]
        assert model.metrics["chosen_by"] == "val accuracy"
        assert load_model(path / "last.safetensors").metrics["epoch"] == found["last_epoch"]
        assert found["seconds"] >= found["training_seconds"] >= found["waiting_seconds"] >= 0


@pytest.mark.slow
def test_a_finished_campaign_is_not_made_again(everything, folder, transfer, invoke):
    output, _ = everything
    campaign = (folder, output, "--strategy", "all", "--seeds", 2)
    before = {path: path.stat().st_mtime_ns for path in output.glob("*/*")}
    assert "all 14 runs are finished, and are not repeated" in transfer(*campaign)
    assert {path: path.stat().st_mtime_ns for path in output.glob("*/*")} == before
    transfer(*campaign, "--lr", 0.5, refused=(3, "other settings", "row.json"))
    assert "Choose " in invoke("experiments.report", output).stdout


# --- interruptions ---


def test_the_best_epoch_so_far_is_known_after_an_interruption(folder, tmp_path):
    change = replace(RUN, recipe=replace(RECIPE, epochs=8))

    def marks(output, stop_at=None) -> dict[int, bool]:
        found = {}

        def on_epoch(row, is_best):
            found[row["epoch"]] = is_best
            if row["epoch"] == stop_at:
                raise InterruptedError

        with contextlib.suppress(InterruptedError):
            run(folder, output, change, on_epoch=on_epoch, save_every=0)
        return found

    whole = marks(tmp_path / "whole")
    assert set(whole.values()) == {True, False}
    accuracies = read_history(tmp_path / "whole")["val_accuracy"]
    assert list(whole.values()) == [
        accuracy > max(accuracies[:i], default=-1) for i, accuracy in enumerate(accuracies)
    ]
    for stop_at in (3, 6):
        assert marks(tmp_path / "stopped", stop_at).items() <= whole.items()
    assert marks(tmp_path / "stopped").items() <= whole.items()


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
    whole, again = row(tmp_path / "whole"), row(killed)
    for key in ("accuracy", "right", "best_epoch", "last_test_loss", "best_val_loss"):
        assert whole[key] == again[key]
    assert not (killed / "checkpoint.pt").exists()


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(everything, folder, tmp_path, transfer):
    """Python orders sets differently in every process; no file may depend on that."""
    assert os.environ.get("PYTHONHASHSEED") != "2"  # as in `everything`; random if not set
    transfer(folder, tmp_path, "--strategy", "linear-probe")
    name = "resnet8-linear-probe-batch8-seed0/best.safetensors"
    assert (tmp_path / name).read_bytes() == (everything[0] / name).read_bytes()


@pytest.mark.slow
def test_ctrl_c_saves_and_the_run_can_be_resumed(folder, tmp_path):
    command = typed(folder, tmp_path, "--seeds", 1, "--strategy", "finetune", "--epochs", 400)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
    run_folder = tmp_path / FINETUNE
    until = time.monotonic() + 60
    while not (run_folder / "history.csv").exists():
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "again to resume" in said
    assert "Traceback" not in said
    assert 0 < load_checkpoint(run_folder / "checkpoint.pt")["step"] < 1200
    assert to_do([run_folder, tmp_path / "other"], 3) == (
        "2 of 3 runs to do; 1 of them resume from their checkpoints"
    )


@pytest.mark.parametrize(("step", "said"), [(0, ""), (7, "resumes at step 7 of 12\n")])
def test_a_run_says_at_which_step_it_resumes(step, said, capsys):
    recipe = SimpleNamespace(batch_size=2, epochs=3)
    run, labels = SimpleNamespace(recipe=recipe, strategy="finetune"), [0] * 9
    dataset = SimpleNamespace(labels=lambda split: labels)
    with bar_of(run, dataset, "a run", ALONE) as (progress, _):
        progress(step)
        progress(step + 1)
    assert capsys.readouterr().out == "a run ...\n" + said


# --- data, options and messages ---


def test_without_a_test_set_the_command_says_that_val_also_chose_the_epoch(tmp_path, transfer):
    folder = make_folder(tmp_path / "two", train=8, val=4)
    said = transfer(folder, tmp_path / "out", "--strategy", "linear-probe", "finetune")
    said = " ".join(said.split())
    assert "there is no test set: val chose the epoch and is reported too" in said
    assert "two seeds or more are needed" in said


def test_a_folder_of_classes_is_split_and_results_of_other_images_are_refused(tmp_path, transfer):
    """The split is saved, and stays the same when the command is repeated with other images."""
    folder, output = make_folder(tmp_path / "flat", **{".": 12}), tmp_path / "out"
    command = (folder, output, "--strategy", "linear-probe")
    other = (3, "other settings", "row.json")
    transfer(*command)
    split = (output / "split.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(split.splitlines()))
    assert len(rows) == len({row["path"] for row in rows}) == 36
    shares = Counter(row["split"] for row in rows)
    assert shares == {"train": 24, "val": 6, "test": 6}
    assert len({(row["split"], row["class"]) for row in rows}) == 9, "every class in every part"
    transfer(*command, "--train-images", 12, refused=other)
    Image.new("RGB", (20, 20)).save(folder / "dots" / "new.png")
    transfer(*command, refused=other)
    assert (output / "split.csv").read_text(encoding="utf-8") == split
    (folder / "dots" / "new.png").unlink()
    transfer(*command)
    Image.new("RGB", (20, 20)).save(folder / "dots" / "0.png")  # another image of that name
    transfer(*command, refused=other)


def test_lists_of_models_and_batch_sizes_are_compared(folder, tmp_path, transfer):
    said = transfer(folder, tmp_path, "--model", "resnet8", "plain8", "--batch-size", 8, 16)
    for words in ("finetune resnet8 batch 8", "finetune plain8 batch 16"):
        assert words in said
    assert len(list(tmp_path.glob("*/row.json"))) == 4


@pytest.mark.parametrize(("split", "count"), [("train", 24), ("val", 12)])
def test_a_bad_image_stops_the_run_unless_it_is_skipped(
    tmp_path, transfer, split, count, monkeypatch
):
    folder = make_folder(tmp_path / "set", train=8, val=4)
    bad = folder / split / "dots" / "3.png"
    bad.write_bytes(bad.read_bytes()[:200])
    weights = []
    for most in (4e9, 0):  # stored, and streamed
        monkeypatch.setattr(collection_module, "MOST_STORED", most)
        output = tmp_path / f"out{most}"
        transfer(folder, output, refused=(3, str(bad), f"1 of {count} in {split}", "--skip-bad"))
        assert not list(output.glob("*/history.csv"))
        transfer(folder, output, "--skip-bad")
        assert row(output / FINETUNE)["images"] == {"train": 24, "val": 12} | {split: count - 1}
        weights.append((output / FINETUNE / "last.safetensors").read_bytes())
    assert weights[0] == weights[1]  # stored or streamed, the same images


def test_running_out_of_memory_says_what_to_do(folder, tmp_path, transfer, monkeypatch):
    def short(self, batch):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(transfer_run.ViewBatches, "finish", short)
    transfer(folder, tmp_path, refused=(2, "out of memory", "smaller --batch-size"))


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--model", "resnet19"), 2, "there is no model 'resnet19'"),
        (("--seeds", 0), 2, "give 1 to 1,000"),
        (("--batch-size", 1), 2, "give 2 to 1,000,000"),
        (("--batch-size", 31), 3, "choose a --batch-size from 2 to 30"),
        (("--size", 5000), 2, "give 1 to 2,048"),
        (("--workers", -1), 2, "give 0 to 256"),
        (("--weights", "nowhere.pth"), 4, "there is no such file"),
    ],
)
def test_bad_options_are_refused(folder, tmp_path, transfer, options, code, words):
    transfer(folder, tmp_path, *options, refused=(code, words))


# --- weights ---


def test_pretrained_weights_and_what_they_ask(tmp_path, monkeypatch):
    """A published name, with a file instead of the download; a plain twin takes the weights too."""
    state = torchvision.models.resnet18().state_dict()
    path = tmp_path / "resnet18.pth"
    torch.save(state, path)
    local = {published.published("resnet18", "IMAGENET1K_V1").url: read_weights(path)}
    monkeypatch.setattr("zoo.weights.published.fetch", lambda url, **_: local[url])
    model, view = pretrained("resnet18", "IMAGENET1K_V1", 0)
    assert view == View(256, 224, "bilinear", input_size=224)
    shortcut = model.stages[1][0].shortcut.conv.weight
    assert torch.equal(shortcut, state["layer2.0.downsample.0.weight"])
    plain, _ = pretrained("plain18", "IMAGENET1K_V1", 0)
    assert torch.equal(plain.stages[1][0].conv1.weight, state["layer2.0.conv1.weight"])
    same = pretrained("resnet18", str(path), 0)[0].state_dict()
    assert all(torch.equal(value, same[key]) for key, value in model.state_dict().items())
    first, second = (pretrained("resnet8", None, seed)[0].head.weight for seed in (0, 1))
    assert not torch.equal(first, second)
    assert pretrained("resnet8", None, 0)[1] == View(32, 32, input_size=32)


def test_images_in_memory_are_shown_as_predict_shows_them(tmp_path):
    """A view may resize 32x32 images first: to 37 pixels, for example, and then crop 32."""
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    part = collection_module.Split(torch.arange(4), images=images)
    dataset = ImageDataset(Source(""), "", CLASSES, {"val": part}, [], "", 0, 0)
    for view in (View(37, 32), View(32, 32), View(40, 32, squash=True), View(28, 24)):
        shown = dataset.images("val", view)
        same = [torch.equal(shown[i], view(images[i])) for i in range(len(shown))]
        assert same == [True] * 4, view


def test_skipping_says_so_and_does_not_lose_a_class(tmp_path, transfer):
    folder = make_folder(tmp_path / "set", train=8, val=4)
    sound = tmp_path / "sound"
    (folder / "train" / "개").rename(sound)
    for name, count in (("개", 8), ("dots", 3)):
        for i in range(count):
            (folder / "train" / name).mkdir(exist_ok=True)
            (folder / "train" / name / f"{i}.png").write_bytes(f"no {name} {i}".encode())
    command = (folder, tmp_path / "out", "--skip-bad", "--class-weights")
    transfer(*command, refused=(3, "is left in train of 개"))
    shutil.copytree(sound, folder / "train" / "개", dirs_exist_ok=True)
    said = transfer(*command)
    assert "train: 3 left out that cannot be decoded" in said
    assert "21 train" in said


def test_only_the_head_is_new(folder, tmp_path):
    """The backbone starts with the weights in the file; each seed draws another head."""
    torch.manual_seed(7)
    before = zoo.build("resnet8", 10)
    path = tmp_path / "weights.pth"
    torch.save(before.state_dict(), path)
    jobs = [job(folder, tmp_path, weights=str(path), seed=seed) for seed in (0, 0, 1)]
    for key, value in before.state_dict().items():
        if not key.startswith("head"):
            assert all(torch.equal(each.model.state_dict()[key], value) for each in jobs)
    heads = [each.model.head.weight for each in jobs]
    assert heads[0].shape == (3, 64)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    scratch = job(folder, tmp_path, weights=str(path), strategy="scratch")
    assert not torch.equal(scratch.model.stem.conv.weight, before.stem.conv.weight)


def test_scratch_is_shown_the_same_images_as_the_others(folder, tmp_path):
    """Scratch takes the preprocessing from the weights file, but none of the weights."""
    path, asked = tmp_path / "ours.safetensors", View(30, 24, "bicubic", mean=(0.1, 0.2, 0.3))
    save_classifier(path, "resnet8", zoo.build("resnet8", 4), tuple("abcd"), asked, {})
    tuned, scratch = (
        job(folder, tmp_path, weights=str(path), strategy=strategy).view
        for strategy in ("finetune", "scratch")
    )
    assert tuned == scratch
    assert tuned.mean == (0.1, 0.2, 0.3)


def test_lp_ft_begins_where_the_probe_ends(folder, tmp_path):
    still = replace(RECIPE, lr=1e-12, epochs=1)
    for strategy, recipe in (("linear-probe", RECIPE), ("lp-ft", still)):
        done = run(folder, tmp_path / strategy, replace(RUN, strategy=strategy, recipe=recipe))
        assert done["status"] == "finished"
    assert torch.allclose(head(tmp_path / "linear-probe"), head(tmp_path / "lp-ft"), atol=1e-5)


def test_probes_can_learn_with_class_weights(folder, tmp_path):
    recipe = replace(RECIPE, class_weights=True)
    done = run(folder, tmp_path, replace(RUN, strategy="linear-probe", recipe=recipe))
    assert done["accuracy"] > 1 / 3


def test_a_run_that_diverges_says_so(folder, tmp_path, transfer):
    high = replace(RECIPE, lr=1e30, lr_warmup_epochs=0)
    done = run(folder, tmp_path / "one", replace(RUN, recipe=high))
    assert done["status"].startswith("diverged at step")
    assert done["accuracy"] is None
    options = ("--lr", 1e30, "--lr-warmup-epochs", 0)
    transfer(folder, tmp_path / "x", *options, refused=(5, "every run diverged", "lower --lr"))


def test_weights_that_the_last_step_ruins_have_diverged_too(folder, tmp_path, monkeypatch):
    """There is no further loss that would show it."""

    def ruin(state, *_, **__) -> bool:
        state.step += 1
        state.model.head.bias.data[0] = float("nan")
        return True

    monkeypatch.setattr(transfer_run, "train_resumably", ruin)
    assert run(folder, tmp_path)["status"] == "diverged at step 1"


def test_in_fp16_steps_that_were_skipped_are_in_the_row(folder, tmp_path, monkeypatch):
    large = partial(torch.amp.GradScaler, init_scale=2.0**30)  # no gradient fits into fp16
    monkeypatch.setattr(torch.amp, "GradScaler", large)
    run(folder, tmp_path, replace(RUN, base=Settings(precision="fp16")))
    done = row(tmp_path)
    assert done["status"] == "finished"
    assert 0 < done["skipped_steps"] <= 9  # of three epochs of three steps


@pytest.mark.slow
def test_imagenets_recipe_runs_on_a_tiny_folder(folder, tmp_path, transfer):
    """torchvision's V1 recipe on a tiny folder: its rate, its views, one epoch."""
    options = ("--strategy", "scratch", "--model", "resnet18", "--size", 32, "--epochs", 1)
    said = transfer(folder, tmp_path, "--recipe", "imagenet", *options)
    assert "lr 0.1" in said
    assert "scale 0.08 to 1" in said


def test_cifar10_is_taken_as_it_is(tmp_path, monkeypatch):
    """32x32 images, a tenth held out for validation, enlarged to 224 in the batch."""
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(40) % 10
    whole = Dataset("CIFAR-10", tuple("abcdefghij"), images, labels, images, labels)
    monkeypatch.setattr(collection_module, "cifar10", lambda _: whole)
    dataset = open_dataset(Source("cifar10", test_images=20), 0, 0)
    assert [len(part.labels) for part in dataset.splits.values()] == [36, 4, 20]
    recipe = replace(RECIPES["cifar10"], batch_size=4)
    made = TransferJob(replace(RUN, recipe=recipe), dataset, tmp_path, CPU, Group())
    assert made.batches().batch(0)[0].shape == (4, 3, 224, 224)
    assert dataset.images("val", made.view) is dataset.splits["val"].images
    assert made.view.mean == (0.4914, 0.4822, 0.4465)


@pytest.mark.slow
def test_ants_and_bees_with_cifar10s_network(real_data, tmp_path, transfer, monkeypatch):
    """At least 75 %, and 10 points above random weights (2 seeds; LOG.md has 5)."""
    monkeypatch.setattr(comparison, "probe_networks", lambda *_: {})  # not of every stage: slow
    shutil.unpack_archive(real_data / "hymenoptera_data.zip", tmp_path)
    accuracies = {}
    for weights, seeds in ((real_data / "weights" / "resnet32-d509ac18.th", 1), ("none", 2)):
        output = tmp_path / f"out{seeds}"
        said = transfer(
            tmp_path / "hymenoptera_data", output, "--model", "resnet32", "--weights", weights,
            "--size", 96, "--strategy", "linear-probe", "--seeds", seeds,
        )  # fmt: skip
        rows = read_rows(output, NEEDS)
        accuracies[seeds] = [row["accuracy"] for row in rows]
        assert "imageNotFound.gif" in said
        assert rows[0]["images"] == {"train": 245, "val": 153}
    assert accuracies[1][0] >= 0.75
    assert accuracies[1][0] - np.mean(accuracies[2]) >= 0.10


def test_scores_are_computed_in_the_layout_that_predict_uses(folder, tmp_path):
    """If maps have one pixel, a network trained in the other layout would round differently."""
    contiguous = job(folder, tmp_path, base=Settings(channels_last=False))
    weight = contiguous.model.stem.conv.weight
    assert weight.is_contiguous()
    assert (FP32.precision, FP32.channels_last) == ("fp32", True)
    contiguous.answers(contiguous.model, "val", FP32)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
