"""The contract between batches and the training loop, and the augmentation behind it."""

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sample_images import refused
from torchvision.transforms import functional as transforms

import zoo
from data.augment import crop_flip
from data.batches import (
    Normalize,
    TensorBatches,
    channel_normalize,
    pixel_mean_normalize,
    whole_images,
)
from data.dataset import Dataset, balanced_order
from experiments.train.loop import Settings, evaluate

CPU = torch.device("cpu")
PLAIN = Normalize(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 1 / 255))  # pixels as they are


def dataset(train=40, test=10, size=8, classes=5) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    shape = (train + test, 3, size, size)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.arange(train + test) % classes
    names = tuple(map(str, range(classes)))
    return Dataset("made", names, images[:train], labels[:train], images[train:], labels[train:])


def batches(data=None, batch_size=8, seed=0, padding=1, **options) -> TensorBatches:
    data = data or dataset()
    size = data.train_images.shape[-1]
    return TensorBatches(
        data, PLAIN, batch_size, seed, CPU, input_size=size, padding=padding, **options
    )


def test_all_162_crops_and_flips_are_torchvisions():
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    cases = list(itertools.product(range(9), range(9), (False, True)))
    tops, lefts, flips = (torch.tensor(values) for values in zip(*cases, strict=True))
    ours = crop_flip(image.expand(len(cases), -1, -1, -1), tops, lefts, flips, 4)
    padded = transforms.pad(transforms.to_pil_image(image[0]), 4)
    for cropped, (top, left, flip) in zip(ours, cases, strict=True):
        theirs = transforms.crop(padded, top, left, 32, 32)
        theirs = transforms.pil_to_tensor(transforms.hflip(theirs) if flip else theirs)
        assert torch.equal(cropped, theirs)
    assert len({image.numpy().tobytes() for image in ours}) == 162


def test_every_crop_and_flip_is_equally_frequent():
    """Over 162,000 draws the chi-square statistic of 162 outcomes stays near its mean, 161."""
    source = batches(dataset(train=16_200, size=2), batch_size=100, padding=4)
    outcomes = Counter()
    for epoch in range(10):
        source.draw_epoch(epoch)
        drawn = zip(source.tops.tolist(), source.lefts.tolist(), source.flips.tolist(), strict=True)
        outcomes.update(drawn)
    assert len(outcomes) == 162
    chi_square = sum((count - 1000) ** 2 / 1000 for count in outcomes.values())
    assert 161 - 4 * 18 < chi_square < 161 + 4 * 18  # standard deviation sqrt(2 * 161) = 18


@given(st.lists(st.integers(0, 24), min_size=1, max_size=12), st.integers(0, 3))
def test_a_batch_is_a_pure_function_of_seed_and_step(steps, seed):
    one, other = batches(seed=seed), batches(seed=seed)
    expected = {step: one.batch(step) for step in sorted(set(steps))}
    for step in steps:  # any order, any number of times
        images, labels = other.batch(step)
        assert torch.equal(images, expected[step][0])
        assert torch.equal(labels, expected[step][1])


def test_seeds_and_epochs_differ():
    assert not torch.equal(batches(seed=0).batch(0)[0], batches(seed=1).batch(0)[0])
    source = batches()
    assert not torch.equal(source.batch(0)[0], source.batch(len(source))[0])


def test_an_epoch_shows_every_image_once_and_drops_the_last_partial_batch():
    source = batches(dataset(train=41, classes=41))  # one class per image: labels number the images
    shown = torch.cat([source.batch(step)[1] for step in range(len(source))]).tolist()
    assert len(set(shown)) == len(shown) == 40


def test_a_batch_is_torchvisions_crop_and_flip_of_the_images_it_drew():
    data = dataset(size=8)
    source = batches(data, padding=2)
    images, labels = source.batch(2)
    for i, image in enumerate(images):
        index = source.order[16 + i]
        assert labels[i] == data.train_labels[index]
        padded = transforms.pad(data.train_images[index], 2)
        top, left = int(source.tops[16 + i]), int(source.lefts[16 + i])
        expected = transforms.crop(padded, top, left, 8, 8)
        expected = transforms.hflip(expected) if source.flips[16 + i] else expected
        torch.testing.assert_close(image, expected.float(), rtol=0, atol=1e-3)


