"""The ablation as data, and the command as people use and abuse it."""

import contextlib
import csv
import dataclasses
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, assert_three_lines
from PIL import Image

from experiments.ablation.__main__ import explain_parameters
from experiments.ablation.overrides import Options, plan
from experiments.ablation.questions import ABLATIONS, rows
from experiments.ablation.runs import Data, Run, build_model
from experiments.plumbing.cli import is_out_of_memory
from experiments.plumbing.device import choose_device, has_bf16
from experiments.plumbing.precision import choose_precision
from experiments.plumbing.precision import name as called
from experiments.train import Settings


@pytest.mark.parametrize("name", ABLATIONS)
def test_rows_differ_from_the_base_in_the_axes_fields_only(name):
    ablation = ABLATIONS[name]
    made = rows(ablation)
    assert len({run.name for run in made}) == len(made)
    allowed = set(ablation.axes) | {key for change in ablation.also for key in change}
    for run in made:
        changed = {f.name for f in dataclasses.fields(run)
                   if getattr(run, f.name) != getattr(ablation.base, f.name)}  # fmt: skip
        assert changed <= allowed
    plain = [dataclasses.replace(run, network="resnet") for run in made if run.network == "plain"]
    assert plain == [run for run in made if run.network == "resnet"]  # both arms, equal settings


CPU = torch.device("cpu")


class OptionB(Run):
    """An arm with parameters that the reference does not have."""

    @property
    def builder(self) -> dict:
        return {"shortcut": "projection"}

    @property
    def reference(self) -> Run:
        return Run("resnet", self.depth, self.seed, data=self.data)


SMALL = Data(size=8, train_images=20, test_images=10)
ARMS = [Run("plain", 20, 3, data=SMALL), Run("plain", 20, 3, "none", SMALL),
        Run("resnet", 20, 3, "none", SMALL), OptionB("resnet", 20, 3, data=SMALL)]  # fmt: skip


@pytest.mark.parametrize("run", ARMS)
def test_every_arm_starts_as_the_reference_network_of_its_seed(run):
    mine, reference = build_model(run).state_dict(), build_model(run.reference).state_dict()
    shared = mine.keys() & reference.keys()
    assert len(shared) >= 19 + 2  # convolutions and the head, and norms where there are some
    assert all(torch.equal(mine[key], reference[key]) for key in shared)
    other = build_model(dataclasses.replace(run, seed=4)).state_dict()
    assert not torch.equal(mine["head.weight"], other["head.weight"])


def test_the_presets_are_what_they_say():
    depths = {name: sorted(ablation.axes["depth"]) for name, ablation in ABLATIONS.items()}
    assert depths == {"quick": [8, 20, 56], "cifar10": [8, 20, 56],
                      "paper": [20, 32, 44, 56, 110], "imagenet-nets": [18, 50],
                      "vit": [1, 2, 4]}  # fmt: skip
    assert all(len(ablation.axes["seed"]) >= 3 for ablation in ABLATIONS.values())
    paper = ABLATIONS["paper"].base
    assert paper.data == Data("cifar10", size=32, normalize="pixel-mean")


def test_a_shortened_paper_run_keeps_the_shape_of_its_schedule(monkeypatch):
    options = Options(preset="quick", epochs=2, train_images=640)
    assert plan(options, CPU).base.settings.steps == 2 * 10
    drawn = dataclasses.replace(ABLATIONS["quick"], base=Run(settings=Settings()))
    monkeypatch.setitem(ABLATIONS, "drawn", drawn)
    settings = plan(Options(preset="drawn", epochs=8, train_images=1280), CPU).base.settings
    assert (settings.steps, settings.milestones) == (80, (40, 60))


def test_plain_nets_lose_their_projections_and_it_is_said(capsys):
    explain_parameters((8, 50, 18))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "plain18 also lost 173,824 parameters" in lines[0]  # 11,689,512 - 11,515,688


