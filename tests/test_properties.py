"""Properties that hold for any block and any network, found by hypothesis if they do not."""

import operator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn.functional import relu

import zoo
from zoo.blocks import BasicBlock, Bottleneck

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


def without_additions(model: nn.Module) -> tuple[nn.Module, int]:
    """The network with `residual + shortcut` replaced by `residual` in its graph, and how often."""
    graph_module = fx.symbolic_trace(model)
    deleted = 0
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target is operator.add:
            node.replace_all_uses_with(node.args[0])
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
