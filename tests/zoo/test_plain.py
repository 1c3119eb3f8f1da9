"""A plain network is its residual twin without the additions, from the same initial weights."""

import operator
from collections.abc import Callable

import pytest
import torch
from conftest import held, shaken
from torch import fx, nn

import zoo
from zoo.networks import plain_name
from zoo.vit import MLP, TABLE, Attention, ViTStem

PAIRS = [(name, {}) for name in zoo.list_models() if not name.startswith("plain")]

PAIRS += [("resnet20", {"norm": "none"}), ("resnet18", {"num_classes": 7, "width": 8}),
          ("resnet50", {"stride_in": "conv1", "width": 8})]  # fmt: skip

NARROW = ("resnet34", "resnet50", "resnet101", "resnet152")  # built with width 8, quick to draw


@pytest.mark.parametrize(("name", "settings"), PAIRS)
def test_twins_of_one_seed_start_from_the_same_weights(name, settings, monkeypatch):
    """Entries that both have are equal to the last bit; so are the next random numbers."""
    settings = settings | ({"width": 8} if name in NARROW else {})
    if name in TABLE:
        monkeypatch.setitem(TABLE, name, TABLE[name]._replace(heads=4, width=64, hidden=128))
    states, later = [], []
    for twin in (name, plain_name(name)):
        torch.manual_seed(5)
        states.append(zoo.build(twin, **settings).state_dict())
        later.append(torch.rand(3))
    residual, plain = states
    assert plain.keys() == {key for key in residual if ".shortcut." not in key}
    assert held(plain, residual)
    assert torch.equal(*later)
    torch.manual_seed(6)
    other = zoo.build(plain_name(name), **settings).state_dict()
    assert not held(plain, other)


class Tracer(fx.Tracer):
    """Traces a ViT's additions, but not the inside of the modules between them."""

    def is_leaf_module(self, module, name):
        return isinstance(module, ViTStem | Attention | MLP) or super().is_leaf_module(module, name)


def without_additions(
    model: nn.Module, kept: int = 0, only: Callable[[int], bool] = lambda place: True
) -> tuple[nn.Module, int]:
    """Replace `residual + shortcut` by `residual` in the network's graph; also returns how often.

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
    [("resnet8", 3), ("resnet20", 9), ("resnet56", 27), ("resnet18", 8), ("resnet50", 16),
     ("resnet152", 50)],
)  # fmt: skip
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
    """There are two additions per block, attention's and the MLP's, and no others."""
    residual = shaken(name)
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
