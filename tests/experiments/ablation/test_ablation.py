"""The ablation as data, and the command as people use and abuse it."""

import dataclasses
import re
import resource
import typing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, Terminal, assert_three_lines

import zoo
from experiments.ablation import campaign as campaign_module
from experiments.ablation import overrides, pool
from experiments.ablation.block_questions import BLOCK_QUESTIONS
from experiments.ablation.campaign import explain_parameters
from experiments.ablation.options import LIMITS, Options
from experiments.ablation.overrides import plan
from experiments.ablation.questions import ABLATIONS, rows
from experiments.ablation.report import read_results
from experiments.ablation.runs import Data, Run, build_model
from experiments.plumbing import precision
from experiments.plumbing.device import choose_device, has_bf16
from experiments.plumbing.results import lock
from experiments.train.loop import Settings


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


@pytest.mark.parametrize("name", ABLATIONS)
def test_seeds_follow_each_other_and_in_each_the_longest_runs_come_first(name):
    order = [(run.seed, -run.depth) for run in rows(ABLATIONS[name])]
    assert order == sorted(order)


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
    assert len(shared) >= 19 + 2  # convolutions, the head, and norms if any
    assert all(torch.equal(mine[key], reference[key]) for key in shared)
    other = build_model(dataclasses.replace(run, seed=4)).state_dict()
    assert not torch.equal(mine["head.weight"], other["head.weight"])


def test_the_presets_are_what_they_say():
    depths = {name: sorted(ablation.axes["depth"]) for name, ablation in ABLATIONS.items()}
    assert depths == {"quick": [8, 20, 56], "cifar10": [8, 20, 56],
                      "paper": [20, 32, 44, 56, 110], "imagenet-nets": [18, 34],
                      "vit": [1, 2, 4]}  # fmt: skip
    assert all(len(ablation.axes["seed"]) >= 3 for ablation in ABLATIONS.values())
    assert ABLATIONS["paper"].base.data == Data("cifar10", size=32, normalize="pixel-mean")


def test_the_command_line_offers_every_preset_and_no_image_too_large():
    assert typing.get_args(typing.get_type_hints(Options)["preset"]) == (
        *ABLATIONS,
        *BLOCK_QUESTIONS,
    )
    assert LIMITS["size"][1] == zoo.LARGEST_IMAGE


def test_a_shortened_paper_run_keeps_the_shape_of_its_schedule(monkeypatch):
    options = Options(preset="quick", epochs=2, train_images=640)
    assert plan(options, CPU).base.settings.steps == 2 * 20
    drawn = dataclasses.replace(ABLATIONS["quick"], base=Run(settings=Settings()))
    monkeypatch.setitem(ABLATIONS, "drawn", drawn)
    settings = plan(Options(preset="drawn", epochs=8, train_images=1280), CPU).base.settings
    assert (settings.steps, settings.milestones) == (80, (40, 60))


def test_imagenets_networks_have_a_pair_of_50_unless_depths_are_named(monkeypatch):
    monkeypatch.setattr(overrides, "make_batches", lambda run, device: range(10))
    pair = [(50, "plain"), (50, "resnet")]
    for depths, more in (((), pair), ((18, 50), []), ((18,), [])):
        ablation = plan(Options("imagenet-nets", depths=depths), CPU)
        made = [(run.depth, run.network) for run in rows(ablation)]
        of_seeds = [(d, n) for d in ablation.axes["depth"] for n in ("plain", "resnet")] * 3
        assert sorted(made) == sorted(of_seeds + more)
    data = plan(Options("imagenet-nets"), torch.device("cuda")).base.data
    assert (data.size, data.train_images) == (64, 50_000)
    fewer = Options("imagenet-nets", train_images=100, size=32)
    assert plan(fewer, torch.device("cuda")).base.data.train_images == 100


def test_plain_nets_lose_their_projections_and_the_command_says_so(capsys):
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


