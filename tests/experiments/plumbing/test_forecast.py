"""Forecasts: right within a factor of 1.5, cheap for short work, and printed only for long work."""

import time
from dataclasses import replace

import pytest
import torch
from PIL import Image

from experiments.ablation import campaign
from experiments.ablation.runs import Data, Run, make_batches, run_one
from experiments.plumbing import forecast as module
from experiments.plumbing.forecast import FORWARD, STEPS, forecast, forecast_if_long
from experiments.plumbing.recipes import DEFAULT
from experiments.train.loop import Settings
from experiments.transfer.job import Transfer
from experiments.transfer.plan import work_of

CPU = torch.device("cpu")


@pytest.mark.slow
def test_a_small_ablation_takes_as_long_as_forecast(tmp_path):
    """In CPU time, so that other programs do not matter. Alternately, in up to four rounds."""
    settings = Settings(steps=20, batch_size=32, lr=0.01)
    base = Run(data=Data(size=12, train_images=320, test_images=160), settings=settings)
    runs = [replace(base, network=n, depth=d) for d in (20, 8) for n in ("plain", "resnet")]
    run_one(replace(base, depth=8), tmp_path / "warm-up", CPU)  # libraries are loaded on first use
    forecasts, times = [], []
    for i in range(4):
        work = campaign.work_of(runs, (320, 160), 10, CPU, lambda run: make_batches(run, CPU))
        forecasts.append(forecast(*work, CPU).seconds)
        begin = time.process_time()
        for run in runs:
            run_one(run, tmp_path / f"round{i}" / run.name, CPU)
        times.append(time.process_time() - begin)
        if 1 / 1.5 < min(forecasts) / min(times) < 1.5:
            break
    assert 1 / 1.5 < min(forecasts) / min(times) < 1.5


@pytest.fixture
def timed(monkeypatch):
    """A step takes 2 s, its batch 1 s, and there are 2 cores; collects the networks."""
    asked = []

    def seconds_of_step(network, loaders, until):
        asked.append(network)
        return max(2.0, 1.0 / loaders) if loaders else 3.0

    monkeypatch.setattr(module, "seconds_of_step", seconds_of_step)
    monkeypatch.setattr(module, "usable_cores", lambda: 2)
    return asked


def make(network):
    return (network,)


def test_a_forecast_adds_up_runs_threads_and_loaders(timed):
    work = [("a", 10), ("b", 20)]
    assert forecast(work, make, CPU).seconds == 3 * 30
    assert forecast(work, make, CPU, jobs=2).seconds == 3 * 20  # the longest run decides
    assert forecast([*work, ("a", 15)], make, CPU, jobs=3).seconds == 3 * 45 / 2  # 2 cores
    assert forecast(work, make, CPU, threads=2).seconds == 3 * 30 / 2
    assert forecast(work, make, torch.device("cuda"), loaders=2).seconds == 2 * 30
    assert timed == ["a", "b"] * 2 + ["a", "b"] * 3  # each network once


def test_only_long_work_is_announced(timed):
    assert forecast_if_long([], make, CPU) is None
    assert forecast_if_long([("a", 199)], make, CPU) is None
    assert str(forecast_if_long([("a", 3400)], make, CPU)) == (
        "about 170 minutes (timed: 3 s a step of a)"
    )


def test_steps_are_timed_with_their_batches_until_time_is_up():
    loads = []

    class Batches(module.SameBatch):
        def batch(self, step):
            loads.append(step)
            sum(range(10**6))  # some CPU time
            return super().batch(step)

    batches = Batches(torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    alone = module.seconds_of_step(network, batches, Settings(), 8, 0.0)
    assert len(loads) == 2 + 1  # the time is up: one step
    assert module.seconds_of_step(network, batches, Settings(), 0, time.perf_counter() + 60) > alone
    assert len(loads) == 3 + 2 + STEPS


def test_an_ablation_counts_only_runs_that_are_not_finished(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(module, "LONG", 0.0)
    settings = Settings(steps=2, batch_size=16, lr=0.01)
    base = Run(depth=8, data=Data(size=12, train_images=32, test_images=16), settings=settings)
    runs = [base, replace(base, network="plain")]
    seen = []
    monkeypatch.setattr(campaign, "forecast_if_long", lambda work, *_, **__: seen.append(work))
    campaign.say_forecast(runs, tmp_path, CPU, 1)
    run_one(base, tmp_path / base.name, CPU)
    campaign.say_forecast(runs, tmp_path, CPU, 1)
    each = ("resnet8", 2 + FORWARD)  # one epoch of 2 steps, and one batch of test images
    assert seen == [[each, each], [each]]
    assert "Forecast" not in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setattr(module, "LONG", 0.0)
    campaign.say_forecast(runs, tmp_path, CPU, 1)
    assert "Forecast for this machine: about 1 s (timed: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("strategy", "steps"),
    [("finetune", 20 * 64 + (20 * 32 + 64) / 3), ("lp-ft", 20 * 64 + (20 * 32 + 64 + 64) / 3),
     ("feature-extraction", (20 * 64 + 20 * 32 + 64) / 3), ("linear-probe", (64 + 32 + 64) / 3)],
)  # fmt: skip
def test_what_a_strategy_computes(strategy, steps):
    run = Transfer(strategy, "resnet18", None, 0, DEFAULT, Settings())
    assert work_of(run, {"train": 64, "val": 32}, 1) == ("resnet18", pytest.approx(steps))
    assert work_of(run, {"train": 64, "val": 32}, 4)[1] == pytest.approx(steps / 4)


def test_a_transfer_prints_its_forecast_if_it_is_long(invoke, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, colour in (("cat", "red"), ("dog", "blue")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (20 + i, 20), colour).save(tmp_path / "images" / name / f"{i}.png")
    line = (
        "images --model resnet8 --weights none --size 16 --squash --epochs 1 --batch-size 4 "
        "--seeds 1 --strategy finetune --precision fp32 --output-dir out"
    )
    monkeypatch.setattr(module, "LONG", 0.0)
    done = invoke("experiments.transfer", *line.split())
    assert "Forecast for this machine: about 1 s (timed: " in done.stdout, done.stderr
    assert "Forecast" not in invoke("experiments.transfer", *line.split()).stdout  # it is finished
