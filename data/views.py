"""Crops and resizes a decoded image to the square that a network sees: fixed, or at random.

A random view is torchvision's transforms, seeded for each image: a pure function of the image and
the seed, so it is the same in every process and after every resume.
Dimension key: C channels, H W height and width of an image, S side of the square.
"""

import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from data.images import MAX_PIXELS

SPARE = 2.25  # stored side / view's side: a crop of a fifth of the area needs no enlarging


@dataclass(frozen=True)
class View:
    """The preprocessing of an image in evaluation and prediction."""

    resize: int = 256  # pixels of the shorter side
    crop: int = 224  # pixels a side of the center crop
    interpolation: str = "bilinear"  # or "bicubic"
    squash: bool = False  # resize both sides to `crop` instead: nothing is cut off
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of R, G, B in [0, 1], subtracted
    std: tuple[float, ...] = (0.229, 0.224, 0.225)  # then divided by
    input_size: int = 224  # smaller crops are enlarged to it, as a batch

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 (3, H, W) -> (3, crop, crop)."""
        if self.squash:
            return resized(image, (self.crop, self.crop), self.interpolation)
        return center_crop(ShorterSide(self.resize, self.interpolation)(image), self.crop)

    def leaves(self, side: int) -> bool:
        """True if square images of `side` pixels need no resizing."""
        return self.crop == side and (self.squash or self.resize == side)


@dataclass(frozen=True)
class ShorterSide:
    """Scale the shorter side to `side` pixels: uint8 (3, H, W) -> (3, h, w).

    Without `enlarge`, smaller images stay as they are. If an image is so thin that the result would
    have over MAX_PIXELS, only its middle is scaled.
    """

    side: int
    interpolation: str
    enlarge: bool = True

    def __call__(self, image: Tensor) -> Tensor:
        short, long = sorted(image.shape[1:])
        if short == self.side or (short < self.side and not self.enlarge):
            return image
        longest = max(1, MAX_PIXELS * short // self.side**2)  # scaled, MAX_PIXELS / side
        if cut := max(0, long - longest) // 2:  # from both ends: the middle stays
            axis = 2 if image.shape[2] == long else 1
            image = image.narrow(axis, cut, long - 2 * cut)
        return resized(image, (self.side,), self.interpolation)


@dataclass(frozen=True)
class RandomView:
    """The augmentation of an image in training: a view that depends on the image and a seed."""

    augment: str = "crop"  # a key of AUGMENTS
    view: View = View()  # what evaluation sees
    scale: tuple[float, float] = (0.08, 1.0)  # a crop's share of the area; not of none and shift

    @property
    def stored(self) -> View | ShorterSide:
        """The transform to store images with: as small as their random views allow."""
        if self.augment == "none" or (self.augment == "shift" and self.view.squash):
            return self.view
        if self.augment == "shift":
            return ShorterSide(self.view.resize, self.view.interpolation)
        return ShorterSide(
            math.ceil(SPARE * self.view.crop), self.view.interpolation, enlarge=False
        )

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """uint8 (3, H, W), transformed by `stored`, and a seed below 2**64 -> uint8 (3, S, S)."""
        if self.augment == "none":
            return image
        # The transforms draw from torch's own generator; its state is put back afterwards. The
        # generators of GPUs, which torch.manual_seed would also set, are left alone.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return transforms_of(self)(image)


AUGMENTS = {
    "none": "the image as evaluation sees it",
    "shift": "RandomCrop of the image with a black border (an eighth of its side), and a flip",
    "crop": "RandomResizedCrop and a flip",
    "color": "crop, then ColorJitter",
    "randaugment": "crop, then RandAugment (Cubuk et al. 2019, arXiv 1909.13719)",
    "trivial": "crop, then TrivialAugmentWide (Müller and Hutter 2021, arXiv 2103.10158)",
    "erasing": "crop, then RandomErasing (Zhong et al. 2017, arXiv 1708.04896)",
}


@cache
def transforms_of(view: RandomView) -> Callable[[Tensor], Tensor]:
    """torchvision's transforms for a random view, uint8 (3, H, W) -> (3, S, S)."""
    from torchvision.transforms import v2  # slow to import

    side = view.view.crop
    if view.augment == "shift":  # by 4 pixels at 32x32, as usual
        return v2.Compose([v2.RandomCrop(side, side // 8), v2.RandomHorizontalFlip()])
    mode = v2.InterpolationMode(view.view.interpolation)
    mean_colour = torch.tensor(view.view.mean).view(3, -1).mean(1)  # 0 after normalisation
    more = {
        "crop": [],
        "color": [v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)],
        "randaugment": [v2.RandAugment()],
        "trivial": [v2.TrivialAugmentWide()],
        "erasing": [v2.RandomErasing(value=(255 * mean_colour).round().tolist())],
    }
    crop = v2.RandomResizedCrop(side, view.scale, interpolation=mode)

    def crop_and_flip(image: Tensor) -> Tensor:
        # The same draws and pixels as v2.Compose([crop, v2.RandomHorizontalFlip()]) (tested). v2
        # first searches its inputs for images, which takes a third of the time; this does not.
        place = crop.make_params([image])
        rows = slice(place["top"], place["top"] + place["height"])
        columns = slice(place["left"], place["left"] + place["width"])
        image = resized(image[:, rows, columns], (side, side), view.view.interpolation)
        return image.flip(-1) if torch.rand(1) < 0.5 else image

    if not more[view.augment]:
        return crop_and_flip
    return v2.Compose([v2.Lambda(crop_and_flip), *more[view.augment]])


def resized(image: Tensor, size: tuple[int, ...], interpolation: str) -> Tensor:
    """Resize with antialiasing: uint8 (3, H, W) -> (3, *size); size (S,) is the shorter side's."""
    rows, columns = image.shape[1:]
    if (rows, columns) == size:
        return image
    # Columns are resized first. Of a tall strip, this would make a huge copy: transpose it.
    if rows * size[-1] > max(MAX_PIXELS, columns * size[0]) and len(size) == 2:
        return resized(image.mT, size[::-1], interpolation).mT
    if len(size) == 1:
        longer = int(size[0] * max(rows, columns) / min(rows, columns))
        size = (size[0], longer) if rows <= columns else (longer, size[0])
    # As torchvision.transforms.v2.functional.resize (tested): its import takes two seconds, in
    # predict and in every process that decodes.
    in_bytes = interpolation == "bicubic" or has_byte_resizing()
    pixels = image[None] if in_bytes else image[None].float()
    scaled = interpolate(pixels, size, mode=interpolation, align_corners=False, antialias=True)[0]
    return scaled if in_bytes else scaled.round_().to(torch.uint8)


@cache
def has_byte_resizing() -> bool:
    """Whether PyTorch resizes bytes by fast instructions; otherwise torchvision resizes floats."""
    fast = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return fast or platform.machine() in ("aarch64", "arm64")


def center_crop(image: Tensor, side: int) -> Tensor:
    """(3, H, W) -> (3, side, side): the centre, padded with black; as torchvision's center_crop."""
    missing = [max(0, side - length) for length in image.shape[:0:-1]]  # columns, rows
    image = pad(image, [part for each in missing for part in (each // 2, each - each // 2)])
    top, left = (round((length - side) / 2) for length in image.shape[1:])
    return image[:, top : top + side, left : left + side]
