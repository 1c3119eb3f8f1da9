"""Reports: intervals, every answer of the verdict, tables, README."""

import random

import pytest
from conftest import ROOT, assert_three_lines, refusal

from experiments import publish
from experiments.ablation.questions import ABLATIONS
from experiments.ablation.report import FIELDS, read_results, report, report_of, table
from experiments.ablation.transformers import verdicts
from experiments.ablation.verdict import verdict
from experiments.plumbing.cli import ResultsError
from experiments.plumbing.results import read_csv, say_skipped, write_csv
from experiments.plumbing.stats import Estimate, estimate
from experiments.plumbing.tables import markdown
from experiments.publish import PAGES


def results(plain, residual, depths=(8, 56), arms=("plain", "resnet"), **changes) -> list[dict]:
    """Rows of a campaign whose deep networks end with these training losses, one per seed."""
    rows = []
    for network, deep in zip(arms, (plain, residual), strict=True):
        for seed, loss in enumerate(deep):
            for depth, value in ((depths[0], 1.0), (depths[1], loss)):
                rows.append(dict.fromkeys(FIELDS) | {
                    "network": network, "depth": depth, "norm": "batch", "seed": seed,
                    "status": "finished" if value is not None else "diverged at step 3",
                    "parameters": 853_018, "train_loss": value, "train_error": 0.5,
                    "test_error": 0.25, "seconds": 60.0, "source": "synthetic", "size": 16,
                    "test_loss": value, "classes": 10, "lr": 0.03, "weight_decay": 1e-4,
                    "threads": 1,
                    "train_images": 4000, "test_images": 1000, "steps": 558, "batch_size": 64,
                    "precision": "fp32", "device": "CPU",
                } | changes)  # fmt: skip
    return rows


