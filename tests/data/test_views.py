"""Views: torchvision's transforms, and pure functions of their seeds."""

import platform

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models import ResNet50_Weights
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from data.views import (
    AUGMENTS,
    RandomView,
    ShorterSide,
    View,
    center_crop,
    has_byte_resizing,
    resized,
)


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


def seeded(transform, image, seed):
    torch.manual_seed(seed)
    return transform(image)


@pytest.mark.parametrize("shape", [(80, 100), (20, 500), (7, 3)])
def test_crops_and_flips_are_torchvisions(shape):
    """The same random numbers, and the same pixels."""
    form, image = RandomView("crop", View(36, 32)), noise(*shape)
    usual = v2.Compose([v2.RandomResizedCrop(32, (0.08, 1.0)), v2.RandomHorizontalFlip()])
    expected = [seeded(usual, image, seed) for seed in range(20)]
    assert all(torch.equal(form(image, seed), view) for seed, view in enumerate(expected))


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("shape", [(80, 100), (20, 500), (7, 3)])
def test_a_random_view_depends_on_its_seed_alone(augment, shape):
    """And torch's own random state stays as it was."""
    form = RandomView(augment, View(36, 32))
    image = form.stored(noise(*shape))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, others = form(image, 1), [form(image, seed) for seed in range(2, 12)]
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(form(image, 1), first)
    assert torch.equal(form(image, 2**64 - 1), form(image, 2**64 - 1))
    assert first.dtype == torch.uint8
    assert {other.shape for other in others} == {first.shape} == {(3, 32, 32)}
    assert all(torch.equal(first, other) for other in others) == (augment == "none")


def test_random_views_are_torchvisions_transforms():
    image = noise(80, 100)
    crop, flip = v2.RandomResizedCrop(32, (0.3, 0.9)), v2.RandomHorizontalFlip()
    more = {
        "crop": [], "randaugment": [v2.RandAugment()], "trivial": [v2.TrivialAugmentWide()],
        "color": [v2.ColorJitter(0.4, 0.4, 0.4, 0.1)],
        # The mean of ImageNet's images, so 0 after normalisation.
        "erasing": [v2.RandomErasing(value=[124, 116, 104])],
    }  # fmt: skip
    for augment, transforms in more.items():
        form = RandomView(augment, View(36, 32), scale=(0.3, 0.9))
        for seed in range(8):
            expected = seeded(v2.Compose([crop, flip, *transforms]), image, seed)
            assert torch.equal(form(image, seed), expected), augment


def test_erased_pixels_are_the_mean_of_the_channel():
    """Also if the weights come with a mean for each pixel."""
    form = RandomView("erasing", View(16, 16, mean=(0.2,) * 256 + (0.4,) * 256 + (0.6,) * 256,
                                      std=(1.0,) * 768))  # fmt: skip
    white = torch.full((3, 40, 40), 255, dtype=torch.uint8)
    erased = [form(white, seed) for seed in range(20)]
    colours = {tuple(image[:, y, x].tolist()) for image in erased for y in range(16)
               for x in range(16)}  # fmt: skip
    assert colours == {(255, 255, 255), (51, 102, 153)}


def test_shifted_views_pad_with_black_and_reach_every_corner():
    form = RandomView("shift", View(32, 32, squash=True))
    image = torch.full((3, 32, 32), 200, dtype=torch.uint8)
    shown = [form(image, seed)[0] == 0 for seed in range(400)]
    tops = {int(black[:, 16].sum()) * (1 if black[0, 16] else -1) for black in shown}
    assert tops == set(range(-4, 5))
    assert form.stored(noise(50, 80)).shape == (3, 32, 32)
    loose = RandomView("shift", View(40, 32))
    assert loose.stored(noise(50, 80)).shape == (3, 40, 64)
    assert loose(loose.stored(noise(50, 80)), 0).shape == (3, 32, 32)


def test_without_augmentation_the_image_is_what_evaluation_sees():
    form = RandomView("none", View(40, 32))
    image = noise(50, 80)
    assert torch.equal(form(form.stored(image), 0), View(40, 32)(image))


def test_stored_images_are_small_but_never_enlarged():
    form = RandomView()
    assert form.stored == ShorterSide(504, "bilinear", enlarge=False)
    assert form.stored(noise(1000, 2000)).shape == (3, 504, 1008)
    small = noise(300, 200)
    assert form.stored(small) is small
    assert ShorterSide(30, "bilinear")(noise(20, 40)).shape == (3, 30, 60)


@given(
    st.integers(1, 90), st.integers(1, 90), st.integers(1, 80), st.integers(1, 80),
    st.sampled_from(["bilinear", "bicubic"]), st.booleans(),
)  # fmt: skip
def test_pixels_are_torchvisions(rows, columns, resize, crop, interpolation, in_bytes):
    """Of any size, also where torchvision resizes floats: on old processors."""
    image = adjacent(noise(rows, columns))
    capability = "AVX2" if in_bytes else "DEFAULT"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        patch.setattr(platform, "machine", lambda: "x86_64")
        has_byte_resizing.cache_clear()
        mode = functional.InterpolationMode(interpolation)
        expected = functional.resize(image, [resize], mode, antialias=True)
        found = resized(image, (resize,), interpolation)
    has_byte_resizing.cache_clear()
    assert torch.equal(found, expected)
    assert torch.equal(center_crop(found, crop), functional.center_crop(expected, [crop, crop]))
