"""Files that are either whole or not there: atomic writes, and checkpoints that notice damage."""

import hashlib
import io
import os
from pathlib import Path

import torch

from data.errors import Problem

MAGIC = b"skipzoo checkpoint, sha256 "


class CheckpointError(Problem):
    """A checkpoint or weights file that cannot be trusted."""


def write_atomic(path: Path, content: bytes) -> None:
    """Write beside, flush to the disk, rename: a crash leaves the old file or the new one.

    Renaming over a half-written file is what destroys results on a full disk.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system allows it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open a folder
        return
    try:
        os.fsync(handle)
    except OSError:  # some mounted drives refuse; the rename itself is still atomic
        pass
    finally:
        os.close(handle)


def save_checkpoint(path: Path, content: dict) -> None:
    """torch.save behind one line with its SHA-256: torch itself misses most flipped bits."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    body = buffer.getvalue()
    write_atomic(path, MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def load_checkpoint(path: Path) -> dict:
    """What save_checkpoint wrote, on the CPU; CheckpointError if a single bit is different."""
    head, _, body = path.read_bytes().partition(b"\n")
    if head != MAGIC + hashlib.sha256(body).hexdigest().encode():
        raise CheckpointError(
            "the checkpoint is damaged: its SHA-256 does not fit its content",
            path,
            "delete this file, and the run starts again from its beginning",
        )
    return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
