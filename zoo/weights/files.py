"""Files of weights, read without trusting them and written whole.

.safetensors files hold numbers and text only. .pth, .pt and .th files are pickles, which can name
any function to be called; `weights_only=True` calls none but those that make tensors. There is no
fallback: a file that needs more is refused. What else a hostile file can do (grow a thousandfold
when unpacked, hold no numbers, or not-a-numbers) is looked for here, in screen.py and in load.py.
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
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from zoo.errors import WeightsError
from zoo.weights.atomic import write_atomic
from zoo.weights.screen import AGAIN, Suspicious, screen

LARGEST = 4 * 2**30  # bytes; resnet152 takes 0.25 GB, with an optimizer's state three times that
WRAPPERS = ("state_dict", "model")  # entries of a checkpoint that hold the weights
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
LONGEST_HEADER = 2**23  # bytes of a .safetensors header; resnet152's takes 100,000
LONGEST = 500  # letters of an entry's name
MOST_SAID = 2**20  # letters of metadata; the 1,000 classes of ImageNet take 14,000
METADATA = "skipzoo"  # the entry of a file that holds its Metadata, as JSON
DIGEST = "skipzoo.sha256"  # the entry with the file's hash, made with NO_DIGEST in its place
NO_DIGEST = "0" * 64
DIGEST_BEFORE = f'"{DIGEST}":"'.encode()  # quotes inside of a header's text are escaped


@dataclass(frozen=True)
class Metadata:
    """What a file says of its weights beyond their numbers; files of other libraries say less."""

    model: str | None = None  # a name of zoo.list_models()
    settings: dict[str, str] | None = None  # settings.settings_of(model)
    classes: tuple[str, ...] | None = None  # in the order of the head's outputs
    preprocess: dict[str, Any] | None = None  # how pictures are to be shown to it
    metrics: dict[str, Any] | None = None  # what it scored, and on what
    versions: dict[str, Any] | None = None  # of the libraries that trained it


@dataclass(frozen=True)
class Weights:
    """The content of a file: tensors by name, without wrappers, and what it says of them."""

    tensors: dict[str, Tensor]
    metadata: Metadata
    source: str  # the file, for messages


def read_weights(path: Path) -> Weights:
    """Read a .pth, .pt, .th or .safetensors file, whichever it is; WeightsError says why not.

    Where the name holds a hash, as in resnet50-11ad3fa6.pth, it must be the content's.
    """
    with contextlib.suppress(RuntimeError):  # there is no such user
        path = path.expanduser()
    content = read_bytes(path)
    named = hash_in(path.name)
    found = hashlib.sha256(content).hexdigest()[: len(named)] if named else ""
    if found != named:
        raise WeightsError(
            f"the file is not what its name says: its SHA-256 begins with {found}",
            path,
            f"get the file again; if {named} is no hash, rename the file",
        )
    return decode(content, str(path), hashed=bool(named))


def hash_in(name: str) -> str:
    """The first digits of a SHA-256 in a file's name, after a hyphen; "" without one."""
    match = re.search(r"-([0-9a-fA-F]{8,64})(\.|$)", name)
    return match[1].lower() if match else ""


def read_bytes(path: Path) -> bytes:
    try:
        if not path.is_file():  # a pipe or a device would never end
            raise WeightsError(
                "there is no such file" if not path.exists() else "this is not a file",
                path,
                "give a .pth or .safetensors file, or the URL of one",
            )
        if path.stat().st_size > LARGEST:
            raise WeightsError(
                f"the file has {path.stat().st_size:,} bytes, and more than {LARGEST:,} are not "
                "read",
                path,
                "give a file of one network's weights",
            )
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"cannot read the file: {error.strerror or error}",
            path,
            "check the name, and that you may read the file",
        ) from error


def decode(content: bytes, source: str, hashed: bool = False) -> Weights:
    """Tensors on the CPU, however they were saved; `hashed` if the SHA-256 has been compared."""
    if content[8:9] == b"{" and content[:4] != b"PK\x03\x04":
        tensors, text = decode_safetensors(content, source)
        return Weights(unwrap(tensors, source), read_metadata(text, source), source)
    return from_loaded(decode_pickle(content, source, hashed), source)


def from_loaded(loaded: Any, source: str) -> Weights:
    """What torch.load returned: a state dict, or a checkpoint that holds one."""
    # An OrderedDict can bring methods of its own out of a file, so dict's are called by name.
    text = dict.get(loaded, METADATA) if isinstance(loaded, dict) else None
    return Weights(unwrap(loaded, source), read_metadata(text, source), source)


def decode_safetensors(content: bytes, source: str) -> tuple[dict[str, Tensor], str | None]:
    try:
        (length,) = struct.unpack("<Q", content[:8])
        if length > LONGEST_HEADER:
            raise ValueError(f"its header has {length:,} bytes")
        tensors = safetensors.torch.load(content)
        said = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
        if DIGEST in said and said[DIGEST] != digest_of(content):
            raise ValueError("its SHA-256 does not fit its content")
    # The library checks most of it; what is left ends in many kinds of exceptions.
    except Exception as error:
        raise WeightsError(
            f"this is not a whole .safetensors file: {first_line(error)}", source, AGAIN
        ) from error
    return tensors, said.get(METADATA)