VERDICTS = {  # losses of plain networks, losses of residual ones, words of the verdict
    "plain networks degrade": (
        [2.0, 2.1, 2.2], [0.7, 0.6, 0.8], "Yes: ", "+1.100 ± 0.248 in plain networks",
        "-0.300 ± 0.248 in residual ones", "plain minus residual, +1.400",
        "(n = 3, paired by seed, 95 % t-interval), excludes 0."),
    "residual ones do": ([0.7, 0.6, 0.8], [2.0, 2.1, 2.2], "No: ", "-1.400"),
    "seeds differ, pairs agree": ([1.5, 3.5, 5.5], [1.3, 3.31, 5.3], "Yes: "),
    "pairs differ": ([2.0, 0.5, 1.2], [1.0, 1.1, 1.2], "Cannot tell: ", "does not exclude 0"),
    "all are equal": ([1.3, 1.3, 1.3], [1.3, 1.3, 1.3], "Cannot tell: ", "does not exclude 0"),
    "one seed": ([2.0], [0.5], "Cannot tell: ", "two seeds or more"),
    "one of two diverged": ([2.0, None], [0.5, 0.6], "Cannot tell: ", "two seeds or more"),
    "both diverged": ([None, None], [0.5, 0.6], "Cannot tell: ", "two seeds or more"),
    "one of four diverged": (
        [2.0, None, 2.1, 2.2], [0.5, 0.6, 0.7, 0.6], "Yes: ", "n = 3",
        "1 of 16 runs did not finish: plain56 seed 1 diverged at step 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", VERDICTS)
def test_the_verdict_says_yes_no_or_that_it_cannot_tell(case):
    plain, residual, answer, *words = VERDICTS[case]
    said = verdict(results(plain, residual))
    assert said.startswith(answer)
    assert all(word in said for word in words), said


def test_one_depth_shows_no_degradation():
    one = [r for r in results([2.0, 2.1], [1.0, 1.1]) if r["depth"] == 8]
    assert verdict(one).startswith("Cannot tell: ")


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_pair_with_another_kind_of_block_does_not_enter_the_verdict(seeds):
    fair = results([2.0, 2.1, 2.2][:seeds], [0.7, 0.6, 0.8][:seeds], depths=(18, 34))
    pair = results([0.1], [9.0], depths=(50, 50))
    assert verdict(fair + pair) == verdict(fair)
    assert ": from 18 to 34 layers" in verdict(fair)
    assert ": from 18 to 50 layers" in verdict(results([2.0], [0.7], depths=(18, 50)))


def test_a_vit_of_8_blocks_is_not_taken_for_a_resnet_of_8_layers():
    shape = {"arms": ("plainvit", "vit"), "norm": "layer"}
    rows = results([2.0, 2.1], [0.7, 0.6], depths=(1, 8), **shape)
    rows += results([1.0, 1.0], [1.0, 1.0], depths=(2, 4), **shape)
    assert ": from 1 to 8 blocks" in verdict(rows)


def test_runs_without_norm_do_not_enter_the_verdict():
    fair = results([2.0, 2.1, 2.2], [0.7, 0.6, 0.8])
    odd = results([0.1, 0.1, 0.1], [9.0, 9.0, 9.0], norm="none")
    assert verdict(fair + odd) == verdict(fair)


def of_transformers(plain, residual, part) -> list[dict]:
    shape = {"depths": (1, 2), "norm": "layer"}
    both = results(plain, residual, arms=("plainvit", "vit"), **shape)
    return both + results(part, [], arms=("mlp-skip", "no-mlp"), **shape)


@pytest.mark.parametrize(
    ("plain", "vit", "answer"),
    [([2.3, 2.2, 2.3], [0.9, 0.8, 0.7], "Yes"), ([0.9, 0.8, 0.7], [2.3, 2.2, 2.3], "No"),
     ([2.3, 0.2, 1.1], [1.0, 1.1, 0.9], "Cannot tell"), ([None, 2.3], [1.0, 1.0], "Cannot tell")],
)  # fmt: skip
def test_stalling_of_transformers_has_three_answers(plain, vit, answer):
    said = verdict(of_transformers(plain, vit, [9.0, 9.0, 9.0]))
    assert said.startswith(f"{answer}: from 1 to 2 blocks")
    assert ("plainvit2 seed 0 diverged" in said) == (None in plain)


def test_every_diverged_transformer_is_named():
    said = "\n".join(verdicts(of_transformers([2.3, None], [1.0, 1.0], [None, 1.0]), []))
    assert "plainvit2 seed 1 diverged at step 3" in said
    assert "mlp-skip2 seed 0 diverged at step 3" in said


def test_an_interval_covers_the_truth_95_times_of_100():
    draw = random.Random(0)
    found = [estimate([draw.gauss(5, 2) for _ in range(3)]) for _ in range(4000)]
    hits = sum(abs(each.mean - 5) <= each.half for each in found)
    assert 0.94 < hits / 4000 < 0.96


def test_estimates_of_one_and_none():
    assert estimate([2.0]).show(2) == "2.00"
    assert estimate([]).show(2) == "-"
    assert Estimate(0.123, 0.01, 3).show(1, 100) == "12.3 ± 1.0"


def test_published_figures_stand_beside_ours_only_where_the_protocol_is_the_papers():
    paper = {"source": "cifar10", "size": 32, "steps": 64_000, "batch_size": 128,
             "schedule": "step", "lr": 0.1, "normalize": "pixel-mean", "train_images": 50_000,
             "augment": True, "holdout": False}  # fmt: skip
    rows = results([2.0, 2.1], [1.0, 1.1], depths=(20, 56), **paper)
    header, lines, _ = table(rows)
    assert header[-2:] == ["paper", "replications"]
    by_name = {line[0]: line for line in lines}
    assert by_name["resnet20"][-2:] == ["8.75", "8.27 / 8.29 / 8.0"]
    assert by_name["plain56"][-2:] == ["-", "12.76 / 11.83 / 13.31"]
    for key, value in (("steps", 6400), ("size", 16), ("holdout", True), ("lr", 0.05),
                       ("augment", False)):  # fmt: skip
        header, *_ = table(results([2.0, 2.1], [1.0, 1.1], **(paper | {key: value})))
        assert header[-1] == "n"


def test_a_run_that_skipped_steps_says_how_many():
    assert say_skipped({"skipped_steps": 3}).startswith("; 3 steps skipped")
    assert say_skipped({"skipped_steps": 0}) == say_skipped({}) == ""


def test_the_table_counts_what_finished():
    _, lines, _ = table(results([2.0, None, 2.2], [1.0, 1.1, 1.2]))
    assert {line[0]: line[5] for line in lines}["plain56"] == "2 of 3 finished"


def test_results_survive_the_way_through_csv(tmp_path):
    rows = results([2.0, None], [1.0, 1.1])
    write_csv(tmp_path / "results.csv", rows, FIELDS)
    back = read_results(tmp_path / "results.csv")
    assert report(back, []) == report(rows, [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": None}, "row 2 has no lr"),
        ({"train_loss": None}, "row 2 has no train_loss"),
        ({"status": None}, "row 2 has no status"),
        ({"network": "resne"}, "no ablation compares plain, resne, resnet"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, change, words):
    rows = results([2.0, 2.1], [1.0, 1.1])
    rows[1] |= change
    write_csv(tmp_path / "results.csv", rows, FIELDS)
    with refusal(ResultsError, words, str(tmp_path)):
        read_results(tmp_path)


def test_a_table_that_was_cut_off_is_refused(tmp_path):
    header, first, second, *_ = (ROOT / "docs/rate/results.csv").read_bytes().splitlines(True)
    (tmp_path / "results.csv").write_bytes(header + first + second[:40])
    with refusal(ResultsError, "has no"):
        read_results(tmp_path)


@pytest.mark.parametrize("path", ["nowhere", "empty", "empty.csv", "campaign.json", "numbers.csv"])
def test_anything_but_a_campaign_is_refused_without_advice_to_delete(invoke, tmp_path, path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "campaign.json").write_text('{\n"question": "?"}\n', encoding="utf-8")
    write_csv(tmp_path / "empty.csv", [], FIELDS)
    odd = results([2.0], [1.0], parameters="many")
    write_csv(tmp_path / "numbers.csv", odd, FIELDS)
    done = invoke("experiments.report", tmp_path / path)
    assert_three_lines(done, 3, path, "give a folder of results")
    assert "delete" not in done.stderr
    assert ("no such folder" in done.stderr) == (path == "nowhere")


def test_one_run_of_several_names_the_folder_of_all(invoke, tmp_path):
    (tmp_path / "plain8-seed0").mkdir()
    (tmp_path / "plain8-seed0" / "row.json").write_text("{}", encoding="utf-8")
    done = invoke("experiments.report", tmp_path / "plain8-seed0")
    assert_three_lines(done, 3, "one run of several", f"name {tmp_path}")


@pytest.mark.parametrize("good", [True, False])
def test_publish_says_with_its_exit_code_whether_all_is_equal(good, monkeypatch):
    monkeypatch.setattr(publish, "put_into_docs", lambda name, parts: None)
    monkeypatch.setattr("experiments.proof.prove.verify_summary", lambda: (good, None, ""))
    assert publish.main(publish.Options("verify")) == (0 if good else 1)


@pytest.mark.parametrize("path", ["docs/transfer", "docs/transfer/results.csv"])
def test_published_rows_of_transfer_lack_what_its_advice_needs(invoke, path):
    assert_three_lines(invoke("experiments.report", ROOT / path), 3, "runs/transfer-NAME")


def test_published_rows_are_shown_and_not_published_again(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = set()
    for path in (ROOT / "docs/quick", ROOT / "docs/quick/results.csv"):
        done = invoke("experiments.report", path)
        assert done.returncode == 0, done.stderr
        shown.add(done.stdout)
        assert_three_lines(invoke("experiments.publish", path), 3, "nothing to publish")
    assert len(shown) == 1


def test_filling_in_replaces_one_block_and_nothing_else():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\nkept\n<!-- /y -->\n"
    filled = publish.fill_in(text, "x", r"new \1")
    assert filled == text.replace("old", r"new \1")
    assert publish.fill_in(filled, "x", r"new \1") == filled
    with pytest.raises(ResultsError):
        publish.fill_in(text, "z", "new")


@pytest.mark.parametrize("name", [*filter(lambda name: (ROOT / "docs" / name).is_dir(), PAGES)])
def test_published_tables_are_what_the_result_files_say(name):
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")]
    page = next(text for text in pages if f"<!-- {name} -->" in text)
    report = markdown(report_of(ROOT / "docs" / name))
    assert publish.fill_in(page, name, report) == page


@pytest.mark.parametrize("name", ["quick", "cifar10", "imagenet-nets"])
def test_results_are_those_of_the_last_epoch_never_of_the_best(name):
    columns = {"run": str, "step": int, "test_error": float, "train_loss": float}
    history = read_csv(ROOT / "docs" / name / "histories.csv", columns, "")
    last = {line["run"]: line for line in history}
    for row in read_results(ROOT / "docs" / name):
        if row["status"] == "finished":
            suffix = "" if row["norm"] == "batch" else "-nonorm"
            run = f"{row['network']}{row['depth']}{suffix}-seed{row['seed']}"
            results_ = {key: row[key] for key in ("test_error", "train_loss")}
            assert last[run] == {"run": run, "step": row["steps"], **results_}


@pytest.mark.parametrize(
    ("name", "preset", "images"),
    [("quick", "quick", 4000), ("ablation-vit", "vit", 4000), ("cifar10", "cifar10", 50_000),
     ("imagenet-nets", "imagenet-nets", 16_000)],
)  # fmt: skip
def test_readmes_rows_come_from_the_preset_as_it_is_now(name, preset, images):
    rows, ablation = read_results(ROOT / "docs" / name), ABLATIONS[preset]
    made_with = {(r["source"], r["lr"], r["steps"], r["size"], r["train_images"]) for r in rows}
    settings, data = ablation.base.settings, ablation.base.data
    steps = ablation.epochs * (images // settings.batch_size)
    assert made_with == {(data.source, settings.lr, steps, data.size, images)}
    assert len({row["seed"] for row in rows}) >= 3
