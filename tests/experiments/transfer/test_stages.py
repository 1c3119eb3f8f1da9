"""What each stage knows, and what more images add: right features, honest answers."""

import json

import numpy as np
import pytest
import torch
from conftest import assert_prints, assert_three_lines, refusal, shaken
from figures import readable, words
from PIL import Image
from sample_images import noise
from scipy.special import ndtri
from test_transfer import _own_cache, folder, transfer  # noqa: F401  fixtures

from experiments.classifier import FP32
from experiments.plumbing.cli import ResultsError
from experiments.train.loop import Settings
from experiments.transfer import stages
from experiments.transfer.figures import draw_stages
from experiments.transfer.learning_curve import (
    DRAWS,
    LEAST,
    MOST,
    law_of,
    more_images,
    sizes_of,
    stratified_keys,
)
from experiments.transfer.probe import logistic_regression
from experiments.transfer.stages import (
    FILE,
    advice,
    features_by_stage,
    lead,
    probe_stages,
    probed_stages,
    read,
    report_of_stages,
)

# --- probes ---


@pytest.mark.parametrize(
    ("name", "after"),
    [("resnet8", ["stem", "stages.0", "stages.1", "stages.2"]),
     ("plain18", ["stem", "stages.0", "stages.1", "stages.2", "stages.3"]),
     ("vit1", ["blocks.0"]), ("vit6", ["blocks.0", "blocks.1-2", "blocks.3", "blocks.4-5"])],
)  # fmt: skip
def test_features_are_those_behind_each_stage(name, after):
    model = shaken(name).eval()
    batches = [(torch.randn(3, 3, 32, 32), torch.arange(3)), (torch.randn(2, 3, 32, 32),
               torch.tensor([2, 0]))]  # fmt: skip
    found, labels = features_by_stage(model, batches, Settings(channels_last=False))
    assert list(probed_stages(model)) == after
    assert labels.tolist() == [0, 1, 2, 2, 0]
    images, outputs = torch.cat([images for images, _ in batches]), {}
    for key, module in model.named_modules():
        module.register_forward_hook(lambda m, i, x, key=key: outputs.update({key: x}))
    with torch.no_grad():
        last = model.features(images)
    assert torch.allclose(found[-1], last, rtol=1e-4, atol=1e-5)
    for modules, features in list(zip(probed_stages(model).values(), found, strict=True))[:-1]:
        x = outputs[modules[-1]]
        assert torch.allclose(features, x.mean((2, 3)) if x.dim() == 4 else x[:, 0], atol=1e-4)


def planted(images: int, tested: int) -> list:
    """Batches of two classes: one is lighter."""
    torch.manual_seed(images)
    labels = torch.arange(images + tested) % 2
    pixels = torch.randn(images + tested, 3, 16, 16) + 0.2 * labels[:, None, None, None]
    parts = zip(pixels.split([images, tested]), labels.split([images, tested]), strict=True)
    return [[batch] for batch in parts]


def test_every_probe_is_fitted_to_its_stage_and_its_sample():
    model, (train, tested) = shaken("resnet8", 2).eval(), planted(140, 30)

    def fit(features, labels):
        return logistic_regression(features, labels, 2, 1e-3)

    found = probe_stages(model, train, tested, fit, FP32)
    assert list(found["stages"]) == ["stem", "stages.0", "stages.1", "stages.2"]
    assert found["unfreeze"] == {
        "stem": "stages.0,stages.1,stages.2,head", "stages.0": "stages.1,stages.2,head",
        "stages.1": "stages.2,head", "stages.2": "head",
    }  # fmt: skip
    features, labels = features_by_stage(model, train, FP32)
    others, truth = features_by_stage(model, tested, FP32)
    for i, right in enumerate(found["stages"].values()):
        weight, bias = fit(features[i], labels)
        answers = (others[i] @ weight.T + bias).argmax(1)
        assert right == "".join(str(int(a == b)) for a, b in zip(answers, truth, strict=True))
    sizes = list(found["curve"])
    assert sizes == [8, 17, 35, 70, 140]
    assert [len(samples) for samples in found["curve"].values()] == [DRAWS] * 4 + [1]
    assert found["curve"][140] == [found["stages"]["stages.2"]]
    key = stratified_keys(labels.numpy(), 3)
    chosen = np.argsort(key)[:35]
    weight, bias = fit(features[-1][chosen], labels[chosen])
    right = ((others[-1] @ weight.T + bias).argmax(1) == truth).int().tolist()
    assert found["curve"][35][3] == "".join(map(str, right))
    assert len(set(found["curve"][35])) > 1, "all samples are the same"


