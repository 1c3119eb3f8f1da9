"""An interrupted run ends bit for bit as if nothing had happened, whatever interrupted it."""

import itertools
import json
import random
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import run_and_kill

from experiments.ablation.runs import Data, Run, run_one
from experiments.plumbing import resume as resumable
from experiments.plumbing.cli import CheckpointError, ResultsError
from experiments.plumbing.results import read_row
from experiments.plumbing.resume import load_checkpoint, save_checkpoint
from experiments.train.loop import Settings

STEPS = 60
RUN = Run(
    depth=8,
    seed=1,
    data=Data(size=16, train_images=160, test_images=20),
    settings=Settings(steps=STEPS, batch_size=16, schedule="triangle"),
)
CPU = torch.device("cpu")


def child(folder, stop_at, run, steps) -> None:
    """One attempt: saves about every second step, and stops by itself at step `stop_at`.

    steps[0]: the step at which this attempt began; steps[1]: its current step.
    """

    def progress(step) -> None:
        steps[:] = (step if steps[0] < 0 else steps[0], step)

    def should_stop() -> bool:
        return stop_at is not None and steps[1] >= stop_at

    resumable.SAVE_SHARE = 1.0
    if run.settings.precision == "fp16":  # soon overflows, so it is halved, and grows
        torch.amp.GradScaler = partial(torch.amp.GradScaler, init_scale=2.0**24, growth_interval=2)
    run_one(run, folder, CPU, save_every=0, progress=progress, should_stop=should_stop)


def attempt(folder, kill_at=None, stop_at=None, run=RUN):
    """Run in a child, killed by SIGKILL after `kill_at` steps; returns (exit code, steps)."""
    return run_and_kill(child, (folder, stop_at, run), kill_at)


def files_in(folder) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("history.csv", "final.safetensors")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert attempt(folder)[0] == 0
    return files_in(folder)


def test_the_same_run_twice_leaves_identical_bytes_and_another_seed_others(undisturbed, tmp_path):
    for seed in (RUN.seed, 2):
        assert attempt(tmp_path / str(seed), run=replace(RUN, seed=seed))[0] == 0
    assert files_in(tmp_path / str(RUN.seed)) == undisturbed
    assert files_in(tmp_path / "2")[1] != undisturbed[1]


@pytest.mark.slow
def test_ten_runs_killed_twice_each_end_with_the_same_bits(undisturbed, tmp_path):
    draw, resumed = random.Random(0), 0
    for number in range(10):
        folder = tmp_path / str(number)
        for kill_at in sorted(draw.sample(range(3, STEPS - 6), 2)):
            code, (began, reached) = attempt(folder, kill_at)
            assert code == -signal.SIGKILL  # it was alive, so it was killed ...
            assert kill_at <= reached < STEPS  # ... in the middle of its steps
            assert not (folder / "row.json").exists()
            resumed += began > 0
        code, (began, reached) = attempt(folder)
        assert (code, reached) == (0, STEPS)
        resumed += began > 0
        assert files_in(folder) == undisturbed
        assert not list(folder.glob("checkpoint*"))
    assert resumed >= 15  # of 20 restarts: from a checkpoint, not from the beginning


def test_a_run_that_is_asked_to_stop_saves_and_later_resumes(undisturbed, tmp_path):
    code, (_, reached) = attempt(tmp_path, stop_at=17)
    assert (code, reached) == (0, 17)
    assert (tmp_path / "checkpoint.pt").exists()
    _, (began, _) = attempt(tmp_path)
    assert began == 17
    assert files_in(tmp_path) == undisturbed


