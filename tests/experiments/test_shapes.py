"""experiments.shapes agrees with torchvision's numbers."""

import pytest
import torch
import torchvision
from conftest import assert_prints, assert_three_lines

import zoo
from experiments.proof.oracles import IMAGENET_RESNETS
from experiments.proof.shapes import default_size, parts


def on_meta(name, **settings):
    with torch.device("meta"):
        return zoo.build(name, **settings)


SWAG = torchvision.models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1


@pytest.mark.parametrize(
    ("name", "size", "weights"),
    [
        (name, None, torchvision.models.get_model_weights(name).IMAGENET1K_V1)
        for name in (*IMAGENET_RESNETS, "vit_b_16", "vit_b_32", "vit_l_16")
    ]
    + [("vit_b_16", 384, SWAG)],
)
def test_parameters_and_flops_are_torchvisions(name, size, weights):
    """Compared with its metadata: nothing is downloaded."""
    model = on_meta(name, image_size=size)
    assert default_size(model) == (size or 224)
    found = parts(model, size or 224)
    assert sum(part.parameters for part in found) == weights.meta["num_params"]
    assert sum(part.flops for part in found) / 2e9 == pytest.approx(
        weights.meta["_ops"], abs=0.0006
    )


def test_more_patches_cost_the_same_in_a_network_for_fewer():
    found, stretched = (parts(on_meta("vit_b_16", image_size=size), 384) for size in (384, 224))
    assert [part.flops for part in stretched] == [part.flops for part in found]


@pytest.mark.parametrize(
    ("name", "side", "length", "width", "depth"),
    [("vit_b_16", 224, 197, 768, 12), ("plainvit_b_32", 224, 50, 768, 12), ("vit4", 32, 65, 64, 4)],
)
def test_a_transformers_parts(name, side, length, width, depth):
    model = on_meta(name)
    assert default_size(model) == side
    found = parts(model, side)
    blocks = [f"blocks.{i}" for i in range(depth)]
    assert [part.name for part in found] == ["stem", *blocks, "norm", "head"]
    assert {part.shape for part in found[:-1]} == {(1, length, width)}
    assert found[-1].shape == (1, model.head.out_features)


def test_the_command_prints_every_part(invoke):
    words = "stem", "blocks.11", "norm", "head", "(1, 50, 768)", "88,224,232"
    assert_prints(invoke("experiments.shapes", "vit_b_32"), *words)
    done = invoke("experiments.shapes", "vit_b_32", "--size", 100)
    assert_three_lines(done, 2, "100 pixels", "give a multiple of 32")
