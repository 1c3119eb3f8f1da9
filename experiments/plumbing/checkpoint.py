"""Checkpoints that are either whole or not there, and that notice damage."""

import hashlib
import io
from pathlib import Path

import torch

from data.errors import Problem
from zoo.weights.atomic import write_atomic

MAGIC = b"skipzoo checkpoint, sha256 "


class CheckpointError(Problem):
    """A checkpoint that is damaged, or belongs to another run."""


def save_checkpoint(path: Path, content: dict) -> None:
    """torch.save behind one line with its SHA-256: torch itself misses most flipped bits."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    body = buffer.getvalue()
    write_atomic(path, MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def load_checkpoint(path: Path) -> dict:
    """What save_checkpoint wrote, on the CPU; CheckpointError if a single bit is different."""
    head, _, body = path.read_bytes().partition(b"\n")
    if body and not head.startswith(MAGIC):
        raise CheckpointError(
            "the checkpoint is damaged at its start, or of another version or command",
            path,
            "choose another --output-dir; or delete this file, and the run starts again",
        )
    if head != MAGIC + hashlib.sha256(body).hexdigest().encode():
        raise CheckpointError(
            "the checkpoint is damaged: its SHA-256 does not fit its content",
            path,
            "delete this file, and the run starts again from its beginning",
        )
    return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
