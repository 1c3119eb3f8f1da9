"""Writes files atomically: either whole or not at all."""

import os
from pathlib import Path


def write_atomic(path: Path, content: bytes) -> None:
    """Write a temporary file, flush it to disk, rename it: a crash leaves the old or the new file.

    Writing in place would destroy the old file when the disk is full.
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
