"""The whole command on the networks of a small ablation: resumes, repeats, says what is missing."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import typing
from pathlib import Path

import pytest
import torch
from conftest import ROOT, assert_prints, assert_three_lines, refusal
from figures import assert_readable, drawn
from safetensors.torch import load_file

import zoo
from data.dataset import Dataset
from data.views import View
from experiments.ablation.runs import Data, Run, run_one
from experiments.anatomy import study, subjects
from experiments.anatomy.findings import report_of
from experiments.anatomy.options import Options, Question
from experiments.anatomy.subjects import images_of, named, of_campaign, published
from experiments.lesion import lesions
from experiments.plumbing.cli import ResultsError
from experiments.plumbing.results import read_row
from experiments.train.loop import Settings

OF_NETWORKS = ("one-block", "many-blocks", "path-lengths", "contributions", "loss-surface")
STEPS = 3


@pytest.fixture(scope="module")
def campaign(tmp_path_factory) -> Path:
    """Two seeds of a plain and a residual network, which learn next to nothing."""
    folder, data = tmp_path_factory.mktemp("runs") / "small", Data(size=8, train_images=96)
    settings = Settings(steps=STEPS, batch_size=32, precision="fp32")
    for network in ("plain", "resnet"):
        for seed in (0, 1):
            run = Run(network, 8, seed, data=data, settings=settings)
            assert run_one(run, folder / run.name, torch.device("cpu"))
    (folder / "results.csv").touch()
    return folder


@pytest.fixture
def answer(campaign):
    def carry_out(folder: Path, *questions: str, images: int = 40):
        torch.set_num_threads(1)
        options = Options(campaign=campaign, questions=questions, images=images, grid=3)
        return study.carry_out(options, folder)

    return carry_out


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.suffix in (".json", ".png"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_every_question_answers_twice_with_the_same_bytes(answer, tmp_path):
    found = answer(tmp_path / "a", *OF_NETWORKS)
    answer(tmp_path / "b", *OF_NETWORKS)
    first = content(tmp_path / "a")
    assert first == content(tmp_path / "b")
    assert {f"{name}.png" for name in OF_NETWORKS} <= first.keys()
    assert {"one-block/plain8-seed1.json", "path-lengths/resnet8-seed0.json"} <= first.keys()
    trained = [row for row in found.rows if "random weights" not in row["of"]]
    assert len(trained) == 4  # too few blocks to delete many
    for row in trained:  # nobody has learned, so nobody gets a verdict
        assert row["answer"] == "cannot tell"
        assert "has not learned" in row["evidence"]
        assert f"{STEPS} steps" in row["of"]
        assert re.search(r"n = [12] seeds", row["evidence"])


@pytest.mark.parametrize("question", typing.get_args(Question))
def test_every_figure_is_readable(question, answer, tmp_path):
    figure = drawn(answer, tmp_path, question)
    assert_readable(figure)
    if question == "one-block":
        ticks = [tick.get_text() for panel in figure.axes for tick in panel.get_xticklabels()]
        assert all(tick.isdigit() for tick in ticks)  # places of blocks


def test_the_report_of_a_folder_is_shown_again(answer, tmp_path, invoke):
    found = answer(tmp_path, "explosion")
    done = invoke("experiments.report", tmp_path)
    assert_prints(done, "without skips, gradients explode", "yes", "n = 5 seeds")
    assert found.parts == report_of(tmp_path)


def test_answers_to_other_questions_in_the_folder_are_kept(answer, tmp_path):
    first = answer(tmp_path, "explosion").rows
    both = answer(tmp_path, "one-block").rows
    assert [row["question"] for row in both] == ["one-block", "one-block", "explosion"]
    assert both[2:] == first
    assert answer(tmp_path, "one-block").rows == both


def test_a_question_without_a_verdict_says_so(campaign, tmp_path):
    """A smooth loss is a comparison; with one network there is only its figure."""
    residual = tmp_path / "runs"
    shutil.copytree(campaign / "resnet8-seed0", residual / "resnet8-seed0")
    options = Options(campaign=residual, questions=("loss-surface",), images=40, grid=3)
    for _ in range(2):
        found = study.carry_out(options, tmp_path / "out")
        assert "No claim can be judged" in found.parts[0]
        assert found.figures[0].exists()


def test_only_what_is_missing_is_measured_again(answer, tmp_path, monkeypatch):
    answer(tmp_path, "one-block")
    before, question, measured = content(tmp_path), study.QUESTIONS["one-block"], []
    measure = question.measure
    monkeypatch.setattr(question, "measure", lambda s: (measured.append(s.name), measure(s))[1])
    (tmp_path / "one-block" / "resnet8-seed1.json").unlink()
    answer(tmp_path, "one-block")
    assert measured == ["resnet8-seed1"]
    assert content(tmp_path) == before
    with pytest.raises(ResultsError, match="other settings is here: images is 40, not 41"):
        answer(tmp_path, "one-block", images=41)


def test_results_of_other_weights_are_not_taken_for_these(answer, campaign, tmp_path):
    answer(tmp_path / "out", "one-block")
    file = campaign / "plain8-seed0" / "final.safetensors"
    whole = file.read_bytes()
    shutil.copy(campaign / "plain8-seed1" / "final.safetensors", file)
    try:
        with pytest.raises(ResultsError, match="identity is "):
            answer(tmp_path / "out", "one-block")
    finally:
        file.write_bytes(whole)


def test_an_answer_that_no_network_gives_any_more_is_dropped(answer, campaign, tmp_path):
    assert answer(tmp_path / "out", "loss-surface").rows
    only = tmp_path / "only"
    shutil.copytree(campaign / "resnet8-seed0", only / "resnet8-seed0")
    options = Options(campaign=only, questions=("loss-surface",), images=40, grid=3)
    assert "No claim can be judged" in study.carry_out(options, tmp_path / "out").parts[0]


def test_damaged_findings_are_refused(answer, tmp_path):
    answer(tmp_path, "explosion")
    path = tmp_path / "findings.csv"
    whole = path.read_text(encoding="utf-8")
    for content in (whole[:60], whole.replace("explosion,", "explode,"), ""):
        path.write_text(content, encoding="utf-8")
        with refusal(ResultsError, "findings.csv", "ask the questions again"):
            answer(tmp_path, "explosion")


def test_a_question_asked_twice_is_answered_once(answer, tmp_path):
    assert len(answer(tmp_path, "explosion", "explosion").rows) == 1


def test_the_gate_takes_training_errors_and_published_test_errors(campaign, monkeypatch):
    for subject in of_campaign(campaign, 40):
        row = read_row(campaign / subject.name)
        assert subject.error == 100 * row["train_error"] != 100 * row["test_error"]
        assert subject.seed == row["run"]["seed"]
    small = zoo.build("resnet20")
    monkeypatch.setattr(zoo, "build", lambda *_, **__: small)
    images, labels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    dataset = Dataset("x", ("a",), images, labels, images, labels)
    assert published(named("resnet20/CIFAR10_AKAMASTER"), dataset, 1).error == pytest.approx(
        8.27, abs=0.3
    )


def test_a_killed_command_resumes_to_the_same_bytes(answer, campaign, tmp_path):
    words = ["--from", campaign, "--images", 40, "--questions", "one-block", "--output-dir"]
    line = [sys.executable, "-m", "experiments.anatomy", *words, tmp_path / "killed"]
    process = subprocess.Popen(list(map(str, line)), cwd=ROOT, stdout=subprocess.DEVNULL)
    while not list((tmp_path / "killed").glob("*/*.json")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(list((tmp_path / "killed").glob("*/*.json"))) < 4
    answer(tmp_path / "killed", "one-block")
    answer(tmp_path / "whole", "one-block")
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_without_cifar10_and_network_the_rest_is_answered_and_the_missing_named(
    campaign, tmp_path, monkeypatch
):
    def no_network(*_: object) -> None:
        raise study.DataError("cannot download CIFAR-10", "URL", "put it there")

    monkeypatch.setattr(study, "cifar10", no_network)
    monkeypatch.setattr(study, "QUICK", campaign)
    chosen, notes = study.networks(Options())
    assert len(chosen) == 4
    assert "cannot download CIFAR-10" in notes[0]
    assert f"the networks of {campaign} are studied" in notes[1]
    monkeypatch.setattr(study, "QUICK", tmp_path)
    chosen, notes = study.networks(Options())
    assert chosen == []
    assert "only random weights are studied; `make ablation`" in notes[1]
    with pytest.raises(study.DataError):  # a folder that the user named is not passed over
        study.networks(Options(data=tmp_path))


def test_random_weights_alone_need_no_images(monkeypatch):
    monkeypatch.setattr(study, "cifar10", None)
    assert study.networks(Options(questions=("explosion", "shattering"))) == ([], [])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--from", "nowhere"], 3, "no such folder"),
        (["--from", str(ROOT / "docs/quick")], 3, "without their folders and networks"),
        (["nowhere"], 3, "nowhere"),
        (["--images", "5"], 2, "images"),
        (["--models", "resnet20/cifar10_akamaster"], 4, "no published weights"),
        (["--models", "resnet50/IMAGENET1K_V1"], 2, "trained on CIFAR-10"),
        (["--from", "{vit}", "--models", "resnet20"], 2, "leave out --models"),
        (["--from", "{vit}"], 3, "no finished ResNet"),
        (["--questions", "explosion", "--from", "."], 3, "runs"),
    ],
)
def test_bad_input_ends_in_three_lines(words, code, said, invoke, tmp_path):
    row = {"run": {"network": "vit", "depth": 2, "seed": 0, "norm": "layer"}, "status": "finished"}
    row |= {"train_loss": 1.0, "test_error": 0.5}
    (tmp_path / "vit" / "run").mkdir(parents=True)
    (tmp_path / "vit" / "run" / "row.json").write_text(json.dumps(row), encoding="utf-8")
    words = [word.format(vit=tmp_path / "vit") for word in words]
    done = invoke("experiments.anatomy", *words, "--output-dir", tmp_path / "out")
    assert_three_lines(done, code, said)


def test_lesions_of_one_image_say_which_arm_matters(campaign, files, tmp_path, invoke):
    for name, arms in (("resnet8", ("residual branch", "skip")), ("plain8", ("block",))):
        checkpoint = campaign / f"{name}-seed0" / "final.safetensors"
        output = tmp_path / f"{name}.png"
        done = invoke("experiments.lesion", checkpoint, files[0], "--output", output)
        assert_prints(done, "intact: ", f"figure: {output}")
        lost = re.findall(r"(?m)^  the ([a-z ]+) of stages", done.stdout)
        assert set(lost) <= set(arms)
        number, every = re.search(r"changes without (\d+) of (\d+) arms", done.stdout).groups()
        assert int(number) == len(lost)
        assert int(every) == {"resnet8": 6, "plain8": 1}[name]
        assert output.read_bytes()[:4] == b"\x89PNG"


def test_lesions_of_a_vit_remove_attention_or_mlp():
    model = zoo.build("vit2", 3, image_size=16).eval()
    x = torch.randn(2, 3, 16, 16)
    arms = [(name, arm) for name, arm, _, _ in lesions(model)]
    assert arms == [(f"blocks.{i}", arm) for i in (0, 1) for arm in ("attention", "mlp")]
    for _, arm, module, hook in list(lesions(model))[:2]:
        handle = module.register_forward_hook(hook)
        tokens = model.stem(x)
        block = model.blocks[0]
        changed = block(tokens)
        handle.remove()
        if arm == "attention":
            expected = tokens + block.mlp(block.norm2(tokens))
        else:
            expected = tokens + block.attention(block.norm1(tokens))
        assert torch.allclose(changed, expected, atol=1e-6)


def test_an_arm_without_a_skip_is_passed_by_not_zeroed():
    """Zeroing it would leave nothing of the image."""
    x = torch.randn(2, 3, 16, 16)
    for block in ("plain", "attention-skip", "mlp-skip", "pure-attention", "no-mlp"):
        model = zoo.build("plainvit2", 3, image_size=16, block=block).eval()
        torch.nn.init.normal_(model.head.weight)
        for name, arm, module, hook in lesions(model):
            handle = module.register_forward_hook(hook)
            logits = model(x)
            handle.remove()
            assert not torch.allclose(logits[0], logits[1]), (block, name, arm)


@pytest.mark.slow
def test_golden_lesions_of_published_networks_are_as_deep_as_theirs(real_data, real_cifar10):
    """Medians within bands: 20 layers suffer, 56 hardly, a plain network is destroyed."""
    from experiments.anatomy import one_block
    from experiments.anatomy.subjects import Subject, ready

    torch.set_num_threads(2)
    bands = {"resnet20": (8, 30), "plain56": (55, 90)}
    files = {"resnet20": "resnet20-12fca82f.th", "plain56": "li-resnet56_noshort.t7"}
    for name, (low, high) in bands.items():
        entry = zoo.published(name)
        dialect = "li" if name == "plain56" else None
        model = ready(zoo.load(zoo.build(name), real_data / "weights" / files[name], dialect))
        images = images_of(real_cifar10, View(**entry.preprocess), 100)
        it = Subject(name, name, name, "x", "published", 9.0, lambda m=model, i=images: (m, i))
        rise = one_block.median_rise(one_block.measure(it), "stored")
        assert low < rise.value < high, (name, rise)


def test_the_networks_of_a_campaign_are_its_final_ones(campaign, monkeypatch):
    chosen = study.of_campaign(campaign, 40)
    deeper = [read_row(folder) for folder in campaign.iterdir() if folder.is_dir()]
    deeper += [row | {"run": row["run"] | {"depth": 20}} for row in deeper]
    monkeypatch.setattr(subjects, "read_rows", lambda _: deeper)
    order = [subject.name for subject in study.of_campaign(campaign, 40)]
    assert order == [f"{name}-seed{seed}" for name in ("plain8", "plain20", "resnet8", "resnet20")
                     for seed in (0, 1)]  # fmt: skip
    assert {(s.network, s.budget) for s in chosen} == {
        (name, f"{STEPS} steps") for name in ("plain8", "resnet8")
    }
    model, images = chosen[0].open()
    stored = load_file(campaign / chosen[0].name / "final.safetensors")
    assert all(torch.equal(stored[key], value) for key, value in model.state_dict().items())
    assert images.images.shape == (40, 3, 8, 8)
    assert images.labels.bincount(minlength=10).tolist() == [4] * 10


def test_networks_with_stochastic_depth_are_deleted_from_but_not_compared_otherwise(tmp_path):
    settings = Settings(steps=1, batch_size=32, precision="fp32")
    for network in ("resnet", "stochastic-depth"):
        run = Run(network, 8, data=Data(size=8, train_images=96), settings=settings)
        assert run_one(run, tmp_path / run.name, torch.device("cpu"))
    questions = ("one-block", "path-lengths", "contributions")
    options = Options(campaign=tmp_path, questions=questions, images=40)
    rows = study.carry_out(options, tmp_path / "out").rows
    found = [(row["question"], row["of"].split(",")[0]) for row in rows]
    assert found[:3] == [("one-block", "resnet8"), *[("one-block", "stochastic-depth8")] * 2]
    assert "training with missing blocks" in rows[2]["claim"]
    assert ("contributions", "stochastic-depth8") not in found
    for subject, measured in zip(of_campaign(tmp_path, 40), ("train", "test"), strict=True):
        row = json.loads((tmp_path / subject.name / "row.json").read_text(encoding="utf-8"))
        assert subject.error == 100 * row[f"{measured}_error"]  # in training, blocks were missing


def test_images_are_balanced_and_normalised_and_the_unlabelled_ones_are_for_training():
    pixels = torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1).expand(60, 3, 4, 4)
    labels = torch.arange(60) // 20  # sorted, as in a folder of classes
    data = Dataset("x", ("a", "b", "c"), 200 - pixels, labels, pixels, labels)
    found = images_of(data, View(4, 4, mean=(0.5,) * 3, std=(0.25,) * 3, input_size=8), 6)
    assert found.labels.bincount().tolist() == [2, 2, 2]
    assert found.images.shape == (6, 3, 8, 8)
    values = found.images[:, 0, 0, 0] * 0.25 + 0.5
    assert ((values * 255).round().long() // 20).tolist() == found.labels.tolist()
    assert (found.unlabelled * 0.25 + 0.5).min() > 100 / 255


def test_results_of_ones_own_do_not_replace_the_published_ones(tmp_path, invoke, monkeypatch):
    folder = tmp_path / "anatomy-mine"
    folder.mkdir()
    shutil.copy(ROOT / "docs/anatomy/findings.csv", folder)
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert_three_lines(invoke("experiments.publish", folder), 3, "no page of docs/", "anatomy-mine")
    assert not list((tmp_path / "docs").iterdir())
