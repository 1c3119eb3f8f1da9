"""ViTs work with transfer, predict and evaluate as ResNets do."""

import json

import pytest
import torch
from conftest import assert_prints, assert_three_lines, held, shaken
from PIL import Image

import zoo
from data.synthetic import synthetic_image
from data.views import View
from experiments.bench import networks as bench_networks
from experiments.classifier import FP32, load_model, pretrained, save_classifier
from experiments.plumbing.precision import to_layout

CLASSES = ("disc", "ring")  # the first two classes of the synthetic images


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Synthetic images, per class 16 in train, 6 in val, and 6 in another folder."""
    folder = tmp_path_factory.mktemp("data") / "images"
    for place, name in enumerate(CLASSES):
        for split, first, last in (("train", 0, 16), ("val", 16, 22), ("../other", 22, 28)):
            (folder / split / name).mkdir(parents=True)
            for number in range(first, last):
                image = Image.fromarray(
                    synthetic_image(0, 10 * number + place)[0].transpose(1, 2, 0)
                )
                image.save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A vit2 with random weights, the eps of transformers, and ten classes."""
    torch.manual_seed(0)
    model = shaken("vit2", eps=1e-12, resizing="bicubic")
    path = tmp_path_factory.mktemp("weights") / "vit2.safetensors"
    view = View(32, 32, squash=True, mean=(0.5,) * 3, std=(0.5,) * 3, input_size=32)
    save_classifier(path, "vit2", model, tuple("abcdefghij"), view, {})
    return path


def test_transfer_predict_and_evaluate(images, checkpoint, invoke, tmp_path):
    done = invoke(
        "experiments.transfer", images, "--model", "vit2", "--weights", checkpoint, "--strategy",
        "finetune", "linear-probe", "lp-ft", "--epochs", 1, "--batch-size", 8, "--seeds", 1,
        "--precision", "fp32", "--output-dir", tmp_path,
    )  # fmt: skip
    assert_prints(done)
    for strategy in ("finetune", "linear-probe", "lp-ft"):
        best = tmp_path / f"vit2-{strategy}-batch8-seed0" / "best.safetensors"
        loaded = load_model(best)
        assert (loaded.classes, loaded.view.mean) == (CLASSES, (0.5,) * 3)
        assert (loaded.model.norm.eps, loaded.model.stem.resizing) == (1e-12, "bicubic")
    image = images / "val" / "ring" / "16.png"
    said = invoke("experiments.predict", best, image, "--json", "--sheet", tmp_path / "s.png")
    (answer,) = json.loads(said.stdout)
    assert {guess["label"] for guess in answer["predictions"]} == set(CLASSES)
    other = images.parent / "other"
    assert_prints(invoke("experiments.evaluate", best, other, "--output-dir", tmp_path / "e"), "12")


def test_the_probe_is_on_the_class_token(checkpoint):
    """A probe is trained on features(): the class token after the last norm."""
    model, _ = pretrained("vit2", str(checkpoint), 0)
    images = torch.randn(2, 3, 32, 32)
    tokens = model.norm(model.blocks(model.stem(images)))
    assert torch.equal(model.features(images), tokens[:, 0])


def test_another_size_is_another_grid(checkpoint):
    model, _ = pretrained("vit2", str(checkpoint), 0)
    assert model(torch.randn(1, 3, 48, 40)).shape == (1, 10)


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--size", 30), "multiple of 4"), (("--strategy", "moving-bn"), "no batch norms")],
)
def test_what_a_transformer_cannot_do_is_refused(options, words, images, invoke, tmp_path):
    done = invoke("experiments.transfer", images, "--model", "vit2", "--weights", "none",
                  "--output-dir", tmp_path, *options)  # fmt: skip
    assert_three_lines(done, 2, words)


@pytest.mark.parametrize("block", ["plain", "mlp-skip"])
def test_a_plain_checkpoint_comes_back_as_what_it_was(tmp_path, block):
    # In the layout that loaded checkpoints have: in the other layout, oneDNN uses another kernel,
    # which sums in another order on processors with AVX2 but without AVX-512.
    model = to_layout(shaken("plainvit2", 3, block=block), FP32)
    path = tmp_path / "plain.safetensors"
    save_classifier(path, "plainvit2", model, ("a", "b", "c"), View(32, 32, input_size=32), {})
    images = torch.randn(1, 3, 32, 32)
    for back in (load_model(path).model, pretrained("plainvit2", str(path), 0)[0]):
        with torch.no_grad():
            assert torch.equal(back.eval()(images), model.eval()(images))


def test_a_plain_transformer_takes_its_twins_weights(checkpoint):
    plain, _ = pretrained("plainvit2", str(checkpoint), 0)
    assert held(load_model(checkpoint).model.state_dict(), plain.state_dict())


def test_weights_of_another_network_are_named(checkpoint, invoke):
    done = invoke("experiments.predict", "--model", "vit4", "--weights", checkpoint, "x.png")
    assert_three_lines(done, 4, "vit2")


def test_bench_compares_the_losses_of_both_networks(monkeypatch):
    pair = (zoo.build("resnet8"), zoo.build("resnet8"))
    pair[1].load_state_dict(pair[0].state_dict())
    monkeypatch.setattr(bench_networks, "both_networks", lambda name: pair)
    comparison = bench_networks.compare_network("resnet8", 2)
    assert comparison.usual() == comparison.ours()
    for model in pair:
        assert all(p.grad is not None for p in model.parameters())
