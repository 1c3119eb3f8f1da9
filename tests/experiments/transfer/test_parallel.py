"""Several processes with torch's DDP: the same training, and the job ends if one dies."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, forked
from PIL import Image
from sample_images import noise
from torch import nn
from torch.nn.functional import cross_entropy

import zoo
from data.decoding import DecodedOnUse
from data.view_batches import StepDataset, ViewBatches
from data.views import RandomView, View
from experiments.classifier import load_model
from experiments.plumbing.distributed import Group
from experiments.train.loop import Settings, infer
from experiments.transfer.report import read_history

OPTIONS = (
    "--model", "resnet8", "--weights", "none", "--size", "16", "--squash", "--precision", "fp32",
    "--batch-size", "8", "--strategy", "scratch", "--seeds", "1", "--epochs", "8", "--lr", "0.05",
    "--lr-scheduler", "none", "--lr-warmup-epochs", "0", "--device", "cpu",
)  # fmt: skip
RUN = "resnet8-scratch-batch8-seed0"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """26 + 11 images, so that two processes have unequal shares of val."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    counts = {"train/dark": 13, "train/light": 13, "val/dark": 6, "val/light": 5}
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        low = 60 if "dark" in name else 160
        for i in range(count):
            Image.fromarray(noise(rng, 16, 16, low, low + 90)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def undisturbed(images, tmp_path_factory):
    """The folder and the output of two processes, started by hand, which is quicker."""
    folder = tmp_path_factory.mktemp("undisturbed")
    said = folder / "said"
    store = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    ranks = [
        forked.Process(target=rank, args=(i, store.port, str(images), str(folder), said))
        for i in range(2)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    text = said.read_text(encoding="utf-8")
    assert [process.exitcode for process in ranks] == [0, 0], text
    return folder / RUN, text


def rank(number: int, port: int, images: str, folder: str, said: Path) -> None:
    """One of the two processes, with the environment variables that torchrun would set."""
    os.environ |= {
        "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    for stream in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.argv = ["transfer", images, *OPTIONS, "--output-dir", folder]
    torch.set_num_threads(1)
    runpy.run_module("experiments.transfer", run_name="__main__", alter_sys=True)


def launch(images, folder):
    """Start torchrun on a free port."""
    torchrun = ("torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
                "--rdzv-endpoint", "localhost:0", "-m", "experiments.transfer")  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", *torchrun, images, *OPTIONS, "--output-dir", folder], cwd=ROOT,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def by_hand(folder) -> dict:
    """One process does what two should do: BN per half batch, gradients averaged."""
    files = sorted(map(str, (folder / "train").glob("*/*")))  # the dark ones first
    labels = torch.tensor(["light" in name for name in files]).long()
    whole = View(16, 16, squash=True, input_size=16)
    view = RandomView(view=whole, scale=(0.35, 1.0))
    epochs = StepDataset(DecodedOnUse(tuple(files), view.stored), labels, view, 8, 0)
    batches = ViewBatches(epochs, torch.device("cpu"))
    torch.manual_seed(0)
    model = zoo.build("resnet8")
    torch.manual_seed(0)
    model.head = nn.Linear(64, 2)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    for step in range(24):
        images, answers = batches.batch(step)
        images = images.contiguous(memory_format=torch.channels_last)
        model.train()
        optimizer.zero_grad()
        (cross_entropy(model(images[:4]), answers[:4]) / 2).backward()
        # Only the first process's statistics are kept.
        buffers = {key: value.clone() for key, value in model.named_buffers()}
        (cross_entropy(model(images[4:]), answers[4:]) / 2).backward()
        for key, value in model.named_buffers():
            value.copy_(buffers[key])
        optimizer.step()
    return model.state_dict()


@pytest.mark.slow
def test_two_processes_are_one_with_half_batches_and_averaged_gradients(images, undisturbed):
    run, said = undisturbed
    assert said.count("Recipe") == 1  # one of them prints
    ours = load_model(run / "last.safetensors").model.state_dict()
    for key, value in by_hand(images).items():
        assert torch.allclose(ours[key].float(), value.float(), rtol=1e-3, atol=1e-4), key


@pytest.mark.slow
def test_each_image_is_counted_once(undisturbed):
    run, _ = undisturbed
    row = json.loads((run / "row.json").read_text(encoding="utf-8"))
    assert row["processes"] == 2
    assert row["images"] == {"train": 26, "val": 11}
    assert len(row["right"]) == 11
    assert row["accuracy"] == row["right"].count("1") / 11
    history = read_history(run)
    for part, count in (("train", 24), ("val", 11)):  # three batches of 8 in train
        right = [count * accuracy for accuracy in history[f"{part}_accuracy"]]
        assert right == pytest.approx([round(number) for number in right])


@pytest.mark.slow
def test_a_dying_process_ends_the_job_with_a_message_and_it_resumes(images, undisturbed, tmp_path):
    """The second process is killed midway; the same command then ends like an undisturbed one."""
    process = launch(images, tmp_path)
    checkpoint = tmp_path / RUN / "checkpoint.pt"
    until = time.monotonic() + 60
    while not checkpoint.exists():
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    children = subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True)
    ranks = list(map(int, children.split()))
    assert len(ranks) == 2
    begin = time.monotonic()
    os.kill(max(ranks), signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    assert time.monotonic() - begin < 30
    assert process.returncode != 0
    assert not (tmp_path / RUN / "row.json").exists()
    assert re.search("another process of this job is gone|again to resume", said), said
    process = launch(images, tmp_path)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    for name in ("last.safetensors", "best.safetensors", "history.csv"):
        assert (tmp_path / RUN / name).read_bytes() == (undisturbed[0] / name).read_bytes(), name


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_without_images_of_its_own_has_the_rows_of_the_others(rank, monkeypatch):
    """One image and two processes: the second has nothing to infer."""
    settings = Settings(channels_last=False)
    batches = [[(torch.ones(1, 3, 1, 3), torch.tensor([2]))], []]
    linear = nn.Linear(3, 5)
    parts = [infer(linear, part, settings)[0] for part in batches]
    monkeypatch.setattr(Group, "gather", lambda self, value: parts)
    assert torch.equal(Group(rank, 2).together(parts[rank]), parts[0])
