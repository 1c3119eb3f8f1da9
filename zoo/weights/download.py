"""Weights from a URL: downloaded once by torch.hub, checked at every load.

Files lie where PyTorch keeps them, in TORCH_HOME/hub/checkpoints. The digits in a published name
(resnet50-11ad3fa6.pth) are the first of its SHA-256: torch.hub compares them at the download,
read_weights at every load.
"""

import contextlib
import hashlib
import http.client
import re
import shutil
import socket
import tempfile
import time
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch

from zoo.errors import WeightsError
from zoo.weights.files import Weights, hash_in, read_weights

TIMEOUT = 30.0  # seconds without a byte
PREFIX, ABANDONED = "skipzoo-", 86_400  # of folders that downloads go to; seconds without a change


def fetch(url: str) -> Weights:
    """The weights at `url`: from the cache if they are there, downloaded into it if not."""
    path = place_of(url)
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(path.parent)
            with tempfile.TemporaryDirectory(prefix=PREFIX, dir=path.parent) as folder:
                new = Path(folder, path.name)
                download(url, new, path)
                check_download(
                    url, new
                )  # torch.hub takes a cut file without a hash for a whole one
                new.replace(path)
    except OSError as error:
        why = f"cannot use the folder that keeps downloads: {error.strerror or error}"
        fix = "set TORCH_HOME to another folder, or pass the PATH of a file"
        raise WeightsError(why, path.parent, fix) from error
    try:
        return read_weights(path)
    except WeightsError as error:
        fix = f"{error.args[2]}; or delete this file, and it is downloaded again from {url}"
        raise WeightsError(error.args[0], path, fix) from error


def remove_abandoned(folder: Path) -> None:
    """What processes that were killed left of their downloads."""
    for old in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another process may be removing it
            if time.time() - old.stat().st_mtime > ABANDONED:
                shutil.rmtree(old)


def check_download(url: str, new: Path) -> None:
    """WeightsError if what came is no file of weights."""
    try:
        read_weights(new)
    except WeightsError as error:
        raise WeightsError(error.args[0], url, error.args[2]) from error


def place_of(url: str) -> Path:
    """Where `url` is kept: under its file's name, with the URL's hash if the name has none."""
    try:
        parts = urlsplit(url)
        name = re.sub(r"[^\w.+-]", "_", PurePosixPath(parts.path).name).lstrip(".")
        usable = bool(parts.hostname) and 0 < len(name) <= 200
    except ValueError:
        usable = False
    if not (usable and url.isascii() and url.isprintable()):
        fix = "give one like https://host/file.pth, with other letters as %XX"
        raise WeightsError("this is not the URL of a file", url, fix)
    if not hash_in(name):  # many files are called model.safetensors
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}_{name}"
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def download(url: str, new: Path, path: Path) -> None:
    """torch.hub's download into `new`, for `path`; it has no timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        torch.hub.download_url_to_file(url, str(new), hash_in(path.name) or None)
    except (OSError, ValueError, RuntimeError, http.client.HTTPException) as error:
        why = f"cannot download {path.name}: {error or type(error).__name__}"
        fix = f"try again, or put {path.name} into {path.parent}, or pass its PATH"
        if digits := hash_in(path.name):
            fix += f"; if {digits} is no hash, its PATH under another name"
        raise WeightsError(why, url, fix) from error
    finally:
        socket.setdefaulttimeout(before)
