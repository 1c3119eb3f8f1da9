"""A vision transformer goes through transfer, predict and evaluate as a ResNet does."""

import json

import pytest
import torch
from PIL import Image

import zoo
from data.synthetic import draw
from data.views import View
from experiments.bench import networks as bench_networks
from experiments.classifier import FP32, load_model, pretrained, save_classifier
from experiments.plumbing.precision import to_layout
from experiments.proof.checks import shake

CLASSES = ("disc", "ring")  # the first two of the embedded pictures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Embedded pictures, of each class 16 for training, 6 for val, and 6 in a folder beside."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    for place, name in enumerate(CLASSES):
        for split, numbers in (
            ("train", range(16)), ("val", range(16, 22)), ("../other", range(22, 28)),
        ):  # fmt: skip
            (folder / split / name).mkdir(parents=True)
            for number in numbers:
                pixels, _ = draw(0, 10 * number + place)
                Image.fromarray(pixels.transpose(1, 2, 0)).save(
                    folder / split / name / f"{number}.png"
                )
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A vit2 with random weights, eps of transformers, and ten classes."""
    torch.manual_seed(0)
    model = zoo.build("vit2", eps=1e-12, resizing="bicubic")
    shake(model)
    path = tmp_path_factory.mktemp("weights") / "vit2.safetensors"
    view = View(32, 32, squash=True, mean=(0.5,) * 3, std=(0.5,) * 3, input_size=32)
    save_classifier(path, "vit2", model, tuple("abcdefghij"), view, {})
    return path


def test_transfer_predict_and_evaluate(pictures, checkpoint, invoke, tmp_path):
    done = invoke(
        "experiments.transfer", pictures, "--model", "vit2", "--weights", checkpoint, "--strategy",
        "finetune", "linear-probe", "lp-ft", "--epochs", 1, "--batch-size", 8, "--seeds", 1,
        "--precision", "fp32", "--output-dir", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for strategy in ("finetune", "linear-probe", "lp-ft"):
        best = tmp_path / f"vit2-{strategy}-batch8-seed0" / "best.safetensors"
        model = load_model(best)
        assert model.classes == CLASSES
        assert model.model.norm.eps == 1e-12
        assert model.model.stem.resizing == "bicubic"
        assert model.view.mean == (0.5,) * 3
    picture = pictures / "val" / "ring" / "16.png"
    said = invoke("experiments.predict", best, picture, "--json", "--sheet", tmp_path / "s.png")
    (guesses,) = json.loads(said.stdout)
    assert {guess["label"] for guess in guesses} == set(CLASSES)
    scored = invoke(
        "experiments.evaluate", best, pictures.parent / "other", "--output-dir", tmp_path / "e"
    )
    assert scored.returncode == 0, scored.stderr
    assert "12" in scored.stdout


def test_the_probe_is_on_the_class_token(checkpoint):
    """And freezing leaves everything but the head as it came."""
    model, _ = pretrained("vit2", str(checkpoint), 0)
    images = torch.randn(2, 3, 32, 32)
    tokens = model.norm(model.blocks(model.stem(images)))
    assert torch.equal(model.features(images), tokens[:, 0])


def test_another_size_is_another_grid_and_must_be_whole(pictures, checkpoint, invoke, tmp_path):
    model, _ = pretrained("vit2", str(checkpoint), 0)
    assert model(torch.randn(1, 3, 48, 40)).shape == (1, 10)
    done = invoke("experiments.transfer", pictures, "--model", "vit2", "--weights", checkpoint,
                  "--size", 30, "--output-dir", tmp_path)  # fmt: skip
    assert done.returncode == 2
    assert "multiple of 4" in done.stderr


def test_moving_statistics_are_for_networks_that_have_some(pictures, invoke, tmp_path):
    done = invoke("experiments.transfer", pictures, "--model", "vit2", "--weights", "none",
                  "--strategy", "moving-bn", "--output-dir", tmp_path)  # fmt: skip
    assert done.returncode == 2
    assert "no batch norms" in done.stderr


@pytest.mark.parametrize("block", ["plain", "mlp-skip"])
def test_a_plain_checkpoint_comes_back_as_what_it_was(tmp_path, block):
    # In the layout that a checkpoint gets: in the other one oneDNN takes another kernel, which adds
    # up in another order on processors with AVX2 and no AVX-512.
    model = to_layout(zoo.build("plainvit2", 3, block=block), FP32)
    shake(model)
    path = tmp_path / "plain.safetensors"
    save_classifier(path, "plainvit2", model, ("a", "b", "c"), View(32, 32, input_size=32), {})
    back = load_model(path).model
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(back(images), model.eval()(images))
    again, _ = pretrained("plainvit2", str(path), 0)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), back(images))


def test_a_plain_transformer_takes_its_twins_weights(checkpoint):
    plain, _ = pretrained("plainvit2", str(checkpoint), 0)
    residual = load_model(checkpoint).model
    for key, value in residual.state_dict().items():
        assert torch.equal(plain.state_dict()[key], value)


def test_weights_of_another_network_are_named(checkpoint, invoke):
    done = invoke("experiments.predict", "--model", "vit4", "--weights", checkpoint, "x.png")
    assert done.returncode == 4
    assert "vit2" in done.stderr


@pytest.mark.parametrize("training", [True, False])
def test_bench_compares_the_losses_of_both_networks(training, monkeypatch):
    pair = (zoo.build("resnet8"), zoo.build("resnet8"))
    pair[1].load_state_dict(pair[0].state_dict())
    monkeypatch.setattr(bench_networks, "networks", lambda name: pair)
    comparison = bench_networks.compare_network("resnet8", 2, training=training)
    assert comparison.usual() == comparison.ours()
    for model in pair:
        assert all((p.grad is not None) == training for p in model.parameters())
        assert model.training == training