@pytest.mark.parametrize(("images", "classes"), [(LEAST * 16 * 3 - 1, 3), (MOST + 1, 3)])
def test_too_few_or_too_many_images_have_no_curve(images, classes):
    assert sizes_of(images, classes) == []
    assert len(sizes_of(LEAST * 16 * classes, classes)) == 5
    assert len(sizes_of(MOST, 2)) == 7
    found = {"curve": {}, "images": images}
    assert ("more than 5,000" in more_images(found)) == (images > MOST)
    assert ("64 per class" in more_images(found)) == (images < MOST)


def test_samples_have_all_classes_in_proportion_and_contain_each_other():
    labels = np.repeat([0, 1, 2], [100, 60, 40])
    orders = [np.argsort(stratified_keys(labels, draw)) for draw in range(5)]
    for order in orders:
        assert sorted(order) == list(range(200))
        for size in (10, 25, 50, 100):
            counts = np.bincount(labels[order[:size]], minlength=3)
            assert np.abs(counts - size * np.array([0.5, 0.3, 0.2])).max() <= 1.5
    assert len({tuple(order[:10]) for order in orders}) == 5


# --- how far to unfreeze ---


def answers(*right: int, n: int = 200) -> dict:
    """Stages of which so many of n images are right: the images are nested."""
    names = ["stem", "stages.0", "stages.1", "stages.2"]
    later = dict(
        zip(names, ("all", "stages.1,stages.2,head", "stages.2,head", "head"), strict=True)
    )
    texts = ["1" * count + "0" * (n - count) for count in right]
    found = {"stages": dict(zip(names, texts, strict=True)), "unfreeze": later}
    return found | {"settings": {"weights": "W"}}


def test_the_advice_follows_from_the_probes_and_may_be_none():
    better = advice(answers(100, 150, 140, 120))
    assert "stages.0 knows more than the last stage (+15.0 points, p = 1.9e-09)" in better
    assert "--strategy partial --unfreeze stages.1,stages.2,head" in better
    head = advice(answers(100, 120, 140, 160))
    assert "the last stage knows more than all before it (stages.1: -10.0 points" in head
    assert "linear-probe" in head
    unclear = advice(answers(100, 120, 158, 160))
    words = "stages.1 minus the last stage, -1.0 points, p = 0.5 (below 0.017 would be clear)"
    assert unclear == f"cannot tell: {words}"
    assert advice(answers(10, 12, 15, 16, n=20)).startswith("cannot tell")
    few = advice(answers(2, 2, 2, 0, n=2))  # all of two images against none
    assert few.startswith("cannot tell: stem minus the last stage, +100.0 points, p = 0.5")
    same = advice(answers(6, 6, 6, 6, n=6))
    assert "+0.0 points, p = 1 (" in same


def test_images_of_one_class_tell_nothing():
    found = answers(100, 150, 140, 120) | {"guessing": 100, "tested_on": "val", "images": 9}
    assert "nothing can be said" in report_of_stages({"resnet8": found})[2]
    found["guessing"] = 99.5
    said = report_of_stages({"resnet8": found | {"curve": {}}})[2]
    assert "stages.0 knows more than the last stage" in said


def test_leads_are_mcnemars_exact_test():
    """4 images on which only one of them is right: p = 2 * 0.5^4."""
    assert lead("1111000000", "0000000000") == ("+40.0 points, p = 0.12", 0.125)
    assert lead("0000000000", "1111000000") == ("-40.0 points, p = 0.12", 0.125)
    assert lead("1100", "0011") == ("+0.0 points, p = 1", 1.0)


def test_random_weights_get_no_advice():
    found = answers(100, 150, 140, 120) | {"settings": {"weights": None}}
    assert advice(found) == "random weights know nothing yet, so the probes give no advice"


