"""ViTs without additions: the measure, the arms, every answer of the verdict, a campaign."""

import collections
import itertools
import math
import random
import shutil

import pytest
import torch
from conftest import ROOT, assert_three_lines
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from safetensors.torch import load_file

from experiments.ablation import collapse, figures, transformers
from experiments.ablation.collapse import STATES, composite_norm, relative_residual, residuals
from experiments.ablation.options import Options
from experiments.ablation.overrides import plan
from experiments.ablation.questions import PARTS, rows
from experiments.ablation.report import read_results
from experiments.ablation.runs import Data, Run, build_model, evaluation_batches
from experiments.ablation.transformers import SLOWING, by_block, collapse_verdict, slowed
from experiments.plumbing.cli import ResultsError
from experiments.plumbing.results import read_history
from experiments.plumbing.stats import estimate, judge
from zoo.plainvit import BLOCKS
from zoo.vit import EncoderBlock

CPU = torch.device("cpu")


# --- the measure ---


def test_equal_tokens_have_no_residual_and_random_ones_about_1():
    token = torch.randn(3, 1, 8, dtype=torch.float64)
    assert relative_residual(token.expand(3, 5, 8)).max() < 1e-15
    noise = torch.randn(4, 400, 64, dtype=torch.float64)
    assert relative_residual(noise).allclose(torch.ones(4).double(), atol=0.1)


def test_the_residual_of_a_matrix_by_hand():
    x = torch.tensor([[[3.0, 0.0], [1.0, 2.0]]])  # the mean token is (2, 1)
    assert composite_norm(x).tolist() == [pytest.approx(math.sqrt(4 * 3))]
    # The residual is (1, -1) and (-1, 1): all absolute sums are 2.
    assert relative_residual(x).tolist() == [pytest.approx(2 / math.sqrt(12))]


def test_a_row_says_the_mean_and_the_mean_logarithm_of_its_images():
    found = torch.tensor([1e-20, 1e-3, 1e-1, 1e-1], dtype=torch.float64)  # 1e-20: rounding
    row = collapse.statistics(found)
    assert row["residual"] == pytest.approx((1e-3 + 2e-1) / 4, rel=1e-5)
    assert row["log10"] == pytest.approx((-14 - 3 - 1 - 1) / 4, rel=1e-5)
    assert collapse.VISIBLE < row["p10"] < 1e-3 < row["p90"] == 0.1


