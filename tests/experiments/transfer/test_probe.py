"""The linear probe: the solution of a convex problem, on the network's features."""

import pytest
import torch
from torch.nn.functional import cross_entropy

import zoo
from experiments.plumbing.cli import NumericError
from experiments.proof.checks import shake
from experiments.train.loop import Settings
from experiments.transfer import probe
from experiments.transfer.probe import logistic_regression
from experiments.transfer.strategies import rarity

FP32 = Settings(precision="fp32")


def blobs(n=120, columns=6, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    middles = 2 * torch.randn(classes, columns, generator=generator)
    features = middles[labels] + torch.randn(n, columns, generator=generator)
    return features * torch.logspace(-2, 2, columns) + 5, labels


@pytest.mark.parametrize("l2", [1e-3, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_solution_is_where_the_gradient_vanishes(l2, weighted, classes):
    """The objective is written out again, on standardised features: no direction improves it."""
    features, labels = blobs(classes=classes)
    labels[:30] = 0
    weights = torch.tensor(rarity(labels, classes)) if weighted else None
    weight, bias = logistic_regression(features, labels, classes, l2, weights)
    x = features.double()
    mean, std = x.mean(0), x.std(0, correction=0)
    w = (weight.double() * std).requires_grad_()
    b = (bias.double() + weight.double() @ mean).requires_grad_()
    loss_weights = None if weights is None else weights.double()
    loss = cross_entropy((x - mean) / std @ w.T + b, labels, loss_weights)
    loss = loss + l2 / 2 * w.square().sum()
    for gradient in torch.autograd.grad(loss, (w, b)):
        assert gradient.abs().max() < 1e-5


def test_it_separates_and_does_not_mind_the_scale_of_features():
    features, labels = blobs()
    weight, bias = logistic_regression(features, labels, 3, 1e-3)
    assert ((features @ weight.T + bias).argmax(1) == labels).float().mean() > 0.9
    again, shift = logistic_regression(features * 1000 - 7, labels, 3, 1e-3)
    logits = (features * 1000 - 7).double() @ again.double().T + shift
    assert torch.allclose(logits, features.double() @ weight.double().T + bias, atol=1e-2)


def test_constant_features_do_no_harm():
    features, labels = blobs()
    features[:, 2] = 4.0
    weight, bias = logistic_regression(features, labels, 3, 1e-3)
    assert weight.isfinite().all()
    assert bias.isfinite().all()


def test_a_class_without_images_is_never_predicted():
    features, labels = blobs()
    there = logistic_regression(features, labels, 3, 1e-3)
    weight, bias = logistic_regression(features, labels + (labels > 0), 4, 1e-3)
    for of_all, of_three in zip((weight, bias), there, strict=True):
        assert torch.equal(of_all[[0, 2, 3]], of_three)
    assert (features @ weight.T + bias).softmax(1)[:, 1].max() == 0


def test_features_that_are_no_numbers_are_refused():
    features, labels = blobs()
    features[3, 1] = float("nan")
    with pytest.raises(NumericError, match="not finite"):
        logistic_regression(features, labels, 3, 1e-3)


def test_features_and_head_are_the_network():
    model = zoo.build("resnet8", 4)
    shake(model)
    images, labels = torch.randn(10, 3, 32, 32), torch.arange(10)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    batches = [(images[:6], labels[:6]), (images[6:], labels[6:])]
    features, answers = probe.features_of(model, batches, FP32)
    assert answers.tolist() == list(range(10))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(model.head(features), model.eval()(images), rtol=1e-4, atol=1e-4)
