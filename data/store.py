"""Decodes each image once, into a file of raw pixels that later runs map into memory.

Processes that map a file share one copy in memory. A file has the pixels, uint8 (H, W, 3), then H,
W and the sum of all that. The sum detects damage: a power cut can leave zeros in a file.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.decoding import DecodedOnUse, Form, decode_all
from data.errors import DataError

VERSION = 8  # of these files and of the pixels that load_image and views produce
DECODERS = ("pillow", "torch", "torchvision")  # the libraries that decode and resize
END = np.dtype([("sides", "<u4", 2), ("sum", "<u8")])  # after the pixels


class DecodedOnce:
    """Images that are decoded at their first use, each into a file."""

    def __init__(self, files: Sequence[str], form: Form, folder: Path) -> None:
        self.images = DecodedOnUse(files, form)
        self.paths = [folder / f"{key}.pixels" for key in keys_of(files, form)]
        self.checked: set[int] = set()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        path = self.paths[index]
        try:
            with path.open("rb") as file:  # ACCESS_COPY: whoever writes to it has a copy
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            length = len(content) - END.itemsize
            sides, stored_sum = np.frombuffer(content, END, offset=max(0, length))[0]
            pixels = np.frombuffer(content, np.uint8, length).reshape(*sides, 3)
            if index not in self.checked and sum_of(pixels) != stored_sum:
                raise ValueError("damaged")
        except (OSError, ValueError):  # not there yet, or damaged
            pixels = np.ascontiguousarray(self.images[index].permute(1, 2, 0))
            end = np.array((pixels.shape[:2], sum_of(pixels)), END)
            with replacing(path) as file:
                file.write(pixels.data)
                file.write(end.tobytes())
        self.checked.add(index)
        return torch.from_numpy(pixels).permute(2, 0, 1)


def sum_of(pixels: NDArray[np.uint8]) -> int:
    """The sum of pixels (H, W, 3), eight bytes at a time, of what is left, and of H and W.

    A CRC detects more, but takes ten times as long: a fifth of the time of decoding.
    """
    values, sides = pixels.reshape(-1), np.array(pixels.shape[:2], "<u4")
    whole = len(values) // 8 * 8
    parts = values[:whole].view("<u8"), values[whole:], sides.view("<u8")
    # From 1: a file of zeros only is damaged, too.
    return sum((int(part.sum()) for part in parts), 1) % 2**64


def results_of(
    files: Sequence[str], form: Callable[[Tensor], Any], folder: Path, workers: int, title: str
) -> list[Any]:
    """`form` of each image, or the DataError that says why it cannot be decoded.

    The results (values that JSON has) are stored in a file.
    """
    whole = "".join(keys_of(files, form.__name__))
    path = folder / f"{hashlib.sha256(whole.encode()).hexdigest()[:32]}.results.json"
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text, object_hook=lambda stored: DataError(*stored["error"]))
    except (OSError, ValueError):  # not there yet, or damaged
        results = list(decode_all(DecodedOnUse(files, form), workers, title))
    with replacing(path) as file:
        file.write(json.dumps(results, default=lambda error: {"error": error.args}).encode())
    return results


def errors_in(results: Sequence[Any]) -> dict[int, DataError]:
    """The errors among the results of decode_all, by index."""
    return {i: result for i, result in enumerate(results) if isinstance(result, DataError)}


def estimated_bytes(files: Sequence[str], form: Form) -> int:
    """Estimate how many bytes DecodedOnce would write, from up to 399 of the images."""
    sample = DecodedOnUse(files[:: max(1, len(files) // 200)], form)
    sizes = [image.numel() for image in decode_all(sample, 0) if isinstance(image, Tensor)]
    return round(np.mean(sizes) * len(files)) if sizes else 0


def keys_of(files: Sequence[str], form: object) -> list[str]:
    """For each file a hash of its name, size and date, of `form` and of all versions."""
    made_by = f"{VERSION} {[*map(version, DECODERS)]} {form}"
    keys = []
    for file in files:
        stat = Path(file).stat()
        key = f"{made_by} {file!r} {stat.st_size} {stat.st_mtime_ns}"
        keys.append(hashlib.sha256(key.encode()).hexdigest()[:32])
    return keys


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears at `path` once it is complete."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
