"""Several processes, or shards, train the runs of one ablation."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, assert_three_lines
from filelock import FileLock

from experiments.ablation import pool
from experiments.ablation.runs import Data, Run
from experiments.plumbing.results import write_json

CPU = torch.device("cpu")
SMALL = Data(size=8, train_images=20, test_images=10)


def files_of(folder: Path) -> dict[str, bytes]:
    """What a run leaves behind, without its times."""
    names = ("final.safetensors", "history.csv")
    return {f"{path.parent.name}/{path.name}": path.read_bytes()
            for name in names for path in folder.glob(f"*/{name}")}  # fmt: skip


@pytest.mark.slow
def test_three_processes_share_the_runs_and_finish_those_of_one_that_is_killed(campaign, tmp_path):
    """All start at once; one is killed in the middle of its first run. No run is trained twice."""
    alone, _ = campaign
    typed = [sys.executable, "-m", "experiments.ablation", *TINY, "--jobs", "1"]
    typed += ["--output-dir", str(tmp_path)]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    three = [subprocess.Popen(typed, start_new_session=True, **pipe) for _ in range(3)]
    deadline = time.monotonic() + 120
    while not any(tmp_path.glob("*/checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed = three.pop()
    os.killpg(killed.pid, signal.SIGKILL)  # with its worker
    killed.communicate()
    said = [process.communicate(timeout=240)[0] for process in three]
    assert [process.returncode for process in three] == [0, 0], said
    assert files_of(tmp_path) == files_of(alone)
    assert (tmp_path / "results.csv").is_file()
    assert not list(tmp_path.glob("*/checkpoint.pt"))


def test_a_run_of_another_process_is_waited_for_and_taken_over_when_it_dies(
    tmp_path, monkeypatch, capsys
):
    runs, trained = [Run("resnet", 8, seed, data=SMALL) for seed in (0, 1)], []
    other = FileLock(tmp_path / ".claims" / runs[1].name)

    def run_all(runs, folder, *_):
        for run in runs:
            trained.append(run.name)
            row = {"run": dataclasses.asdict(run), "status": "", "train_loss": 1, "test_error": 1}
            (folder / run.name).mkdir()
            write_json(folder / run.name / "row.json", row)

    def sleep(seconds):
        assert trained == [runs[0].name]
        other.release()  # as the system does when a process ends

    (tmp_path / ".claims").mkdir()
    other.acquire()
    monkeypatch.setattr(pool, "run_all", run_all)
    monkeypatch.setattr(pool.time, "sleep", sleep)
    rows = pool.run_campaign(runs, tmp_path, CPU, 1)
    assert trained == [run.name for run in runs]
    assert [row["run"]["seed"] for row in rows] == [0, 1]
    assert "waiting for other processes, which train 1 of these runs" in capsys.readouterr().out


@pytest.mark.slow
def test_shards_train_every_nth_run_and_the_last_one_reports(campaign, tmp_path, invoke):
    alone, _ = campaign
    shards = [invoke("experiments.ablation", *TINY, "--jobs", 1, "--shard", f"{i}/2",
                     "--output-dir", tmp_path) for i in (1, 2)]  # fmt: skip
    assert [done.returncode for done in shards] == [0, 0], shards
    assert "runs to do, 1 at a time" in shards[0].stdout
    assert "repeat the command without --shard" in shards[0].stdout
    assert "repeat the command" not in shards[1].stdout
    assert "figure: " in shards[1].stdout
    assert files_of(tmp_path) == files_of(alone)


def test_other_options_in_the_folder_are_refused_before_any_run(tmp_path, invoke, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "run_all", stopped)  # a first process that has begun
    typed = ("experiments.ablation", *TINY, "--output-dir", tmp_path)
    assert invoke(*typed).returncode == 130
    done = invoke(*typed, "--batch-size", 16)
    assert_three_lines(done, 3, "settings.steps is 4, not 8", "campaign.json")


def test_a_shard_without_runs_is_done(tmp_path, invoke):
    done = invoke("experiments.ablation", *TINY, "--shard", "99/99", "--output-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "shard 99 of 99" in done.stdout


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/-2", "1/2/3", "²/3"])
def test_a_shard_that_is_none_is_refused(shard, invoke, tmp_path):
    done = invoke("experiments.ablation", *TINY, "--shard", shard, "--output-dir", tmp_path)
    assert_three_lines(done, 2, "I/N", f"--shard {shard}", "1/3, 2/3 and 3/3")
