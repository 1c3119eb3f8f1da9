"""The benchmark: comparisons check both sides; rows are stored and published; the GPU half runs."""

import copy
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import assert_three_lines

from experiments.bench import gpu, networks, report, timing, transfer
from experiments.bench.timing import Comparison
from experiments.plumbing.cli import ResultsError

CPU = torch.device("cpu")
NAMES = networks.COMPARISONS | transfer.COMPARISONS


def quick(name: str, ratio: int) -> partial:
    """A comparison in which the usual side computes `ratio` times as much."""
    work = partial(sum, range(20_000))
    return partial(Comparison, name, lambda: [work() for _ in range(ratio)], work, "same sum", 1, 7)


@pytest.fixture
def bench(monkeypatch, invoke, tmp_path):
    """`make bench` with two quick comparisons instead of its own."""
    monkeypatch.setattr(
        networks, "COMPARISONS", {"one": quick("first", 1), "two": quick("second", 9)}
    )
    monkeypatch.setattr(transfer, "COMPARISONS", {})
    return partial(invoke, "experiments.bench", "--output", tmp_path / "bench.json")


def stored(folder: Path) -> dict:
    return json.loads((folder / "bench.json").read_text(encoding="utf-8"))


def test_each_row_has_its_ratios_and_is_stored_with_the_machine(bench, tmp_path):
    done = bench()
    assert done.returncode == 0, done.stderr
    found = stored(tmp_path)
    assert [row["name"] for row in found["rows"]] == ["one", "two"]
    for row in found["rows"]:
        assert len(row["ratios"]) == 5
        assert row["per_second"] == pytest.approx(7 / row["seconds"])
    assert max(found["rows"][1]["ratios"]) > 3
    assert found["device"] in done.stdout
    assert "second; same sum" in done.stdout


def test_rows_measured_before_a_failure_are_kept(bench, tmp_path, monkeypatch):
    def breaks() -> Comparison:
        raise AssertionError("the two sides do not compute the same")

    monkeypatch.setitem(networks.COMPARISONS, "two", breaks)
    assert bench().returncode == 70
    assert [row["name"] for row in stored(tmp_path)["rows"]] == ["one"]


def test_only_some_comparisons(bench, tmp_path):
    assert bench("--only", "two").returncode == 0
    assert [row["name"] for row in stored(tmp_path)["rows"]] == ["two"]
    assert_three_lines(bench("--only", "three"), 2, "'three'", "one; two")


def test_sides_that_differ_are_refused():
    timing.same(1.0, 1.0 + 1e-6, 1e-5)
    for pair in ((1.0, 1.1), (1.0, float("nan"))):
        with pytest.raises(AssertionError, match="do not compute the same"):
            timing.same(*pair, 1e-5)


def test_only_our_training_step_keeps_freed_memory(monkeypatch):
    made, kept = [], []
    monkeypatch.setattr(timing, "Apart", lambda *given: made.append(given) or (lambda: 1.0))
    monkeypatch.setattr(timing, "choose_precision", lambda *_: (timing.EAGER, ""))
    monkeypatch.setattr(timing, "keep_freed_memory", lambda: kept.append(True))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2))
    batch = torch.ones(2, 3, 1, 1), torch.tensor([0, 1])
    batches = SimpleNamespace(batch=lambda step: batch)
    timing.compare_steps("a", model, copy.deepcopy(model), batches)
    for (make, *given), count in zip(made, (0, 1), strict=True):  # usual, ours
        make(*given)
        assert len(kept) == count


def test_a_step_apart_computes_what_it_computes_here():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2))
    given = model, (torch.ones(2, 3, 1, 1), torch.tensor([0, 1])), timing.EAGER, True
    side = timing.Apart(timing.training_step, *given)
    losses = [side() for _ in range(3)]  # the network there is updated, not this one
    here = timing.step_of(*given[:3], sgd=True)
    assert losses == [here() for _ in range(3)]
    assert losses[0] > losses[2]


SMALL = [name for name in NAMES if name in ("augmentation", "deletions", "training-resnet20")]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_comparison_in_full(name):
    comparison = NAMES[name]()
    for ratio in timing.seconds_in_turns((comparison.usual, comparison.ours), 1):
        assert all(seconds > 0 for seconds in ratio)


@pytest.mark.slow
def test_one_image_has_the_same_answer_in_a_plain_script():
    assert transfer.compare_one_image().checked.startswith("same answer: ")


# --- on a GPU: everything at a tiny size on a CPU ---

TINY = gpu.Sizes(depths=(8,), steps=2, pixels=64, batch=8, networks=("resnet18",), paper_steps=2)


@pytest.mark.slow
@pytest.mark.parametrize("pays", [True, False])
def test_the_whole_half_for_a_gpu_runs(pays, monkeypatch):
    """Compilers are not tried here; `pays`: whether they would be chosen."""
    chosen = lambda model, batches, settings, *_: (replace(settings, compiled=pays), "")  # noqa: E731
    monkeypatch.setattr(gpu, "choose_compile", chosen)
    monkeypatch.setattr(gpu, "compile_training", lambda model: model)
    monkeypatch.setattr(gpu, "for_inference", lambda model, dtype, compiled: model.eval())
    made = gpu.comparisons(CPU, TINY)
    large = ["training-resnet18", "inference-resnet18"]
    assert list(made) == ["epoch-resnet8", *large, "probe", "paper"]
    for name, make in made.items():
        if name == "probe":  # at its own size: see test_a_comparison_in_full
            continue
        comparison = make()
        comparison.usual()
        comparison.ours()
        assert comparison.images > 1
        assert comparison.checked, name


# --- published ---


ROW = {
    "name": "inference-resnet18", "title": "a / b", "checked": "same", "ratios": [2, 3, 4],
    "seconds": 0.5, "per_second": 2,
}  # fmt: skip
FOUND = {
    "device": "AMD", "device_type": "cpu", "instructions": "AVX2", "threads": 1, "rounds": 5,
    "versions": {"torch": "2.15"}, "rows": [ROW, ROW | {"name": "probe"}],
}  # fmt: skip


NAMED = [ROW | {"name": name} for line in report.IN_SHORT.values() for name in line]


def test_published_tables_have_a_column_for_each_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "FOLDER", tmp_path / "speed")
    path, put = tmp_path / "bench.json", {}
    for machine in (FOUND, FOUND | {"instructions": "AVX512 with bf16", "device": "Intel"}):
        path.write_text(json.dumps(machine | {"rows": NAMED}), encoding="utf-8")
        report.publish(path, put.__setitem__)
    assert list(put) == ["speed-avx2", "speed-bf16"]
    table, caption = put["speed-avx2"]
    assert table.lines[0][1:5] == ["2.00", "3.00", "4.00", "500.0"]
    assert "AMD" in caption
    (short,) = report.in_short(tmp_path / "speed")
    assert list(short.header[1:]) == ["Intel, AVX512 with bf16", "AMD, AVX2"]
    assert short.lines[0][1] == "3.00, 3.00, 3.00"


@pytest.mark.parametrize(
    "content", [{}, FOUND, FOUND | {"rows": [{}]}, {k: FOUND[k] for k in list(FOUND)[1:]}]
)
def test_another_file_or_a_part_is_not_published(tmp_path, monkeypatch, content):
    monkeypatch.setattr(report, "FOLDER", tmp_path / "speed")
    (tmp_path / "bench.json").write_text(json.dumps(content), encoding="utf-8")
    put = {}
    with pytest.raises(ResultsError):
        report.publish(tmp_path / "bench.json", put.__setitem__)
    assert not put
    assert not (tmp_path / "speed").exists()
