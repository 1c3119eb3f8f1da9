"""Weights from a URL: downloaded once, checked at every load.

Files lie where PyTorch keeps them, in TORCH_HOME/hub/checkpoints. The digits in a published name
(resnet50-11ad3fa6.pth) are the first of its SHA-256. torchvision has them compared once, at the
download; here they are compared each time, and so is the whole SHA-256 in a file beside, resnet50-
11ad3fa6.pth.sha256, written when the file is first seen.
"""

import contextlib
import hashlib
import http.client
import re
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch
from tqdm import tqdm

from zoo.errors import WeightsError
from zoo.weights.atomic import write_atomic
from zoo.weights.files import LARGEST, Weights, decode, hash_in, read_bytes

TIMEOUT = 30.0  # seconds without a byte


def fetch(url: str) -> Weights:
    """The weights at `url`: from the cache if they are there, downloaded into it if not."""
    path = place_of(url)
    try:
        if path.exists():
            content = read_bytes(path)
            check(content, path, url)
            weights = decode(content, str(path), hashed=record_of(path).exists())
        else:
            content = download(url, path)
            weights = decode(content, url)  # what cannot be read is not kept
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)
        keep_record(content, path)
    except OSError as error:
        raise WeightsError(
            f"cannot use the folder that keeps downloads: {error.strerror or error}",
            path.parent,
            "set TORCH_HOME to another folder, or pass the PATH of a file",
        ) from error
    return weights


def place_of(url: str) -> Path:
    """Where `url` is kept: under its file's name, with the URL's hash if the name has none."""
    try:
        parts = urlsplit(url)
        name = re.sub(r"[^\w.+-]", "_", PurePosixPath(parts.path).name).lstrip(".")
        if not parts.hostname or not name or len(name) > 200:
            raise ValueError("it has no host, or no file with a name of 200 letters at most")
        if not url.isascii() or not url.isprintable():
            raise ValueError("it has letters that a URL spells as %XX")
    except ValueError as error:
        raise WeightsError(
            f"this is not the URL of a file: {error}", url, "give one like https://host/file.pth"
        ) from error
    if not hash_in(name):  # many files are called model.safetensors
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}_{name}"
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def check(content: bytes, path: Path, url: str) -> None:
    """Compare the hash in the name and the one kept beside; delete what differs from either."""
    found, named = hashlib.sha256(content).hexdigest(), hash_in(path.name)
    record = record_of(path)
    kept = found
    if record.is_file():
        with record.open("rb") as file:
            kept = file.read(64).decode("ascii", "replace")
    if not found.startswith(named) or kept != found:
        deleted = "cannot be deleted"
        with contextlib.suppress(OSError):
            path.unlink()
            record.unlink(missing_ok=True)
            deleted = "was deleted"
        wanted = kept if found.startswith(named) else named
        raise WeightsError(
            f"{path.name} is damaged or was exchanged, and {deleted}: its SHA-256 begins with "
            f"{found[:8]} and not with {wanted[:8]}",
            path,
            f"the same command downloads it again from {url}",
        )


def record_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def keep_record(content: bytes, path: Path) -> None:
    """Write the SHA-256 beside the file, as `sha256sum -c` reads it, if it is not there."""
    if not record_of(path).exists():
        line = f"{hashlib.sha256(content).hexdigest()}  {path.name}\n"
        with contextlib.suppress(OSError):  # a cache that others own; its name was checked
            write_atomic(record_of(path), line.encode())


def download(url: str, path: Path) -> bytes:
    """Download into memory and check: neither Ctrl-C nor a crash leaves half a file."""
    by_hand = f"connect and try again, or put {path.name} into {path.parent}, or pass its PATH"
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "skipzoo"})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            if not response.geturl().startswith(("http://", "https://")):
                raise OSError("it is led to another kind of address")
            content, length = receive(response, path.name)
    except urllib.error.HTTPError as error:
        why = f"the server answers {error.code} {error.reason}"
        raise WeightsError(f"cannot download {path.name}: {why}", url, by_hand) from error
    except (OSError, ValueError, http.client.HTTPException) as error:  # also of a redirect
        why = str(getattr(error, "reason", error)) or type(error).__name__
        raise WeightsError(f"cannot download {path.name}: {why}", url, by_hand) from error
    found, named = hashlib.sha256(content).hexdigest(), hash_in(path.name)
    if length not in (None, len(content)):
        problem = f"only {len(content):,} of {length:,} bytes came"
    elif not found.startswith(named):
        problem = f"its SHA-256 begins with {found[: len(named)]} and not with {named}"
        by_hand += f"; if {named} is no hash, under another name"
    else:
        return content
    raise WeightsError(f"{path.name} was not kept: {problem}", url, by_hand)


def receive(response: http.client.HTTPResponse, name: str) -> tuple[bytes, int | None]:
    """All bytes that come, and how many were announced."""
    length, content = response.length, bytearray()
    with tqdm(total=length, unit="B", unit_scale=True, unit_divisor=1024, desc=name) as bar:
        while chunk := response.read(2**16):
            content += chunk
            bar.update(len(chunk))
            if len(content) > LARGEST:
                raise OSError(f"it has more than {LARGEST:,} bytes")
    return bytes(content), length
