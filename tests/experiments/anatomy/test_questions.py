"""The measurements on constructed cases, and verdicts that say yes, no and cannot tell."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from experiments.anatomy import (
    contributions,
    explosion,
    loss_surface,
    many_blocks,
    one_block,
    path_lengths,
    shattering,
)
from experiments.anatomy.chain import ReadOut, adapted, blocks_of, error, without
from experiments.anatomy.findings import deepest_pair
from experiments.anatomy.subjects import INITIAL, Images, Subject
from experiments.plumbing.stats import (
    Interval,
    estimate,
    judge_claim,
    judge_equal,
    mean_over,
    median_over,
)


def subject(network: str, seed: int = 0, error: float = 5.0, family: str = "x") -> Subject:
    name = f"{network}-seed{seed}"
    return Subject(name, network, network, family, "500 steps", error, lambda: None, seed)


def interval(low: float, high: float, n: int = 9) -> Interval:
    return Interval((low + high) / 2, low, high, n, "blocks")


@pytest.mark.parametrize(
    ("found", "side", "bound", "answer"),
    [
        (interval(0.2, 0.9), "below", 1, "yes"),
        (interval(1.2, 3), "below", 1, "no"),
        (interval(0.2, 1.4), "below", 1, "cannot tell"),  # not significant is not "no effect"
        (interval(30, 40), "above", 20, "yes"),
        (interval(3, 9), "above", 20, "no"),
        (interval(9, 30), "above", 20, "cannot tell"),
        (interval(30, 40, n=1), "above", 20, "cannot tell"),
        (mean_over([math.nan, 1.0], "seeds"), "above", 0, "cannot tell"),
    ],
)
def test_a_claim_is_judged_by_its_whole_interval(found, side, bound, answer):
    assert judge_claim(found, side, bound, {"a": 50.0})[0] == answer


@pytest.mark.parametrize("error", [50.1, 90.0, math.nan])
def test_a_network_that_has_not_learned_gets_no_verdict(error):
    answer, why = judge_claim(interval(30, 40), "above", 20, {"plain56": error, "resnet56": 3.0})
    assert answer == "cannot tell"
    assert "plain56 has not learned" in why


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [(-1.05, -0.95, "yes"), (-0.7, -0.6, "no"), (-1.15, -0.9, "cannot tell")],
)
def test_equality_needs_the_interval_inside_a_margin(low, high, answer):
    assert judge_equal(interval(low, high), -1, 0.1)[0] == answer
    assert judge_equal(interval(low, high, n=1), -1, 0.1)[0] == "cannot tell"


def test_the_median_has_a_bootstrap_interval_that_is_always_the_same():
    values = [0.1, 0.4, 0.2, 60.0, 0.3, 0.1, 0.2]
    found = median_over(values, "blocks")
    assert found == median_over(values, "blocks")
    assert found.low <= found.value == 0.2 <= found.high < 60
    assert found.show(1) == f"0.2 ({found.low:.1f} to {found.high:.1f}; n = 7 blocks)"


def test_few_values_have_no_interval_of_their_median():
    found = median_over([60.0, 70, 80, 65, 75], "blocks")
    assert found.show(0) == "70 (n = 5 blocks)"
    assert judge_claim(found, "above", 20, {})[0] == "cannot tell"
    assert (
        judge_claim(median_over([60.0, 70, 80, 65, 75, 70], "blocks"), "above", 20, {})[0] == "yes"
    )


def test_several_intervals_that_hold_together_are_wider():
    """By simulation: the share of draws in which all three intervals cover 0."""
    rng, wide, narrow = np.random.default_rng(0), 0, 0
    for draws in rng.normal(size=(2000, 3, 5)):
        wide += all(abs(e.mean) < e.half for e in (estimate(values, 3) for values in draws))
        narrow += all(abs(e.mean) < e.half for e in map(estimate, draws))
    assert wide / 2000 > 0.94
    assert narrow / 2000 < 0.88


def test_no_number_is_minus_zero():
    assert Interval(-0.04, -0.0, 0.04, 9, "blocks").show(1) == "0.0 (0.0 to 0.0; n = 9 blocks)"


def lesion(rises: list[float], intact: float = 8.0) -> dict:
    rows = [
        {"number": k + 1, "block": "", "keeps_shape": True, "stored": intact + rise,
         "adapted": intact}
        for k, rise in enumerate(rises)
    ]  # fmt: skip
    return {"images": 300, "intact": {"stored": intact, "adapted": intact}, "blocks": rows}


def test_one_block_is_judged_by_depth_against_its_margins():
    found = {
        subject("resnet20"): lesion([19.0, 15, 30, 50, 20, 18, 40, 22, 25]),
        subject("resnet56"): lesion([0.1, 0.2, 0.5, 0.4, 0.1, 16, 0.3, 0.2, 0.3]),
        subject("resnet32"): lesion([0.1, 0.2, 0.5, 4, 1.4, 16, 0.3, 2, 0.9]),
        subject("plain56", error=13.0): lesion([70.0, 75, 80, 60, 77, 71]),
        subject("plain32", error=82.0): lesion([0.0, 0.1, 0.2, 0.1, 0.0]),
    }
    lines = one_block.findings(found)
    answers = {line.of.split(",")[0]: line.answer for line in lines}
    assert answers == {"resnet20": "no", "resnet56": "yes", "resnet32": "cannot tell",
                       "plain56": "yes", "plain32": "cannot tell"}  # fmt: skip
    assert "(Veit et al., 20 layers: 36.3)" in lines[0].evidence
    assert "n = 9 blocks" in lines[0].evidence
    assert "has not learned" in lines[-1].evidence


def test_several_seeds_give_an_interval_over_seeds():
    found = {subject("resnet56", seed): lesion([0.1 + 0.01 * seed] * 5) for seed in range(3)}
    (line,) = one_block.findings(found)
    assert (line.answer, "n = 3 seeds" in line.evidence) == ("yes", True)


def test_smooth_means_that_no_step_is_large():
    def result(errors: dict[int, float]) -> dict:
        draws = [
            [k, 1.0, e + d] for k, e in errors.items() for d in ((0,) if not k else (-1, 0, 1))
        ]
        return {"images": 300, "deleted": draws, "swapped": draws}

    smooth, sudden = result({0: 8, 1: 10, 2: 13, 4: 25}), result({0: 13, 1: 88, 2: 89, 4: 90})
    wide = result({0: 8, 4: 40})  # 8 points per block
    for result_now, answer in ((smooth, "yes"), (sudden, "no"), (wide, "yes")):
        (line,) = many_blocks.findings({subject("resnet56"): result_now})
        assert line.answer == answer
    (line,) = many_blocks.findings({subject("plain56", error=90.0): sudden})
    assert line.answer == "cannot tell"


def test_deleted_and_swapped_blocks_keep_the_shape_and_repeat():
    blocks = blocks_of(zoo.build("resnet20", width=4))
    once, again = ([(k, tau, [type(b).__name__ for b in left]) for k, tau, left in
                    many_blocks.deletions(blocks)] for _ in range(2))  # fmt: skip
    assert once == again
    for count, tau, left in once:
        assert (left.count("ShortcutOnly"), tau) == (min(count, 7), 1.0)
    places = {id(block): i for i, block in enumerate(blocks.values())}
    for count, tau, order in many_blocks.swaps(blocks):
        numbers = [places[id(block)] for block in order]
        assert sorted(numbers) == list(range(9))
        assert [n // 3 for n in numbers] == [0, 0, 0, 1, 1, 1, 2, 2, 2]  # within stages
        assert (numbers[3], numbers[6]) == (3, 6)  # those change the shape
        if count in (0, 1):
            assert (tau == 1, numbers == sorted(numbers)) == ((count == 0),) * 2
            assert tau == pytest.approx(1 if not count else tau)
            assert count == 0 or tau in (pytest.approx(17 / 18), pytest.approx(15 / 18), 5 / 6)


def test_short_paths_yes_and_no():
    def result(lengths: list[float]) -> dict:
        shares = [[1 - (x - int(x)) if k == int(x) else x - int(x) if k == int(x) + 1 else 0
                   for k in range(10)] for x in lengths]  # fmt: skip
        return {"images": 30, "shares": shares, "sampled": [0.1] * 10}

    for lengths, answer in (([3.0, 3.1, 2.9], "yes"), ([6.0, 6.2, 5.9], "no"),
                            ([4.0, 5.0, 4.6], "cannot tell")):  # fmt: skip
        (line,) = path_lengths.findings({subject("resnet20"): result(lengths)})
        assert line.answer == answer, line


def test_the_response_of_a_norm_follows_from_its_weights():
    norm = nn.BatchNorm2d(16)
    with torch.no_grad():
        norm.weight.normal_(1, 0.5)
        norm.bias.normal_(0, 0.7)
    output = norm(torch.randn(64, 16, 8, 8) * 5 + 3)  # training mode: exactly normalised
    assert contributions.predicted_std(norm) == pytest.approx(float(output.std()), rel=1e-3)


def contribution(size: float, blocks: int = 12, power: float = -1.0) -> dict:
    half = blocks // 3
    stage = [size * (1 + 0.05 * (k % 2)) for k in range(half)]
    ratio = [(k + 1) ** (power / 2) for k in range(half)]
    return {
        "images": 200, "stages": [half] * 3, "readout": [50.0, 30, 20, 8],
        "trained": [[s, 1.0] for s in stage] * 3, "initial": [[r, 1.0] for r in ratio] * 3,
        "predicted": stage * 3,
    }  # fmt: skip


def test_responses_shrink_with_depth_or_not_and_networks_of_other_training_are_not_compared():
    small, large = contribution(0.45), contribution(0.73)
    for deep, answer in ((small, "yes"), (contribution(1.5), "no"), (large, "cannot tell")):
        lines = contributions.findings({subject("resnet20"): large, subject("resnet56"): deep})
        assert lines[0].answer == answer
        assert "correlation 1.00" in lines[0].evidence
    other = {subject("resnet20"): large, subject("resnet56", family="other"): small}
    assert not any("responses" in line.claim for line in contributions.findings(other))


def test_responses_are_paired_by_seed():
    large, small = contribution(0.73), contribution(0.45)
    found = {subject("resnet20", seed): large for seed in (0, 1, 2)}
    found |= {subject("resnet56", 2): small, subject("resnet56", 5): contribution(3.0)}
    line = contributions.findings(found)[0]
    assert (line.answer, "blocks" in line.evidence) == ("yes", True)  # one seed is shared
    found[subject("resnet56", 1)] = contribution(0.46)
    line = contributions.findings(found)[0]
    assert (line.answer, "n = 2 seeds" in line.evidence) == ("yes", True)


def test_stages_may_have_different_numbers_of_blocks():
    result = {"stages": [1, 3], "initial": [[2.0, 1.0], [3.0, 1.0], [2.0, 1.0], [1.0, 2.0]]}
    assert contributions.balance(result, "initial") == [[4.0], [9.0, 4.0, 0.25]]


def test_the_arms_of_a_block_are_its_branch_and_its_shortcut():
    model = zoo.build("resnet8", width=4).eval()
    x = torch.randn(2, 3, 8, 8)
    block, stem = model.stages[0][0], model.stem(x)
    (branch, skip), *_ = contributions.arms(model, x)
    assert skip == pytest.approx(float(stem.double().std()))
    inside = block.norm2(block.conv2(block.norm1(block.conv1(stem)).relu()))
    assert branch == pytest.approx(float(inside.double().std()))
    assert branch != pytest.approx(skip)


def test_initial_weights_differ_by_seed():
    images = Images(torch.randn(20, 3, 8, 8), torch.arange(20) % 10, torch.zeros(0))

    def measured(seed: int) -> dict:
        torch.manual_seed(7)
        model = zoo.build("resnet8").eval()
        return contributions.measure(
            replace(subject("resnet8", seed), open=lambda: (model, images))
        )

    torch.manual_seed(1)
    one, other = measured(0), measured(1)
    assert one["trained"] != one["initial"] != other["initial"]


def test_the_balance_of_the_arms_falls_with_the_place_in_a_stage_or_not():
    for power, answer in ((-1.0, "yes"), (1.0, "no")):
        result = contribution(1, power=power)
        result["initial"] = [[b * (1 + 0.01 * k), s] for k, (b, s) in enumerate(result["initial"])]
        (line,) = contributions.findings({subject("resnet56"): result})
        assert line.answer == answer


def test_the_rise_of_a_quadratic_loss_is_exact_and_the_weights_are_put_back(monkeypatch):
    """L(w) = mean |W x|^2: the mean of both sides rises by a^2 mean |D x|^2."""
    model = nn.Linear(3, 2, bias=False).double()
    monkeypatch.setattr(loss_surface, "cross_entropy", lambda y, _, reduction: y.square().sum())
    x, labels = torch.randn(40, 3, dtype=torch.float64), torch.zeros(40, dtype=torch.int64)
    before = model.weight.detach().clone()
    d = loss_surface.direction([model.weight], 0)
    assert torch.allclose(d[0].norm(dim=1), before.norm(dim=1))
    here = loss_surface.loss_at(model, x, labels)
    for a in (0.1, 1.0):
        ends = [loss_surface.loss_at(model, x, labels, (sign * a, d)) for sign in (1, -1)]
        expected = a**2 * (x @ d[0].T).square().sum().item() / 40
        assert sum(ends) / 2 - here == pytest.approx(expected, rel=1e-9)
    assert torch.equal(model.weight, before)


def test_the_rise_is_the_mean_of_both_sides(monkeypatch):
    """A loss that is linear in the step rises by nothing."""
    monkeypatch.setattr(loss_surface, "loss_at", lambda *a: 3.0 + sum(step for step, _ in a[3:]))
    images = Images(torch.randn(20, 3, 8, 8), torch.arange(20) % 10, torch.zeros(0))
    model = zoo.build("resnet8", width=4)
    result = loss_surface.measure(replace(subject("resnet8"), open=lambda: (model, images)), grid=3)
    assert result["loss"] == 3.0
    assert {value for values in result["rises"].values() for value in values} == {0.0}
    assert result["plane"] == [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [3.0, 4.0, 5.0]]


def test_only_filters_move_and_batch_norms_stay():
    model = zoo.build("resnet8", width=4)
    shapes = [weight.dim() for weight in loss_surface.moved(model)]
    assert shapes == [4] * (len(shapes) - 1) + [2]


def surface(rise: float) -> dict:
    rises = {str(r): [rise * r * (1 + 0.1 * d) for d in range(4)] for r in loss_surface.RADII}
    return {"images": 100, "loss": 0.4, "rises": rises, "plane": [[1.0, 2.0], [3.0, 4.0]]}


def test_smoother_with_skips_yes_no_and_cannot_tell():
    for plain, skips, answer in ((20.0, 0.7, "yes"), (0.7, 20.0, "no"), (1.0, 1.0, "cannot tell")):
        found = {subject("plain56"): surface(plain), subject("resnet56"): surface(skips)}
        (line,) = loss_surface.findings(found)
        assert line.answer == answer
        assert "n = 4 directions" in line.evidence
    unlearned = {subject("plain56", error=88.0): surface(20.0), subject("resnet56"): surface(0.7)}
    assert loss_surface.findings(unlearned)[0].answer == "cannot tell"
    assert not loss_surface.findings({subject("resnet56"): surface(1.0)})


def test_the_pair_to_compare_is_of_one_family_and_of_the_deepest_networks():
    names = [subject("resnet20"), subject("resnet56"), subject("plain20", family="y"),
             subject("plain56", family="y"), subject("resnet56", 1, family="y")]  # fmt: skip
    assert deepest_pair(names) == [names[3], names[4]]
    assert deepest_pair(names[:2]) == [names[1]]
    uneven = [subject("plain8"), subject("resnet8"), subject("resnet20")]
    assert deepest_pair(uneven) == uneven[:2]
    assert deepest_pair([subject("plain8"), uneven[2]]) == [uneven[2]]
    assert deepest_pair([]) == []


def test_shattering_and_explosion_follow_their_laws_in_a_small_mlp(monkeypatch):
    """Half a bit a layer; pi / (pi - 1). Skips change both answers."""
    plain = [shattering.of_mlp(depth, False, 0) for depth in (1, 2, 3)]
    assert plain == pytest.approx([0.5, 0.25, 0.125], rel=0.15)
    assert shattering.of_mlp(16, True, 0) == pytest.approx(shattering.residual_law(16), rel=0.3)
    assert shattering.residual_law(1) == pytest.approx(0.75)
    same = torch.ones(5, 3)
    assert shattering.correlation(same) == pytest.approx(1)
    assert shattering.correlation(torch.eye(4)) == pytest.approx(0)
    result = explosion.measure(INITIAL)
    (line,) = explosion.findings({INITIAL: result})
    assert line.answer == "yes"
    (line,) = explosion.findings({INITIAL: {"plain": result["residual"], "residual": []}})
    assert line.answer == "no"


def test_laws_and_skips_are_judged_in_shattering():
    def result(plain: float, skips: float, gain: float) -> dict:
        """Correlations that follow exponents, and a difference of the cosines in the networks."""
        return {
            "plain": {str(d): [2.0 ** (plain * d + 0.01 * s) for s in range(3)] for d in (1, 4, 8)},
            "residual": {
                str(d): [d**skips * (1 + 0.01 * s) for s in range(3)] for d in (4, 16, 50)
            },
            "networks": {"resnet56": [0.5 + gain, 0.51 + gain], "plain56": [0.5, 0.5]},
        }

    for numbers, answers in (
        ((-1, -0.5, 0.3), ["yes", "yes", "yes"]),
        ((-0.5, -0.63, -0.3), ["no", "no", "no"]),
    ):
        lines = shattering.findings({INITIAL: result(*numbers)})
        assert [line.answer for line in lines] == answers


@pytest.mark.parametrize(
    ("rises", "intact", "answer"),
    [
        ([2.0, 3.0, 2.5], 6.0, "yes"),
        ([30.0, 33.0, 35.0], 6.0, "no"),
        ([8.0, 33.0, 12.0], 6.0, "cannot tell"),
        ([2.0, 3.0, 2.5], 9.0, "cannot tell"),  # it has learned less, and has less to lose
    ],
)
def test_stochastic_depth_makes_deletions_cheaper_or_not(rises, intact, answer):
    def result(rise: float, intact: float) -> dict:
        rows = [{"stored": intact + rise, "adapted": intact + rise} for _ in range(6)]
        return {"images": 100, "intact": {"stored": intact, "adapted": intact}, "blocks": rows}

    found = {subject("resnet20", seed): result(rise, 5.5) for seed, rise in enumerate((14, 15, 16))}
    found |= {
        subject("stochastic-depth20", seed): result(rise, intact) for seed, rise in enumerate(rises)
    }
    *_, last = one_block.findings(found)
    assert last.claim == "training with missing blocks makes deletions cheaper"
    assert last.answer == answer
    assert ("differ by more than 3 points" in last.evidence) == (intact == 9.0)
    usual, stochastic = one_block.findings(found)[:2]
    assert "(Veit et al., 20 layers: 36.3)" in usual.evidence
    assert "(Veit et al., 20 layers: 2.8)" in stochastic.evidence


def test_networks_without_a_common_seed_are_not_compared():
    result = {"images": 9, "intact": {"stored": 5.0, "adapted": 5.0},
              "blocks": [{"stored": 9.0, "adapted": 9.0}] * 6}  # fmt: skip
    found = {subject("resnet20", 0): result, subject("stochastic-depth20", 1): result}
    assert len(one_block.findings(found)) == 2


def test_usual_networks_come_before_those_with_stochastic_depth():
    usual, other = subject("resnet20", 0), subject("stochastic-depth20", 0)
    other = replace(other, family=f"{usual.family}, stochastic-depth")
    assert deepest_pair([usual, other]) == [usual]
    assert deepest_pair([other]) == [other]


def test_adapted_errors_compare_networks_that_are_adapted_alike():
    """A block that does nothing costs nothing, with stored and with new statistics."""
    torch.manual_seed(0)
    model = zoo.build("resnet20", width=4).eval()
    for stage in model.stages:
        for block in stage:
            nn.init.zeros_(block.norm2.weight)
    nn.init.uniform_(model.stem.norm.running_mean, -1, 1)
    nn.init.zeros_(model.head.bias)
    x = torch.randn(60, 3, 16, 16)
    images = Images(x, model(x).argmax(1), torch.randn(40, 3, 16, 16))
    result = one_block.measure(replace(subject("resnet20"), open=lambda: (model, images)))
    assert [row["number"] for row in result["blocks"]] == list(range(1, 10))
    assert result["intact"]["stored"] == 0 < result["intact"]["adapted"]  # the test can fail
    for row in result["blocks"]:
        assert {way: row[way] for way in one_block.WAYS} == result["intact"]


def test_adapted_errors_are_those_of_the_whole_network_with_new_statistics():
    torch.manual_seed(0)
    model = zoo.build("plain8", width=4).eval()
    blocks = list(blocks_of(model).values())
    images = Images(torch.randn(90, 3, 16, 16), torch.arange(90) % 10, torch.randn(40, 3, 16, 16))
    result = one_block.measure(replace(subject("plain8"), open=lambda: (model, images)))
    (row,) = result["blocks"]
    whole = adapted([model.stem, without(blocks[0]), *blocks[1:]], images.unlabelled)
    expected = error([*whole, ReadOut(model)], images.images, images.labels)
    assert row["adapted"] == pytest.approx(expected, abs=1.2)  # one image: the batch's variance
