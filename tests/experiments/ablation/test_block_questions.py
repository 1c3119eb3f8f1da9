"""Questions about blocks: their runs as data, how rates are chosen, and yes, no, cannot tell."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import refusal
from figures import readable, words

from data.errors import DataError
from experiments.ablation import campaign
from experiments.ablation.block_questions import (
    BLOCK_QUESTIONS,
    REFERENCE,
    TABLES_1_AND_2,
    TUNING_SEED,
    BlockQuestion,
    best_rates,
)
from experiments.ablation.block_runs import ablation_of, runs_of, tuning
from experiments.ablation.comparison import (
    answer,
    failures,
    groups_of,
    in_short,
    question_of,
    report_of_blocks,
    unlearned,
)
from experiments.ablation.figures import draw_arms
from experiments.ablation.options import Options
from experiments.ablation.overrides import plan
from experiments.ablation.questions import ABLATIONS, with_warmup
from experiments.ablation.questions import rows as runs_in
from experiments.ablation.report import describe, report, report_of
from experiments.ablation.runs import (
    Data,
    Run,
    build_model,
    load_data,
    make_batches,
    normalize_of,
)  # fmt: skip
from experiments.plumbing.cli import UsageError
from experiments.plumbing.stats import holm, paired_p
from experiments.train.loop import Settings, lr_at
from zoo.variants import VARIANTS

CPU = torch.device("cpu")


def result(network: str, seed: int, loss: float, error: float = 0.1, **fields):
    return {
        "network": network, "depth": 32, "norm": "batch", "lr": 0.03, "seed": seed,
        "status": "finished", "train_loss": loss, "train_error": error, "test_error": error,
        "test_loss": loss, "parameters": 10, "steps": 500, "classes": 10,
    } | fields  # fmt: skip


def results(losses: dict[str, list[float]], error: float = 0.1, **fields) -> list[dict]:
    return [
        result(name, seed, x, error, **fields)
        for name, values in losses.items()
        for seed, x in enumerate(values)
    ]


REFERENCES = [0.50, 0.52, 0.49, 0.51, 0.48]
WORSE = [0.80, 0.83, 0.81, 0.84, 0.82]


def answers(rows: list[dict], preset: str = "shortcuts") -> dict[str, str]:
    ((reference, *arms),) = groups_of(rows, BLOCK_QUESTIONS[preset])
    assert reference.key.is_resnet
    return {arm.key.name: answer(arm)[0] for arm in arms}


def test_worse_better_and_neither():
    losses = {"resnet": REFERENCES, "norm-after": WORSE,
              "preactivation": [0.30, 0.33, 0.31, 0.34, 0.32],
              "relu-only": [0.52, 0.50, 0.50, 0.50, 0.49]}  # fmt: skip
    assert answers(results(losses), "order") == {
        "norm-after": "worse", "preactivation": "better", "relu-only": "cannot tell"
    }  # fmt: skip
    assert answers(results({name: values[:1] for name, values in losses.items()}), "order") == (
        dict.fromkeys(("norm-after", "relu-only", "preactivation"), "cannot tell")
    )


def test_the_reference_comes_first_in_whatever_order_the_runs_ended():
    rows = results({"half-both": WORSE, "resnet": REFERENCES, "half-shortcut": WORSE})
    ((first, second, third),) = groups_of(rows[::-1], BLOCK_QUESTIONS["shortcuts"])
    assert [arm.key.name for arm in (first, second, third)] == [
        "resnet",
        "half-shortcut",
        "half-both",
    ]
    assert first.difference.mean == 0
    assert second.difference.mean == pytest.approx(0.32)


@pytest.mark.parametrize("plant", [{"error": 0.26}, {"status": "diverged at step 3"}])
def test_a_reference_that_has_not_learned_decides_nothing(plant):
    rows = results({"resnet": REFERENCES, "half-shortcut": WORSE})
    assert not unlearned(groups_of(rows, BLOCK_QUESTIONS["shortcuts"]), 32)
    rows[2] = result("resnet", 2, 0.49, **plant)
    assert "32 layers" in unlearned(groups_of(rows, BLOCK_QUESTIONS["shortcuts"]), 32)
    table, text, _ = report_of_blocks(rows, BLOCK_QUESTIONS["shortcuts"])
    assert table.lines[1][0] == "half-shortcut"
    assert text.count("- ") == 1 == text.count("has not learned")


def test_the_training_loss_does_not_answer_what_deletions_answer():
    rows = results({"resnet": REFERENCES, "stochastic-depth": WORSE})
    question = question_of(rows)
    table, text, *rest = report_of_blocks(rows, question)
    assert [line[0] for line in table.lines] == ["resnet", "stochastic-depth"]
    assert question.question in text
    assert "experiments.anatomy --from FOLDER" in text
    assert "worse" not in "".join([text, *rest])
    rows = results({"resnet": REFERENCES, "stochastic-depth": WORSE}, error=0.3)
    assert "has not learned enough" in "".join(report_of_blocks(rows, question)[1:])


def test_at_a_rate_where_the_reference_fails_another_rate_shows_that_the_steps_suffice():
    low = results({"resnet": REFERENCES, "zero-gamma": REFERENCES}, lr=0.03)
    high = results({"resnet": [2.0, 2.1, 2.0, 2.2, 2.1], "zero-gamma": WORSE}, error=0.8, lr=0.3)
    groups = groups_of(low + high, BLOCK_QUESTIONS["zero-gamma"])
    assert [[arm.key.lr for arm in group] for group in groups] == [[0.03] * 2, [0.3] * 2]
    assert not unlearned(groups, 32)
    assert answer(groups[1][1])[0] == "better"
    assert "zero-gamma, 32 layers, rate 0.3: better (-" in report_of_blocks(
        low + high, BLOCK_QUESTIONS["zero-gamma"])[1]  # fmt: skip
    assert unlearned(groups[1:], 32)


def test_many_arms_need_more_evidence():
    weak = [x + d for x, d in zip(REFERENCES, (0.01, 0.05, 0.02, 0.09, 0.04), strict=True)]
    alone = {"resnet": REFERENCES, "half-shortcut": weak}
    assert answers(results(alone)) == {"half-shortcut": "worse"}
    many = alone | dict.fromkeys(["half-both", "exclusive-gate", "shortcut-gate"], weak)
    assert set(answers(results(many)).values()) == {"cannot tell"}


def test_failed_runs_count_with_the_loss_of_guessing():
    rows = results({"resnet": REFERENCES, "skipinit": [2.2, 2.3, 2.31, 1e15, 3.0],
                    "rezero": [0.6] * 5})  # fmt: skip
    rows += [result("fixup", seed, math.nan, status="diverged at step 3") for seed in range(5)]
    rows += results({"resnet": [1.9, 1.8, 1.9, 1.8, 1.7]}, norm="none")
    ((resnet, reference, skipinit, fixup, rezero),) = groups_of(rows, BLOCK_QUESTIONS["no-norm"])
    assert reference.is_reference
    assert fixup.losses == [math.log(10)] * 5
    assert skipinit.losses == [2.2, 2.3] + [math.log(10)] * 3
    assert failures(skipinit).startswith("3 of 5 (")
    assert failures(fixup) == "5 of 5 (57 to 100 %)"
    assert failures(rezero) == "0"
    two = groups_of([row | {"classes": 2} for row in rows], BLOCK_QUESTIONS["no-norm"])
    assert two[0][2].losses == [math.log(2)] * 5
    assert answer(fixup)[0] == "worse"
    assert {answer(arm)[0] for arm in (rezero, resnet)} == {"better"}
    table, text, _ = report_of_blocks(rows, BLOCK_QUESTIONS["no-norm"])
    assert "Compared with resnet without norms" in text
    assert text.count("\n- ") == 4
    assert [line[5] for line in table.lines] == [*["10.0 ± 0.0"] * 3, "- (n = 0)", "10.0 ± 0.0"]
    assert in_short(rows, BLOCK_QUESTIONS["no-norm"]) == (
        f"compared with resnet without norms: {rows[0]['depth']} layers: worse: skipinit, fixup; "
        "better: resnet, rezero"
    )


def test_holms_correction():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    assert paired_p([0.1]) == paired_p([0.0, 0.0]) == 1.0
    assert paired_p([0.1, 0.11, 0.09]) < 0.01


def test_a_loss_that_is_no_number_counts_as_failed():
    rows = results({"resnet": REFERENCES, "half-shortcut": WORSE, "half-both": WORSE})
    rows[7]["train_loss"] = math.nan
    assert answers(rows)["half-both"] == "worse"
    ((_, arm, _),) = groups_of(rows, BLOCK_QUESTIONS["shortcuts"])
    assert failures(arm).startswith("1 of 5")


def test_arms_without_a_reference_are_not_judged():
    rows = results({"resnet": REFERENCES, "zero-gamma": WORSE}, lr=0.1)
    rows += results({"zero-gamma": WORSE}, lr=0.3)
    text = report_of_blocks(rows, BLOCK_QUESTIONS["zero-gamma"])[1]
    assert "rate 0.3: cannot tell (the reference has no run with these seeds)" in text
    rows = results({"plain": WORSE, "half-both": WORSE})
    text = report_of_blocks(rows, BLOCK_QUESTIONS["shortcuts"])[1]
    assert "there is no run of resnet with 32 layers" in text


def test_n_is_that_of_the_comparisons():
    rows = results({"resnet": REFERENCES, "half-both": WORSE[:2], "plain": WORSE[:3]})
    assert "(n = 2 to 3, paired" in report_of_blocks(rows, BLOCK_QUESTIONS["shortcuts"])[1]


def test_holms_correction_is_for_all_rates_together():
    weak = [x + d for x, d in zip(REFERENCES, (0.01, 0.05, 0.02, 0.09, 0.04), strict=True)]
    question = BLOCK_QUESTIONS["zero-gamma"]
    rows = results({"resnet": REFERENCES, "zero-gamma": weak}, lr=0.1)
    ((_, alone),) = groups_of(rows, question)
    rows += results({"resnet": REFERENCES, "zero-gamma": weak}, lr=0.3)
    (_, one), (_, other) = groups_of(rows, question)
    assert one.p == other.p == pytest.approx(2 * alone.p)
    assert answer(alone)[0] == "worse"


def test_a_p_just_below_the_limit_is_not_printed_as_the_limit():
    rows = results({"resnet": REFERENCES, "half-both": [0.9] * 5})
    (arm,) = (a for g in groups_of(rows, BLOCK_QUESTIONS["shortcuts"]) for a in g[1:])
    assert answer(arm._replace(p=0.0496)) == ("worse", f"{arm.difference.signed}, p = 0.0496")


def test_runs_that_choose_a_rate_are_not_tested():
    row = result("resnet", TUNING_SEED, 0.5, seconds=3.0)
    assert "; held-out error 10.0 %" in describe("a", row | {"holdout": True})
    assert "; test error 10.0 %" in describe("a", row | {"holdout": False})


def test_the_report_says_depth_steps_and_n():
    rows = results({"resnet": REFERENCES, "half-both": [0.9] * 5})
    table, text, _ = report_of_blocks(rows, BLOCK_QUESTIONS["shortcuts"])
    assert [line[0] for line in table.lines] == ["resnet", "half-both"]
    for part in ("after 500 steps", "n = 5,", "half-both, 32 layers: worse", "Holm"):
        assert part in text


PAPER = {
    "source": "cifar10", "size": 32, "steps": 64_000, "batch_size": 128, "schedule": "step",
    "lr": 0.1, "normalize": "pixel-mean", "train_images": 50_000, "augment": True, "holdout": False,
}  # fmt: skip


@pytest.mark.parametrize("change", [{}, {"depth": 56}, {"steps": 63_999}, {"source": "folder"}])
def test_published_errors_stand_beside_runs_of_the_papers_protocol_only(change):
    protocol = PAPER | {"depth": 110} | change
    rows = results({"resnet": REFERENCES, "half-both": WORSE}, **protocol)
    table = report_of_blocks(rows, BLOCK_QUESTIONS["shortcuts"])[0]
    assert ("paper" in table.header) == (not change)
    if not change:
        assert [line[-1] for line in table.lines] == ["6.61", "12.35"]


@pytest.mark.parametrize("name", BLOCK_QUESTIONS)
def test_the_figure_names_every_arm_in_the_papers_order(name, tmp_path):
    question, rates = (
        BLOCK_QUESTIONS[name],
        BLOCK_QUESTIONS[name].rates[:2] if BLOCK_QUESTIONS[name].all_rates else (0.03,),
    )
    rows = [
        result(network, seed, 0.5 + seed / 9, depth=depth, lr=lr, norm=norm)
        for norm, networks in (("batch", question.networks), ("none", question.without_norm))
        for network in networks for depth in question.depths_bf16 for lr in rates
        for seed in range(3)
    ]  # fmt: skip
    figure = readable(draw_arms, rows, question, tmp_path, "synthetic images at 12x12, 500 steps")
    assert len(figure.axes) == len(question.depths_bf16) * len(rates)
    ticks = [text.get_text().split(",")[0] for text in figure.axes[0].get_yticklabels()]
    assert [tick for tick in reversed(ticks) if "without" not in tick] == [*question.networks]
    paper = [row | PAPER | {"depth": 110, "lr": 0.1} for row in rows]
    with_paper = readable(draw_arms, paper, question, tmp_path, "CIFAR-10 at 32x32, 64,000 steps")
    shown = [text for text in words(with_paper) if "paper's" in text]
    assert len(shown) == (name in ("shortcuts", "order"))


# --- the runs ---


def planned(preset: str, **options):
    return plan(Options(preset, **options), CPU, images=4000)


@pytest.mark.parametrize("name", BLOCK_QUESTIONS)
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("scale", ["quick", "cifar10", "paper"])
def test_arms_differ_from_the_reference_in_the_block_and_the_rate_only(name, bf16, scale):
    question = BLOCK_QUESTIONS[name]
    assert question.networks[0] == REFERENCE
    assert {*question.networks} <= {*VARIANTS, "plain", "resnet"}
    ablation = ablation_of(question, scale, bf16)
    tried = [{"seed": TUNING_SEED, "network": run.network, "norm": run.norm, "depth": run.depth,
              "lr": run.settings.lr, "status": "finished", "test_loss": run.settings.lr}
             for run in tuning(question, ablation)]  # fmt: skip
    runs = runs_of(question, ablation, tried)
    assert len({run.name for run in runs}) == len(runs)
    assert {run.seed for run in runs} == {0, 1, 2, 3, 4}
    assert {run.network for run in runs} == {*question.networks, *question.without_norm}
    for run in runs:
        assert run.data == ablation.base.data
        settings = run.settings.__dict__ | {"lr": 0}
        assert settings == ablation.base.settings.__dict__ | {"lr": 0}
        if not question.rates:
            assert run.settings == ablation.base.settings
    arms_of_a_seed = [{(r.network, r.norm, r.depth, r.settings.lr) for r in runs if r.seed == seed}
                      for seed in range(5)]  # fmt: skip
    assert all(these == arms_of_a_seed[0] for these in arms_of_a_seed)


def test_shortcuts_and_order_have_published_numbers():
    for name in ("shortcuts", "order"):
        assert {*BLOCK_QUESTIONS[name].networks} <= TABLES_1_AND_2.keys()


def test_rates_are_chosen_on_held_out_images_with_another_seed():
    first = tuning(BLOCK_QUESTIONS["no-norm"], planned("no-norm", depths=(8,)))
    assert len(first) == 6 * 4  # arms, rates
    assert all(run.data.holdout and run.seed == TUNING_SEED for run in first)
    assert not tuning(BLOCK_QUESTIONS["zero-gamma"], planned("zero-gamma"))
    assert not tuning(BLOCK_QUESTIONS["shortcuts"], planned("shortcuts"))
    tried = [result("skipinit", TUNING_SEED, loss, lr=lr, depth=8)
             for lr, loss in ((0.3, 1.0), (0.1, 0.5), (0.03, 0.7))]  # fmt: skip
    tried += [result("resnet", TUNING_SEED, 9.0, lr=lr, depth=8, norm="none", status="diverged")
              for lr in (0.3, 0.1)]  # fmt: skip
    tried += [result("skipinit", 0, 0.001, lr=0.3, depth=8)]  # not one of them
    tried += [result("resnet", TUNING_SEED, math.nan, lr=0.3, depth=20, norm="none"),
              result("resnet", TUNING_SEED, 2.0, lr=0.1, depth=20, norm="none")]  # fmt: skip
    assert best_rates(tried).pop(("resnet", "none", 20)) == 0.1
    assert best_rates(tried[:-2]) == {("skipinit", "batch", 8): 0.1, ("resnet", "none", 8): 0.1}


def rate_results(own: dict[str, float]) -> list[dict]:
    """Results of the preset rate, in which every network learns best at its own rate."""
    question, ablation = BLOCK_QUESTIONS["rate"], planned("rate", depths=(8,), seeds=3)

    def loss(network: str, lr: float, seed: int) -> float:
        noise = seed / 50 + (seed % 2) / 100 * (network == "plain")
        return 0.3 * (network == "plain") + 0.2 * abs(math.log10(lr / own[network])) + noise

    tried = [result(run.network, TUNING_SEED, loss(run.network, run.settings.lr, 0), depth=8,
                    lr=run.settings.lr) for run in tuning(question, ablation)]  # fmt: skip
    runs = runs_of(question, ablation, tried)
    return tried + [result(run.network, run.seed, loss(run.network, run.settings.lr, run.seed),
                           depth=8, lr=run.settings.lr) for run in runs]  # fmt: skip


def test_a_common_rate_stands_beside_each_arms_own():
    rows = rate_results({"resnet": 0.1, "plain": 0.01})
    of_seed_0 = {(row["network"], row["lr"]) for row in rows if row["seed"] == 0}
    assert of_seed_0 == {("resnet", 0.1), ("plain", 0.01), ("plain", 0.1)}
    table, text, _, _, tried = report_of_blocks(rows, question_of(rows))
    assert [line[:3] for line in table.lines] == [
        ["resnet", "8", "0.1"], ["plain", "8", "0.01"], ["plain", "8", "0.1"]
    ]  # fmt: skip
    assert "plain, 8 layers, rate 0.01: worse (+0.303" in text
    assert "rate 0.1 instead of its own, 0.01, changes the loss by +0.200" in text
    assert [line[-1] for line in tried.lines] == ["0.1", "0.01"]
    fewer = [row for row in rows if (row["lr"], row["seed"]) not in ((0.01, 0), (0.1, 2))]
    text = report_of_blocks(fewer, question_of(rows))[1]
    assert "changes the loss by +0.200 (n = 1 seeds)" in text  # paired by seed
    backwards = [row for row in reversed(rows) if row["seed"] == TUNING_SEED]
    assert report_of_blocks(backwards, question_of(rows))[-1].lines == tried.lines


def test_rows_say_which_question_they_answer():
    for name, question in BLOCK_QUESTIONS.items():
        rates = question.rates[:2] or (0.1,)
        rows = [result(network, 0, 1.0, lr=lr) for network in question.networks for lr in rates]
        rows += [result(network, 0, 1.0, norm="none", lr=rates[0])
                 for network in question.without_norm]  # fmt: skip
        assert question_of(rows) is question, name
    assert question_of(results({"plain": [1.0], "resnet": [1.0]})) is None
    assert question_of(results({"vit": [1.0]})) is None
    assert question_of([]) is None
    first = [result("resnet", TUNING_SEED, 1.0, lr=lr) for lr in (0.1, 0.03, 0.003)]
    assert question_of(first) is BLOCK_QUESTIONS["rate"]
    assert question_of([*first[:2], result("resnet", TUNING_SEED, 1.0, norm="none", lr=0.3)]) is (
        BLOCK_QUESTIONS["no-norm"])  # fmt: skip
    some = [result("resnet", seed, 1.0, lr=lr) for seed in range(2) for lr in (0.3, 0.1)]
    assert question_of(some) is BLOCK_QUESTIONS["zero-gamma"]


@pytest.mark.parametrize(
    ("preset", "options", "words"),
    [
        ("quick", {"scale": "cifar10"}, "shortcuts, order"),
        ("no-norm", {"lr": 0.1}, "several rates"),
        ("rate", {"holdout": True}, "holds out"),
        ("rate", {"seeds": 101}, "too large"),
        ("order", {"depths": (50,)}, "resnet50 has no BasicBlocks"),
    ],
)
def test_options_that_such_a_preset_would_ignore_are_refused(preset, options, words):
    with pytest.raises(UsageError, match=words):
        planned(preset, **options)


def test_a_whole_campaign_that_chooses_rates_and_resumes(tmp_path, capsys, monkeypatch):
    """Two blocks instead of six kinds, on tiny images; the second time, nothing is trained."""
    monkeypatch.setitem(BLOCK_QUESTIONS, "no-norm", BlockQuestion(
        "?", ("resnet", "skipinit"), without_norm=("resnet",), rates=(0.1, 0.01)))  # fmt: skip
    options = Options("no-norm", depths=(8,), seeds=2, epochs=1, size=8, train_images=64, jobs=1,
                      precision="fp32", device="cpu", output_dir=tmp_path)  # fmt: skip
    shown = campaign.carry_out(options)
    assert "6 runs on held-out images" in capsys.readouterr().out
    assert len(shown.rows) == 6 + 6
    assert {row["lr"] for row in shown.rows if row["seed"] != TUNING_SEED} <= {0.1, 0.01}
    assert [path.name for path in shown.figures] == ["arms.png"]
    first = (tmp_path / "results.csv").read_bytes()
    assert campaign.carry_out(options).rows == shown.rows
    assert capsys.readouterr().out.count("all 6 runs are finished") == 2
    assert (tmp_path / "results.csv").read_bytes() == first
    assert str(report_of(tmp_path)[0].lines) == str(shown.parts[0].lines)


def test_runs_without_norms_have_every_depth():
    runs = runs_in(planned("no-norm", depths=(8, 20), seeds=1))
    for depth in (8, 20):
        found = {(run.network, run.norm) for run in runs if run.depth == depth}
        assert found >= {("resnet", "none"), ("plain", "none"), ("resnet", "batch")}


def test_a_low_rate_is_not_preceded_by_a_higher_one():
    run = Run(depth=110, settings=Settings(lr=0.003))
    assert lr_at(0, with_warmup(run).settings) == 0.003
    assert lr_at(0, with_warmup(replace(run, settings=Settings())).settings) == 0.01


def test_an_interrupted_extension_keeps_the_results(tmp_path, monkeypatch):
    """The file of results means that all are finished: it is written once, at the end."""
    asked = []

    def run_campaign(runs, *_):
        asked.append(runs)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return [{"tuning": run} for run in runs]

    (tmp_path / "results.csv").write_text("as before", encoding="utf-8")
    monkeypatch.setattr(campaign, "run_campaign", run_campaign)
    monkeypatch.setattr(campaign, "say_forecast", lambda *_: None)
    monkeypatch.setattr(campaign, "flatten", lambda row: result(
        row["tuning"].network, TUNING_SEED, 1.0, norm=row["tuning"].norm, depth=8,
        lr=row["tuning"].settings.lr))  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        campaign.train_preset("rate", planned("rate", depths=(8,), seeds=2), tmp_path, CPU, 1)
    assert len(asked) == 2
    assert (tmp_path / "results.csv").read_text(encoding="utf-8") == "as before"


def test_too_few_images_to_hold_some_out_are_refused():
    held_in = planned("rate", depths=(8,), seeds=1, batch_size=32, train_images=32)
    data = replace(held_in.base.data, source="synthetic", holdout=True, train_images=32)
    run = replace(held_in.base, data=data, depth=8)
    with refusal(DataError, "no training batch of 32 can be made"):
        campaign.work_of([run], (29, 3), 10, CPU, lambda run: None)


def test_stochastic_depth_ends_with_the_command_that_deletes_blocks(tmp_path):
    shown = campaign.carry_out(Options(
        "stochastic-depth", depths=(8,), seeds=1, epochs=1, size=8, train_images=64, jobs=1,
        precision="fp32", device="cpu", output_dir=tmp_path))  # fmt: skip
    command = "python -m experiments.anatomy --from {} --questions one-block --images 1000"
    assert command.format(tmp_path) in shown.notes[-1]


@pytest.mark.parametrize(("preset", "scale", "steps"),
                         [("order", "quick", 4 * 125), ("stochastic-depth", "quick", 16 * 125),
                          ("order", "cifar10", 8 * 250), ("order", "paper", 64_000)])  # fmt: skip
def test_steps_by_scale(preset, scale, steps):
    ablation = plan(Options(preset, scale=scale, device="cpu"), CPU, images=50_000)
    assert ablation.base.settings.steps == steps


def test_cifar10_is_small_and_not_augmented_on_a_cpu_only():
    here = ablation_of(BLOCK_QUESTIONS["order"], "cifar10", bf16=False).base
    there = ablation_of(BLOCK_QUESTIONS["order"], "cifar10", bf16=True, gpu=True).base
    assert (here.data.train_images, here.data.augment, here.settings.batch_size) == (
        8000,
        False,
        32,
    )
    assert there == ABLATIONS["cifar10"].base
    data = replace(here.data, source="synthetic", size=8, train_images=40)
    dataset, batches = load_data(data), make_batches(replace(here, data=data), CPU)
    images, labels = batches.batch(0)
    order = batches.order[:32]
    assert torch.equal(images, normalize_of(data)(dataset.train_images[order]))
    assert torch.equal(labels, dataset.train_labels[order])


PRESCRIBED = {  # initial weights that a variant has of its own
    "zero-gamma": ("norm2.weight",),
    "fixup": ("conv1.weight", "conv2.weight", "head.weight", "head.bias"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_an_arm_starts_as_the_reference_except_for_what_it_prescribes(name):
    run = Run(name, 20, 3, data=Data(size=8, train_images=20, test_images=10))
    mine, reference = build_model(run).state_dict(), build_model(run.reference).state_dict()
    shared = {key for key in mine.keys() & reference.keys()
              if mine[key].shape == reference[key].shape}  # fmt: skip
    assert len([key for key in shared if "conv" in key]) == 19
    own = {key for key in shared if not torch.equal(mine[key], reference[key])}
    assert own == {key for key in shared if key.endswith(PRESCRIBED.get(name, ("no key",)))}
    for key in own - {key for key in own if key.endswith("conv1.weight")}:
        assert not mine[key].any()
    if name == "fixup":
        key = "stages.2.2.conv1.weight"
        assert torch.equal(mine[key], reference[key] / 9**0.5)  # 9 blocks


def test_the_caption_is_about_the_compared_runs(tmp_path):
    rows = rate_results({"resnet": 0.1, "plain": 0.01})
    about = {"source": "synthetic", "size": 12, "test_images": 1000, "batch_size": 32,
             "precision": "fp32", "channels_last": False, "augment": True, "device": "a CPU",
             "seconds": 60.0}  # fmt: skip
    rows = [row | about | {"train_images": 3600 if row["seed"] == TUNING_SEED else 4000}
            for row in rows]  # fmt: skip
    *_, text = report(rows, [])
    assert "4,000 training" in text
    assert f"{len(rows)}.0 minutes" in text
    rows = [result(name, seed, 0.3, norm=norm, train_images=9) | about
            for seed in range(2) for name, norm in (("resnet", "batch"), ("resnet", "none"),
                                                    ("fixup", "batch"))]  # fmt: skip
    assert "do not count" not in report(rows, [])[-1]
