"""Views: the same pixels as torchvision's transforms, pure functions of their random numbers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models import ResNet50_Weights
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from data.views import NUMBERS, RandomView, ShorterSide, View


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (256, 256), (90, 700), (33, 20)])
@pytest.mark.parametrize("weights", list(ResNet50_Weights), ids=lambda w: w.name)
def test_evaluation_is_what_the_weights_ask(shape, weights):
    preset = weights.transforms()
    view = View(preset.resize_size[0], preset.crop_size[0], preset.interpolation.value)
    image = noise(*shape)
    expected = functional.resize(image, preset.resize_size, preset.interpolation, antialias=True)
    expected = functional.center_crop(expected, preset.crop_size)
    assert torch.equal(view(image), expected)


def adjacent(image: torch.Tensor) -> torch.Tensor:
    """The layout of load_image. Of planes of one column, torch 2.15 resizes other memory."""
    return image.permute(1, 2, 0).contiguous().permute(2, 0, 1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("turn", [lambda image: image, lambda image: image.mT])
def test_only_the_middle_of_a_thin_strip_is_scaled(turn, interpolation, monkeypatch):
    """With a low limit, the pixels are those that scaling all of the strip gives."""
    for rows, columns in ((1, 400), (3, 301), (5, 1000)):
        strip = turn(adjacent(noise(rows, columns)))
        whole = View(32, 24, interpolation)(strip)
        with monkeypatch.context() as patch:
            patch.setattr("data.views.MAX_PIXELS", 32 * 200)
            near = View(32, 24, interpolation)(strip)
            scaled = ShorterSide(32, interpolation)(strip)
        assert (near.int() - whole).abs().max() <= 3, (rows, columns)
        assert 32 * 150 < scaled.shape[1] * scaled.shape[2] < 32 * 250


def test_squashing_a_tall_strip_gives_the_same_either_way(monkeypatch):
    strip = adjacent(noise(300, 4))
    whole = View(crop=24, squash=True)(strip)
    monkeypatch.setattr("data.views.MAX_PIXELS", 2000)
    assert (View(crop=24, squash=True)(strip).int() - whole).abs().max() <= 2


def test_squashed_shows_all_of_the_image():
    image = noise(50, 200)
    expected = functional.resize(image, [64, 64], antialias=True)
    assert torch.equal(View(crop=64, squash=True)(image), expected)


class Numbers:
    """Replaces torch's random numbers by ours, so that torchvision draws from our row."""

    def __init__(self, monkeypatch, boxes, y, x):
        self.boxes, self.places = iter(boxes), iter((y, x))
        monkeypatch.setattr(torch, "empty", lambda *_, **__: self)
        monkeypatch.setattr(torch, "randint", self.randint)

    def uniform_(self, low, high):
        return torch.tensor([low + next(self.boxes) * (high - low)], dtype=torch.float64)

    def randint(self, low, high, size):
        return torch.tensor([low + int(next(self.places) * (high - low))])


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (64, 64), (20, 500), (500, 20), (7, 3)])
@pytest.mark.parametrize("seed", range(6))
def test_boxes_are_torchvisions(shape, seed, monkeypatch):
    """RandomResizedCrop with the same numbers: scale and log(ratio), drawn in the same order."""
    row = torch.rand(NUMBERS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    *boxes, y, x, _ = row.tolist()
    image, view = noise(*shape), RandomView(scale=(0.08, 1.0))
    ours = view.box(image, boxes, y, x)
    with monkeypatch.context() as patch:
        Numbers(patch, boxes, y, x)
        expected = v2.RandomResizedCrop(224).make_params([image])
    assert ours == tuple(expected[name] for name in ("top", "left", "height", "width"))


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32))
def test_a_box_lies_inside(height, width, seed):
    row = torch.rand(NUMBERS, generator=torch.Generator().manual_seed(seed)).tolist()
    image = torch.empty(3, height, width)
    top, left, h, w = RandomView(scale=(0.3, 0.9)).box(image, row[:20], *row[20:22])
    assert 0 <= top < top + h <= height
    assert 0 <= left < left + w <= width


@pytest.mark.parametrize("ratio", [(100.0, 100.0), (0.01, 0.01)])
def test_ratios_that_no_image_has_leave_a_pixel(ratio):
    view = RandomView("resized", 8, ratio=ratio)
    shown = view(torch.zeros(3, 20, 30, dtype=torch.uint8), [0.5] * NUMBERS)
    assert shown.shape == (3, 8, 8)


def test_a_random_view_is_a_crop_resized_and_flipped():
    image = noise(80, 100)
    row = [0.5] * (NUMBERS - 3) + [0.25, 0.75, 0.0]
    view = RandomView(size=32, hflip_prob=0.5)
    top, left, height, width = view.box(image, row[:20], 0.25, 0.75)
    expected = functional.resized_crop(image, top, left, height, width, [32, 32], antialias=True)
    assert torch.equal(view(image, row), expected.flip(2))
    row[-1] = 0.5
    assert torch.equal(view(image, row), expected)


def test_random_crops_pad_with_black_and_reach_every_corner():
    view = RandomView("random", 32, padding=4, hflip_prob=0.0, view=View(32, 32, squash=True))
    image = torch.full((3, 32, 32), 200, dtype=torch.uint8)
    corner = view(image, [0.0] * NUMBERS)
    assert (corner[:, :4] == 0).all()
    assert (corner[:, 4:, 4:] == 200).all()
    other = view(image, [1 - 1e-9] * NUMBERS)
    assert (other[:, -4:] == 0).all()
    assert (other[:, :-4, :-4] == 200).all()
    assert view.stored(noise(50, 80)).shape == (3, 32, 32)
    loose = RandomView("random", 32, view=View(40, 32))
    assert loose.stored(noise(50, 80)).shape == (3, 40, 64)


def test_without_a_crop_the_whole_image_stays():
    image, view = noise(40, 40), RandomView("none", 40, hflip_prob=0.0, view=View(40, 40))
    assert torch.equal(view(image, [0.5] * NUMBERS), image)


def test_stored_images_are_small_but_never_enlarged():
    view = RandomView(size=224)
    assert view.stored == ShorterSide(504, "bilinear", enlarge=False)
    assert view.stored(noise(1000, 2000)).shape == (3, 504, 1008)
    small = noise(300, 200)
    assert view.stored(small) is small
    assert ShorterSide(30, "bilinear")(noise(20, 40)).shape == (3, 30, 60)


def test_scale_is_the_share_of_the_area():
    """Over many draws the share of the area is uniform, and the ratio log-uniform."""
    image, view = torch.empty(3, 1000, 1000), RandomView(scale=(0.2, 0.8))
    rows = torch.rand(2000, NUMBERS, generator=torch.Generator().manual_seed(1)).tolist()
    boxes = [view.box(image, row[:20], *row[20:22]) for row in rows]
    shares = torch.tensor([h * w / 1e6 for _, _, h, w in boxes])
    ratios = torch.tensor([math.log(w / h) for _, _, h, w in boxes])
    assert abs(shares.mean() - 0.5) < 0.015
    assert shares.min() > 0.19
    assert shares.max() < 0.81
    assert abs(ratios.mean()) < 0.015
