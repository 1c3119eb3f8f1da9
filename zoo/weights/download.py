"""Weights from a URL: downloaded once by torch.hub, checked at every load.

Files are stored in PyTorch's own cache, TORCH_HOME/hub/checkpoints. A published file name contains
the first digits of the file's SHA-256 (resnet50-11ad3fa6.pth): torch.hub compares them after the
download, read_weights at every load.
"""

import hashlib
import http.client
import re
import socket
from pathlib import Path

import torch

from zoo.errors import WeightsError
from zoo.weights.files import Weights, hash_in, read_weights

TIMEOUT = 30.0  # seconds without a byte
HUB_PAGE = r"https?://(?:huggingface|hf)\.co/([\w.-]+/[\w.-]+)(?:/tree/.*)?/?"


def fetch(url: str, choice: str | None = None, sha256: str = "") -> Weights:
    """The weights at `url`, downloaded into the cache if they are not there yet.

    `choice`: the name of the state dict to take, if there are several. `sha256`: digits that the
    file must have; they become part of its name in the cache, and are compared at every load.
    """
    if page := re.fullmatch(HUB_PAGE, url):
        why, fix = "this is the page of a model, not a file", f"did you mean hf:{page[1]}?"
        raise WeightsError(why, url, fix)
    path = place_of(url, sha256)
    is_new = not path.exists()
    if is_new:
        download(url, path)
    try:
        return read_weights(path, choice)
    except WeightsError as error:
        why, _, fix = error.args
        if is_new:  # without a hash, torch.hub accepts a truncated file
            path.unlink(missing_ok=True)
            raise WeightsError(why, url, fix) from error
        fix += f"; or delete this file to download it again from {url}"
        raise WeightsError(why, path, fix) from error


def place_of(url: str, sha256: str = "") -> Path:
    """The cached file of `url`: its file name with `sha256`.

    If neither of them has a hash, a hash of the URL precedes the name.
    """
    name = re.sub(r"[^\w.+-]", "_", url.partition("?")[0].rpartition("/")[2])[-200:]
    if sha256:
        stem, dot, suffix = name.rpartition(".")
        name = f"{stem.removesuffix(f'-{sha256[:8]}')}-{sha256}{dot}{suffix}"
    if not hash_in(name):  # many files are named model.safetensors
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}_{name}"
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def download(url: str, path: Path) -> None:
    """Download with torch.hub, which has no timeout, and moves the file to `path` when complete."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    digits = hash_in(path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), digits or None)
    except (OSError, ValueError, RuntimeError, http.client.HTTPException) as error:
        why = f"cannot download {path.name}: {error or type(error).__name__}"
        fix = f"try again, or put {path.name} into {path.parent} (TORCH_HOME), or pass its PATH"
        if 0 < len(digits) < 64:  # 64 digits are no accident
            fix += f"; if {digits} is not a hash, rename the file and pass its PATH"
        raise WeightsError(why, url, fix) from error
    finally:
        socket.setdefaulttimeout(before)
