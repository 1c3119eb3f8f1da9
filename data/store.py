"""Decoded pictures: from the files at every use, or once into a file of raw pixels.

`pictures[i]` is a uint8 tensor (3, H, W), the same from both; a tensor (N, 3, H, W) is a third way
to keep the promise. The file is mapped, not read: processes share it and memory stays free.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from signal import SIGINT
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from data.errors import DataError
from data.images import load_image
from data.processes import shielded_from

VERSION = 1  # of what load_image and views make of a file: a higher one forgets every cache
LIBRARIES = ("pillow", "torch", "torchvision")  # they decode and resize

Form = Callable[[Tensor], Tensor]  # of a decoded picture, uint8 (3, H, W) -> (3, h, w)


class Pictures(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Tensor: ...


@dataclass(frozen=True)
class Streamed:
    """Pictures that are decoded when they are asked for."""

    files: tuple[str, ...]
    form: Form

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return self.form(load_image(self.files[index], self.files[index]))


@dataclass(frozen=True)
class Shaped:
    """Other pictures, in another form."""

    pictures: Pictures
    form: Form

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        return self.form(self.pictures[index])


class Stored:
    """Pictures in a file of raw pixels, one after the other."""

    def __init__(self, path: Path, shapes: Sequence[Sequence[int]]) -> None:
        self.path, self.shapes = path, [tuple(shape) for shape in shapes]  # (H, W) of each
        sizes = [3 * height * width for height, width in self.shapes]
        self.places = np.cumsum([0, *sizes])
        self.pixels: np.memmap | None = None

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Tensor:
        if self.pixels is None:  # opened by whoever reads, so that workers can be given it
            self.pixels = np.memmap(self.path, np.uint8, "c")  # "c": written to, it stays as it is
        here = self.pixels[self.places[index] : self.places[index + 1]]
        return torch.from_numpy(here).view(*self.shapes[index], 3).permute(2, 0, 1)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"pixels": None}


def estimated_bytes(files: Sequence[str], form: Form) -> int:
    """About how much store() would write: `form` of up to 399 of the pictures, decoded."""
    chosen = files[:: max(1, len(files) // 200)]
    sizes = []
    for file in chosen:
        try:
            sizes.append(form(load_image(file, file)).numel())
        except DataError:
            continue
    return round(np.mean(sizes) * len(files)) if sizes else 0


@dataclass(frozen=True)
class Trying:
    """Streamed for workers: an undecodable picture is a DataError that is returned, not raised."""

    pictures: Streamed

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor | DataError:
        try:
            return self.pictures[index]
        except DataError as error:
            return error


def decode_all(pictures: Streamed, workers: int, title: str) -> Iterator[Tensor | DataError]:
    """Every picture, or why it cannot be decoded, in order and with a bar."""
    trying: Any = Trying(pictures)
    loader: Any = map(trying.__getitem__, range(len(pictures)))
    if workers:
        with shielded_from(SIGINT):
            loader = iter(DataLoader(trying, batch_size=None, num_workers=workers))
    return iter(tqdm(loader, title, total=len(pictures), leave=False, delay=1, disable=None))


def versions() -> list[object]:
    """What the pixels depend on besides a file and its form."""
    return [VERSION, *map(version, LIBRARIES)]


def undecodable(
    files: Sequence[str], form: Form, folder: Path, workers: int, title: str
) -> dict[int, DataError]:
    """Look at every picture once before they are streamed; the answer is kept in a file.

    That file's name is a hash of the pictures' names, sizes and dates and of versions(): after a
    change of any of them all are looked at again.
    """
    stats = [Path(file).stat() for file in files]
    state = [[f, s.st_size, s.st_mtime_ns] for f, s in zip(files, stats, strict=True)]
    key = hashlib.sha256(json.dumps([versions(), state]).encode()).hexdigest()[:32]
    stamp = folder / f"{key}.checked.json"
    if not stamp.exists():
        decoded = enumerate(decode_all(Streamed(tuple(files), form), workers, title))
        bad = {place: image.args for place, image in decoded if isinstance(image, DataError)}
        beside = stamp.with_name(f"{stamp.name}.{os.getpid()}.tmp")
        beside.write_text(json.dumps(bad), encoding="utf-8")
        beside.replace(stamp)
    said = json.loads(stamp.read_text(encoding="utf-8"))
    return {int(place): DataError(*args) for place, args in said.items()}


def store(
    files: Sequence[str], form: Form, folder: Path, *, workers: int = 0, title: str = "decoding"
) -> tuple[Stored, dict[int, DataError]]:
    """The decoded pictures, from `folder` or made there, and why some are missing from them.

    The file's name is a hash of every picture's content, of `form` and of versions(): after a
    change of any of them another file is made.
    Written beside and renamed: an interruption leaves nothing that would be taken for the whole.
    Missing are the pictures that cannot be decoded, by their place in `files`.
    """
    path = folder / f"{key_of(files, form)}.pixels"
    said = read_index(path)
    if said is None:
        folder.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            said = write_pixels(beside, decode_all(Streamed(tuple(files), form), workers, title))
            beside.replace(path)
            beside.write_text(json.dumps(said), encoding="utf-8")
            beside.replace(path.with_suffix(".json"))  # last: where it is, the pixels are too
        finally:
            beside.unlink(missing_ok=True)
    # Two pictures of the same content share an entry, so messages name the files as they are now.
    bad = {int(i): DataError(what, files[int(i)], fix) for i, (what, _, fix) in said["bad"].items()}
    return Stored(path, said["shapes"]), bad


def write_pixels(path: Path, pictures: Iterator[Tensor | DataError]) -> dict:
    """Raw pixels, one picture after the other; what the index says of them."""
    shapes: list[tuple[int, int]] = []
    bad: dict[str, tuple] = {}
    crc, writing = 0, None
    # One picture is written while the next is decoded.
    with path.open("wb") as out, ThreadPoolExecutor(1) as thread:

        def write(pixels: np.ndarray, before: int) -> int:
            out.write(pixels.data)
            return zlib.crc32(pixels.data, before)

        for place, image in enumerate(pictures):
            if isinstance(image, DataError):
                bad[str(place)] = image.args
                continue
            pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
            shapes.append((pixels.shape[0], pixels.shape[1]))
            crc = writing.result() if writing else crc
            writing = thread.submit(write, pixels, crc)
        crc = writing.result() if writing else crc
    return {"shapes": shapes, "bad": bad, "crc": crc}


def read_index(path: Path) -> dict | None:
    """What was said of the file when it was written, if the file still is what it was then.

    A checksum in place of fsync, which costs as much as decoding: after a power cut the file may
    be there and hold zeros.
    """
    try:
        said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        crc = 0
        with path.open("rb") as file:
            while chunk := file.read(2**22):
                crc = zlib.crc32(chunk, crc)
        return said if said["crc"] == crc else None
    except (OSError, ValueError, KeyError):
        return None


def key_of(files: Sequence[str], form: Form) -> str:
    whole = hashlib.sha256(f"{versions()} {form!r}".encode())
    for file in files:
        try:
            with open(file, "rb") as content:  # noqa: PTH123  a str, as load_image takes it
                whole.update(hashlib.file_digest(content, "sha256").digest())
        except OSError as error:
            raise DataError(
                f"cannot read a picture: {error.strerror or error}", file, "check the file"
            ) from error
    return whole.hexdigest()[:32]
