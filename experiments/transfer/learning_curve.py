"""What twice as many images would add to a linear probe: its accuracy with fewer, and a power law.

Dimension key: S sizes of samples, D draws of each, N tested images, B bootstrap samples.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.plumbing.stats import Interval

DRAWS = 10  # samples of each size
LEAST = 4  # images per class in the smallest samples, on average
MOST = 5_000  # training images; beyond, there is no learning curve
FEWEST, LARGEST = 5, 7  # sizes: a fit to the smaller half needs three
TESTED = 30  # tested images; with fewer, nothing is said
WIDEST = 10  # points: a wider interval of the gain tells nothing
Floats = NDArray[np.float64]


def sizes_of(images: int, classes: int) -> list[int]:
    """The sizes of the learning curve: all images, a half, a quarter ... of them; [] if too few."""
    sizes = [images // 2**i for i in range(LARGEST) if images // 2**i >= LEAST * classes]
    return sizes[::-1] if images <= MOST and len(sizes) >= FEWEST else []


def stratified_keys(labels: NDArray[np.int64], draw: int) -> Floats:
    """Sort images by these: the first n are a random sample of n, with all classes in proportion.

    So each sample of a draw contains its smaller ones.
    """
    rng = np.random.default_rng(draw)
    order, keys = rng.permutation(len(labels)), np.empty(len(labels))
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        keys[mine] = (np.arange(len(mine)) + rng.random()) / len(mine)
    return keys


def bits(text: str) -> Floats:
    """The digits of "0110..." as numbers."""
    return np.frombuffer(text.encode(), np.uint8).astype(float) - ord("0")


class Law(NamedTuple):
    """error = a * images^-b, fitted to a learning curve. Errors are shares, 0 to 1."""

    sizes: Floats
    errors: Floats  # (S,): mean over draws and images
    spread: Floats  # (2, S): ends of their intervals
    predicted: Floats  # (S,): by the law, fitted to the smaller half of the sizes
    misses: list[int]  # the larger sizes whose errors it does not predict
    gain: Interval  # in accuracy with twice the images, in points


def law_of(curve: Mapping[Any, Sequence[str]], samples: int = 1_000) -> Law:
    """Fit the law to the smaller half of the sizes, test it on the others, and go on to twice all.

    Bootstrap: draws and tested images are resampled, the same in every size. (With all images there
    is one draw: only tested images are resampled.) The law misses a size if the interval of
    log(error / prediction) excludes 0. For the gain, error = c + a * images^-b is fitted to all
    sizes: c are errors that stay, however many images there are. The interval of the gain is meant
    to have 95 %; in simulations (see the tests) it contains the truth in 77 to 100 % of cases.
    """
    rng, sizes = np.random.default_rng(0), np.array([float(size) for size in curve])
    images = len(next(iter(curve.values()))[0])
    some = rng.multinomial(images, np.full(images, 1 / images), samples) / images  # (B, N)
    draws = rng.multinomial(DRAWS, np.full(DRAWS, 1 / DRAWS), samples) / DRAWS  # (B, D)
    errors, resampled = [], []
    for texts in curve.values():
        wrong = 1 - np.array([bits(text) for text in texts])  # (D, N), or (1, N) for all images
        errors.append(wrong.mean())
        weights = draws if len(texts) == DRAWS else np.ones((samples, 1))
        resampled.append(((wrong @ some.T) * weights.T).sum(0))  # (B,)
    both = np.column_stack([errors, np.array(resampled)])  # (S, 1 + B): as found, resampled
    both = both.clip(0.5 / images)  # logarithms follow
    half, x = (len(sizes) + 1) // 2, np.log(sizes)
    slope, start = np.polyfit(x[:half], np.log(both[:half]), 1)
    off = np.log(both) - (start + np.outer(x, slope))
    low, high = np.quantile(off[half:, 1:], (0.025, 0.975), axis=1)
    misses = [int(size) for size, is_off in zip(sizes[half:], (low > 0) | (high < 0), strict=True)
              if is_off]  # fmt: skip
    gains = 100 * gain_of_twice(sizes, both)
    low, high = np.quantile(gains[1:], (0.025, 0.975)).tolist()
    return Law(
        sizes, np.array(errors), np.quantile(both[:, 1:], (0.025, 0.975), axis=1),
        np.exp(start[0] + slope[0] * x), misses,
        Interval(float(gains[0]), low, high, images, "images"),
    )  # fmt: skip


def gain_of_twice(sizes: Floats, errors: Floats) -> Floats:
    """The fall of the error with twice the images: (B,), from errors (S, B).

    By error = c + a * images^-b; of 20 shares of the lowest error, c is the one that fits best.
    """
    x, best, gain = np.log(sizes), np.full(errors.shape[1], np.inf), np.zeros(errors.shape[1])
    for share in np.linspace(0, 0.95, 20):
        constant = share * errors.min(0)
        slope, start = np.polyfit(x, np.log(errors - constant), 1)
        fitted = constant + np.exp(start + np.outer(x, slope))  # (S, B)
        misfit = ((errors - fitted) ** 2).sum(0)
        fall = np.exp(start + slope * x[-1]) * (1 - 2**slope)
        gain, best = np.where(misfit < best, fall, gain), np.minimum(best, misfit)
    return gain


def more_images(found: Mapping[str, Any]) -> str:
    """A sentence on what twice as many training images would add, or that nothing can be said."""
    if not found["curve"]:
        if found["images"] > MOST:
            return f"not computed for more than {MOST:,} images"
        need = LEAST * 2 ** (FEWEST - 1)
        return f"too few images for a curve: it needs {need} per class, on average"
    law = law_of(found["curve"])
    if law.gain.n < TESTED or not law.errors.all():
        all_right = ", all right" * (not law.errors.all())
        return f"cannot tell with {law.gain.n} tested images{all_right}"
    half, last = (len(law.sizes) + 1) // 2, int(law.sizes[-1])
    gain = f"{law.gain.value:+.1f} points ({law.gain.low:+.1f} to {law.gain.high:+.1f})"
    fitted = f"a power law fitted to {law.sizes[0]:.0f} to {law.sizes[half - 1]:.0f} images"
    if law.misses:
        place = list(law.sizes).index(law.misses[-1])
        guess, truth = (f"{100 * (1 - e[place]):.1f} %" for e in (law.predicted, law.errors))
        return f"cannot tell; {fitted} predicts {guess} for {law.misses[-1]}; measured: {truth}"
    if law.gain.low <= 0 or law.gain.high - law.gain.low > WIDEST:
        return f"cannot tell; {2 * last:,} instead of {last:,} images: {gain}"
    return (
        f"with {2 * last:,} instead of {last:,} images, expect {gain}, if the curve goes on as it "
        f"does; {fitted} does not disagree with the larger samples"
    )
