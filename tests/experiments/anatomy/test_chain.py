"""Lesions and paths in networks whose answers are known."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import zoo
from experiments.anatomy import path_lengths
from experiments.anatomy.chain import (
    ReadOut,
    adapted,
    blocks_of,
    can_be_deleted,
    error,
    keeps_shape,
    last_norm,
    prefixes,
    through,
    without,
)
from experiments.anatomy.path_lengths import by_length, chain
from experiments.lesion import lesions
from experiments.proof.checks import shake


def shaken(name: str, **settings) -> nn.Module:
    """A narrow network with norms that are not at their initial values."""
    model = zoo.build(name, 5, width=4, **settings)
    shake(model)
    return model.eval().requires_grad_(False)


def silenced(name: str) -> nn.Module:
    """A network in which every F(x) is 0."""
    model = shaken(name)
    for block in blocks_of(model).values():
        norm = last_norm(block)
        norm.weight.zero_()
        norm.bias.zero_()
    return model


IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(6) % 5


@pytest.mark.parametrize("name", ["resnet20", "plain20", "resnet18", "resnet50"])
def test_the_chain_computes_what_the_network_computes(name):
    model = shaken(name)
    layers = [model.stem, *blocks_of(model).values(), ReadOut(model)]
    assert torch.equal(through(layers, IMAGES), model(IMAGES))


@pytest.mark.parametrize("name", ["resnet20", "resnet50", "plain20"])
def test_a_deletion_from_the_cached_inputs_equals_one_by_a_hook(name):
    """The second implementation replaces the output of a part while the whole network runs."""
    model = shaken(name)
    named = blocks_of(model)
    blocks, whole = list(named.values()), {}
    for block, arm, module, hook in lesions(model):
        if arm != "skip":
            handle = module.register_forward_hook(hook)
            whole[block] = model(IMAGES)
            handle.remove()
    assert set(whole) == {name for name, block in named.items() if can_be_deleted(block)}
    for k, (x,) in prefixes([model.stem, *blocks], IMAGES):
        block, name = blocks[k - 1], [*named][k - 1]
        if can_be_deleted(block):
            rest = [without(block), *blocks[k:], ReadOut(model)]
            assert torch.equal(through(rest, x), whole[name])
            assert not torch.equal(whole[name], model(IMAGES))


def test_deletions_cost_nothing_where_f_is_zero():
    model = silenced("resnet20")
    blocks, before = list(blocks_of(model).values()), model(IMAGES)
    for k, (x,) in prefixes([model.stem, *blocks], IMAGES):
        rest = [without(blocks[k - 1]), *blocks[k:], ReadOut(model)]
        assert torch.equal(through(rest, x), before)


def test_a_plain_block_that_changes_the_shape_cannot_be_deleted():
    blocks = list(blocks_of(shaken("plain20")).values())
    assert [can_be_deleted(block) for block in blocks] == [k not in (3, 6) for k in range(9)]
    assert all(can_be_deleted(block) for block in blocks_of(shaken("resnet20")).values())
    bottlenecks = blocks_of(shaken("resnet50")).values()
    assert [keeps_shape(block) for block in bottlenecks].count(False) == 4
    with pytest.raises(AssertionError, match="cannot be deleted"):
        without(blocks[3])


def test_adapted_statistics_are_those_of_the_images_and_the_network_keeps_its_own():
    model = shaken("resnet8")
    layers = [model.stem, *blocks_of(model).values(), ReadOut(model)]
    before = copy.deepcopy(model.state_dict())
    fresh = adapted(layers, IMAGES)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    seen = model.stem.conv(IMAGES)
    assert torch.allclose(fresh[0].norm.running_mean, seen.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(fresh[0].norm.running_var, seen.var((0, 2, 3)), atol=1e-5)
    # Every later norm sees maps that were normalised in the new way.
    trained = copy.deepcopy(model).train()
    biased = trained(IMAGES)  # divides by n where stored statistics divide by n - 1
    assert torch.allclose(fresh(IMAGES), biased, atol=0.05)
    assert not torch.allclose(model(IMAGES), biased, atol=0.05)


def test_error_is_in_percent():
    layers = [nn.Identity()]
    logits = torch.eye(4)
    assert error(layers, logits, torch.tensor([0, 1, 2, 0])) == 25


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "resnet50"])
def test_gradients_by_path_length_are_the_coefficients_of_a_polynomial(name):
    """With every branch's backward signal times t, the gradient is the sum of t^k V_k."""
    model = shaken(name).double()
    images = IMAGES.double()
    parts = torch.stack(by_length(*chain(model, images, LABELS)))
    assert len(parts) == 1 + len(blocks_of(model))
    for t in (0.0, 0.5, 1.0, -1.0):
        hooks = [
            last_norm(block).register_forward_hook(
                lambda _, __, out, t=t: t * out + (1 - t) * out.detach()
            )
            for block in blocks_of(model).values()
        ]
        x = model.stem(images).requires_grad_()
        loss = cross_entropy(model.head(model.stages(x).mean((2, 3))), LABELS, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        for hook in hooks:
            hook.remove()
        powers = t ** torch.arange(len(parts), dtype=torch.float64)
        found = (powers.view(-1, 1, 1, 1, 1) * parts).sum(0)
        assert (found - gradient).norm() <= 1e-12 * parts.norm()


def test_in_a_linear_network_path_lengths_follow_the_binomial_law():
    """Blocks y = relu(a x + x) with a, x > 0: length k has C(L, k) a^k of (1 + a)^L."""
    a, depth = 0.5, 4

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shortcut = nn.Identity()

        def forward(self, x):
            return torch.relu(a * x + self.shortcut(x))

    arms, x = [], torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for _ in range(depth):
        x, both = path_lengths.arms_of(Block(), x)
        arms.append(both)
    parts = [float(part) for part in by_length(arms, torch.ones_like(x))]
    assert parts == pytest.approx([1, 4 * a, 6 * a**2, 4 * a**3, a**4], rel=1e-15)
    estimates = path_lengths.sampled(arms, torch.ones_like(x))  # here all signs are equal
    assert estimates == pytest.approx(parts, rel=1e-15)


def test_without_branches_all_gradient_is_on_the_path_of_length_zero():
    model = silenced("resnet20").double()
    parts = by_length(*chain(model, IMAGES.double(), LABELS))
    assert parts[0].norm() > 0
    assert not any(part.any() for part in parts[1:])