def test_the_device_line_says_what_and_why(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device, why = choose_device("auto")
    assert (device.type, why) == ("cpu", "CPU: no CUDA device is visible")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Card 9000")
    device, why = choose_device("auto")
    assert (device.type, why) == ("cuda", "CUDA: Card 9000 is visible")


def timed(monkeypatch, **costs: float) -> list[str]:
    """Steps cost what `costs` say; the names of the settings that are timed, in order.

    The first step of a process starts threads and loads libraries: it costs much more.
    """
    calls, module = [], "experiments.plumbing.precision"

    def time_step(model, batches, settings):
        calls.append(called(settings).replace(" channels_last", "_last"))
        return costs[calls[-1]] if len(calls) > 1 else 10.0

    monkeypatch.setattr(f"{module}.time_step", time_step)
    monkeypatch.setattr(f"{module}.has_bf16", lambda device: "bf16_last" in costs)
    return calls


@pytest.mark.parametrize("fastest", ["fp32", "fp32_last", "bf16_last"])
def test_precision_is_what_the_clock_says(monkeypatch, fastest):
    costs = {"fp32": 1.0, "fp32_last": 1.1, "bf16_last": 1.2, fastest: 0.9}
    calls = timed(monkeypatch, **costs)
    chosen, reason = choose_precision("auto", None, None, Settings(), CPU)
    assert reason.startswith(f"{called(chosen)}: fastest of")
    assert called(chosen) == fastest.replace("_last", " channels_last")
    assert "900 ms" in reason
    assert max(map(calls[1:].count, costs)) == 4


def test_what_is_clearly_slower_is_timed_once(monkeypatch):
    """bf16 that a processor claims and emulates."""
    costs = {"fp32": 0.22, "fp32_last": 0.2, "bf16_last": 2.5}
    calls = timed(monkeypatch, **costs)
    assert called(choose_precision("auto", None, None, Settings(), CPU)[0]) == "fp32 channels_last"
    assert [calls[1:].count(option) for option in costs] == [4, 4, 1]


def test_timing_ends_after_the_round_in_which_its_time_is_up(monkeypatch):
    monkeypatch.setattr("experiments.plumbing.precision.TIMING", 0.0)
    calls = timed(monkeypatch, fp32=0.9, fp32_last=1.0)
    chosen, reason = choose_precision("auto", None, None, Settings(), CPU)
    assert calls == ["fp32_last", "fp32_last", "fp32"]
    assert called(chosen) == "fp32"
    assert "bf16 is not tried" in reason


def test_a_precision_that_is_asked_for_is_not_timed(monkeypatch):
    calls = timed(monkeypatch)
    chosen, reason = choose_precision("bf16", None, None, Settings(), CPU)
    assert (called(chosen), reason) == ("bf16 channels_last", "bf16, channels_last: as requested")
    assert calls == []


@pytest.mark.parametrize(
    ("supported", "capabilities", "expected"),
    [(True, {"avx512_bf16": True}, True), (True, {"amx_bf16": True}, True),
     (True, {"bf16": True}, True), (True, {"avx2": True, "avx512_bf16": False}, False),
     (False, {"avx512_bf16": True}, False)],
)  # fmt: skip
def test_a_processor_has_bf16_if_both_onednn_and_the_processor_say_so(
    monkeypatch, supported, capabilities, expected
):
    class Ops:
        _is_mkldnn_bf16_supported = staticmethod(lambda: supported)

    monkeypatch.setattr(torch.ops, "mkldnn", Ops)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_bf16(CPU) == expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True)])