def timed(monkeypatch, requested="auto", **costs: float) -> tuple[str, str, list[str]]:
    """The precision chosen if steps take `costs` seconds, the reason, and what was timed.

    The first step of a process starts threads and loads libraries, so it takes much longer.
    """
    calls = []

    def time_step(model, batches, settings):
        calls.append(precision.name(settings).replace(" channels_last", "_last"))
        return costs[calls[-1]] if len(calls) > 1 else 10.0

    monkeypatch.setattr(precision, "time_step", time_step)
    monkeypatch.setattr(precision, "has_bf16", lambda device: "bf16_last" in costs)
    monkeypatch.setattr(precision, "rounding_error", lambda *_: 0.0)
    chosen, reason = precision.choose_precision(requested, None, None, Settings(), CPU)
    return precision.name(chosen), reason, calls


@pytest.mark.parametrize(
    ("costs", "fastest", "times"),
    [((0.9, 1.1, 1.2), "fp32", [4, 4, 2]),
     ((1.0, 0.9, 1.2), "fp32 channels_last", [4, 4, 2]),
     ((1.0, 1.1, 0.9), "bf16 channels_last", [4, 4, 4]),
     ((0.22, 0.2, 2.5), "fp32 channels_last", [4, 4, 1])],
)  # fmt: skip
def test_precision_is_what_the_clock_says(monkeypatch, costs, fastest, times):
    """A clearly slower precision, such as emulated bf16, is timed only once or twice."""
    options = ("fp32", "fp32_last", "bf16_last")
    name, reason, calls = timed(monkeypatch, **dict(zip(options, costs, strict=True)))
    assert name == fastest
    assert reason.startswith(f"{fastest}: fastest of")
    assert f"{1000 * min(costs):.0f} ms" in reason
    assert [calls[1:].count(option) for option in options] == times


def test_timing_ends_after_the_round_in_which_its_time_is_up(monkeypatch):
    monkeypatch.setattr(precision, "TIMING", 0.0)
    name, reason, calls = timed(monkeypatch, fp32=0.9, fp32_last=1.0)
    assert calls == ["fp32_last", "fp32_last", "fp32"]
    assert name == "fp32"
    assert "bf16 is not tried" in reason


def test_a_precision_that_is_asked_for_is_not_timed(monkeypatch):
    expected = ("bf16 channels_last", "bf16, channels_last: as requested", [])
    assert timed(monkeypatch, "bf16") == expected


@pytest.mark.parametrize(
    ("supported", "capabilities", "expected"),
    [(True, {"avx512_bf16": True}, True), (True, {"amx_bf16": True}, True),
     (True, {"bf16": True}, True), (True, {"avx2": True, "avx512_bf16": False}, False),
     (False, {"avx512_bf16": True}, False)],
)  # fmt: skip
def test_a_processor_has_bf16_if_both_onednn_and_the_processor_say_so(
    monkeypatch, supported, capabilities, expected
):
    onednn = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: supported)
    monkeypatch.setattr(torch.ops, "mkldnn", onednn)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_bf16(CPU) == expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True)])
def test_a_card_has_bf16_from_ampere_on(monkeypatch, capability, expected):
    """A T4 has capability 7.5, yet torch.cuda.is_bf16_supported() is True on it."""
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
    assert "Precision of all networks is fp32" in done.stdout
    assert "Do plain networks degrade more with depth?" in done.stdout
    results = {
        (r["network"], r["depth"], r["norm"], r["seed"]): r
        for r in read_results(folder / "results.csv")
    }
    assert len(results) == 2 * 2 * 2 + 2
    row = results["plain", 20, "batch", 1]
    assert (row["parameters"], row["train_images"], row["test_images"]) == (269_722, 128, 1000)
    assert (row["precision"], row["threads"]) == ("fp32", 1)
    history = (folder / "plain20-seed1" / "history.csv").read_text(encoding="utf-8").splitlines()
    assert len(history) == 2
    for figure in ("curves.png", "gradients.png"):
        assert (folder / figure).read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob("*/checkpoint.pt"))


