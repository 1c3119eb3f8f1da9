"""Arms against the reference, paired by seed, with Holm: yes, no, cannot tell."""

import math

import pytest

from experiments.ablation.arms import ARMS, PUBLISHED, REFERENCE
from experiments.ablation.comparison import answer, arms_of, diverged, question_of, report_of_arms
from experiments.ablation.questions import rows
from experiments.plumbing.stats import holm, paired_p
from zoo.variants import VARIANTS


def result(network: str, seed: int, loss: float, error: float = 0.1, status: str = "finished"):
    return {
        "network": network, "depth": 32, "seed": seed, "status": status, "train_loss": loss,
        "train_error": error, "test_error": error, "parameters": 10, "steps": 500,
    }  # fmt: skip


def results(losses: dict[str, list[float]], error: float = 0.1) -> list[dict]:
    return [
        result(n, seed, x, error) for n, values in losses.items() for seed, x in enumerate(values)
    ]


REFERENCES = [0.50, 0.52, 0.49, 0.51, 0.48]


def answers(rows_: list[dict]) -> dict[str, str]:
    reference, *arms = arms_of(rows_)
    assert reference.name == REFERENCE
    return {arm.name: answer(arm, reference)[0] for arm in arms}


def test_worse_better_and_neither():
    losses = {"resnet": REFERENCES, "half-shortcut": [0.80, 0.83, 0.81, 0.84, 0.82],
              "preactivation": [0.30, 0.33, 0.31, 0.34, 0.32],
              "relu-only": [0.52, 0.50, 0.50, 0.50, 0.49]}  # fmt: skip
    assert answers(results(losses)) == {
        "half-shortcut": "yes", "preactivation": "no", "relu-only": "cannot tell"
    }  # fmt: skip


def test_a_reference_that_has_not_learned_decides_nothing():
    losses = {"resnet": REFERENCES, "half-shortcut": [x + 0.3 for x in REFERENCES]}
    assert answers(results(losses, error=0.26)) == {"half-shortcut": "cannot tell"}
    one = [row | {"status": "diverged at step 3"} if row["seed"] == 0 and row["network"] == "resnet"
           else row for row in results(losses)]  # fmt: skip
    assert answers(one) == {"half-shortcut": "cannot tell"}
    assert answers(results({name: values[:1] for name, values in losses.items()})) == {
        "half-shortcut": "cannot tell"
    }


def test_many_arms_need_more_evidence():
    weak = [x + d for x, d in zip(REFERENCES, (0.01, 0.05, 0.02, 0.09, 0.04), strict=True)]
    alone = {"resnet": REFERENCES, "half-shortcut": weak}
    assert answers(results(alone)) == {"half-shortcut": "yes"}
    many = alone | dict.fromkeys(["half-both", "exclusive-gate", "shortcut-gate"], weak)
    assert set(answers(results(many)).values()) == {"cannot tell"}


def test_diverged_runs_count_with_the_worst_loss():
    rows_ = results({"resnet": REFERENCES, "plain": [0.6] * 5, "half-both": [3.0] * 5})
    rows_ += [result("fixup", seed, math.nan, status="diverged at step 3") for seed in range(5)]
    arms = {arm.name: arm for arm in arms_of(rows_)}
    assert arms["fixup"].losses == [3.0] * 5
    assert arms["fixup"].failed == 5
    assert diverged(arms["fixup"]) == "5 of 5 (57 to 100 %)"
    assert diverged(arms["plain"]) == "0"
    assert answers(rows_)["fixup"] == "yes"


def test_holms_correction():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    assert paired_p([0.1]) == paired_p([0.0, 0.0]) == 1.0
    assert paired_p([0.1, 0.11, 0.09]) < 0.01


def test_the_report_says_depth_steps_and_n():
    table, text = report_of_arms(results({"resnet": REFERENCES, "plain": [0.9] * 5}), "Why?")
    assert [line[0] for line in table.lines] == ["resnet", "plain"]
    for words in ("after 500 steps", "n = 5 seeds", "plain, 32 layers: yes", "Holm"):
        assert words in text


def test_every_arm_is_a_network_with_a_published_number():
    for name, ablation in ARMS.items():
        networks = ablation.axes["network"]
        assert networks[0] == REFERENCE
        assert set(networks) <= {*VARIANTS, "plain", "resnet"}
        assert set(networks) <= PUBLISHED.keys()
        assert len({run.name for run in rows(ablation)}) == len(rows(ablation))
        assert question_of([{"network": network} for network in networks]) == ablation.question, (
            name
        )
    assert question_of([{"network": "plain"}, {"network": "resnet"}]) == ""