def test_a_card_has_bf16_from_ampere_on(monkeypatch, capability, expected):
    """A T4 is 7.5, and torch.cuda.is_bf16_supported() is True on it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    assert has_bf16(torch.device("cuda")) == expected
    assert not has_bf16(torch.device("meta"))


# --- the command itself ---


def snapshot(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*"))
            if p.is_file() and p.suffix in (".json", ".csv", ".safetensors")}  # fmt: skip


def test_a_campaign_leaves_rows_histories_weights_figures_and_a_verdict(campaign):
    folder, done = campaign
    assert "Device " in done.stdout
    assert "Precision of all networks fp32" in done.stdout
    assert "Do plain networks degrade more with depth?" in done.stdout
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 2 * 2 + 2
    row = json.loads((folder / "plain20-seed1" / "row.json").read_text(encoding="utf-8"))
    assert row["parameters"] == 269_722
    assert row["images"] == [128, 1000]
    assert row["run"]["settings"]["precision"] == "fp32"
    assert row["threads"] == 1
    assert {"seconds", "device", "versions", "commit", "test_error", "train_loss"} <= set(row)
    history = (folder / "plain20-seed1" / "history.csv").read_text(encoding="utf-8").splitlines()
    assert len(history) == 2
    for figure in ("curves.png", "gradients.png"):
        assert (folder / figure).read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob("*/checkpoint.pt"))


def test_a_finished_campaign_is_not_run_again(campaign, invoke):
    folder, _ = campaign
    before = snapshot(folder)
    done = invoke("experiments.ablation", *TINY, "--output-dir", folder)
    assert done.returncode == 0
    assert "runs to do" not in done.stdout
    assert snapshot(folder) == before


def test_the_report_says_the_same_again(campaign, invoke):
    folder, done = campaign
    again = invoke("experiments.report", folder)
    assert again.returncode == 0
    last = done.stdout[done.stdout.index("Do plain networks degrade") :].split("figure:")[0]
    assert last.split() == again.stdout[again.stdout.index("Do plain") :].split()


def test_other_settings_in_the_same_folder_are_refused_and_nothing_is_lost(campaign, invoke):
    folder, _ = campaign
    before = snapshot(folder)
    changed = [*TINY, "--lr", "0.2", "--output-dir", folder]
    assert_three_lines(
        invoke("experiments.ablation", *changed), 3, "other settings", "--output-dir"
    )
    changed = [*TINY[:-1], "bf16", "--output-dir", folder]
    assert_three_lines(invoke("experiments.ablation", *changed), 2, "made with precision 'fp32'")
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("plain8-seed0/row.json", b'{"run": '),
        ("plain8-seed0/row.json", b"[]"),
        ("campaign.json", b"{"),
    ],
)
def test_a_damaged_results_file_is_refused_by_name_and_kept(campaign, invoke, path, content):
    folder, _ = campaign
    good = (folder / path).read_bytes()
    try:
        (folder / path).write_bytes(content)
        done = invoke("experiments.ablation", *TINY, "--output-dir", folder)
        assert_three_lines(done, 3, "damaged", path, "move it away")
        assert (folder / path).read_bytes() == content
    finally:
        (folder / path).write_bytes(good)


def test_a_campaign_whose_twins_started_apart_is_not_continued(campaign, invoke):
    """Runs of an older version: other starts must not stand beside ours, nor be deleted."""
    folder, _ = campaign
    path = folder / "campaign.json"
    good = path.read_bytes()
    try:
        older = {key: value for key, value in json.loads(good).items() if key != "starts"}
        path.write_text(json.dumps(older), encoding="utf-8")
        done = invoke("experiments.ablation", *TINY, "--output-dir", folder)
        assert_three_lines(done, 3, "version", "keep it, and choose another folder")
    finally:
        path.write_bytes(good)


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> tuple:
    """Four runs of a hundred steps, with next to nothing to read or to test in between."""
    folder = make_pets(tmp_path_factory.mktemp("long"), train=160, val=4)
    return ("--data-dir", folder, "--size", 16, "--depths", 8, "--seeds", 1, "--epochs", 20,
            "--precision", "fp32")  # fmt: skip


def make_pets(root: Path, **splits: int) -> Path:
    """Two classes, as many pictures of each as asked."""
    for split, count in splits.items():
        for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
            (root / "pets" / split / name).mkdir(parents=True)
            for i in range(count):
                path = root / "pets" / split / name / f"{i}.jpg"
                Image.new("RGB", (50 + i, 40 + len(split)), colour).save(path)  # no duplicates
    return root / "pets"


def begin(folder, *arguments) -> subprocess.Popen:
    """A campaign of its own process group, once at least one run is well under way."""
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.ablation", *map(str, arguments),
         "--output-dir", str(folder)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not list(folder.glob("*/history.csv")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "group", "code"), [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143)]
)
def test_ctrl_c_and_kill_save_and_the_same_command_goes_on(
    tmp_path, long, invoke, quick_workers, number, group, code
):
    process = begin(tmp_path / "a", *long)
    os.killpg(process.pid, number) if group else process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "the same command goes on from here" in errors
    assert "Traceback" not in errors
    saved = list((tmp_path / "a").glob("*/checkpoint.pt"))
    assert saved
    again = ("experiments.ablation", *long, "--output-dir")
    if number == signal.SIGTERM:  # one flipped bit: refused by name, kept, and mended as it says
        good = saved[0].read_bytes()
        bad = good[:9000] + bytes([good[9000] ^ 1]) + good[9001:]
        saved[0].write_bytes(bad)
        done = invoke(*again, tmp_path / "a")
        assert_three_lines(done, 4, "the checkpoint is damaged", str(saved[0]), "move this file")
        assert saved[0].read_bytes() == bad
        saved[0].unlink()
    assert invoke(*again, tmp_path / "a").returncode == 0
    if number == signal.SIGINT:  # once is enough: the files are those of an undisturbed campaign
        assert invoke(*again, tmp_path / "b").returncode == 0
        for run in (tmp_path / "b").glob("*/"):
            for name in ("history.csv", "final.safetensors"):
                assert (tmp_path / "a" / run.name / name).read_bytes() == (run / name).read_bytes()


def workers_of(pid: int) -> list[int]:
    """The process ids of the workers that a campaign has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[1])
            if parent == pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