def test_a_campaign_says_when_a_run_is_finished_and_what_is_known_after_a_seed(campaign):
    said = campaign[1].stdout
    for name in ("plain8-seed0", "resnet20-seed1", "plain20-nonorm-seed0"):
        line = rf"^{name}: training loss \d.*; test error .* %; \d+ s$"
        assert len(re.findall(line, said, re.MULTILINE)) == 1
    so_far, end = said.split("figure so far: ")
    assert "(n = 1, paired by seed, 95 % t-interval), has no interval" in " ".join(so_far.split())
    assert "(n = 2, paired by seed" in " ".join(end.split())
    # All runs of the first seed, and none of the second, are in the table.
    lines = re.findall(r"^ (?:plain|resnet)\d+ .* 1 $", so_far, re.MULTILINE)
    assert len(lines) == 6


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_the_remaining_time_is_foretold(jobs, monkeypatch):
    """Good from one minute on, with the costs of quick's runs and 8 s to start a process."""
    ablation = ABLATIONS["quick"]
    base = dataclasses.replace(ablation.base, settings=Settings(steps=500))
    runs = rows(dataclasses.replace(ablation, base=base))
    cost = [1.4 + run.depth if run.network == "resnet" else 1 + 0.8 * run.depth for run in runs]
    shared = pool.Shared([0] * len(runs), [0] * len(runs), [0])
    steps, now, foretold = 500, [0.0], []

    class Clock(pool.Progress):
        def _time(self):
            return now[0]

        def update(self, n=1):
            super().update(n)
            rate = (self.n - self.initial) / (now[0] - self.start_t) if self.n else 0
            foretold.append((now[0], (self.total - self.n) / rate if rate else 0))

    def sleep(seconds):
        now[0] += seconds
        if now[0] < 8:
            return
        open_ = [i for i in range(len(runs)) if shared.steps[i] < steps][:jobs]
        for i in open_:
            shared.steps[i] = min(steps, shared.steps[i] + seconds * 700 / cost[i])

    def is_done(i):
        return lambda: shared.steps[i] == steps

    futures = [pool.Future() for _ in runs]
    for i, future in enumerate(futures):
        monkeypatch.setattr(future, "done", is_done(i))
        monkeypatch.setattr(future, "result", lambda: None)
    monkeypatch.setattr(pool, "Progress", Clock)
    monkeypatch.setattr(pool, "time", SimpleNamespace(time=lambda: now[0], sleep=sleep))
    pool.watch(runs, futures, shared, lambda: False, lambda run: None)
    assert now[0] > 120
    ratios = [left / (now[0] - moment) for moment, left in foretold if 60 <= moment < now[0] - 30]
    assert len(ratios) > 100
    assert 1 / 1.5 < min(ratios) <= max(ratios) < 1.5


def test_a_terminal_shows_that_processes_start(monkeypatch):
    monkeypatch.setattr("data.progress.sys.stderr", terminal := Terminal())
    run = Run(settings=Settings(steps=4))
    answers = iter([False, True])  # stop at the second look, before any step
    shared = pool.Shared([0], [0], [0])
    pool.watch([run], [pool.Future()], shared, lambda: next(answers), lambda run: None)
    assert "starting processes" in terminal.getvalue()


def test_a_finished_campaign_is_not_run_again(campaign, invoke):
    folder, _ = campaign
    before = snapshot(folder)
    done = invoke("experiments.ablation", *TINY, "--output-dir", folder)
    assert done.returncode == 0
    assert "runs are finished, and are not repeated" in done.stdout
    assert "runs to do" not in done.stdout
    assert snapshot(folder) == before


@pytest.mark.parametrize("which", ["campaign", "vit_campaign"])
def test_the_report_says_the_same_again(which, request, invoke):
    folder, done = request.getfixturevalue(which)
    again = invoke("experiments.report", folder)
    assert again.returncode == 0, again.stderr
    said = again.stdout.strip()
    first = done.stdout[done.stdout.index(said.split("\n")[0]) :].split("figure:")[0]
    assert said.split() == first.split()


def test_other_settings_in_the_same_folder_are_refused_and_nothing_is_lost(campaign, invoke):
    folder, _ = campaign
    before = snapshot(folder)
    again = ("experiments.ablation", "--output-dir", folder, *TINY)
    assert_three_lines(invoke(*again, "--lr", "0.2"), 3, "other settings", "--output-dir")
    assert_three_lines(invoke(*again[:-1], "bf16"), 2, "made with precision 'fp32'")
    assert snapshot(folder) == before


def older_version(good: bytes) -> bytes:
    """From a version whose file has other keys: neither to be mixed with ours nor deleted."""
    assert b'"models"' in good
    return good.replace(b'"models"', b'"began"')


