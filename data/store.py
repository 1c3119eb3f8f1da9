"""Decodes images once, into a file of raw pixels that later runs map into memory.

Processes share the mapped file, so memory stays free.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from data.decoding import Form, decode_all
from data.errors import DataError

VERSION = 3  # of this file format and of the pixels that load_image and views produce
DECODERS = ("pillow", "torch", "torchvision")  # the libraries that decode and resize


class DecodedOnce:
    """Images of any sizes in one flat uint8 .npy file, each (H, W, 3)."""

    def __init__(self, path: Path, shapes: Sequence[Sequence[int]]) -> None:
        self.path, self.shapes = path, [tuple(shape) for shape in shapes]  # (H, W) of each
        self.places = np.cumsum([0, *(3 * height * width for height, width in self.shapes)])
        self.pixels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Tensor:
        if self.pixels is None:  # opened at first use, so each worker process maps it itself
            self.pixels = np.load(self.path, mmap_mode="c")  # "c": the file is never written to
        pixels = self.pixels[self.places[index] : self.places[index + 1]]
        return torch.from_numpy(pixels).view(*self.shapes[index], 3).permute(2, 0, 1)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"pixels": None}


def store(
    files: Sequence[str], form: Form, folder: Path, *, workers: int = 0, title: str = "decoding"
) -> tuple[DecodedOnce, dict[int, DataError]]:
    """Read the decoded images from `folder`, or decode and store them there first.

    Returns the images that decode, and the errors of the others by index in `files`. The stored
    file is named by a hash of all images' content, of `form` and of versions(), so a change of any
    of these makes a new file.
    """
    path = folder / f"{key_of(files, form)}.npy"
    index = read_index(path)
    if index is None:
        with replacing(path) as file:
            index = write_pixels(file, decode_all(files, form, workers, title))
        write_index(path.with_suffix(".json"), index)  # last: its presence marks complete pixels
    return DecodedOnce(path, index["shapes"]), errors_of(files, index["bad"])


def results_of(
    files: Sequence[str], form: Callable[[Tensor], Any], folder: Path, workers: int, title: str
) -> tuple[list[Any], dict[int, DataError]]:
    """`form` of each image (None if it does not decode), and the errors of such images by index.

    The results (values that JSON has) are stored in a file. A hash names it: of the images' names,
    sizes and dates, of `form`'s name and of versions().
    """
    stats = [Path(file).stat() for file in files]
    state = [[f, s.st_size, s.st_mtime_ns] for f, s in zip(files, stats, strict=True)]
    whole = json.dumps([versions(), form.__name__, state])
    path = folder / f"{hashlib.sha256(whole.encode()).hexdigest()[:32]}.checked.json"
    if not path.exists():
        results = list(decode_all(files, form, workers, title))
        bad = {i: result.args for i, result in enumerate(results) if isinstance(result, DataError)}
        good = [None if i in bad else result for i, result in enumerate(results)]
        write_index(path, {"results": good, "bad": bad})
    index = json.loads(path.read_text(encoding="utf-8"))
    return index["results"], errors_of(files, index["bad"])


def errors_of(files: Sequence[str], bad: Mapping[str, Sequence[str]]) -> dict[int, DataError]:
    """DataErrors by index that name today's files; the stored name may be of an identical file."""
    return {int(i): DataError(what, files[int(i)], fix) for i, (what, _, fix) in bad.items()}


def estimated_bytes(files: Sequence[str], form: Form) -> int:
    """Estimate how many bytes store() would write, from `form` of up to 399 of the images."""
    sample = files[:: max(1, len(files) // 200)]
    sizes = [image.numel() for image in decode_all(sample, form, 0) if isinstance(image, Tensor)]
    return round(np.mean(sizes) * len(files)) if sizes else 0


def versions() -> list[object]:
    """Versions of everything that the pixels depend on, besides a file and its form."""
    return [VERSION, *map(version, DECODERS)]


def key_of(files: Sequence[str], form: Form) -> str:
    """A hash of the files' content, of `form` and of versions(): 32 hex digits."""
    whole = hashlib.sha256(f"{versions()} {form!r}".encode())
    for file in files:
        try:
            with Path(file).open("rb") as content:
                whole.update(hashlib.file_digest(content, "sha256").digest())
        except OSError:  # decoding reports it
            whole.update(b"unreadable")
    return whole.hexdigest()[:32]


def read_index(path: Path) -> dict | None:
    """The index of the pixels at `path`; None unless both files exist and are complete."""
    try:
        index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        size = sum(3 * height * width for height, width in index["shapes"])
        return index if np.load(path, mmap_mode="r").shape == (size,) else None
    except (OSError, ValueError, KeyError):
        return None


def write_pixels(file: IO[bytes], images: Iterator[Tensor | DataError]) -> dict[str, Any]:
    """Write the pixels, image by image, as a flat .npy; return shapes and errors."""
    shapes: list[tuple[int, int]] = []
    bad: dict[int, tuple] = {}
    write_header(file, 0)  # same length for any size, so it can be overwritten below
    size = 0
    for place, image in enumerate(images):
        if isinstance(image, DataError):
            bad[place] = image.args
            continue
        size += file.write(np.ascontiguousarray(image.permute(1, 2, 0)).data)
        shapes.append((image.shape[1], image.shape[2]))
    file.seek(0)
    write_header(file, size)
    return {"shapes": shapes, "bad": bad}


def write_header(file: IO[bytes], size: int) -> None:
    """Write the header of a .npy of uint8 (size,)."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(file, header)


def write_index(path: Path, value: object) -> None:
    """Write a JSON file, whole or not at all."""
    with replacing(path) as file:
        file.write(json.dumps(value).encode())


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears at `path` once complete: whole or absent, even after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
