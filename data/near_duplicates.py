"""Finds nearly identical images in different splits, by the perceptual hashes of imagehash.

An image that was encoded again or resized has other bytes, but nearly the same hash. The package
imagehash is optional.
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import numpy as np
from PIL import Image
from torch import Tensor

from data.decoding import size_of
from data.listing import SPLIT_ORDER, some
from data.progress import Progress

# In all 78,606 pairs of different photos (hymenoptera_data), at least 14 bits differ. Between each
# of the 397 photos and its JPEG of half the size and quality 30, at most 4; 15 % brighter, 6.
MOST_BITS = 6
MISSING = (
    "near-duplicates in different splits were not looked for, only identical files; "
    "to find them: pip install imagehash 'numpy>=2'"
)

# The indices of two images, that of the earlier split first, and how many bits differ.
Pair = tuple[int, int, int]


@cache
def installed() -> bool:
    """True if imagehash is installed, and a NumPy that counts bits."""
    return find_spec("imagehash") is not None and hasattr(np, "bitwise_count")


def fingerprint(image: Tensor) -> int:
    """The perceptual hash of an image, uint8 (3, H, W): 64 bits of its low frequencies."""
    from imagehash import phash  # optional

    bits = phash(Image.fromarray(image.permute(1, 2, 0).numpy())).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def look(image: Tensor) -> tuple[tuple[int, int], int | None]:
    """Height and width of an image, and its fingerprint, None without imagehash."""
    return size_of(image), fingerprint(image) if installed() else None


def near_pairs(fingerprints: Sequence[object], splits: Sequence[str]) -> list[Pair]:
    """For each image, the most similar one in a later split of train, val, test, if they are near.

    `fingerprints` and `splits` are of all images; a fingerprint that is no integer is unknown.
    """
    known = [i for i, bits in enumerate(fingerprints) if isinstance(bits, int)]
    hashes = np.array([fingerprints[i] for i in known], np.uint64)
    ranks = np.array([SPLIT_ORDER.index(splits[i]) for i in known], int)
    pairs = []
    for place in Progress(range(len(known)), "comparing images", delay=2):
        bits = np.bitwise_count(hashes ^ hashes[place])
        bits[ranks <= ranks[place]] = 64  # not in a later split
        nearest = bits.argmin()
        if bits[nearest] <= MOST_BITS:
            pairs.append((known[place], known[nearest], int(bits[nearest])))
    return pairs


def note_of(pairs: Sequence[Pair], names: Sequence[str], what: str) -> str:
    """A note on pairs of images: `what` was done with them, their number and names."""
    named = some(f"{names[one]} (as {names[other]})" for one, other, _ in pairs)
    return f"{what}, nearly the same as an image of a later split ({len(pairs):,}): {named}"
