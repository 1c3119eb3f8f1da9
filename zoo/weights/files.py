"""Files of weights, read without trusting them and written whole.

.safetensors files hold numbers and text only. .pth, .pt and .th files are pickles, which can name
any function to be called; `weights_only=True` calls none but those that make tensors. There is no
fallback: a file that needs more is refused. What else a hostile file can do (grow a thousandfold
when unpacked, hold no numbers, or not-a-numbers) is looked for here and in load.py.
"""

import hashlib
import io
import json
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from zoo.errors import WeightsError
from zoo.weights.atomic import write_atomic

LARGEST = 4 * 2**30  # bytes; resnet152 takes 0.25 GB, with an optimizer's state three times that
WRAPPERS = ("state_dict", "model")  # entries of a checkpoint that hold the weights
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
METADATA = "skipzoo"  # the entry of a file that holds its Metadata, as JSON


@dataclass(frozen=True)
class Metadata:
    """What a file says of its weights beyond their numbers; files of other libraries say less."""

    model: str | None = None  # a name of zoo.list_models()
    settings: dict[str, str] | None = None  # load.settings_of(model)
    classes: tuple[str, ...] | None = None  # in the order of the head's outputs


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
    content = read_bytes(path)
    named = hash_in(path.name)
    found = hashlib.sha256(content).hexdigest()[: len(named)] if named else ""
    if found != named:
        raise WeightsError(
            f"the file is not what its name says: its SHA-256 begins with {found}",
            path.absolute(),
            f"get the file again; if {named} is no hash, rename the file",
        )
    return decode(content, str(path))


def hash_in(name: str) -> str:
    """The first digits of a SHA-256 in a file's name, after the last hyphen; "" without one."""
    match = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", name)
    return match[1] if match else ""


def read_bytes(path: Path) -> bytes:
    try:
        if not path.is_file():  # a pipe or a device would never end
            raise WeightsError(
                "there is no such file" if not path.exists() else "this is not a file",
                path.absolute(),
                "give a .pth or .safetensors file, or the URL of one",
            )
        if path.stat().st_size > LARGEST:
            raise WeightsError(
                f"the file has {path.stat().st_size:,} bytes, and more than {LARGEST:,} are not "
                "read",
                path.absolute(),
                "give a file of one network's weights",
            )
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"cannot read the file: {error.strerror or error}",
            path.absolute(),
            "check the name, and that you may read the file",
        ) from error


def decode(content: bytes, source: str) -> Weights:
    """Tensors on the CPU, however they were saved."""
    if content[8:9] == b"{" and content[:2] != b"PK":
        tensors, text = decode_safetensors(content, source)
    else:
        loaded = decode_pickle(content, source)
        text = loaded.get(METADATA) if isinstance(loaded, Mapping) else None
        tensors = loaded
    return Weights(unwrap(tensors, source), read_metadata(text, source), source)


def decode_safetensors(content: bytes, source: str) -> tuple[dict[str, Tensor], str | None]:
    try:
        tensors = safetensors.torch.load(content)
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(
            f"this is not a whole .safetensors file: {first_line(error)}", source, AGAIN
        ) from error
    return tensors, header.get("__metadata__", {}).get(METADATA)


