"""A block adds F(x) to its shortcut, and nothing works in place."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import relu

import zoo
from zoo.blocks import BasicBlock, Bottleneck
from zoo.shortcuts import Identity, Projection, ZeroPad, make_shortcut

SHORTCUT = st.sampled_from(["projection", "pad", "pad-append"])

BLOCK = st.sampled_from([BasicBlock, Bottleneck])


def quiet(block: nn.Module) -> nn.Module:
    """Make F(x) = 0: set gamma and beta of the block's last norm to zero."""
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


def test_the_block_builds_its_own_shortcut():
    assert isinstance(BasicBlock(8, 8).shortcut, Identity)
    assert isinstance(BasicBlock(8, 16).shortcut, Projection)
    assert isinstance(BasicBlock(8, 8, 2, shortcut="pad").shortcut, ZeroPad)
    assert isinstance(Bottleneck(8, 8).shortcut, Projection)
    assert isinstance(Bottleneck(32, 8).shortcut, Identity)


@pytest.mark.parametrize(("kind", "before"), [("pad", 3), ("pad-append", 0)])
def test_zero_padding_puts_the_zeros_where_it_says(kind, before):
    x = torch.randn(2, 4, 6, 6)
    padded = make_shortcut(kind, 4, 10, 2)(x)
    zeros, after = torch.zeros(2, 6, 3, 3), before + 4
    assert torch.equal(padded[:, before:after], x[:, :, ::2, ::2])
    assert torch.equal(torch.cat([padded[:, :before], padded[:, after:]], 1), zeros)


@pytest.mark.parametrize("name", ["resnet20", "plain20", "resnet50", "vit2", "plainvit2"])
def test_nothing_works_in_place(name):
    """Outputs that a hook saw during the forward pass are unchanged after it."""
    model = zoo.build(name, 3, **({} if "vit" in name else {"width": 4}))
    seen = []
    for module in model.modules():
        module.register_forward_hook(
            lambda module, inputs, output: seen.append((output, output.clone()))
        )
    image = torch.randn(2, 3, 32, 32)
    before = image.clone()
    model(image)
    assert torch.equal(image, before)
    assert all(torch.equal(output, copy) for output, copy in seen)
