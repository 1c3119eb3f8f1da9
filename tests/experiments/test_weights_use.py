"""Weights through the commands: hostile files, other libraries' files, real checkpoints."""

import os
import shutil

import pytest
import torch
from conftest import assert_prints, assert_three_lines
from safetensors.torch import save_file
from torch import nn

import zoo
from data.dataset import balanced_order
from experiments.proof.checks import shake
from experiments.proof.oracles import LIBRARIES, VIT_ORACLES
from experiments.proof.prove import prove
from zoo.weights.dialects import IMAGENET_MEAN_STD
from zoo.weights.download import place_of


class Run:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("content", [{"fc.bias": Run()}, {"fc.bias": torch.ones(2) * torch.nan}])
def test_hostile_files_end_commands_in_three_lines(content, tmp_path, monkeypatch, invoke):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "w.pth")
    for arguments in (
        ("experiments.convert", tmp_path / "w.pth", tmp_path / "out.pth", "--to", "zoo"),
        ("experiments.verify", "resnet18", "--weights", tmp_path / "w.pth"),
    ):
        assert_three_lines(invoke(*arguments), 4)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_block_of_vit_b_16_is_theirs(library):
    pytest.importorskip(library)
    proof = prove("vit_b_16", VIT_ORACLES[library])
    assert [block.ours for block in proof.blocks if not block.overall.equal] == []
    assert [block.shape for block in proof.blocks[:-1]] == [(2, 197, 768)] * 14
    assert proof.round_trip == (0.0, True)
    assert proof.overall.largest == 0 or library != "timm"


def test_the_command_says_what_is_rounding(invoke):
    words = "encoder.dropout", "blocks.1", "2x65x64", "fp64", "5 blocks: rounding", "256"
    assert_prints(invoke("experiments.verify", "vit2"), *words)
    pytest.importorskip("timm")
    done = invoke("experiments.verify", "vit2", "--against", "timm")
    assert_prints(done, "pos_drop", "fp32", "5 blocks: equal")
    assert "rounding" not in done.stdout.lower()


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_file_of_theirs_can_be_verified(library, invoke, tmp_path):
    """Even with another number of classes and another image size."""
    pytest.importorskip(library)
    theirs = VIT_ORACLES[library].build("vit1", 7, 40)
    shake(theirs)
    path = tmp_path / "model.safetensors"
    save_file({k: v.contiguous() for k, v in theirs.state_dict().items()}, path)
    done = invoke("experiments.verify", "vit1", "--weights", path, "--against", library)
    assert_prints(done, "2x101x64", "largest difference 0; 4 blocks")


def test_weights_with_an_eps_that_the_library_does_not_use_are_refused(invoke, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(zoo.export(zoo.build("vit1", eps=1e-12), "transformers"), path)
    assert_three_lines(invoke("experiments.verify", "vit1", "--weights", path), 4, "eps=1e-06")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "published", "file", "correct"),
    [
        ("resnet20", "DEFAULT", "resnet20-12fca82f.th", 9173),
        ("plain56", "DEFAULT", "li-resnet56_noshort.t7", 8669),
        ("resnet56", "CIFAR10_LI", "li-resnet56.t7", None),
    ],
)
def test_golden_published_cifar_networks_score_as_published(
    name, published, file, correct, real_data, real_cifar10, tmp_path, monkeypatch
):
    """By name, from the cache: `correct` of CIFAR-10's 10,000 test images in fp32, exactly.

    None: about as many as published, of 1,000 images.
    """
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    entry, path = zoo.published(name, published), real_data / "weights" / file
    cached = place_of(entry.url, entry.sha256)
    cached.parent.mkdir(parents=True)
    shutil.copy(path, cached)
    model = zoo.build(name, weights=published).eval()
    count = 10_000 if correct else 1000  # all of them take a minute with 56 layers
    images, labels = real_cifar10.test_images, real_cifar10.test_labels
    chosen = balanced_order(labels)[:count]
    view = entry.preprocess
    right = correct_of(model, images[chosen], labels[chosen], (view["mean"], view["std"]))
    if correct:
        assert right == correct
        assert entry.top1 == pytest.approx(correct / 100)
    assert right / count == pytest.approx(entry.top1 / 100, abs=0.02)
    if file.startswith("li"):  # the accuracy stored beside the weights
        stored = torch.load(path, map_location="cpu", weights_only=True)
        assert entry.top1 == pytest.approx(stored["acc"])
    if name == "resnet20":  # the cost of a wrong setting that nothing refuses
        wrong = zoo.build(name, shortcut="pad-append")
        wrong.load_state_dict(model.state_dict(), strict=True)
        assert correct_of(wrong.eval(), images, labels) == 2246
        with pytest.raises(zoo.WeightsError, match="pad-append"):
            zoo.load(wrong, path)


def correct_of(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, normalize=IMAGENET_MEAN_STD
) -> int:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in normalize)
    correct = 0
    torch.set_num_threads(2)  # the longest test: a forward pass of 10,000 images
    with torch.no_grad():
        for first in range(0, len(labels), 500):
            batch = (images[first : first + 500].float() / 255 - mean) / std
            correct += int((model(batch).argmax(1) == labels[first : first + 500]).sum())
    return correct
