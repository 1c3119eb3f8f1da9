"""Training batches are a function of seed and step; evaluation shows every image once."""

from functools import partial

import pytest
import torch
from sample_images import refused

from data.decoding import DecodedOnUse
from data.store import DecodedOnce
from data.view_batches import StepDataset, ViewBatches, every_image
from data.views import RandomView, View

CPU = torch.device("cpu")
VIEW = View(20, 16, input_size=16)


def batches(images, workers=0, part=(0, 1), seed=0, size=4) -> ViewBatches:
    labels = torch.arange(len(images))
    view = RandomView(view=VIEW)
    return ViewBatches(StepDataset(images, labels, view, size, seed, part), CPU, workers)


def test_batches_are_a_pure_function_of_seed_and_step(files, tmp_path):
    """In any order, with any number of workers, for stored and for streamed images."""
    form = RandomView(view=View(20, 16)).stored
    stored = DecodedOnce(files, form, tmp_path)
    expected = [batches(stored).batch(step) for step in range(7)]
    streamed = batches(DecodedOnUse(tuple(files), form))
    for source in (streamed, batches(stored, workers=1), batches(stored, workers=2)):
        for step in (6, 0, 2, 3, 4, 5, 1, 2):  # forwards and backwards
            for got, wanted in zip(source.batch(step), expected[step], strict=True):
                assert torch.equal(got, wanted)
    assert not torch.equal(batches(stored, seed=1).batch(0)[0], expected[0][0])


def test_an_epoch_shows_every_image_and_the_next_one_differently(files):
    source = batches(DecodedOnUse(tuple(files), RandomView(view=View(20, 16)).stored))
    epochs = ([source.batch(e * 3 + i) for i in range(3)] for e in (0, 1))
    first, second = (
        {int(y): x for xs, ys in epoch for x, y in zip(xs, ys, strict=True)} for epoch in epochs
    )
    assert set(first) == set(second) == set(range(12))
    assert not any(torch.equal(first[i], second[i]) for i in range(12))


def test_parts_of_a_batch_are_the_whole(files):
    images = DecodedOnUse(tuple(files), RandomView(view=View(20, 16)).stored)
    whole = batches(images).batch(1)
    parts = [batches(images, part=(i, 2)).batch(1) for i in (0, 1)]
    for i in (0, 1):
        assert torch.equal(torch.cat([part[i] for part in parts]), whole[i])


@pytest.mark.parametrize("part", [(0, 1), (0, 3), (1, 3), (2, 3)])
@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_shows_every_image_once(files, part, workers):
    source, labels = DecodedOnUse(tuple(files), VIEW), torch.arange(12)
    shown = list(every_image(source, labels, VIEW, 5, CPU, workers, part))
    mine = list(range(part[0], 12, part[1]))
    assert torch.cat([answers for _, answers in shown]).tolist() == mine
    mean, std = (torch.tensor(v)[:, None, None] for v in (VIEW.mean, VIEW.std))
    images = torch.cat([images for images, _ in shown])
    expected = torch.stack([source[i] for i in mine])
    assert torch.allclose(images, (expected / 255 - mean) / std, atol=1e-6)


def test_a_batch_of_one_cannot_be_normalised_and_is_refused(files):
    images = DecodedOnUse(tuple(files), VIEW)
    for size, part, fix in ((1, (0, 1), "2 to 12"), (13, (0, 1), "2 to 12"),
                            (2, (0, 2), "4 to 12, a multiple of 2"),
                            (5, (0, 2), "a multiple of 2")):  # fmt: skip
        refused(partial(batches, images, part=part, size=size), fix)
