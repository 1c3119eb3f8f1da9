"""Reads files of weights without trusting them, and writes them atomically.

.safetensors files hold numbers and text only. .pth, .pt and .th files are pickles, which can call
any function; `weights_only=True` calls only those that make tensors. There is no fallback: a file
that needs more is refused. Other attacks (a file that grows a thousandfold when unpacked, or holds
no numbers, or NaNs) are checked for here, in screen.py and in load.py.
"""

import contextlib
import hashlib
import io
import json
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from zoo.errors import WeightsError
from zoo.weights.atomic import write_atomic
from zoo.weights.dialects import Dialect
from zoo.weights.kinds import kind_of
from zoo.weights.screen import AGAIN, Suspicious, screen
from zoo.weights.search import dialect_of, search

MOST_BYTES = 4 * 2**30  # bytes; resnet152 takes 0.25 GB, three times that with an optimizer's state
LONGEST_METADATA = 2**20  # characters; the 1,000 classes of ImageNet take 14,000
METADATA = "skipzoo"  # the file's entry that holds Metadata as JSON
DIGEST = "sha256"  # key in this JSON, in .safetensors files only


@dataclass(frozen=True)
class Metadata:
    """What a file holds besides its tensors; files of other libraries lack most of it."""

    model: str | None = None  # a name of zoo.list_models()
    settings: dict[str, str] | None = None  # settings.settings_of(model)
    classes: tuple[str, ...] | None = None  # in the order of the head's outputs
    preprocess: dict[str, Any] | None = None  # the fields of a data.views.View
    metrics: dict[str, Any] | None = None  # scores, and the data that they were measured on
    versions: dict[str, Any] | None = None  # of the libraries used in training


@dataclass(frozen=True)
class Weights:
    """The content of a file: the tensors of one state dict by name, and metadata."""

    tensors: dict[str, Tensor]
    metadata: Metadata
    source: str  # the file, for error messages
    notes: tuple[str, ...] = ()  # what was chosen, and left out
    prefix: str = ""  # that was taken off the names

    @cached_property
    def dialect(self) -> Dialect:
        """The dialect that knows the most of the names."""
        return dialect_of(self.tensors)


Entries = tuple[Any, Metadata]  # what a file holds, before a network is found in it


def read_weights(path: Path, choice: str | None = None) -> Weights:
    """The weights of a network in a .pth, .pt, .th or .safetensors file.

    `choice`: the name of the state dict to take, if there are several (search.py).
    Raises WeightsError for anything that is not a safe and complete file of weights.
    """
    return network_in(read_entries(path), str(path), choice)


def read_entries(path: Path) -> Entries:
    """Read a file whole; its format is detected from the content. Raises WeightsError.

    If the name contains a hash, as in resnet50-11ad3fa6.pth, the content must match it.
    """
    with contextlib.suppress(RuntimeError):  # ~user of an unknown user
        path = path.expanduser()
    content = read_bytes(path)
    expected = hash_in(path.name)
    actual = hashlib.sha256(content).hexdigest()[: len(expected)] if expected else ""
    if actual != expected:
        why = f"the file is not what its name says: its SHA-256 begins with {actual}"
        fix = f"get the file again; if {expected} is not a hash, rename the file"
        raise WeightsError(why, path, fix)
    return decode(content, str(path), hashed=bool(expected))


