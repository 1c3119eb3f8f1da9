"""Weights from a URL: downloaded once by torch.hub, checked at every load.

Files are stored in PyTorch's own cache, TORCH_HOME/hub/checkpoints. A published file name contains
the first digits of the file's SHA-256 (resnet50-11ad3fa6.pth): torch.hub compares them after the
download, read_weights at every load.
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
TEMPORARY = "skipzoo-"  # of temporary folders for downloads
HUB_PAGE = r"https?://(?:huggingface|hf)\.co/([\w.-]+/[\w.-]+)(?:/tree/.*)?/?"
ABANDONED = 86_400  # seconds without a change, after which such a folder is removed


def fetch(url: str, choice: str | None = None) -> Weights:
    """The weights at `url`, downloaded into the cache if they are not there yet.

    `choice`: the name of the state dict to take, if there are several.
    """
    if page := re.fullmatch(HUB_PAGE, url):
        why, fix = "this is the page of a model, not a file", f"did you mean hf:{page[1]}?"
        raise WeightsError(why, url, fix)
    path = place_of(url)
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(path.parent)
            with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=path.parent) as folder:
                new = Path(folder, path.name)
                download(url, new, path)
                # Without a hash, torch.hub accepts a truncated file.
                check_download(url, new, choice)
                new.replace(path)
    except OSError as error:
        why = f"cannot use the download folder: {error.strerror or error}"
        fix = "set TORCH_HOME to another folder, or pass the PATH of a file"
        raise WeightsError(why, path.parent, fix) from error
    try:
        return read_weights(path, choice)
    except WeightsError as error:
        fix = f"{error.args[2]}; or delete this file to download it again from {url}"
        raise WeightsError(error.args[0], path, fix) from error


def remove_abandoned(folder: Path) -> None:
    """Remove unfinished downloads of processes that were killed."""
    for old in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):  # another process may be removing it
            if time.time() - old.stat().st_mtime > ABANDONED:
                shutil.rmtree(old)


def check_download(url: str, new: Path, choice: str | None) -> None:
    """Raise WeightsError if the downloaded file does not contain weights."""
    try:
        read_weights(new, choice)
    except WeightsError as error:
        raise WeightsError(error.args[0], url, error.args[2]) from error


def place_of(url: str) -> Path:
    """The cached file of `url`: its file name, preceded by a hash of the URL if it has no hash."""
    try:
        parts = urlsplit(url)
        name = re.sub(r"[^\w.+-]", "_", PurePosixPath(parts.path).name).lstrip(".")
        usable = bool(parts.hostname) and 0 < len(name) <= 200
    except ValueError:
        usable = False
    if not (usable and url.isascii() and url.isprintable()):
        fix = "give one like https://host/file.pth, with other letters as %XX"
        raise WeightsError("this is not the URL of a file", url, fix)
    if not hash_in(name):  # many files are named model.safetensors
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}_{name}"
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def download(url: str, new: Path, path: Path) -> None:
    """Download to `new` with torch.hub, which has no timeout; errors name the final `path`."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        torch.hub.download_url_to_file(url, str(new), hash_in(path.name) or None)
    except (OSError, ValueError, RuntimeError, http.client.HTTPException) as error:
        why = f"cannot download {path.name}: {error or type(error).__name__}"
        fix = f"try again, or put {path.name} into {path.parent}, or pass its PATH"
        if digits := hash_in(path.name):
            fix += f"; if {digits} is not a hash, rename the file and pass its PATH"
        raise WeightsError(why, url, fix) from error
    finally:
        socket.setdefaulttimeout(before)
