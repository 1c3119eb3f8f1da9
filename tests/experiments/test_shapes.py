"""experiments.shapes agrees with torchvision's numbers and with what gradients reach."""

import pytest
import torch
import torchvision
from conftest import assert_prints, assert_three_lines
from torch import nn

import zoo
from experiments.proof.oracles import IMAGENET_RESNETS
from experiments.proof.shapes import default_size, parts, receptive_fields


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
    patch = str(model.stem.conv.kernel_size[0])
    assert [part.receptive_field for part in found] == [patch, *["all"] * (depth + 1), ""]


def test_a_token_sees_its_patch_and_after_one_block_all():
    model = zoo.build("vit1")
    image = torch.randn(1, 3, 32, 32, requires_grad=True)
    tokens = model.stem(image)
    tokens[0, 1 + 8 * 2 + 5].sum().backward(retain_graph=True)
    seen = (image.grad[0] != 0).any(0).nonzero()
    assert (seen.min(0).values.tolist(), seen.max(0).values.tolist()) == ([8, 20], [11, 23])
    image.grad = None
    model.blocks[0](tokens)[0, 0, 0].backward()
    assert (image.grad != 0).all()


def test_the_command_prints_every_part(invoke):
    words = "stem", "blocks.11", "norm", "head", "(1, 50, 768)", "88,224,232", "all"
    assert_prints(invoke("experiments.shapes", "vit_b_32"), *words)
    done = invoke("experiments.shapes", "vit_b_32", "--size", 100)
    assert_three_lines(done, 2, "100 pixels", "give a multiple of 32")


@pytest.mark.parametrize(
    ("name", "stride_in", "expected"),
    [("resnet18", None, 435), ("resnet34", None, 899), ("resnet50", None, 427),
     ("resnet101", None, 971), ("resnet152", None, 1451), ("resnet50", "conv1", 483),
     ("resnet101", "conv1", 1027), ("resnet152", "conv1", 1507), ("plain50", None, 427)],
)  # fmt: skip
def test_receptive_fields_of_the_whole_network(name, stride_in, expected):
    assert receptive_fields(on_meta(name, stride_in=stride_in))["stages.3"] == expected


@pytest.mark.parametrize(
    ("name", "stride_in"),
    [("resnet18", None), ("resnet50", None), ("resnet50", "conv1"), ("resnet8", None)],
)
def test_receptive_fields_are_what_gradients_reach(name, stride_in):
    """Measured: one pixel of the last map depends on exactly that many pixels per side."""
    model = zoo.build(name, 2, width=1, stride_in=stride_in, norm="none").double()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)  # positive: no ReLU closes, nothing cancels
    field = receptive_fields(model)[f"stages.{len(model.stages) - 1}"]
    size = (field // 32 + 3) * 32
    # Random, so that in some row the max-pool selects the pixel at the edge.
    image = torch.rand(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    last = model.stages(model.stem(image))
    middle = last.shape[-1] // 2
    last[0, 0, middle, middle].backward()
    reached = (image.grad[0, 0] != 0).any(0).nonzero().squeeze(1)
    assert int(reached.max() - reached.min()) + 1 == field
