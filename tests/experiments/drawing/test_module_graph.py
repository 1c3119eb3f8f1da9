"""Drawings of modules are made from their code: they change with it, and have its shapes."""

import re

import pytest
import torch
from conftest import ROOT
from torch import nn

from experiments.drawing.module_graph import beside, main_chain, steps_of, svg
from experiments.proof.checks import outputs_of
from zoo.blocks import BasicBlock, Bottleneck
from zoo.plain import PlainBasicBlock, PlainBottleneck
from zoo.plainvit import BLOCKS
from zoo.shortcuts import Identity, Projection, ZeroPad
from zoo.vit import Attention, EncoderBlock

MAP, TOKENS = (1, 8, 6, 6), (1, 5, 8)


def drawn(module: nn.Module, shape: tuple[int, ...]) -> tuple[list[str], list[tuple[str, str]]]:
    """The labels of the chain, and those that each connection beside it joins."""
    steps = steps_of(module, shape)
    labels = [step.label for step in steps]
    pairs = [(labels[i], labels[j]) for i, j in beside(steps)]
    assert svg(steps, "").count('class="flow skip"') == len(pairs)
    assert svg(steps, "").count("<rect") == len(steps)
    return [labels[i] for i in main_chain(steps)], pairs


def changed(name: str, old: str, new: str) -> type[nn.Module]:
    """A class of zoo/blocks.py after a change of the file."""
    source = (ROOT / "zoo" / "blocks.py").read_text(encoding="utf-8")
    assert old in source
    names: dict = {"__name__": "changed"}
    exec(source.replace(old, new), names)
    return names[name]


F = ["conv 3x3, 8 → 8", "BatchNorm2d", "relu", "conv 3x3, 8 → 8", "BatchNorm2d"]


def test_a_block_and_its_shortcut():
    assert drawn(BasicBlock(8, 8), MAP) == (
        ["x", *F, "+", "relu", "y"], [("x", "Identity"), ("Identity", "+")],
    )  # fmt: skip
    chain, skips = drawn(BasicBlock(8, 16, 2), MAP)
    assert chain[1] == "conv 3x3, 8 → 16, stride 2"
    assert skips == [("x", "Projection"), ("Projection", "+")]
    assert drawn(BasicBlock(8, 16, 2, shortcut="pad"), MAP)[1][0] == ("x", "ZeroPad")


@pytest.mark.parametrize(
    ("block", "plain"), [(BasicBlock, PlainBasicBlock), (Bottleneck, PlainBottleneck)]
)
def test_without_the_addition_in_the_code_the_drawing_is_the_plain_twins(block, plain):
    without = changed(block.__name__, "relu(residual + self.shortcut(x))", "relu(residual)")
    shape = (1, 32, 6, 6)
    twin = drawn(plain(block(32, 8)), shape)
    assert drawn(without(32, 8), shape) == twin != drawn(block(32, 8), shape)
    assert twin[1] == []


def test_another_change_of_the_code_changes_the_drawing():
    weaker = changed("BasicBlock", "residual + self.shortcut(x)", "residual + x")
    assert drawn(weaker(8, 8), MAP)[1] == [("x", "+")]


def test_encoder_blocks_have_the_skips_of_their_code():
    skips = {name: drawn(block(8, 2, 16, 1e-6), TOKENS)[1] for name, block in BLOCKS.items()}
    assert drawn(EncoderBlock(8, 2, 16, 1e-6), TOKENS) == (
        ["x", "LayerNorm", "Attention", "+", "LayerNorm", "MLP", "+", "y"], [("x", "+"), ("+", "+")]
    )  # fmt: skip
    assert skips == {
        "plain": [], "attention-skip": [("x", "+")], "mlp-skip": [("Attention", "+")],
        "no-mlp": [("x", "+")], "pure-attention": [],
    }  # fmt: skip


def test_what_is_inside_shortcuts_and_attention():
    assert drawn(Identity(), MAP) == (["x", "y"], [])
    assert drawn(Projection(8, 16, 2), MAP)[0][1:-1] == [
        "conv 1x1, 8 → 16, stride 2", "BatchNorm2d",
    ]  # fmt: skip
    assert drawn(ZeroPad(8, 16, 2), MAP)[0][1:-1] == ["[:, :, ::2, ::2]", "pad"]
    chain, skips = drawn(Attention(8, 2), TOKENS)
    assert "scaled_dot_product_attention" in chain
    assert skips == []  # q, k and v are one step


@pytest.mark.parametrize(
    ("module", "shape"),
    [(BasicBlock(8, 16, 2), MAP), (Bottleneck(8, 8), MAP), (EncoderBlock(8, 2, 16, 1e-6), TOKENS)],
)
def test_shapes_are_those_of_a_real_run(module, shape):
    with outputs_of(module) as outputs:
        module(torch.randn(shape))
    shapes = {name or "y": tuple(output.shape) for name, output in outputs.items()}
    trail = {step.name: step.shape for step in steps_of(module, shape)}
    assert {name: trail[name] for name in shapes if name in trail} == {
        name: size for name, size in shapes.items() if "." not in name
    }


def test_the_drawing_says_what_it_shows():
    text = svg(steps_of(BasicBlock(8, 8), MAP), "BasicBlock")
    assert 'role="img" aria-label="BasicBlock; x → Identity; Identity → +"' in text
    bottom = max(float(y) for y in re.findall(r' y="([\d.]+)"', text))
    assert bottom < float(re.search(r'height="(\d+)" viewBox', text)[1])
