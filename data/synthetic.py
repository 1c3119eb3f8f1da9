"""Ten classes of objects drawn by code, so that nothing has to be downloaded.

Settings call this dataset "synthetic".
Eight classes are shapes, two are textures on a shapeless blob. Colour, position, size, rotation and
background are independent of the class; an object may be lighter or darker than its background. So
a linear classifier on pixels, or one on colour histograms, learns very little, and a network has to
learn edges, corners and their arrangement.

Image `index` of dataset `seed` is a pure function of the two numbers.
Dimension key: H W height and width of the image, N images.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from data.dataset import Dataset

SIZE = 32
CLASSES = (
    "disc", "ring", "square", "triangle", "star", "cross", "crescent", "bow", "stripes", "checks",
)  # fmt: skip
FIRST_TEST_INDEX = 1_000_000  # training images count up from 0, test images from here

Map = NDArray[np.float64]  # (H, W), or (3, H, W) with colours
# The centre of every pixel; the image extends from -1 to 1.
Y, X = np.mgrid[0:SIZE, 0:SIZE] * (2 / SIZE) + (1 / SIZE - 1)


def wedge(u: Map, v: Map, parts: int) -> tuple[Map, Map]:
    """Fold the plane into one of `parts` equal wedges, mirrored about its axis."""
    angle, radius = np.arctan2(v, u), np.hypot(u, v)
    angle = np.abs((angle + np.pi / parts) % (2 * np.pi / parts) - np.pi / parts)
    return radius * np.cos(angle), radius * np.sin(angle)


def star(u: Map, v: Map) -> Map:
    """Distance to the outline of a star with five points."""
    a, b = wedge(u, v, 5)
    tip, notch = np.array([1.0, 0.0]), 0.42 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    edge = notch - tip
    return ((a - tip[0]) * edge[1] - (b - tip[1]) * edge[0]) / np.hypot(*edge)


def blob(u: Map, v: Map) -> Map:
    """Distance to the outline of a rounded shape, which carries a texture."""
    angle = np.arctan2(v, u)
    return np.hypot(u, v) - 0.85 - 0.1 * np.cos(2 * angle) - 0.06 * np.cos(3 * angle + 1)


# Approximate signed distances to the outline: negative inside the object, positive outside.
OUTLINES = {
    "disc": lambda u, v: np.hypot(u, v) - 0.8,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.7) - 0.2,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - 0.72,
    "triangle": lambda u, v: wedge(u, v, 3)[0] - 0.5,  # equilateral
    "star": star,
    "cross": lambda u, v: np.minimum(
        np.maximum(np.abs(u) - 0.9, np.abs(v) - 0.28), np.maximum(np.abs(u) - 0.28, np.abs(v) - 0.9)
    ),
    "crescent": lambda u, v: np.maximum(np.hypot(u, v) - 0.9, 0.72 - np.hypot(u - 0.5, v)),
    "bow": lambda u, v: np.maximum(np.abs(u) - 0.85, (np.abs(v) - np.abs(u)) * 0.75),
    "stripes": blob,
    "checks": blob,
}


def paint(image: Map, colour: Map, amount: Map) -> None:
    """Blend `colour`, (3, 1, 1) or (3, H, W), into the image (3, H, W), in place; amount 0 to 1."""
    image += amount * (colour - image)


def waves(rng: np.random.Generator, strength: float) -> Map:
    """Smooth light and shade (H, W): the mean of three slow waves, times `strength`."""
    fx, fy, phase = rng.uniform(-4, 4, 3), rng.uniform(-4, 4, 3), rng.uniform(0, 2 * np.pi, 3)
    shade = sum(np.sin(a * X + b * Y + c) for a, b, c in zip(fx, fy, phase, strict=True))
    return strength * shade / 3


def two_colours(rng: np.random.Generator) -> tuple[Map, Map]:
    """Two colours (3, 1, 1) that differ clearly in brightness; which one is brighter is random."""
    first, second = rng.uniform(0, 1, (2, 3, 1, 1))
    while abs(first.mean() - second.mean()) < 0.4:
        second = rng.uniform(0, 1, (3, 1, 1))
    return first, second


def synthetic_image(seed: int, index: int) -> tuple[NDArray[np.uint8], int]:
    """Image `index` of dataset `seed`, uint8 (3, 32, 32), and its label."""
    rng = np.random.default_rng((seed, index))
    label = index % len(CLASSES)
    kind = CLASSES[label]
    behind, front = two_colours(rng)

    image = behind + waves(rng, 0.1)  # (3, H, W)
    x, y, angle = *rng.uniform(-0.1, 0.1, 2), rng.uniform(0, 2 * np.pi)
    radius = rng.uniform(0.75, 0.9)
    u = ((X - x) * np.cos(angle) + (Y - y) * np.sin(angle)) / radius
    v = ((Y - y) * np.cos(angle) - (X - x) * np.sin(angle)) / radius
    distance = OUTLINES[kind](u, v) * radius
    inside = np.clip(0.5 - distance * (SIZE / 2), 0, 1)  # the share of each pixel that is inside
    if kind in ("stripes", "checks"):
        rate, phase = rng.uniform(2.6, 3.4) / radius, rng.uniform(0, 2 * np.pi, 2)
        pattern = np.sin(rate * u * radius * np.pi + phase[0])
        if kind == "checks":
            pattern = pattern * np.sin(rate * v * radius * np.pi + phase[1])
        # Half of the pattern has the background's colour, so that the outline does not stand out.
        paint(image, behind, inside)
        paint(image, front, inside * np.clip(0.5 + 3 * pattern, 0, 1))
    else:
        paint(image, front + waves(rng, 0.1), inside)
    image += rng.normal(0, 0.02, image.shape)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), label


def synthetic(train: int, test: int, seed: int = 0) -> Dataset:
    """Draw `train` + `test` images at 32x32 with balanced classes; about 1 ms per image."""
    parts = []
    for first, count in ((0, train), (FIRST_TEST_INDEX, test)):
        drawn = [synthetic_image(seed, index) for index in range(first, first + count)]
        parts.append(torch.from_numpy(np.stack([image for image, _ in drawn])))
        parts.append(torch.tensor([label for _, label in drawn]))
    return Dataset("synthetic images", CLASSES, *parts)
