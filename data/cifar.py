"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images, 32x32, ten classes."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

from data.dataset import Dataset, read_folder
from data.errors import DataError
from data.folders import find
from data.listing import listing_of

FOLDER = "cifar-10-batches-py"  # the folder in torchvision's archive
CIFAR_CACHE = Path("cache/cifar10")
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
COUNTS = {"train": 5000, "test": 1000}  # images of each class


def cifar10(data_dir: Path | None = None, most: int | None = None) -> Dataset:
    """CIFAR-10 from `data_dir` (ImageFolder layout, zips of it, or torchvision's own files).

    Without `data_dir`, torchvision downloads 170 MB into cache/cifar10, checks the MD5, and reuses
    the files the next time. Raises DataError unless the classes have 5,000 and 1,000 images each.
    `most`: at most so many training and so many test images, with classes balanced.
    """
    if data_dir is None or (data_dir / FOLDER).is_dir():
        whole = read_batches(data_dir or CIFAR_CACHE, download=data_dir is None)
        return whole.limited(most, most) if most else whole
    if not is_cifar10(data_dir):
        numbers = " and ".join(f"{n:,} {split}" for split, n in COUNTS.items())
        what = f"this is not CIFAR-10, which has {numbers} images of airplane, automobile ..."
        fix = "if it should be, unzip or download it again; if not, choose the preset quick"
        raise DataError(what, data_dir.absolute(), fix)
    # CIFAR-10 has no identical images; a search would take a sixth of the time of reading.
    return replace(read_folder(data_dir, 32, keep_duplicates=True, most=most), name="CIFAR-10")


def read_batches(root: Path, download: bool) -> Dataset:
    """Read torchvision's copy of the dataset (Python version) in `root`; DataError if it fails."""
    from torchvision.datasets import CIFAR10  # slow to import, so only here

    try:
        train, test = (CIFAR10(str(root), train=t, download=download) for t in (True, False))
    except (RuntimeError, EOFError, OSError) as error:  # OSError: the network too
        raise DataError(
            f"cannot {'download' if download else 'read'} CIFAR-10: {error}",
            f"{root.absolute()}, for {CIFAR10.url}",
            f"put {CIFAR10.filename} there, or give the folder that has it (in an ablation: "
            f"--data-dir FOLDER); if it is there, unpack it again in place of {FOLDER}",
        ) from error
    tensors = []
    for part in (train, test):
        tensors += [
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(part.targets),
        ]
    return Dataset("CIFAR-10", tuple(train.classes), *tensors)


def is_cifar10(data_dir: Path) -> bool:
    """True if the folder holds CIFAR-10: torchvision's files, or COUNTS images of its CLASSES.

    Raises DataError if the folder has no layout that can be read.
    """
    if (data_dir / FOLDER).is_dir():
        return True
    wanted = {(split, label): n for split, n in COUNTS.items() for label in CLASSES}
    return Counter(find(listing_of(data_dir)).values()) == wanted
