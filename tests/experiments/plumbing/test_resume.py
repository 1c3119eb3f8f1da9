"""An interrupted run ends bit for bit as if nothing had happened, whatever interrupted it."""

import itertools
import random
import signal

import pytest
import torch
from conftest import run_and_kill

from experiments.ablation.runs import Data, Run, run_one
from experiments.plumbing import resume as resumable
from experiments.plumbing.cli import CheckpointError
from experiments.plumbing.resume import load_checkpoint
from experiments.train import Settings

STEPS = 60
RUN = Run(
    depth=8, seed=1, data=Data(size=16, train_images=160, test_images=20),
    settings=Settings(steps=STEPS, batch_size=16, schedule="one-cycle"),
)  # fmt: skip
FILES = ("history.csv", "final.safetensors")


def child(folder, stop_at, run, steps) -> None:
    """One attempt: tells its steps, saves about every second step, stops by itself if asked."""
    resumable.SAVE_SHARE = 1.0
    run_one(
        run, folder, torch.device("cpu"), save_every=0,
        progress=lambda step: note(steps, step),
        should_stop=lambda: stop_at is not None and steps[1] >= stop_at,
    )  # fmt: skip


def note(steps, step) -> None:
    """steps[0]: where this attempt began; steps[1]: where it is."""
    if steps[0] < 0:
        steps[0] = step
    steps[1] = step


def attempt(folder, kill_at=None, stop_at=None, run=RUN):
    """Run in a child, killed by SIGKILL once it has done `kill_at` steps; (exit code, steps)."""
    return run_and_kill(child, (folder, stop_at, run), kill_at)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert attempt(folder)[0] == 0
    return {name: (folder / name).read_bytes() for name in FILES}


def test_the_same_run_twice_leaves_identical_bytes(undisturbed, tmp_path):
    assert attempt(tmp_path)[0] == 0
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == undisturbed


def test_another_seed_leaves_other_bytes(undisturbed, tmp_path):
    other = Run(**{**RUN.__dict__, "seed": 2})
    assert attempt(tmp_path, run=other)[0] == 0
    assert (tmp_path / "final.safetensors").read_bytes() != undisturbed["final.safetensors"]


@pytest.mark.slow
def test_ten_runs_killed_twice_each_end_with_the_same_bits(undisturbed, tmp_path):
    draw, resumed = random.Random(0), 0
    for number in range(10):
        folder = tmp_path / str(number)
        first, second = sorted(draw.sample(range(3, STEPS - 6), 2))
        for kill_at in (first, second):
            code, (began, reached) = attempt(folder, kill_at)
            assert code == -signal.SIGKILL  # it was alive, so it was killed ...
            assert kill_at <= reached < STEPS  # ... in the middle of its steps
            assert not (folder / "row.json").exists()
            resumed += began > 0
        code, (began, reached) = attempt(folder)
        assert code == 0
        assert reached == STEPS
        resumed += began > 0
        assert {name: (folder / name).read_bytes() for name in FILES} == undisturbed
        assert not list(folder.glob("checkpoint*"))
    assert resumed >= 15  # of 20 restarts: from a checkpoint, not from the beginning


def test_a_run_that_is_asked_to_stop_saves_and_goes_on(undisturbed, tmp_path):
    code, (_, reached) = attempt(tmp_path, stop_at=17)
    assert code == 0
    assert reached == 17
    assert (tmp_path / "checkpoint.pt").exists()
    _, (began, _) = attempt(tmp_path)
    assert began == 17
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == undisturbed


def test_a_run_that_is_stopped_while_it_is_evaluated_is_evaluated_later(undisturbed, tmp_path):
    asked = itertools.count(1)  # once after each step, and once for the only batch of test images
    finished = run_one(RUN, tmp_path, torch.device("cpu"), should_stop=lambda: next(asked) == 10)
    assert not finished
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert (saved["step"], saved["history"]) == (10, [])
    _, (began, _) = attempt(tmp_path)
    assert began == 10
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == undisturbed


def test_a_damaged_or_foreign_checkpoint_is_refused_and_kept(tmp_path):
    attempt(tmp_path, stop_at=9)
    path = tmp_path / "checkpoint.pt"
    good = path.read_bytes()
    other = Run(**{**RUN.__dict__, "seed": 5})
    with pytest.raises(CheckpointError, match="other settings"):
        run_one(other, tmp_path, torch.device("cpu"))
    bad = good[:5000] + bytes([good[5000] ^ 1]) + good[5001:]
    path.write_bytes(bad)
    with pytest.raises(CheckpointError, match="damaged"):
        run_one(RUN, tmp_path, torch.device("cpu"))
    assert path.read_bytes() == bad
