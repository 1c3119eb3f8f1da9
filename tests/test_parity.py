"""Our five ResNets are torchvision's: to the last bit, in every number that training touches."""

import pytest
import torch
import torchvision
from oracle import renamed, shake
from torch.nn.functional import cross_entropy

import zoo

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def pair(name: str, dtype: torch.dtype):
    """torchvision's network, shaken, and ours with the same weights."""
    theirs = torchvision.models.get_model(name).to(dtype)
    shake(theirs)
    ours = zoo.build(name).to(dtype)
    ours.load_state_dict(renamed(theirs.state_dict()), strict=True)
    return theirs, ours


def assert_equal(ours: dict, theirs: dict) -> None:
    assert list(ours) == list(theirs)
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("name", RESNETS)
def test_outputs_gradients_and_buffers_are_torchvisions_to_the_last_bit(name, dtype):
    theirs, ours = pair(name, dtype)
    images, labels = torch.randn(2, 3, 64, 64, dtype=dtype), torch.tensor([3, 999])

    with torch.no_grad():
        logits = ours.eval()(images)
        assert logits.isfinite().all()
        assert torch.equal(logits, theirs.eval()(images))

    results = []
    for model in (ours, theirs):
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
        logits = model(images)
        cross_entropy(logits, labels).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        optimizer.step()
        results.append((logits.detach(), gradients, model.state_dict()))
    (logits, gradients, after), (their_logits, their_gradients, their_after) = results

    assert torch.equal(logits, their_logits)
    assert_equal(gradients, renamed(their_gradients))
    assert_equal(after, renamed(their_after))  # parameters and running statistics after the step
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())


@pytest.mark.torchvision_order
@pytest.mark.parametrize("name", RESNETS)
def test_seeded_alike_training_starts_from_torchvisions_weights(name):
    torch.manual_seed(1)
    ours = zoo.build(name).state_dict()
    torch.manual_seed(1)
    theirs = torchvision.models.get_model(name).state_dict()
    assert_equal(ours, renamed(theirs))


def test_the_papers_stride_is_a_different_network():
    """The guard of the tests above: v1 has v1.5's parameters and shapes, and other outputs."""
    theirs, _ = pair("resnet50", torch.float32)
    paper = zoo.build("resnet50", stride_in="conv1")
    paper.load_state_dict(renamed(theirs.state_dict()), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        a, b = paper.eval()(images), theirs.eval()(images)
    assert a.shape == b.shape
    assert not torch.allclose(a, b, atol=1e-3)
