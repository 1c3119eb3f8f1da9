"""Our ResNets are torchvision's, transformers' and timm's: to the last bit, block by block."""

import math
from functools import partial

import pytest
import torch
from conftest import held, shaken, unfilled
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

import zoo
from experiments.proof.checks import compare_blocks, seeded_init, shake
from experiments.proof.oracles import IMAGENET_RESNETS, LIBRARIES, RESNET_ORACLES
from zoo.resnet import TABLE

TORCHVISION = RESNET_ORACLES["torchvision"]
SMALL = ("resnet18", "resnet50")


def pair(name: str, library: str) -> tuple[nn.Module, nn.Module]:
    """Our network and another library's, with the same shaken weights."""
    pytest.importorskip(library)
    theirs = RESNET_ORACLES[library].build(name, 1000)
    shake(theirs)
    return zoo.load(unfilled(name), theirs.state_dict()), theirs


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", IMAGENET_RESNETS)
def test_every_block_is_theirs_to_the_last_bit(name, library):
    """Activations in eval and train mode, gradients, buffers, and the key map both ways."""
    ours, theirs = pair(name, library)
    oracle = RESNET_ORACLES[library]
    exported = zoo.export(ours, library)
    assert held(theirs.state_dict(), exported)
    assert len(exported) == len(theirs.state_dict())
    for dtype in (torch.float32, torch.float64) if name in SMALL else (torch.float32,):
        blocks = compare_blocks(ours, theirs, oracle, dtype)
        assert [block.ours for block in blocks if not block.overall.equal] == []
        assert len(blocks) == sum(TABLE[name].blocks_per_stage) + 2  # stem and head
        assert all(block.overall.largest == 0 and block.shape[0] == 2 for block in blocks)


@pytest.mark.torchvision_order
@pytest.mark.parametrize("name", IMAGENET_RESNETS)
def test_seeded_alike_training_starts_from_torchvisions_weights(name):
    ours, theirs = partial(zoo.build, name), partial(TORCHVISION.build, name, 1000)
    assert seeded_init(ours, theirs, TORCHVISION) == ""


@pytest.mark.parametrize("name", SMALL)
def test_a_whole_training_step_gives_torchvisions_weights(name):
    ours, theirs = pair(name, "torchvision")
    images, labels = torch.randn(2, 3, 64, 64), torch.tensor([3, 999])
    for model in (ours, theirs):
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
        cross_entropy(model.train()(images), labels).backward()
        optimizer.step()
    assert held(theirs.state_dict(), zoo.export(ours))


def cifar_reference(state: dict, images: torch.Tensor, n: int, plain: bool) -> torch.Tensor:
    """Section 4.2 of the paper in functions alone, by the names of akamaster's state dict."""

    def conv_norm(x, conv, norm, stride=1):
        x = functional.conv2d(x, state[f"module.{conv}.weight"], None, stride, padding=1)
        parts = (
            state[f"module.{norm}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, *parts)

    x = conv_norm(images, "conv1", "bn1").relu()
    for stage in (1, 2, 3):
        for j in range(n):
            name, stride = f"layer{stage}.{j}", 2 if stage > 1 and j == 0 else 1
            y = conv_norm(x, f"{name}.conv1", f"{name}.bn1", stride).relu()
            y = conv_norm(y, f"{name}.conv2", f"{name}.bn2")
            if stride == 2:
                quarter = x.shape[1] // 2
                x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
            x = (y if plain else y + x).relu()
    x = x.mean((2, 3))
    return functional.linear(x, state["module.linear.weight"], state["module.linear.bias"])


@pytest.mark.parametrize("n", [1, 3, 5])
def test_the_cifar_networks_are_section_4_2(n):
    """No library has them, so they are written again here; test_weights_use has real weights."""
    residual, plain = shaken(f"resnet{6 * n + 2}"), zoo.build(f"plain{6 * n + 2}")
    state = zoo.export(residual, "cifar")
    zoo.load(plain, state, drop="shortcut")
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        for model, is_plain in ((residual, False), (plain, True)):
            wanted = cifar_reference(state, images, n, is_plain)
            assert torch.equal(model.eval()(images), wanted)


# --- shapes ---


def halved(size: int, times: int) -> int:
    return math.ceil(size / 2**times)


@given(
    name=st.sampled_from(["resnet8", "plain20", "resnet18", "plain18", "resnet50", "plain50"]),
    batch=st.integers(1, 3), height=st.integers(4, 70), width=st.integers(4, 70),
    channels=st.integers(1, 6), classes=st.integers(1, 12),
)  # fmt: skip
def test_shapes_of_any_network(name, batch, height, width, channels, classes):
    """ImageNet's networks halve an image twice before the first stage."""
    model = zoo.build(name, classes, width=channels).eval()
    before = 2 if name[-2:] in ("18", "50") else 0
    images = torch.randn(batch, 3, height, width)
    x = model.stem(images)
    assert x.shape == (batch, channels, halved(height, before), halved(width, before))
    for i, stage in enumerate(model.stages):
        x = stage(x)
        wide = channels * 2**i * (4 if "50" in name else 1)
        assert x.shape == (batch, wide, halved(height, before + i), halved(width, before + i))
    assert model(images).shape == (batch, classes)


@pytest.mark.parametrize("n", [1, 3, 5, 7, 9, 18])
def test_cifar_networks_have_6n_plus_2_weighted_layers(n):
    model = zoo.build(f"plain{6 * n + 2}")
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == 6 * n + 2


def test_option_b_is_available_to_the_cifar_networks():
    models = (zoo.build("resnet20", shortcut=shortcut) for shortcut in (None, "projection"))
    a, b = (sum(p.numel() for p in model.parameters()) for model in models)
    assert b - a == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64


def test_without_norm_no_norm_is_left():
    model = zoo.build("resnet20", norm="none")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert not list(model.buffers())


@pytest.mark.parametrize("name", ["resnet20", "plain34", "resnet50"])
def test_he_initialisation(name):
    """Every convolution has standard deviation sqrt(2 / fan_out) (He et al. 2015a, eq. 14)."""
    for module in zoo.build(name).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.06)