@pytest.mark.parametrize(
    ("path", "damage"),
    [("plain8-seed0/row.json", lambda good: b'{"run": '),
     ("plain8-seed0/row.json", lambda good: b"[]"),
     ("campaign.json", lambda good: b"{"),
     ("campaign.json", older_version)],
)  # fmt: skip
def test_a_damaged_or_older_file_is_refused_by_name_and_kept(campaign, invoke, path, damage):
    file = campaign[0] / path
    good = file.read_bytes()
    bad = damage(good)
    try:
        file.write_bytes(bad)
        done = invoke("experiments.ablation", *TINY, "--output-dir", campaign[0])
        assert_three_lines(
            done, 3, "damaged", "version", path, "keep it, and choose another folder"
        )
        assert "move it away" in done.stderr
        assert file.read_bytes() == bad
    finally:
        file.write_bytes(good)


@pytest.mark.parametrize("words", ["quik", "--dephts 8", "--depths x"])
def test_invalid_options_have_the_exit_code_of_usage_errors(invoke, words):
    done = invoke("experiments.ablation", *words.split())
    assert done.returncode == 2
    assert words.split()[0] in done.stderr


def test_debug_shows_the_traceback_too(invoke):
    done = invoke("experiments.ablation", "--depths", "21", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-3].startswith("there is no model 'resnet21'")


def test_a_campaign_waits_for_the_process_that_chooses_the_precision(tmp_path, invoke, monkeypatch):
    monkeypatch.setattr(campaign_module, "PATIENCE", 0.1)
    with lock(tmp_path):
        done = invoke("experiments.ablation", *TINY, "--output-dir", tmp_path)
    assert_three_lines(done, 2, "another process", str(tmp_path))
    assert "waiting for another process" in done.stdout


def small_files() -> None:
    """Limit the size of files: the kernel refuses larger ones, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000,) * 2)


@pytest.mark.slow
def test_a_full_disk_is_reported_and_saved_files_stay_whole(
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
    for row in read_results(tmp_path / "out" / "results.csv"):
        assert row["status"].startswith("diverged at step ")


@pytest.mark.slow
def test_a_users_folder_of_images_works(tmp_path, files, invoke, quick_workers):
    for i, file in enumerate(map(Path, files)):
        folder = tmp_path / "pets" / ("val" if i % 3 == 0 else "train") / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        file.rename(folder / file.name)
    done = invoke(
        "experiments.ablation", "--data-dir", tmp_path / "pets", "--depths", "8", "--seeds", "1",
        "--epochs", "2", "--batch-size", "8", "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Data pets: 8 training and 4 test images, 2 classes, 32x32" in done.stdout
    assert ABLATIONS["quick"].base.data.size == 12


@pytest.mark.slow
def test_the_cifar10_preset_runs_on_the_real_data(
    real_data, real_cifar10, tmp_path, invoke, quick_workers, monkeypatch
):
    """This process uses the images decoded once for all tests; the worker decodes them itself."""
    folder = real_data / "cifar10"
    monkeypatch.setattr("experiments.ablation.runs.cifar10", {folder: real_cifar10}.get)
    done = invoke(
        "experiments.ablation", "cifar10", "--data-dir", folder, "--depths", 8, "--seeds", 1,
        "--epochs", 1, "--train-images", 1000, "--precision", "fp32", "--jobs", 1,
        "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Data CIFAR-10: 1,000 training and 10,000 test images" in done.stdout
    for row in read_results(tmp_path / "out"):
        assert (row["train_images"], row["test_images"]) == (1000, 10_000)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_a_gpu_the_same_campaign_runs_and_repeats(tmp_path, command, precision):
    assert TINY[-2:] == ("--precision", "fp32")
    for name in ("a", "b"):
        arguments = (*TINY[:-1], precision, "--device", "cuda", "--output-dir", tmp_path / name)
        done = command("experiments.ablation", *arguments)
        assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "a").glob("*/final.safetensors"))
    assert len(files) == len(read_results(tmp_path / "a"))
    for run in files:
        assert run.read_bytes() == (tmp_path / "b" / run.parent.name / run.name).read_bytes()
