"""Crops and resizes a decoded image to the square that a network sees: fixed, or at random.

A random view is a pure function of the image and of a list of uniform numbers, so it is the same
in every process and after every resume. Given the same numbers, it equals torchvision's transforms
(tests compare).
Dimension key: C channels, H W height and width of an image, S side of the square.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from data.images import MAX_PIXELS

TRIES = 10  # of RandomResizedCrop, before it falls back to a center crop
NUMBERS = 2 * TRIES + 3  # uniform numbers per random view
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
        from torchvision.transforms.v2 import functional  # slow to import

        scaled = ShorterSide(self.resize, self.interpolation)(image)
        return functional.center_crop(scaled, [self.crop, self.crop])  # pads with black

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
    """The augmentation of an image in training: a different random crop each time."""

    crop: str = "resized"  # RandomResizedCrop; "random": RandomCrop; "none": `view`, uncropped
    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)  # "resized": the crop's share of the image's area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # "resized": the crop's width / height
    padding: int = 0  # "random": black pixels added to every side of `view` first
    hflip_prob: float = 0.5
    view: View = View()

    @property
    def stored(self) -> View | ShorterSide:
        """The transform to store images with: as small as their random views allow."""
        if self.crop == "resized":
            side = math.ceil(SPARE * self.size)
            return ShorterSide(side, self.view.interpolation, enlarge=False)
        if self.crop == "random" and not self.view.squash:
            return ShorterSide(self.view.resize, self.view.interpolation)
        return self.view

    def __call__(self, image: Tensor, numbers: list[float]) -> Tensor:
        """An image transformed by `stored`, and NUMBERS numbers in [0, 1), -> uint8 (3, S, S)."""
        *boxes, y, x, flip = numbers
        if self.crop == "resized":
            top, left, height, width = self.box(image, boxes, y, x)
            image = image[:, top : top + height, left : left + width]
            image = resized(image, (self.size, self.size), self.view.interpolation)
        elif self.crop == "random":
            image = torch.nn.functional.pad(image, (self.padding,) * 4)
            rows, columns = image.shape[1:]
            top, left = int(y * (rows - self.size + 1)), int(x * (columns - self.size + 1))
            image = image[:, top : top + self.size, left : left + self.size]
        return image.flip(2) if flip < self.hflip_prob else image

    def box(
        self, image: Tensor, numbers: list[float], y: float, x: float
    ) -> tuple[int, int, int, int]:
        """Top, left, height and width of a RandomResizedCrop (torchvision's get_params)."""
        rows, columns = image.shape[1:]
        low, high = (math.log(r) for r in self.ratio)
        for share, form in zip(numbers[::2], numbers[1::2], strict=True):
            area = rows * columns * (self.scale[0] + share * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + form * (high - low))
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < width <= columns and 0 < height <= rows:
                return int(y * (rows - height + 1)), int(x * (columns - width + 1)), height, width
        # No try fits into a long image: take the largest center crop with an allowed ratio.
        width = min(columns, max(1, round(rows * self.ratio[1])))
        height = min(rows, max(1, round(columns / self.ratio[0])))
        return (rows - height) // 2, (columns - width) // 2, height, width


def resized(image: Tensor, size: tuple[int, ...], interpolation: str) -> Tensor:
    """Resize with antialiasing: uint8 (3, H, W) -> (3, *size); size (S,) is the shorter side's."""
    rows, columns = image.shape[1:]
    if (rows, columns) == size:
        return image
    # Columns are resized first. Of a tall strip, this would make a huge copy: transpose it.
    if rows * size[-1] > max(MAX_PIXELS, columns * size[0]) and len(size) == 2:
        return resized(image.mT, size[::-1], interpolation).mT
    from torchvision.transforms.v2 import InterpolationMode, functional

    return functional.resize(image, list(size), InterpolationMode(interpolation), antialias=True)
