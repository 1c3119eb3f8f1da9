"""Pictures from a folder or from zips, one directory a class: `train/<class>/*.png` and `test/`.

The layout of torchvision's ImageFolder: `train/` beside `val/` or `test/` (test/ is used if both
are there). In a folder without these, the zips in it are read as if unpacked together; so is a zip
that is named itself.
Classes are sorted by name, and so are the files of a class.
"""

import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from multiprocessing import parent_process
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from data.dataset import Dataset
from data.errors import DataError
from data.images import fit_square, load_image

# torchvision.datasets.folder's list; importing it takes seconds, in every worker (a test compares).
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SPLITS = ("train", "val", "test")
Names = dict[str, dict[str, list[tuple[str, Path | zipfile.ZipFile]]]]  # split -> class -> files


def read_folder(root: Path, size: int) -> Dataset:
    """The pictures of train/ and of test/ (or val/), decoded and fitted to (3, size, size)."""
    found = find_pictures(root)
    test = "test" if "test" in found else "val"
    if "train" not in found or test not in found:
        raise DataError(
            "the data has no " + ("train" if "train" not in found else "test or val") + " pictures",
            f"{root} (looked for train/<class>/*.png, .jpg ... and the same below test/ or val/)",
            "unzip everything again, or point --data-dir at the folder that holds train/",
        )
    classes = sorted(found["train"])
    if sorted(found[test]) != classes:
        odd = sorted(set(found[test]) ^ set(classes))
        raise DataError(
            f"train and {test} do not have the same classes: {', '.join(odd)} is on one side only",
            str(root),
            "unzip everything again, or add the missing class",
        )
    return Dataset(root.stem, tuple(classes), *read_split(found, "train", classes, size),
                   *read_split(found, test, classes, size))  # fmt: skip


def find_pictures(root: Path) -> Names:
    found: Names = {}
    for parts, home in walk(root):
        if len(parts) < 3 or parts[-3] not in SPLITS or any(p.startswith(".") for p in parts[-3:]):
            continue
        if not parts[-1].lower().endswith(EXTENSIONS):
            continue
        files = found.setdefault(parts[-3], {}).setdefault(parts[-2], [])
        files.append(("/".join(parts), home))
    for classes in found.values():
        for files in classes.values():
            files.sort(key=lambda file: file[0])
    return found


def walk(root: Path) -> Iterator[tuple[tuple[str, ...], Path | zipfile.ZipFile]]:
    """The path of every file below `root`, in parts, with the folder or open zip that holds it."""
    if not root.exists():
        raise DataError(
            "there is no such data folder",
            str(root.absolute()),
            "check --data-dir; without it the data is downloaded or drawn by code",
        )
    readable(root)
    folders = [root / split for split in SPLITS if (root / split).is_dir()]
    # Zips beside what they were unpacked to would count every picture twice.
    zips = [root] if root.is_file() else [] if folders else sorted(root.glob("*.zip"))
    for folder in folders:
        for place in readable(folder).iterdir():
            if place.is_dir() and not place.name.startswith("."):
                for file in readable(place).iterdir():
                    yield file.relative_to(root).parts, root
    for path in zips:
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(
                f"cannot read a zip: {getattr(error, 'strerror', None) or error}",
                str(path),
                "name a folder or a zip that you may read; if this was one, copy it again",
            ) from error
        for name in archive.namelist():
            yield tuple(name.split("/")), archive


def readable(folder: Path) -> Path:
    """`folder`; DataError if it cannot be listed: its files would be left out without a word."""
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        raise DataError(
            "cannot read a folder: Permission denied",
            str(folder),
            "make it readable (its owner: chmod -R u+rX), or move it elsewhere",
        )
    return folder


def read_split(found: Names, split: str, classes: list[str], size: int) -> tuple[Tensor, Tensor]:
    files = [(label, *file) for label, name in enumerate(classes) for file in found[split][name]]
    images = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    # No bar in a worker process, where it would write over the campaign's, nor in a log file.
    silent = True if parent_process() else None
    bar = tqdm(files, f"reading {split}", leave=False, delay=2, disable=silent)
    for i, (_, name, home) in enumerate(bar):
        if isinstance(home, Path):
            image = load_image(str(home / name), str(home / name))
        else:
            image = read_zipped(home, name)
        images[i] = fit_square(image, size)
    return images, torch.tensor([label for label, *_ in files])


def read_zipped(archive: zipfile.ZipFile, name: str) -> Tensor:
    where = f"{archive.filename}: {name}"
    try:
        with archive.open(name) as file:
            return load_image(file, where)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise DataError(
            f"the zip is damaged: {error}", where, "copy or download it again"
        ) from error


def check_counts(dataset: Dataset, train: int, test: int, where: object) -> None:
    """DataError unless the data set has exactly so many pictures, as many of every class."""
    for name, labels, expected in (
        ("train", dataset.train_labels, train),
        ("test", dataset.test_labels, test),
    ):
        counts = Counter(labels.tolist())
        share = expected // len(dataset.classes)
        if len(labels) != expected or set(counts.values()) != {share}:
            short = min(range(len(dataset.classes)), key=lambda label: counts[label])
            raise DataError(
                f"{name} has {len(labels):,} pictures where {expected:,} belong "
                f"({dataset.classes[short]}: {counts[short]:,} of {share:,})",
                str(where),
                "if it is CIFAR-10, unzip or download all of it again; if not, choose quick",
            )