def test_a_last_batch_of_one_image_is_counted_in_evaluation():
    data = dataset(test=9)
    order = whole_images(data.test_images, data.test_labels, PLAIN, 4, CPU, 8)
    _, error = evaluate(zoo.build("resnet8", 5, width=2), order, Settings())
    assert error * 9 == pytest.approx(round(error * 9))


def test_padding_has_the_colour_of_the_mean():
    """Section 4.2: the per-pixel mean is subtracted first, so padding is exactly zero."""
    data = dataset(size=8)
    normalize = pixel_mean_normalize(data.train_images)
    source = TensorBatches(data, normalize, 40, 0, CPU, input_size=8, padding=4)
    source.batch(0)  # draws the epoch
    source.tops[0], source.lefts[0] = 0, 0
    image = source.batch(0)[0][0]
    columns = slice(4, 8) if source.flips[0] else slice(0, 4)
    assert not image[:, :4].any()
    assert not image[:, :, columns].any()
    assert image[:, 4:].any()


def test_normalisation_is_the_mean_and_deviation_of_the_images():
    data = dataset(train=2500)
    floats = data.train_images.double() / 255
    channel = channel_normalize(data.train_images)
    mean = floats.mean((0, 2, 3))
    torch.testing.assert_close(channel.mean.flatten().double(), mean, rtol=0, atol=1e-7)
    deviation = floats.std((0, 2, 3), correction=0)
    torch.testing.assert_close(channel.std.flatten().double(), deviation, rtol=0, atol=1e-6)
    pixel = pixel_mean_normalize(data.train_images)
    torch.testing.assert_close(pixel.mean.double(), floats.mean(0), rtol=0, atol=1e-7)


def test_images_stored_small_are_enlarged_in_the_batch():
    data = dataset()
    source = TensorBatches(data, PLAIN, 8, 0, CPU, input_size=24, padding=1)
    assert source.batch(0)[0].shape == (8, 3, 24, 24)
    order = whole_images(data.test_images, data.test_labels, PLAIN, 4, CPU, 24)
    assert [len(labels) for images, labels in order] == [4, 4, 2]


def test_the_held_out_split_is_45_to_5_stratified_and_disjoint():
    data = dataset(train=1000, size=2)
    held = data.holding_out()
    assert held.train_labels.bincount().tolist() == [180] * 5
    assert held.test_labels.bincount().tolist() == [20] * 5
    both = torch.cat([held.train_images, held.test_images]).flatten(1).numpy()
    original = data.train_images.flatten(1).numpy()
    assert sorted(map(bytes, both)) == sorted(map(bytes, original))
    assert torch.equal(held.test_images, data.holding_out().test_images)


def test_limiting_keeps_the_classes_balanced():
    small = dataset(train=1000, test=100, size=2).limited(250, 50)
    assert small.train_labels.bincount().tolist() == [50] * 5
    assert small.test_labels.bincount().tolist() == [10] * 5
    assert len(dataset().limited(None, 3).train_labels) == 40


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_balanced_order_is_a_permutation_that_deals_the_classes_out(labels):
    order = balanced_order(torch.tensor(labels)).tolist()
    assert sorted(order) == list(range(len(labels)))
    assert {labels[i] for i in order[: len(set(labels))]} == set(labels)


@pytest.mark.parametrize("batch_size", [0, 1, 41])
def test_an_impossible_batch_size_is_refused_in_three_lines(batch_size):
    refused(lambda: batches(batch_size=batch_size), "--batch-size from 2 to 40")


def test_half_size_averages_pixels():
    data = dataset(size=4)
    data.train_images[:] = 77
    assert (data.resized(2).train_images == 77).all()
    assert data.resized(4) is data
