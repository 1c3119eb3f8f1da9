"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test pictures, 32x32, ten classes."""

import urllib.error
from dataclasses import replace
from pathlib import Path

import torch

from data.dataset import Dataset
from data.errors import DataError
from data.folder import check_counts, find_pictures, read_folder, readable

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
FOLDER = "cifar-10-batches-py"  # torchvision's name for what its archive unpacks to
COUNTS = (50_000, 10_000)
CACHE = Path("cache/cifar10")


def cifar10(data_dir: Path | None = None) -> Dataset:
    """From `data_dir` (ImageFolder form, zips of it, or torchvision's own files), or downloaded.

    Without `data_dir`, torchvision downloads 170 MB into cache/cifar10, checks its MD5, and finds
    it there the next time.
    """
    if data_dir is None or (data_dir / FOLDER).is_dir():
        dataset = read_batches(data_dir or CACHE, download=data_dir is None)
    else:
        dataset = replace(read_folder(data_dir, 32), name="CIFAR-10")
    check_counts(dataset, *COUNTS, (data_dir or CACHE).absolute())
    return dataset


def read_batches(root: Path, download: bool) -> Dataset:
    """The Python version of the data set, as torchvision keeps it in `root`."""
    from torchvision.datasets import CIFAR10  # slow to import, so only where it is needed

    try:
        train, test = (CIFAR10(str(root), train=t, download=download) for t in (True, False))
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DataError(
            f"cannot download CIFAR-10: {getattr(error, 'reason', error)}",
            CIFAR10.url,
            f"connect, or put {CIFAR10.filename} into {root.absolute()}, or name the folder that "
            "has it, in an ablation with --data-dir FOLDER",
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # of the disk, not of the files
            raise
        raise DataError(
            f"CIFAR-10's files are incomplete or damaged: {str(error).splitlines()[0]}",
            str(root.absolute()),
            f"move {FOLDER} elsewhere and give the same command again" if download
            else f"unpack {CIFAR10.filename} there again",
        ) from error  # fmt: skip
    tensors = []
    for part in (train, test):
        tensors += [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
                    torch.tensor(part.targets)]  # fmt: skip
    return Dataset("CIFAR-10", tuple(train.classes), *tensors)


def is_cifar10(data_dir: Path) -> bool:
    """Whether the folder holds CIFAR-10, in either form, going by the names in it."""
    if (readable(data_dir) / FOLDER).is_dir():
        return True
    return sorted(find_pictures(data_dir).get("train", {})) == list(CLASSES)
