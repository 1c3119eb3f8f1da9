"""The synthetic images: reproducible, balanced, hard for linear models, learnable by ResNets."""

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

import zoo
from data.batches import TensorBatches, channel_normalize, whole_images
from data.dataset import Dataset
from data.synthetic import CLASSES, FIRST_TEST_INDEX, SIZE, synthetic, synthetic_image
from experiments.plumbing.precision import to_layout
from experiments.train.loop import Settings, evaluate, start, train


@pytest.fixture(scope="module")
def images() -> Dataset:
    return synthetic(train=6000, test=1000)


def test_an_image_is_a_pure_function_of_seed_and_index(images):
    for index in (0, 7, 5999):
        again, label = synthetic_image(0, index)
        assert np.array_equal(again, images.train_images[index].numpy())
        assert label == images.train_labels[index]
    first_test, _ = synthetic_image(0, FIRST_TEST_INDEX)
    assert np.array_equal(first_test, images.test_images[0].numpy())
    assert not np.array_equal(synthetic_image(0, 3)[0], synthetic_image(1, 3)[0])
    assert not np.array_equal(synthetic_image(0, 3)[0], synthetic_image(0, 13)[0])
    assert synthetic_image(0, 3)[0].shape == (3, SIZE, SIZE)
    assert synthetic_image(0, 3)[0].dtype == np.uint8


def test_classes_come_in_equal_shares_and_no_image_twice(images):
    assert images.train_labels.bincount().tolist() == [600] * len(CLASSES)
    assert images.test_labels.bincount().tolist() == [100] * len(CLASSES)
    everything = torch.cat([images.train_images, images.test_images]).flatten(1)
    assert len({row.numpy().tobytes() for row in everything}) == len(everything)


def linear_accuracy(data: Dataset, features_of) -> float:
    """The best accuracy of linear classifiers (least squares) over a wide range of penalties."""
    features, held = (features_of(images) for images in (data.train_images, data.test_images))
    features, held = features - features.mean(0), held - features.mean(0)
    gram, targets = features.T @ features, one_hot(data.train_labels).double() - 0.1
    best = 0.0
    for strength in (1e1, 1e2, 1e3, 1e4, 1e5):
        ridge = gram + strength * torch.eye(len(gram), dtype=torch.float64)
        weights = torch.cholesky_solve(features.T @ targets, torch.linalg.cholesky(ridge))
        right = (held @ weights).argmax(1) == data.test_labels
        best = max(best, right.double().mean().item())
    return best


def test_a_linear_classifier_on_pixels_stays_under_40_percent(images):
    normalize = channel_normalize(images.train_images)
    for data in (images.resized(12), images.resized(16)):
        accuracy = linear_accuracy(data, lambda batch: normalize(batch).flatten(1).double())
        assert 0.1 < accuracy < 0.4


def test_a_colour_histogram_stays_under_40_percent(images):
    def histogram(batch):  # (N, 512): 8 levels of each colour, jointly
        levels = (batch // 32).long()
        code = (levels[:, 0] * 8 + levels[:, 1]) * 8 + levels[:, 2]
        return torch.stack([c.bincount(minlength=512) for c in code.flatten(1)]).double()

    assert linear_accuracy(images, histogram) < 0.4


@pytest.mark.slow
def test_resnet20_reaches_92_percent_in_4_epochs_of_4000_small_images():
    """The budget of `make ablation`: 12x12 pixels, 500 steps of 32; about 15 s on one thread."""
    data = synthetic(train=4000, test=1000).resized(12)
    normalize, cpu = channel_normalize(data.train_images), torch.device("cpu")
    batches = TensorBatches(data, normalize, 32, 0, cpu, input_size=12, padding=1)
    settings = Settings(steps=4 * len(batches), batch_size=32, schedule="triangle", lr=0.03)
    torch.manual_seed(0)
    state = start(to_layout(zoo.build("resnet20"), settings), settings)
    for _ in train(batches, settings, state):
        pass
    test = whole_images(data.test_images, data.test_labels, normalize, 500, cpu, 12)
    _, error = evaluate(state.model, test, settings)
    assert error <= 0.08