def test_what_earlier_versions_left_is_read_and_resumed(undisturbed, tmp_path):
    """Their settings lack `compiled`."""
    assert attempt(tmp_path, stop_at=17)[0] == 0
    path = tmp_path / "checkpoint.pt"
    saved = load_checkpoint(path)
    run = json.loads(saved["run"])
    assert run["settings"].pop("compiled") is False
    save_checkpoint(path, saved | {"run": json.dumps(run)})
    code, (began, _) = attempt(tmp_path)
    assert (code, began) == (0, 17)
    assert files_in(tmp_path) == undisturbed
    row = json.loads((tmp_path / "row.json").read_text(encoding="utf-8"))
    del row["run"]["settings"]["compiled"]
    (tmp_path / "row.json").write_text(json.dumps(row), encoding="utf-8")
    found = read_row(tmp_path, RUN)
    assert found is not None
    assert found["run"]["settings"]["compiled"] is False
    with pytest.raises(ResultsError, match="compiled is False, not True"):
        read_row(tmp_path, replace(RUN, settings=replace(RUN.settings, compiled=True)))


def test_a_finished_run_leaves_no_part_of_a_checkpoint(tmp_path):
    """Such as a process leaves that was killed while it wrote one."""
    (tmp_path / "checkpoint.pt.12345.tmp").write_bytes(b"half")
    run = replace(RUN, settings=replace(RUN.settings, steps=2))
    assert run_one(run, tmp_path, CPU)
    assert not list(tmp_path.glob("checkpoint*"))


@pytest.mark.parametrize("network", ["dropout-shortcut", "stochastic-depth"])
def test_what_a_network_draws_at_random_is_drawn_again(network, tmp_path):
    run = replace(RUN, network=network, settings=replace(RUN.settings, steps=20))
    assert attempt(tmp_path / "undisturbed", run=run)[0] == 0
    assert attempt(tmp_path / "killed", kill_at=11, run=run)[0] == -signal.SIGKILL
    code, (began, _) = attempt(tmp_path / "killed", run=run)
    assert (code, began > 0) == (0, True)
    assert files_in(tmp_path / "killed") == files_in(tmp_path / "undisturbed")
    other = replace(run, seed=2)
    assert attempt(tmp_path / "other", run=other)[0] == 0
    assert files_in(tmp_path / "other") != files_in(tmp_path / "killed")


def test_in_fp16_too_the_scale_and_the_skipped_steps_are_those_of_an_undisturbed_run(tmp_path):
    """The run is killed by SIGKILL midway, after it has skipped steps."""
    settings = replace(RUN.settings, precision="fp16", steps=20)
    run = replace(RUN, settings=settings, data=replace(RUN.data, size=8))
    assert attempt(tmp_path / "undisturbed", run=run)[0] == 0
    code, _ = attempt(tmp_path / "killed", kill_at=12, run=run)
    assert code == -signal.SIGKILL
    saved = load_checkpoint(tmp_path / "killed" / "checkpoint.pt")
    assert saved["skipped_steps"] > 0
    assert saved["scaler"]["scale"] != 2.0**24
    code, (began, reached) = attempt(tmp_path / "killed", run=run)
    assert (code, reached) == (0, 20)
    assert began == saved["step"] > 0
    assert files_in(tmp_path / "killed") == files_in(tmp_path / "undisturbed")
    rows = [
        json.loads((tmp_path / name / "row.json").read_text(encoding="utf-8"))
        for name in ("undisturbed", "killed")
    ]
    assert rows[0]["skipped_steps"] == rows[1]["skipped_steps"] > saved["skipped_steps"]


def test_a_run_that_is_stopped_while_it_is_evaluated_is_evaluated_later(undisturbed, tmp_path):
    asked = itertools.count(1)  # once after each step, and once for the only batch of test images
    assert not run_one(RUN, tmp_path, CPU, should_stop=lambda: next(asked) == 10)
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert (saved["step"], saved["history"]) == (10, [])
    _, (began, _) = attempt(tmp_path)
    assert began == 10
    assert files_in(tmp_path) == undisturbed


def test_a_foreign_checkpoint_is_refused_and_kept(tmp_path):
    attempt(tmp_path, stop_at=9)
    path = tmp_path / "checkpoint.pt"
    good = path.read_bytes()
    with pytest.raises(CheckpointError, match="other settings"):
        run_one(replace(RUN, seed=5), tmp_path, CPU)
    assert path.read_bytes() == good