KINDS = (  # how some files begin that are not weights
    (b"<", "a web page; the link may lead to a page and not to the file"),
    (b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` gets the file itself"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x89HDF", "an HDF5 file of Keras or TensorFlow"),
)


def decode_pickle(content: bytes, source: str, hashed: bool) -> Any:
    """What torch.save wrote: a zip archive, or before PyTorch 1.6 a bare pickle."""
    if content[:4] != b"PK\x03\x04" and content[:1] != b"\x80":
        kind = next((name for begin, name in KINDS if content.startswith(begin)), None)
        begins = f"it begins with {content[:12]!r}" if content else "it is empty"
        raise WeightsError(
            f"this is not a file of weights: {f'it is {kind}' if kind else begins}",
            source,
            "give a .pth or .safetensors file" if content else AGAIN,
        )
    try:
        screen(content, hashed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is about to be refused
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Suspicious as error:
        raise WeightsError(str(error), source, error.fix) from error
    # A pickle is a program; a broken or hostile one can end in any exception at all.
    except Exception as error:
        why = re.search(r"WeightsUnpickler error: .*|Unsupported operand \d+", str(error))
        raise WeightsError(
            f"the file is incomplete or damaged: {why[0] if why else first_line(error)}",
            source,
            AGAIN,
        ) from error


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:160] or type(error).__name__


def unwrap(loaded: Any, source: str) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, without what DataParallel or compile put in front."""
    for wrapper in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(dict.get(loaded, wrapper), dict):
            loaded = dict.get(loaded, wrapper)
    tensors = dict(dict.items(loaded)) if isinstance(loaded, dict) else {}
    if not tensors:
        raise WeightsError(
            f"this holds {type(loaded).__name__} and no state dict with entries",
            source,
            "save a network's weights: torch.save(model.state_dict(), PATH)",
        )
    for key, value in tensors.items():
        problem = what_is_wrong(key, value)
        if problem:
            raise WeightsError(
                problem,
                source,
                "give a state dict, or a checkpoint that holds one as 'state_dict' or 'model'",
            )
    while prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def what_is_wrong(key: object, value: object) -> str:
    """Why an entry is not a name and a plain tensor; "" if it is one."""
    if not isinstance(key, str):
        return f"an entry is named by {type(key).__name__} and not by text"
    if len(key) > LONGEST:
        return f"an entry's name has {len(key):,} letters: {key[:40]!r} ..."
    if not isinstance(value, Tensor) or type(value) not in (Tensor, nn.Parameter):
        return f"the entry {key!r} is {type(value).__name__} and not a tensor"
    if value.layout != torch.strided or value.is_nested:
        return f"the entry {key!r} is a tensor of layout {value.layout}"
    if value.is_meta:
        return f"the entry {key!r} holds a shape and no numbers"
    return ""


def digest_of(content: bytes) -> str:
    """The SHA-256 of a .safetensors file, with zeros where its own digest stands."""
    place = content.index(DIGEST_BEFORE) + len(DIGEST_BEFORE)
    whole = hashlib.sha256(content[:place] + NO_DIGEST.encode())
    whole.update(memoryview(content)[place + len(NO_DIGEST) :])
    return whole.hexdigest()


def read_metadata(text: Any, source: str) -> Metadata:
    """Metadata from its JSON; WeightsError if it is of other types."""
    if text is None:
        return Metadata()
    try:
        if not isinstance(text, str) or len(text) > MOST_SAID:
            raise TypeError
        said = json.loads(text)
        model, settings, classes = said.get("model"), said.get("settings"), said.get("classes")
        lists = isinstance(settings, dict | None) and isinstance(classes, list | None)
        words = [*(classes or []), *(settings or {}).values()] if lists else [None]
        if not isinstance(model, str | None) or not all(isinstance(w, str) for w in words):
            raise TypeError
        more = [said.get(name) for name in ("preprocess", "metrics", "versions")]
        if not all(isinstance(entry, dict | None) for entry in more):
            raise TypeError
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            "what the file says of its weights cannot be read", f"{source}, {METADATA!r}", AGAIN
        ) from error
    return Metadata(model, settings, None if classes is None else tuple(classes), *more)


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Metadata) -> None:
    """Write a .safetensors or .pth file, whole or not at all.

    A .pth file is a bare state dict where there is nothing to say, so that any library loads it.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    said = {key: value for key, value in vars(metadata).items() if value is not None}
    if path.suffix == ".safetensors":
        notes = {"format": "pt"}
        if said:
            notes |= {METADATA: json.dumps(said), DIGEST: NO_DIGEST}
        content = in_order(safetensors.torch.save(tensors, notes))
        if said:
            digest = DIGEST_BEFORE + digest_of(content).encode()
            content = content.replace(DIGEST_BEFORE + NO_DIGEST.encode(), digest, 1)
    else:
        buffer = io.BytesIO()
        whole = {"state_dict": tensors, METADATA: json.dumps(said)}
        torch.save(whole if said else tensors, buffer)
        content = buffer.getvalue()
    write_atomic(path, content)


def in_order(content: bytes) -> bytes:
    """The same .safetensors file with its notes sorted: the library shuffles them at each save."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers stay aligned
    return struct.pack("<Q", len(text)) + text + content[8 + length :]