@pytest.mark.slow
def test_a_killed_worker_is_said(tmp_path, long, invoke, quick_workers):
    def kill() -> None:
        while not list(tmp_path.glob("*/history.csv")):
            time.sleep(0.01)
        (worker,) = multiprocessing.active_children()
        worker.kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    done = invoke("experiments.ablation", *long, "--jobs", 1, "--output-dir", tmp_path)
    killer.join(10)
    assert_three_lines(done, 3, "killed from outside", "--jobs 1")


@pytest.mark.slow
def test_a_killed_parent_takes_its_workers_along(tmp_path, long):
    process = begin(tmp_path, *long)
    workers = [Path(f"/proc/{pid}") for pid in workers_of(process.pid)]
    assert workers
    process.kill()
    deadline = time.monotonic() + 30
    while any(worker.exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(worker.exists() for worker in workers)
    process.communicate()


BAD = [
    (("--depths", "21"), 2, ("no model 'resnet21'", "resnet20")),
    (("--seeds", "0"), 2, ("--seeds is too small",)),
    (("--lr", "nan"), 2, ("--lr is too small",)),
    (("--device", "cuda:99"), 2, ("cuda:99", "--device auto")),
    (("--batch-size", "1"), 3, ("no training batch of 1",)),
    (("--batch-size", "100000"), 3, ("4000 training images",)),
    (("--data-dir", "/nowhere/at/all"), 3, ("No such file", "/nowhere/at/all")),
    (("cifar10", "--data-dir", "tests"), 3, ("no images in class folders",)),
    ((*TINY, "--output-dir", "/dev/null/out"), 2, ("cannot use this", "/dev/null")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "words"), BAD, ids=lambda v: " ".join(v) if isinstance(v, tuple) else ""
)
def test_bad_input_is_three_lines_and_a_fixed_exit_code(invoke, arguments, code, words):
    assert_three_lines(invoke("experiments.ablation", *arguments), code, *words)


@pytest.mark.parametrize("words", ["quik", "--dephts 8", "--depths x"])
def test_what_is_no_option_has_the_exit_code_of_usage(invoke, words):
    done = invoke("experiments.ablation", *words.split())
    assert done.returncode == 2
    assert words.split()[0] in done.stderr


def test_debug_shows_the_traceback_too(invoke):
    done = invoke("experiments.ablation", "--depths", "21", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-3].startswith("there is no model 'resnet21'")


def test_a_second_campaign_in_the_same_folder_is_refused(tmp_path, invoke):
    from experiments.plumbing.results import lock

    with lock(tmp_path):
        done = invoke("experiments.ablation", *TINY, "--output-dir", tmp_path)
    assert_three_lines(done, 2, "another process", str(tmp_path))


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for the matmul primitive."), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_what_is_a_shortage_of_memory(error, is_one):
    assert is_out_of_memory(error) is is_one


def small_files() -> None:
    """Larger ones cannot be written: the kernel refuses them as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000,) * 2)


@pytest.mark.slow
def test_a_full_disk_is_said_and_what_was_saved_stays_whole(
    campaign, tmp_path, command, invoke, quick_workers
):
    folder = tmp_path / "out"
    arguments = ("experiments.ablation", *TINY, "--output-dir", folder)
    done = command(*arguments, "--jobs", 1, before=small_files)
    assert_three_lines(done, 3, "the disk is full", "make room")
    assert not list(folder.rglob("*.tmp"))
    done = invoke(*arguments)
    assert done.returncode == 0, done.stderr
    whole, _ = campaign
    for name in ("history.csv", "final.safetensors"):
        again = (folder / "resnet20-seed0" / name).read_bytes()
        assert again == (whole / "resnet20-seed0" / name).read_bytes()


@pytest.mark.slow
def test_every_run_diverged_is_exit_code_5(tmp_path, invoke, quick_workers):
    done = invoke("experiments.ablation", *TINY, "--lr", "1e30", "--output-dir", tmp_path / "out")
    assert_three_lines(done, 5, "every run diverged", "--lr")
    statuses = {
        json.loads(p.read_text(encoding="utf-8"))["status"] for p in tmp_path.glob("out/*/row.json")
    }
    assert all(status.startswith("diverged at step ") for status in statuses)
    assert (tmp_path / "out" / "results.csv").exists()


@pytest.mark.slow
def test_an_own_folder_of_pictures_works(tmp_path, invoke, quick_workers):
    make_pets(tmp_path, train=12, val=4)
    done = invoke(
        "experiments.ablation", "--data-dir", tmp_path / "pets", "--depths", "8", "--seeds", "1",
        "--epochs", "2", "--batch-size", "8", "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Data pets: 24 training and 8 test images, 2 classes, 32x32" in done.stdout
    assert ABLATIONS["quick"].base.data.size == 16


@pytest.mark.slow
def test_the_cifar10_preset_runs_on_the_real_data(
    real_data, real_cifar10, tmp_path, invoke, quick_workers, monkeypatch
):
    """Here the pictures are those decoded once for all tests; the worker decodes them itself."""
    folder = real_data / "cifar10"
    monkeypatch.setattr("experiments.ablation.runs.cifar10", {folder: real_cifar10}.get)
    done = invoke(
        "experiments.ablation", "cifar10", "--data-dir", folder, "--depths", 8, "--seeds", 1,
        "--epochs", 1, "--train-images", 1000, "--precision", "fp32", "--jobs", 1,
        "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Data CIFAR-10: 1,000 training and 10,000 test images" in done.stdout
    row = json.loads((tmp_path / "out" / "resnet8-seed0" / "row.json").read_text(encoding="utf-8"))
    assert row["images"] == [1000, 10_000]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
def test_on_a_gpu_the_same_campaign_runs_and_repeats(tmp_path, command):
    for name in ("a", "b"):
        done = command(
            "experiments.ablation", *TINY, "--device", "cuda", "--output-dir", tmp_path / name
        )
        assert done.returncode == 0, done.stderr
    for run in (tmp_path / "a").glob("*/final.safetensors"):
        assert run.read_bytes() == (tmp_path / "b" / run.parent.name / run.name).read_bytes()
