"""Checks a file of torch.save before torch.load may read it.

`torch.load(weights_only=True)` runs no code of the file, and refuses a tensor that needs more
numbers than the file holds. But it does not check an archive's checksums, unpacks what is
compressed, and calls some functions that fill the memory or leave numbers uninitialised. So the
file must be one plain archive whose checksums match, and its pickle may use only what a state dict
in a checkpoint needs: dicts, lists, tuples, numbers, text and tensors.
"""

import io
import pickletools
import re
import zipfile
from typing import IO

from zoo.errors import WeightsError

MOST_OPERATIONS = 1_000_000  # resnet152 with an optimizer's state takes about 100,000

AGAIN = "get the file again, or ask its author to save it again"
SAVE_AGAIN = "if the file is your own, load it and torch.save(model.state_dict(), PATH)"

# What a pickle may name: tensors' storages and dtypes, and what builds tensors and dicts of them.
NAMES = re.compile(
    r"torch (Double|Float|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
    r"|torch (b?float\d+|u?int\d+|bool)"
    r"|torch\._utils _rebuild_(parameter|tensor|tensor_v2)|collections (Counter|OrderedDict)"
)
OPERATIONS = re.compile(
    r"PROTO|STOP|MARK|NONE|NEW(TRUE|FALSE)|BININT[12]?|LONG1|BINFLOAT|BINUNICODE|(SHORT_)?BINSTRING"
    r"|EMPTY_TUPLE|TUPLE[123]?|EMPTY_LIST|APPENDS?|EMPTY_DICT|SETITEMS?|(LONG_)?BIN(PUT|GET)"
    r"|GLOBAL|REDUCE|BUILD|BINPERSID"
)


def screen(content: bytes, source: str, hashed: bool = False) -> None:
    """Raise WeightsError unless `content`, in a format of torch.save, is plain and complete.

    `hashed`: its SHA-256 has been compared, so an archive's checksums need not be. zipfile and
    pickletools raise many other kinds of exceptions on damaged files.
    """
    if content[:4] == b"PK\x03\x04":
        check_pickle(io.BytesIO(pickle_in(content, source, hashed)), source)
        return
    # Before PyTorch 1.6: a magic number, a version, system information, the saved object and the
    # names of its storages, each a pickle; then the storages.
    stream = io.BytesIO(content)
    for _ in range(5):
        check_pickle(stream, source)


def pickle_in(content: bytes, source: str, hashed: bool) -> bytes:
    """The pickle in the format since PyTorch 1.6: a zip archive of it and a file per storage."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries, names = archive.infolist(), archive.namelist()
        root = names[0].split("/")[0]
        pickle = f"{root}/data.pkl"
        if f"{root}/constants.pkl" in names:
            fix = "load it with torch.jit.load and save its state_dict()"
            raise WeightsError("this is a TorchScript program, not weights", source, fix)
        size = sum(entry.file_size for entry in entries)
        if size > len(content) or any(entry.compress_type for entry in entries):
            why = f"the archive unpacks {len(content):,} bytes to {size:,}"
            raise WeightsError(f"{why}, but torch.save does not compress", source, AGAIN)
        # No reader may find another directory than zipfile, or another file in it.
        ends = content[-22:-18] == b"PK\x05\x06" and content[-2:] == b"\0\0"
        if not ends or min(entry.header_offset for entry in entries) > 0:
            why = "the archive is incomplete, or more than one in one file"
            raise WeightsError(why, source, AGAIN)
        folders = any(entry.is_dir() or entry.external_attr & 0x10 for entry in entries)
        lowered = {name.lower() for name in names}  # torch.load ignores case: data.pkl, DATA.PKL
        pickles = [name for name in lowered if name.endswith("data.pkl")]
        alone = pickle in names and len(pickles) == 1 and len(lowered) == len(names)
        if folders or not alone or {name.split("/")[0] for name in names} != {root}:
            why = "the archive's entries are not those of one torch.save"
            raise WeightsError(why, source, AGAIN)
        damaged = None if hashed else archive.testzip()
        if damaged is not None:
            why = f"the checksum of {damaged} is wrong or missing: the file may be damaged"
            raise WeightsError(why, source, AGAIN)
        return archive.read(pickle)


def check_pickle(stream: IO[bytes], source: str) -> None:
    """Check the operations of a pickle, and what it calls; the stream is left at its end."""
    for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
        name, why = str(argument), ""
        if count >= MOST_OPERATIONS:
            why = f"the pickle has more than {MOST_OPERATIONS:,} operations"
        elif not OPERATIONS.fullmatch(operation.name):
            why = f"the pickle is not a state dict's: it has {operation.name}"
        elif operation.name == "GLOBAL" and not NAMES.fullmatch(name):
            why = f"the file wants to call {name.replace(' ', '.')[:100]}; nothing of it was run"
            if name.startswith(("torch.nn.modules", "torchvision.models", "timm.models", "zoo.")):
                why = "this is a whole pickled model, which is a program; nothing of it was run"
        if why:
            raise WeightsError(why, source, SAVE_AGAIN)
