"""Properties that hold for any block and any network, found by hypothesis if they do not."""

import operator
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn.functional import relu

import zoo
from experiments.proof.checks import shake
from zoo.blocks import BasicBlock, Bottleneck
from zoo.plainvit import BLOCKS
from zoo.positions import RESIZINGS
from zoo.vit import MLP, Attention, EncoderBlock, Patches

SHORTCUT = st.sampled_from(["projection", "pad", "pad-append"])
BLOCK = st.sampled_from([BasicBlock, Bottleneck])


def halved(size: int, times: int) -> int:
    for _ in range(times):
        size = (size + 1) // 2
    return size


@given(
    name=st.sampled_from(["resnet8", "plain8", "resnet20", "plain20"]),
    batch=st.integers(1, 3), height=st.integers(4, 20), width=st.integers(4, 20),
    channels=st.integers(1, 6), classes=st.integers(1, 12),
)  # fmt: skip
def test_shapes_of_cifar_networks(name, batch, height, width, channels, classes):
    model = zoo.build(name, classes, width=channels).eval()
    x = model.stem(torch.randn(batch, 3, height, width))
    for i, stage in enumerate(model.stages):
        x = stage(x)
        assert x.shape == (batch, channels * 2**i, halved(height, i), halved(width, i))
    assert model(torch.randn(batch, 3, height, width)).shape == (batch, classes)


@given(
    name=st.sampled_from(["resnet18", "plain18", "resnet50", "plain50"]),
    batch=st.integers(1, 2), height=st.integers(17, 70), width=st.integers(17, 70),
    channels=st.integers(1, 4),
)  # fmt: skip
def test_shapes_of_imagenet_networks(name, batch, height, width, channels):
    model = zoo.build(name, 3, width=channels).eval()
    x = model.stem(torch.randn(batch, 3, height, width))
    assert x.shape == (batch, channels, halved(height, 2), halved(width, 2))
    for i, stage in enumerate(model.stages):
        x = stage(x)
        wide = channels * 2**i * (4 if "50" in name else 1)
        assert x.shape == (batch, wide, halved(height, 2 + i), halved(width, 2 + i))


def quiet(block: nn.Module) -> nn.Module:
    """F(x) = 0: gamma and beta of the block's last norm at zero."""
    last = block.norm3 if isinstance(block, Bottleneck) else block.norm2
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return block


@given(
    make=BLOCK, in_channels=st.integers(1, 8), channels=st.integers(8, 12),
    stride=st.integers(1, 2), shortcut=SHORTCUT, train=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_block_without_f_is_relu_of_its_shortcut(
    make, in_channels, channels, stride, shortcut, train, seed
):
    torch.manual_seed(seed)
    block = quiet(make(in_channels, channels, stride, shortcut=shortcut)).train(train)
    x = torch.randn(3, in_channels, 6, 7)
    assert torch.equal(block(x), relu(block.shortcut(x)))


@given(make=BLOCK, channels=st.integers(1, 6), train=st.booleans(), seed=st.integers(0, 99))
def test_an_identity_block_without_f_is_the_identity_and_so_is_its_gradient(
    make, channels, train, seed
):
    torch.manual_seed(seed)
    wide = channels * (4 if make is Bottleneck else 1)
    block = quiet(make(wide, channels)).train(train)
    x = torch.randn(3, wide, 5, 5, requires_grad=True)
    with torch.no_grad():
        assert torch.equal(block(x.abs()), x.abs())
    upstream = torch.randn(3, wide, 5, 5)
    block(x).backward(upstream)
    positive = x > 0
    assert torch.equal(x.grad[positive], upstream[positive])
    assert not x.grad[~positive].any()


class Tracer(fx.Tracer):
    """Sees a transformer's additions, and not the inside of what is between them."""

    def is_leaf_module(self, module, name):
        return isinstance(module, Patches | Attention | MLP) or super().is_leaf_module(module, name)


def without_additions(
    model: nn.Module, kept: int = 0, only: Callable[[int], bool] = lambda place: True
) -> tuple[nn.Module, int]:
    """The network with `residual + shortcut` replaced by `residual` in its graph, and how often.

    `residual` is the addition's argument number `kept`; `only` says which additions are replaced.
    """
    graph_module = fx.GraphModule(model, Tracer().trace(model))
    deleted = 0
    additions = [node for node in graph_module.graph.nodes if node.target is operator.add]
    for place, node in enumerate(additions):
        if only(place):
            node.replace_all_uses_with(node.args[kept])
            graph_module.graph.erase_node(node)
            deleted += 1
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    return graph_module, deleted


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet8", 3),
        ("resnet20", 9),
        ("resnet56", 27),
        ("resnet18", 8),
        ("resnet50", 16),
        ("resnet152", 50),
    ],
)
def test_deleting_the_additions_from_a_resnet_gives_its_plain_twin(name, blocks):
    residual = zoo.build(name, 4, width=4)
    plain = zoo.build(name.replace("resnet", "plain"), 4, width=4)
    weights = {k: v for k, v in residual.state_dict().items() if ".shortcut." not in k}
    plain.load_state_dict(weights, strict=True)
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        before = residual.train()(images)
    plain.load_state_dict(weights, strict=True)
    residual.load_state_dict({**residual.state_dict(), **weights})
    edited, deleted = without_additions(residual)
    assert deleted == blocks
    with torch.no_grad():
        after = edited.train()(images)
        assert torch.equal(after, plain.train()(images))
        assert not torch.allclose(before, after)
        assert torch.equal(edited.eval()(images), plain.eval()(images))