def hash_in(name: str) -> str:
    """The first digits of a SHA-256 in a file's name, after a hyphen; "" without one."""
    match = re.search(r"-([0-9a-fA-F]{8,64})(\.|$)", name)
    return match[1].lower() if match else ""


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises WeightsError if there is none, or more than MOST_BYTES."""
    fix = "give the .pth or .safetensors file of one network's weights, or its URL"
    try:
        size = path.stat().st_size
        # Reading a pipe or a device might never end.
        content = path.read_bytes() if path.is_file() and size <= MOST_BYTES else None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or error
        why = f"there is no such file, or it cannot be read: {reason}"
        raise WeightsError(why, path, fix) from error
    if not content:
        why = "empty" if content == b"" else f"not a file, or has more than {MOST_BYTES:,} bytes"
        raise WeightsError(f"this is {why}", path, fix)
    return content


def decode(content: bytes, source: str, hashed: bool = False) -> Entries:
    """Decode a file's bytes to tensors on the CPU, wherever they were saved from.

    torch.save writes a zip archive; before PyTorch 1.6, it wrote a bare pickle. `hashed`: the
    SHA-256 has been compared. Raises WeightsError.
    """
    zipped = content[:4] == b"PK\x03\x04"
    is_safe = content[8:9] == b"{" and not zipped
    if not (is_safe or zipped or content[:1] == b"\x80"):
        fix = "give the .pth or .safetensors file itself"
        kind, fix = kind_of(content) or (f"a file that begins with {content[:40]!r}", fix)
        raise WeightsError(f"this is not a file of weights, but {kind}", source, fix)
    try:
        if is_safe:
            return from_safetensors(content, source)
        screen(content, hashed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that are refused anyway
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Suspicious as error:
        kind, fix = kind_of(content) or ("", error.fix)
        why = f"this is {kind}: {error}" if kind else str(error)
        raise WeightsError(why, source, fix) from error
    # A pickle is a program: a broken or hostile one can raise any exception.
    except Exception as error:
        why = str(error) if is_safe else type(error).__name__  # torch's says to trust the file
        raise WeightsError(f"the file is incomplete or damaged: {why}", source, AGAIN) from error
    return from_loaded(loaded, source)


def from_safetensors(content: bytes, source: str) -> Entries:
    """Decode a .safetensors file: the library checks the format, our digest the content."""
    tensors = safetensors.torch.load(content)
    header, text, body = header_of(content)
    metadata, digest = read_metadata(text, source)
    if digest is not None and digest != digest_of(text_of(metadata), header, body):
        raise ValueError("its SHA-256 does not match its content")
    return tensors, metadata


def header_of(content: bytes) -> tuple[dict[str, Any], str | None, memoryview]:
    """Split a .safetensors file: its header (name -> tensor's entry), our metadata, the data."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__", None) or {}
    return header, metadata.get(METADATA), memoryview(content)[8 + length :]


def digest_of(text: str, header: dict[str, Any], body: memoryview) -> str:
    """SHA-256 of our metadata and of each tensor's name, dtype, shape and bytes, by name."""
    digest = hashlib.sha256(text.encode())
    for name, entry in sorted(header.items()):
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        digest.update(body[slice(*entry["data_offsets"])])
    return digest.hexdigest()


def from_loaded(loaded: Any, source: str) -> Entries:
    """The entries of an object that torch.load returned; none if it is no dict, list or tuple."""
    if not isinstance(loaded, dict):
        return loaded if isinstance(loaded, list | tuple) else {}, Metadata()
    # A file can override an OrderedDict's methods, so call those of dict itself.
    return loaded, read_metadata(dict.get(loaded, METADATA), source)[0]


def network_in(entries: Entries, source: str, choice: str | None = None) -> Weights:
    """The state dict of a network in what a file holds. Raises WeightsError."""
    found, notes = search(entries[0], source, choice)
    return Weights(found.tensors, entries[1], source, tuple(notes), found.prefix)


TYPES = {"model": str, "settings": dict, "classes": list, "preprocess": dict, "metrics": dict,
         "versions": dict}  # of Metadata's fields in JSON  # fmt: skip


def read_metadata(text: Any, source: str) -> tuple[Metadata, str | None]:
    """Parse metadata and the SHA-256 next to it from JSON; WeightsError for wrong types."""
    if text is None:
        return Metadata(), None
    try:
        if not isinstance(text, str) or len(text) > LONGEST_METADATA:
            raise TypeError
        entries = json.loads(text)
        digest = entries.pop(DIGEST, None)
        words = [*(entries.get("classes") or []), *(entries.get("settings") or {}).values()]
        # Unknown names are refused: one may be a damaged name of the digest.
        right = all(isinstance(value, TYPES[name] | None) for name, value in entries.items())
        if not right or not all(isinstance(word, str) for word in words):
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = "the file's metadata cannot be read"
        raise WeightsError(why, f"{source}, {METADATA!r}", AGAIN) from error
    if entries.get("classes") is not None:
        entries["classes"] = tuple(entries["classes"])
    return Metadata(**entries), digest


def text_of(metadata: Metadata) -> str:
    """Metadata as JSON, without the fields that are None."""
    entries = {key: value for key, value in vars(metadata).items() if value is not None}
    return json.dumps(json.loads(json.dumps(entries)))  # as a reader sees it: all keys are text


def with_metadata(content: bytes, text: str) -> bytes:
    """Insert our metadata and its digest into a .safetensors file.

    Not by the library: it writes two entries in random order, and transformers 4 needs "format"
    first.
    """
    header, _, body = header_of(content)
    entry = json.dumps(json.loads(text) | {DIGEST: digest_of(text, header, body)})
    new = json.dumps({"__metadata__": {"format": "pt", METADATA: entry}} | header).encode()
    new += b" " * (-len(new) % 8)  # keep the numbers aligned
    return struct.pack("<Q", len(new)) + new + body


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Metadata) -> None:
    """Write a .safetensors or .pth file, whole or not at all.

    The same tensors and metadata give the same bytes. A .pth file without metadata is a bare state
    dict that any library can read.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    text = text_of(metadata)
    if path.suffix == ".safetensors":
        content = safetensors.torch.save(tensors, {"format": "pt"})
        if text != "{}":
            content = with_metadata(content, text)
    else:
        buffer = io.BytesIO()
        torch.save(tensors if text == "{}" else {"state_dict": tensors, METADATA: text}, buffer)
        content = buffer.getvalue()
    write_atomic(path, content)
