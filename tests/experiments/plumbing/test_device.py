"""--device mps, as far as it can be tested without Apple's hardware: nothing was run on it."""

import contextlib
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import assert_prints, refusal
from PIL import Image
from sample_images import noise
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import zoo
from data.collection import Source, open_dataset
from data.synthetic import synthetic
from data.views import View
from experiments.ablation.pool import default_jobs
from experiments.ablation.runs import Data, Run, run_one
from experiments.classifier import Classifier, predict
from experiments.plumbing.cli import UsageError
from experiments.plumbing.device import choose_device
from experiments.plumbing.distributed import ALONE
from experiments.plumbing.precision import choose_precision, time_step
from experiments.plumbing.recipes import RECIPES
from experiments.plumbing.results import machine
from experiments.train.loop import NEVER, Settings
from experiments.transfer.job import Transfer, run_transfer

MPS, META = torch.device("mps"), torch.device("meta")
NCHW = Settings(steps=6, batch_size=8, channels_last=False)


class LikeMps(TorchDispatchMode):
    """Makes the meta device stand in for mps, which has no fp64 and no safe non-blocking copies.

    Nothing is computed: numbers that come back to the CPU are 1.0, and integers NEVER (no loss
    was infinite).
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert not kwargs.get("non_blocking"), "a copy that nobody waits for"
        if args and isinstance(args[0], torch.Tensor) and args[0].is_meta:
            if function is torch.ops.aten._local_scalar_dense.default:
                return 1.0 if args[0].is_floating_point() else NEVER
            if kwargs.get("device") == torch.device("cpu"):
                return torch.ones_like(args[0], dtype=kwargs.get("dtype"), device="cpu")
        found = function(*args, **kwargs)
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                assert tensor.dtype != torch.float64, "fp64 on the device"
        return found


@pytest.fixture
def like_mps(monkeypatch):
    """A context manager, within which META behaves like mps."""
    # autocast does not support meta; in fp32, the only precision used on mps, it is off anyway.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    return LikeMps()


def test_the_stand_in_refuses_what_mps_refuses(like_mps):
    with like_mps:
        assert torch.ones(2, dtype=torch.float64).to("meta", torch.float32).sum().item() == 1
        with pytest.raises(AssertionError, match="fp64"):
            torch.ones(2, device="meta").double()
        with pytest.raises(AssertionError, match="waits"):
            torch.ones(2).to("meta", non_blocking=True)


@pytest.mark.parametrize("kind", [{"depth": 8}, {"network": "vit", "depth": 1, "norm": "layer"}])
@pytest.mark.parametrize("opt", ["sgd", "adamw"])
def test_an_ablations_run_has_no_fp64_on_the_device(like_mps, tmp_path, kind, opt):
    """Images of 32x32 resized to 16x16, training, evaluation, checkpoints, the weights file."""
    data = Data(size=16, train_images=32, test_images=20, normalize="pixel-mean")
    settings = replace(NCHW, opt=opt, class_weights=(1.0,) * 10, label_smoothing=0.1)
    run = Run(data=data, settings=settings, **kind)
    with like_mps:
        assert run_one(run, tmp_path, META, save_every=0)
    row = json.loads((tmp_path / "row.json").read_text(encoding="utf-8"))
    assert row["status"] == "finished"
    assert row["train_loss"] == pytest.approx(1 / 48)  # the sum is read as 1; of 6 batches of 8


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
@pytest.mark.parametrize("strategy", ["finetune", "feature-extraction"])
def test_a_transfer_has_no_fp64_on_the_device(like_mps, tmp_path, monkeypatch, strategy):
    monkeypatch.setattr("data.collection.IMAGE_CACHE", tmp_path / "cache")
    rng = np.random.default_rng(0)
    for folder in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for i in range(8):
            image = Image.fromarray(noise(rng, 18, 18, 0, 255))
            image.save(tmp_path / "images" / folder / f"{i}.png")
    recipe = replace(RECIPES["default"], size=16, squash=True, epochs=2, batch_size=8)
    recipe = replace(recipe, class_weights=True)
    run = Transfer(strategy, "resnet8", None, 0, recipe, NCHW)
    images = open_dataset(Source(str(tmp_path / "images")), 0, 0)
    with like_mps:
        row = run_transfer(run, images, tmp_path / "out", META, ALONE, save_every=0)
    assert row["status"] == "finished"


def test_a_prediction_has_no_fp64_on_the_device(like_mps):
    model = zoo.build("resnet8", 3).to(META)
    classifier = Classifier(model, ("a", "b", "c"), View(16, 16, input_size=16), {}, "here")
    with like_mps:
        best = predict(classifier, torch.zeros(3, 20, 20, dtype=torch.uint8), k=1)
    assert best[0]["score"] == pytest.approx(1 / 3)


def test_auto_stays_on_the_cpu_and_mentions_mps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    device, why = choose_device("auto")
    assert (device.type, why) == (
        "cpu",
        "CPU: no CUDA device is visible; --device mps is available, but not tested",
    )
    monkeypatch.setattr(torch, "ones", lambda *_, device: torch.zeros(1))
    assert choose_device("mps") == (MPS, "mps: as requested, not tested")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="mps is here")
def test_mps_is_refused_where_there_is_none():
    with refusal(UsageError, "--device mps", "--device auto"):
        choose_device("mps")
    with pytest.raises(UsageError, match=r"cannot compute on 'mps': .{1,100}\n"):  # one sentence
        choose_device("mps")


def test_on_mps_there_is_one_precision_and_one_layout():
    """Contiguous even if channels_last is requested, which gives batch norms wrong gradients."""
    for requested in ("auto", "fp32"):
        chosen, why = choose_precision(requested, None, None, Settings(precision="bf16"), MPS)
        assert (chosen.precision, chosen.channels_last) == ("fp32", False)
        assert "mixed precision and channels_last are not tried on mps" in why
    for requested in ("bf16", "fp16"):
        with refusal(UsageError, "not tried on mps", f"--precision {requested}"):
            choose_precision(requested, None, None, Settings(), MPS)


def test_the_command_train_has_that_layout_too(invoke, monkeypatch):
    seen = []
    monkeypatch.setattr("data.synthetic.synthetic", lambda train, test: synthetic(128, 64))
    monkeypatch.setattr("data.batches.TensorBatches", lambda *_, **__: range(2))
    monkeypatch.setattr(
        "experiments.train.loop.train", lambda _, settings, __: seen.append(settings) or []
    )
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, _: module)
    for device in (torch.device("cpu"), MPS):
        choose = "experiments.plumbing.device.choose_device"
        monkeypatch.setattr(choose, lambda _, d=device: (d, str(d)))
        assert_prints(invoke("experiments.train", "resnet8"), f"device {device}")
    assert [settings.channels_last for settings in seen] == [True, False]


def test_a_timing_waits_for_the_device(monkeypatch):
    waits, module = [], SimpleNamespace(synchronize=lambda device: waits.append(device))
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    batches = SimpleNamespace(batch=lambda step: (torch.ones(2, 1), torch.tensor([0, 1])))
    time_step(torch.nn.Linear(1, 2), batches, NCHW)
    assert len(waits) == 2


def test_rows_name_mps_and_one_run_at_a_time_is_made_on_it():
    assert machine(MPS)["device"] == machine(torch.device("cpu"))["device"] + ", mps"
    assert default_jobs(MPS) == default_jobs(torch.device("cuda")) == 1


def test_autocast_is_off_for_fp32_on_mps_without_a_warning(recwarn):
    with torch.autocast("mps", None, enabled=False):
        assert not torch.is_autocast_enabled("mps")
    assert not recwarn.list