@pytest.mark.parametrize("name", ["vit1", "vit6", "vit12"])
@pytest.mark.parametrize(
    ("block", "only"),
    [("plain", lambda place: True), ("attention-skip", lambda place: place % 2 == 1),
     ("mlp-skip", lambda place: place % 2 == 0)],
)  # fmt: skip
def test_deleting_the_additions_from_a_vit_gives_its_plain_twins(name, block, only):
    """Two additions a block, attention's and the MLP's, and no others anywhere."""
    residual = zoo.build(name)
    shake(residual)
    plain = zoo.build(f"plain{name}", block=block)
    plain.load_state_dict(residual.state_dict(), strict=True)
    whole, none = without_additions(residual, 1, lambda place: False)
    edited, deleted = without_additions(residual, 1, only)
    assert none == 0
    assert deleted == int(name[3:]) * (2 if block == "plain" else 1)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        for mode in (True, False):
            assert torch.equal(edited.train(mode)(images), plain.train(mode)(images))
            assert torch.equal(whole.train(mode)(images), residual.train(mode)(images))
            assert not torch.allclose(plain(images), residual(images))


@given(
    depth=st.sampled_from([1, 2, 4]), batch=st.integers(1, 3), rows=st.integers(1, 9),
    columns=st.integers(1, 9), classes=st.integers(1, 12), resizing=st.sampled_from([*RESIZINGS]),
    plain=st.booleans(),
)  # fmt: skip
def test_shapes_of_transformers(depth, batch, rows, columns, classes, resizing, plain):
    """For images of any size that divides."""
    name = f"{'plain' * plain}vit{depth}"
    model = zoo.build(name, classes, resizing=resizing, image_size=20).eval()
    images = torch.randn(batch, 3, 4 * rows, 4 * columns)
    x = model.stem(images)
    assert x.shape == (batch, 1 + rows * columns, 64)
    assert model.blocks(x).shape == x.shape
    assert model.features(images).shape == (batch, 64)
    assert model(images).shape == (batch, classes)


@given(seed=st.integers(0, 99), heads=st.sampled_from([1, 2, 8]), train=st.booleans())
def test_a_transformer_block_without_f_is_the_identity_and_so_is_its_gradient(seed, heads, train):
    """Nothing is applied to the sum."""
    torch.manual_seed(seed)
    block = EncoderBlock(16, heads, 32, 1e-6).train(train)
    for linear in (block.attention.proj, block.mlp.fc2):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    x = torch.randn(2, 5, 16, requires_grad=True)
    upstream = torch.randn(2, 5, 16)
    out = block(x)
    assert torch.equal(out, x)
    out.backward(upstream)
    assert torch.equal(x.grad, upstream)


@given(seed=st.integers(0, 99), block=st.sampled_from(["residual", *BLOCKS]))
def test_without_positions_the_order_of_the_patches_does_not_matter(seed, block):
    torch.manual_seed(seed)
    make = ({"residual": EncoderBlock} | BLOCKS)[block]
    layer = make(16, 4, 32, 1e-6).double()
    shake(layer, seed)
    x, order = torch.randn(2, 7, 16, dtype=torch.float64), torch.randperm(7)
    torch.testing.assert_close(layer(x)[:, order], layer(x[:, order]))