def test_every_image_has_a_residual_of_its_own():
    model = vit("plainvit", 2)
    images = torch.randn(3, 3, 16, 16)
    together = residuals(model, images)
    assert together.shape == (3, 3)  # the patches and two blocks, three images
    for number, image in enumerate(images):
        assert residuals(model, image[None])[:, 0].allclose(together[:, number], rtol=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
def test_the_residual_does_not_depend_on_scale_or_order(seed, scale):
    torch.manual_seed(seed)
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    expected = relative_residual(x)
    assert relative_residual(scale * x).allclose(expected)
    assert relative_residual(-x[:, [3, 1, 4, 0, 2]]).allclose(expected)


@given(st.integers(0, 2**32 - 1))
def test_the_mean_token_leaves_less_than_twice_what_any_other_does(seed):
    torch.manual_seed(seed)
    x = torch.randn(1, 5, 4, dtype=torch.float64)
    mean = x.mean(1, keepdim=True)
    others = mean + torch.randn(200, 1, 4, dtype=torch.float64)
    left = composite_norm(x - torch.cat([others, x.median(1, keepdim=True).values]))
    assert composite_norm(x - mean) < 2 * left.min()


def test_without_additions_tokens_collapse_faster_than_by_a_constant_factor():
    """Theorem 2.2 and corollary 3.2: the exponent itself grows with every block."""
    images = torch.randn(4, 3, 16, 16)
    for network in ("plainvit", "pure-attention"):
        found = residuals(vit(network, 4), images).mean(1).tolist()
        falls = [after / before for before, after in itertools.pairwise(found)]
        assert falls[0] > 3 * falls[1] > 9 * falls[2]
    assert residuals(vit("vit", 4), images)[-1].min() > 0.1


# --- the arms ---

TINY_DATA = Data(size=16, train_images=20, test_images=10)


def vit(network: str, depth: int, seed: int = 0) -> torch.nn.Module:
    return build_model(Run(network, depth, seed, norm="layer", data=TINY_DATA))


def test_the_arms_start_with_the_same_weights():
    whole = vit("vit", 2, seed=3).state_dict()
    for network in ("plainvit", *PARTS):
        twin = vit(network, 2, seed=3).state_dict()
        missing = {key for key in whole if "mlp" in key or "norm2" in key}
        assert set(whole) - set(twin) == (
            missing if "skip" not in network and network in PARTS else set()
        )
        assert all(torch.equal(whole[key], twin[key]) for key in twin)


@pytest.mark.parametrize("network", ["plainvit", "attention-skip", "mlp-skip"])
def test_with_its_additions_back_every_arm_is_vit(network):
    images = torch.randn(2, 3, 16, 16)
    models = [vit(name, 2) for name in ("vit", network)]
    for model in models:
        torch.nn.init.ones_(model.head.weight)  # initially zero, which would hide any difference
        with torch.no_grad():
            model.head.weight[0] = torch.arange(64)
    assert not torch.equal(models[0](images), models[1](images))
    for block in models[1].blocks:
        assert type(block) is not EncoderBlock
        block.__class__ = EncoderBlock
    assert torch.equal(models[0](images), models[1](images))


def test_the_parts_are_trained_at_the_largest_depth_with_every_seed():
    """The depths and seeds are the preset's, or those on the command line."""
    made = rows(plan(Options("vit", train_images=64), CPU))
    assert len(made) == 5 * (2 * 3 + 4)
    assert {run.network for run in made} == {"vit", "plainvit", *BLOCKS} - {"plain"}
    assert {run.depth for run in made if run.network in PARTS} == {4}
    made = rows(plan(Options("vit", depths=(1, 2), seeds=2, train_images=64), CPU))
    assert [(run.depth, run.seed) for run in made if run.network == "mlp-skip"] == [(2, 0), (2, 1)]


# --- the verdict ---


def measured(changes: dict[tuple[str, str], list[list[float]]]) -> list[dict]:
    """Rows of collapse.csv from log10 by seed and block; other networks do not collapse."""
    networks = {name for _, *pair in SLOWING for name in pair}
    logs = {(network, state): [[-0.3, -0.1, -0.2]] * 3 for network in networks for state in STATES}
    return [
        {"network": network, "depth": 2, "seed": seed, "state": state, "block": block,
         "residual": 10**log, "log10": max(log, -14.0), "p10": 10**log, "p90": 10**log}
        for (network, state), seeds in (logs | changes).items()
        for seed, by_block in enumerate(seeds)
        for block, log in enumerate(by_block)
    ]  # fmt: skip


LOW = [[0.0, -1.0, -4.0], [0.0, -1.1, -4.5], [0.0, -0.9, -4.2]]


@pytest.mark.parametrize(
    ("network", "state", "logs", "answer", "words"),
    [*[("plainvit", state, LOW, "Yes", "is 0.631 ± 0.000 in vit and 0.000 ± 0.000 in plainvit; "
        "the difference, +0.631 ± 0.000 (n = 3") for state in STATES],
     ("vit", "trained", LOW, "No", "excludes 0"),
     ("plainvit", "trained", [[0, -1, -5.0], [0, -1, 0.2], [0, -1, -1.0]], "Cannot tell",
      "does not exclude 0"),
     ("plainvit", "trained", [[0, -1, -5.0]], "Cannot tell", "two seeds or more"),
     ("plainvit", "trained", [], "Cannot tell", "two seeds or more")],
)  # fmt: skip
def test_collapse_has_three_answers(network, state, logs, answer, words):
    said = collapse_verdict(measured({(network, state): logs}), state)
    assert said.startswith(f"- {STATES[state]}: {answer.lower()}; the relative residual")
    assert words in said


def test_rounding_errors_are_not_compared():
    """Both are at the limit of fp64, one always slightly above the other: that is no result."""
    plain, vit = [[0.0, -15.1, -15.4]] * 3, [[0.0, -15.0, -15.3]] * 3
    rows_ = measured({("plainvit", "initial"): plain, ("vit", "initial"): vit})
    assert collapse_verdict(rows_, "initial").startswith("- at initialisation: cannot tell")
    assert slowed(rows_, "vit", "plainvit", "initial").mean == 0


def test_slowing_is_a_mean_over_the_blocks_and_over_the_seeds_of_both_arms():
    """By hand: -0.1 + 1 and -0.2 + 4 for the first seed; the patches' -0.3 + 9 does not count.

    Only vit has a third seed.
    """
    rows_ = measured({("plainvit", "removed"): [[-9.0, -1.0, -4.0], [-9.0, -1.0, -20.0]]})
    found = slowed(rows_, "vit", "plainvit", "removed")
    first, second = (0.9 + 3.8) / 2, (0.9 + 13.8) / 2
    assert found.n == 2
    assert found.mean == pytest.approx((first + second) / 2)


def test_nan_and_infinity_give_no_answer():
    for values in ([math.nan, 1.0], [math.inf, 1.0], [math.inf, math.inf]):
        assert judge(estimate(values))[0] == "cannot tell"


@pytest.mark.parametrize(
    ("network", "answers"),
    [("plainvit", ["yes", "yes", "yes", "cannot tell", "cannot tell", "no"]),
     ("no-mlp", ["cannot tell", "cannot tell", "cannot tell", "no", "yes", "cannot tell"])],
)  # fmt: skip
def test_every_line_of_the_table_has_its_own_answer(network, answers):
    lines = transformers.slowing_table(measured({(network, "removed"): LOW})).lines
    assert [line[2].split(":")[0] for line in lines] == answers
    assert {line[1].split(":")[0] for line in lines} == {"cannot tell"}  # initial: no difference


# --- the command ---


def test_a_campaign_leaves_rows_residuals_figures_and_a_verdict(vit_campaign):
    folder, done = vit_campaign
    assert "Does depth hurt training more without skips?" in done.stdout
    assert "what slows the collapse?" in " ".join(done.stdout.split())
    assert "…" not in done.stdout, "a column does not fit 80 columns"
    assert len(read_results(folder / "results.csv")) == 2 * (2 * 2 + 4)
    residual_rows = transformers.read_residuals(folder)
    of_state = collections.Counter(row["state"] for row in residual_rows)
    a_seed = 6 * 3  # six networks; the patches and two blocks
    assert of_state == {"initial": collapse.INITIAL_SEEDS * a_seed, "removed": 2 * a_seed,
                        "trained": 2 * a_seed}  # fmt: skip
    assert all(0 < row["p10"] <= row["p90"] < 2 for row in residual_rows)
    assert all(row["p10"] < row["residual"] for row in residual_rows)
    for figure in ("curves.png", "collapse.png"):
        assert (folder / figure).read_bytes().startswith(b"\x89PNG")


def test_the_state_initial_has_the_weights_of_a_hundred_seeds(vit_campaign):
    found = by_block(transformers.read_residuals(vit_campaign[0]), "plainvit", "initial")
    assert list(found) == list(range(collapse.INITIAL_SEEDS))
    assert len({by_block[-1] for by_block in found.values()}) == collapse.INITIAL_SEEDS


def test_the_curve_of_an_arm_is_of_its_runs_alone(vit_campaign):
    folder, _ = vit_campaign
    runs = rows(plan(Options("vit", depths=(1, 2), seeds=2, epochs=1, train_images=128), CPU))
    results_ = read_results(folder / "results.csv")
    for arm in itertools.product(("vit", "plainvit"), (1, 2)):
        mine = [run for run in runs if (run.network, run.depth) == arm]
        history = figures.columns([read_history(folder / run.name) for run in mine])
        mine = [r for r in results_ if (r["network"], r["depth"]) == arm]
        assert len(mine) == 2
        for name, times in (("train_loss", 1), ("train_error", 100), ("test_error", 100)):
            panel = Figure().subplots()
            figures.draw_arm(panel, history, name, "-", "red")
            (line,) = panel.lines
            mean = sum(r[name] for r in mine) / 2
            assert line.get_ydata()[-1] == pytest.approx(times * mean)


def test_after_one_epoch_training_and_test_can_be_told_apart():
    history = {"epoch": [1.0], "train_error": [0.5], "test_error": [0.6]}
    panel = Figure().subplots()
    for name, line in (("train_error", "--"), ("test_error", "-")):
        figures.draw_arm(panel, figures.columns([history]), name, line, "red")
    assert [line.get_markerfacecolor() for line in panel.lines] == ["none", "red"]


def test_a_seed_without_an_epoch_leaves_the_curve_of_the_others():
    history = {"epoch": [1.0, 2.0], "train_error": [0.5, 0.4], "test_error": [0.6, 0.5]}
    for histories, lines in (([{}, history], 1), ([{}], 0)):
        panel = Figure().subplots()
        figures.draw_arm(panel, figures.columns(histories), "test_error", "-", "red")
        assert len(panel.lines) == lines


@pytest.mark.parametrize("spoilt", ["", "nan", "-3.0"])
def test_residuals_are_read_in_any_order_and_refused_if_damaged(tmp_path, spoilt):
    path = ROOT / "docs" / "ablation-vit"
    header, *lines = (path / "collapse.csv").read_text(encoding="utf-8").splitlines()
    whole = transformers.slowing_table(transformers.read_residuals(path))
    random.Random(0).shuffle(lines)
    (tmp_path / "collapse.csv").write_text("\n".join([header, *lines]), encoding="utf-8")
    assert transformers.slowing_table(transformers.read_residuals(tmp_path)) == whole
    cells = lines[5].split(",")
    cells[header.split(",").index("residual")] = spoilt
    lines[5] = ",".join(cells)
    (tmp_path / "collapse.csv").write_text("\n".join([header, *lines]), encoding="utf-8")
    with pytest.raises(ResultsError, match="damaged"):
        transformers.read_residuals(tmp_path)


def test_the_state_removed_is_a_trained_vit_without_some_parts(vit_campaign):
    folder, _ = vit_campaign
    found = transformers.read_residuals(folder)
    assert by_block(found, "vit", "removed") == by_block(found, "vit", "trained")
    weights = load_file(folder / "vit2-seed1" / "final.safetensors")
    data = plan(Options("vit", epochs=1, train_images=128), CPU).base.data
    model = vit("no-mlp", 2)
    assert model.load_state_dict(weights, strict=False).missing_keys == []
    images, _ = next(evaluation_batches(data, collapse.IMAGES, CPU))
    removed = by_block(found, "no-mlp", "removed")[1]
    assert removed == pytest.approx(residuals(model, images).mean(1).tolist(), rel=1e-5)
    assert removed != by_block(found, "no-mlp", "trained")[1]


def test_publishing_fills_docs_and_readme(vit_campaign, invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- ablation-vit -->\n<!-- /ablation-vit -->\n", encoding="utf-8")
    assert invoke("experiments.publish", vit_campaign[0]).returncode == 0
    published = tmp_path / "docs" / "ablation-vit"
    assert {path.name for path in published.iterdir()} == {
        "results.csv", "histories.csv", "collapse.csv", "curves.png", "collapse.png"
    }  # fmt: skip
    assert "| plainvit2 |" in readme.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "damage",
    [lambda text: None, lambda text: "", lambda text: text[:500],
     lambda text: text.replace("p10", "p11"), lambda text: text.replace("trained", "banana"),
     lambda text: text + "\udcff", lambda text: text + text.splitlines(True)[-1],
     lambda text: text.replace("\nvit,", "\nnone,")],
)  # fmt: skip
def test_missing_or_damaged_residuals_are_refused(vit_campaign, invoke, tmp_path, damage):
    folder, _ = vit_campaign
    shutil.copy(folder / "results.csv", tmp_path)
    damaged = damage((folder / "collapse.csv").read_text(encoding="utf-8"))
    if damaged is not None:
        (tmp_path / "collapse.csv").write_bytes(damaged.encode(errors="surrogateescape"))
    done = invoke("experiments.report", tmp_path / "results.csv")
    assert_three_lines(done, 3, "missing, damaged", "collapse.csv", "make ablation-vit")


@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_lost_weights_are_reported_in_three_lines(vit_campaign, tmp_path, content):
    shutil.copytree(vit_campaign[0], tmp_path / "out")
    path = tmp_path / "out" / "vit2-seed1" / "final.safetensors"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ResultsError) as error:
        collapse.load_run_weights(vit("vit", 2), path)
    assert "vit2-seed1" in str(error.value)
    assert len(str(error.value).split("\n")) == 3