def test_the_advice_holds_for_all_stages_at_once():
    """With four equal stages, hardly ever is one said to be better or worse."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(300):
        texts = ["".join(map(str, row.astype(int))) for row in rng.random((4, 150)) < 0.7]
        found = answers(1, 1, 1, 1)
        found["stages"] = dict(zip(found["stages"], texts, strict=True))
        wrong += "partial" in advice(found)
    assert wrong <= 15, wrong  # 2.5 % is nominal


# --- more images ---


def curve_of(error_with, sizes=(16, 32, 64, 128, 256), images=400, seed=0, noise=0.1):
    """A curve whose true errors are error_with(size); every image has a difficulty of its own."""
    rng = np.random.default_rng(seed)
    difficulty, curve = rng.normal(size=images), {}
    for size in sizes:
        draws = DRAWS if size < sizes[-1] else 1
        rows = []
        for _ in range(draws):
            seen = difficulty + rng.normal(0, noise, images)
            wrong = seen > np.hypot(1, noise) * ndtri(1 - error_with(size))
            rows.append("".join(map(str, (~wrong).astype(int))))
        curve[size] = rows
    return curve


def coverage(error_with, runs=30) -> int:
    """How often the interval of the gain contains the true one."""
    truth = 100 * (error_with(256) - error_with(512))
    laws = [law_of(curve_of(error_with, seed=seed), samples=200) for seed in range(runs)]
    return sum(law.gain.low <= truth <= law.gain.high for law in laws)


@pytest.mark.parametrize(
    "error_with",
    [lambda n: n**-0.5, lambda n: n**-0.25, lambda n: 0.2 + 1.2 * n**-0.6, lambda n: 0.3 + n**-0.7],
    ids=["steep", "flat", "a fifth stays wrong", "a third stays wrong"],
)
def test_the_interval_of_the_gain_contains_the_truth(error_with):
    """Also if more images mend only a part of the errors."""
    assert coverage(error_with) >= 22  # 23 to 30 of 30: less than 95 % of some


def test_twice_the_images_are_predicted_if_the_law_holds():
    curves = [curve_of(lambda n: n**-0.5, seed=seed) for seed in range(20)]
    assert sum(not law_of(curve, samples=200).misses for curve in curves) >= 16
    said = more_images({"curve": curves[0], "images": 256})
    assert said.startswith("with 512 instead of 256 images, expect +")


def test_with_few_tested_images_nothing_is_said():
    for images in (4, 10):
        said = more_images({"curve": curve_of(lambda n: n**-0.25, images=images), "images": 256})
        assert said.startswith("cannot tell"), said


@pytest.mark.parametrize(
    "error_with",
    [lambda n: 0.5 * 16 / n if n < 100 else 0.3, lambda n: 0.4 if n < 100 else 0.05],
    ids=["it stops", "it jumps"],
)
def test_a_curve_that_is_no_power_law_predicts_nothing(error_with):
    said = more_images({"curve": curve_of(error_with), "images": 256})
    assert said.startswith("cannot tell; a power law fitted to 16 to 64 images predicts")
    assert "for 256; measured: " in said


def test_without_errors_nothing_is_fitted():
    curve = {size: ["1" * 50] * (DRAWS if size < 256 else 1) for size in (16, 32, 64, 128, 256)}
    said = more_images({"curve": curve, "images": 256})
    assert said == "cannot tell with 50 tested images, all right"


# --- files, report, command ---


def probes(images=256) -> dict:
    curve = {str(size): rows for size, rows in curve_of(lambda n: n**-0.5).items()}
    about = {"curve": curve, "images": images, "tested_on": "val", "settings": {}}
    return answers(200, 240, 320, 330, n=400) | about


def test_the_report_has_a_column_for_each_network_and_two_sentences():
    found = {"resnet8": probes(), "plain8": probes()}
    table, caption, said = report_of_stages(found)
    assert table.header == ("probe after", "resnet8", "plain8")
    assert table.lines[0] == ["stem", "50.0 (45.1 to 54.9)", "50.0 (45.1 to 54.9)"]
    assert "on val of a linear probe" in caption
    assert "(n = 400 images); 256 training images" in caption
    assert [line.split("?")[0] for line in said.splitlines()] == [
        "- How far to unfreeze resnet8", "- What would more images add to resnet8",
        "- How far to unfreeze plain8", "- What would more images add to plain8",
    ]  # fmt: skip
    one_stage = probes() | {"stages": {"blocks.0": "01"}}
    both = report_of_stages({"resnet8": probes(), "vit1": one_stage})
    assert "unfreeze vit1? nothing to compare" in both[2]
    assert both[0].lines[-1] == ["blocks.0", "-", "50.0 (9.5 to 90.5)"]
    from_file = probes() | {"settings": {"weights": "/home/me/w.pth"}, "precision": "bf16"}
    _, caption, _ = report_of_stages(
        {"resnet8": from_file | {"guessing": 54.25}, "vit1": one_stage}
    )
    assert "256 training images; resnet8 from w.pth (bf16), vit1 from random weights." in caption
    assert caption.endswith("Always answering the largest class is right for 54.2 %.")
    assert report_of_stages({}) == []


def test_the_figure_is_readable(tmp_path):
    few = probes() | {"curve": {}}
    for found in ({"resnet8": probes()}, {"plain8": probes(), "resnet8": few}, {"resnet8": few}):
        figure = readable(draw_stages, tmp_path / "stages.png", found)
        assert {"stem", "stages.2", "probe after"} <= set(words(figure))
        assert ("256" in words(figure)) == any(one["curve"] for one in found.values())


DAMAGED = [
    "[]", "{", '{"resnet8": 1}', {"stages": {}}, {"stages": [1]}, {"stages": {"stem": "01"}},
    {"unfreeze": {}}, {"curve": [1, 2]}, {"curve": {"x": ["0" * 400]}}, {"curve": {"8": ["01"]}},
    {"images": "many"}, {"settings": None}, {"curve": {"8": ["2" * 400]}}, {"curve": {"8": 1}},
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED, ids=str)
def test_a_damaged_file_is_refused(tmp_path, damage):
    whole = {"resnet8": probes()}
    (tmp_path / FILE).write_text(json.dumps(whole), encoding="utf-8")
    assert read(tmp_path) == whole
    text = damage if isinstance(damage, str) else json.dumps({"resnet8": probes() | damage})
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    with refusal(ResultsError, FILE):
        read(tmp_path)


def test_a_class_that_a_small_sample_lacks_is_no_crash(tmp_path, invoke):
    """130 images of one class, and one of another."""
    rng = np.random.default_rng(0)
    for split, counts in (("train", (130, 1)), ("val", (6, 3))):
        for name, count in zip(("many", "one"), counts, strict=True):
            (tmp_path / "rare" / split / name).mkdir(parents=True)
            for i in range(count):
                path = tmp_path / "rare" / split / name / f"{i}.png"
                Image.fromarray(noise(rng, 20, 20, 0, 200)).save(path)
    options = ("--weights", "none", "--size", 16, "--squash", "--output-dir", tmp_path / "out")
    done = invoke("experiments.stages", tmp_path / "rare", "--model", "resnet8", *options)
    assert_prints(done, "How far to unfreeze resnet8", "nothing is transferred")
    assert list(read(tmp_path / "out")["resnet8"]["curve"]) == ["8", "16", "32", "65", "131"]


def test_the_command_probes_every_network_once(folder, tmp_path, invoke, monkeypatch):  # noqa: F811
    out = tmp_path / "out"
    options = (folder, "--weights", "none", "--size", 16, "--squash", "--output-dir", out)
    done = invoke("experiments.stages", *options, "--model", "resnet8", "plain8")
    assert_prints(done, "probe after", "plain8", "on test of a linear probe", "too few images")
    assert (out / "stages.png").stat().st_size > 10_000
    before = (out / FILE).read_bytes()
    monkeypatch.setattr(stages, "probe_stages", lambda *_: pytest.fail("again"))
    done = invoke("experiments.stages", *options, "--model", "plain8")
    assert_prints(done, "plain8")
    assert "resnet8" not in done.stdout
    assert (out / FILE).read_bytes() == before
    assert_three_lines(invoke("experiments.stages", tmp_path / "none"), 3, "none")
    assert_three_lines(invoke("experiments.stages", folder, "--model", "resnet9"), 2, "resnet9")


def test_transfer_reports_the_stages_of_a_linear_probe(folder, tmp_path, transfer):  # noqa: F811
    """With the probe's own accuracy after the last stage; and make report prints the same."""
    options = ("--model", "resnet8", "--weights", "none", "--size", 16, "--squash", "--epochs", 1)
    said = transfer(folder, tmp_path, *options, "--strategy", "linear-probe", "--seeds", 2)
    assert "How far to unfreeze resnet8?" in said
    row = json.loads((tmp_path / "resnet8-linear-probe-batch8-seed0" / "row.json").read_bytes())
    assert read(tmp_path)["resnet8"]["stages"]["stages.2"] == row["right"]
    assert (tmp_path / "stages.png").exists()
    other = transfer(folder, tmp_path / "2", *options, "--strategy", "scratch", "--seeds", 1)
    assert "unfreeze" not in other
    assert not (tmp_path / "2" / FILE).exists()


def test_other_settings_or_images_are_refused(folder, tmp_path, invoke):  # noqa: F811
    """A table compares networks on the same images; nothing is replaced in silence."""
    out = tmp_path / "out"
    usual = ("--weights", "none", "--squash", "--output-dir", out, "--model")
    assert_prints(invoke("experiments.stages", folder, *usual, "resnet8", "--size", 16), "resnet8")
    before = (out / FILE).read_bytes()
    for options in (("resnet8", "--size", 24), ("plain8", "--size", 24),
                    ("plain8", "--size", 16, "--train-images", 9)):  # fmt: skip
        done = invoke("experiments.stages", folder, *usual, *options)
        assert_three_lines(done, 3, "a probe of resnet8 with other settings is here", "out-2")
    assert (out / FILE).read_bytes() == before
    done = invoke("experiments.report", out)
    assert_prints(done, "probe after", "How far to unfreeze resnet8")