AGAIN = "get the file again, or have whoever made it save it again"
KINDS = (  # how some files begin that are not weights
    (b"<", "a web page; the link may lead to a page and not to the file"),
    (b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` gets the file itself"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x89HDF", "an HDF5 file of Keras or TensorFlow"),
)


def decode_pickle(content: bytes, source: str) -> Any:
    """What torch.save wrote: a zip archive, or before PyTorch 1.6 a bare pickle."""
    if content[:4] == b"PK\x03\x04":
        refuse_bombs(content, source)
    elif content[:1] != b"\x80":
        kind = next((name for begin, name in KINDS if content.startswith(begin)), None)
        if not content:
            kind = "empty"
        raise WeightsError(
            f"this is not a file of weights: it is {kind}" if kind
            else f"this is not a file of weights: it begins with {content[:12]!r}",
            source,
            AGAIN,
        )  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is about to be refused
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    # A pickle is a program; a broken or hostile one can end in any exception at all.
    except Exception as error:
        raise WeightsError(*cause_of(error, source)) from error


def refuse_bombs(content: bytes, source: str) -> None:
    """torch.save never compresses, so an archive that grows when unpacked is not its work."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise WeightsError(
            f"the file is incomplete or damaged: {first_line(error)}", source, AGAIN
        ) from error
    size = sum(entry.file_size for entry in entries)
    if size > len(content) or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise WeightsError(
            f"the archive holds {size:,} bytes in {len(content):,}: torch.save does not compress",
            source,
            "do not trust this file; get the weights from where they were published",
        )


def cause_of(error: Exception, source: str) -> tuple[str, str, str]:
    """Why torch.load refused, in words that help."""
    text = str(error)
    unsafe = re.search(r"GLOBAL ([\w.]+)", text)
    if unsafe:
        whole = unsafe[1].startswith(("torch.nn.", "torchvision."))
        return (
            ("this is a whole pickled model, which is a program" if whole
             else f"the file wants to call {unsafe[1]}") + "; nothing of it was run",
            source,
            "if it is yours, save weights only: torch.save(model.state_dict(), PATH)",
        )  # fmt: skip
    if "TorchScript" in text:
        return "this is a TorchScript program, not weights", source, (
            "load it with torch.jit.load and save its state_dict()"
        )  # fmt: skip
    if text.startswith("Weights only load failed"):
        said = re.search(r"WeightsUnpickler error: (.+)|(Unsupported operand \d+)", text)
        why = (said[1] or said[2])[:160] if said else "it holds more than weights"
        return f"the pickle is more than weights, or damaged: {why}", source, AGAIN
    return f"the file is incomplete or damaged: {first_line(error)}", source, AGAIN


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:160] or type(error).__name__


def unwrap(loaded: Any, source: str) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, without what DataParallel or compile put in front."""
    for wrapper in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not loaded:
        raise WeightsError(
            f"this holds {type(loaded).__name__} and not a state dict"
            + (" with entries" if isinstance(loaded, Mapping) else ""),
            source,
            "save a network's weights: torch.save(model.state_dict(), PATH)",
        )
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            kind = type(value).__name__ + " and not a tensor"
            raise WeightsError(
                f"the entry {key[:80]!r} is {kind}"
                if isinstance(key, str)
                else f"an entry is named by {type(key).__name__} and not by text",
                source,
                "give a state dict, or a checkpoint that holds one as 'state_dict' or 'model'",
            )
    tensors = dict(loaded)
    while prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def read_metadata(text: Any, source: str) -> Metadata:
    if text is None:
        return Metadata()
    try:
        said = json.loads(text)
        model, settings, classes = said.get("model"), said.get("settings"), said.get("classes")
        words = [*([] if model is None else [model]), *(classes or []), *(settings or {}).keys(),
                 *(settings or {}).values()]  # fmt: skip
        if not all(isinstance(word, str) for word in words):
            raise TypeError
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            "what the file says of its weights cannot be read", f"{source}, {METADATA!r}", AGAIN
        ) from error
    return Metadata(model, settings, None if classes is None else tuple(classes))


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Metadata) -> None:
    """Write a .safetensors or .pth file, whole or not at all.

    A .pth file is a bare state dict where there is nothing to say, so that any library loads it.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    said = {key: value for key, value in vars(metadata).items() if value is not None}
    if path.suffix == ".safetensors":
        notes = {"format": "pt"} | ({METADATA: json.dumps(said)} if said else {})
        content = safetensors.torch.save(tensors, notes)
    else:
        buffer = io.BytesIO()
        whole = {"state_dict": tensors, METADATA: json.dumps(said)}
        torch.save(whole if said else tensors, buffer)
        content = buffer.getvalue()
    write_atomic(path, content)
