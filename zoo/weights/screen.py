"""What a file of torch.save must look like before torch.load may have it.

`torch.load(weights_only=True)` calls nothing that a file names, but for a few functions of its
own; with these a hostile file can still leave weights uninitialised, hang, or fill the memory, and
torch.load does not look at an archive's checksums. So the file is read once without building
anything: it must be one plain archive whose checksums fit, and its pickle must do what the pickle
of a state dict does, and no more.
"""

import io
import pickletools
import re
import struct
import zipfile
import zlib
from typing import IO, NamedTuple

MOST_OPERATIONS = 1_000_000  # resnet152 with an optimizer's state takes about 100,000
MOST_NESTED = 5_000  # tuples in a tuple, counted as often as a dict would hash them

# All that torch.save writes for dicts, lists, tuples, numbers, text and tensors (protocol 2).
OPERATIONS = """PROTO MARK STOP EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 SETITEM
    SETITEMS APPEND APPENDS BINPUT LONG_BINPUT BINGET LONG_BINGET NONE NEWTRUE NEWFALSE BININT
    BININT1 BININT2 LONG1 BINFLOAT BINUNICODE BINSTRING SHORT_BINSTRING GLOBAL REDUCE BUILD
    BINPERSID"""
ALLOWED = frozenset(OPERATIONS.split())
CALLED = frozenset(
    {
        "collections Counter",
        "collections OrderedDict",
        "torch Size",
        "torch device",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_tensor_v2",
    }
)
NAMED = re.compile(r"torch (\w+Storage|b?float\d+|u?int\d+|bool)")  # never called


AGAIN = "get the file again, or have whoever made it save it again"
WEIGHTS_ONLY = "if it is yours, save weights only: torch.save(model.state_dict(), PATH)"


class Suspicious(ValueError):
    """Why the file is not what torch.save writes of weights, and what to do."""

    def __init__(self, why: str, fix: str = AGAIN) -> None:
        super().__init__(why)
        self.fix = fix


class Item(NamedTuple):
    """What is known of a value on the pickle's stack."""

    text: str = ""  # of a string or a global; of a description of a tensor's storage, its key
    nested: int = 0  # tuples in it, and itself


def screen(content: bytes, hashed: bool = False) -> None:
    """Suspicious if `content`, in either of torch.save's formats, is not plain and whole.

    `hashed`: its SHA-256 has been compared, so an archive's checksums need not be.
    """
    if content[:4] == b"PK\x03\x04":
        screen_pickle(io.BytesIO(screen_archive(content, hashed)))
        return
    # Before PyTorch 1.6: five pickles (magic, version, machine, the object, the storages' keys).
    stream = io.BytesIO(content)
    for _ in range(3):
        screen_pickle(stream)
    used = screen_pickle(stream)
    # A storage that is used and not filled would hold what was in memory before.
    if used.storages != screen_pickle(stream).strings:
        raise Suspicious("the tensors' numbers are not all in the file")


def screen_archive(content: bytes, hashed: bool) -> bytes:
    """The pickle in a zip archive that has one reading only, and whose checksums fit."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            if size > len(content) or any(entry.compress_type for entry in entries):
                raise Suspicious(
                    f"the archive unpacks {len(content):,} bytes to {size:,}, and torch.save does "
                    "not compress"
                )
            if not has_one_directory(content, len(entries)):
                raise Suspicious("the archive is incomplete, or more than one in one file")
            names = {entry.filename.lower() for entry in entries}
            roots = {name.split("/")[0] for name in names}
            folders = any(entry.is_dir() or entry.external_attr & 0x10 for entry in entries)
            if any(name.endswith("/constants.pkl") for name in names):
                raise Suspicious(
                    "this is a TorchScript program, not weights",
                    "load it with torch.jit.load and save its state_dict()",
                )
            if len(names) < len(entries) or len(roots) != 1 or folders:
                raise Suspicious("the archive's entries are not those of one torch.save")
            damaged = None if hashed else archive.testzip()
            if damaged is not None:
                raise Suspicious(f"the checksum of {damaged} does not fit")
            return archive.read(next(e for e in entries if e.filename.endswith("/data.pkl")))
    except StopIteration:
        raise Suspicious("the archive holds no data.pkl, so torch.save did not write it") from None
    except Suspicious:
        raise
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, RuntimeError,
            struct.error, EOFError, OSError) as error:  # fmt: skip
        raise Suspicious(f"the archive is incomplete or damaged: {error}") from error


def has_one_directory(content: bytes, entries: int) -> bool:
    """Whether the list of entries is where its end says, so that no reader finds another one."""
    end, place = content[-22:], len(content) - 22
    if not end.startswith(b"PK\x05\x06") or end[-2:] != b"\0\0":
        return False
    count, length, begin = struct.unpack("<HII", end[10:20])
    if content[-42:-38] == b"PK\x06\x07":  # the 64-bit form stands before it
        place = len(content) - 98
        (pointer,) = struct.unpack("<Q", content[-34:-26])
        count64, length64, begin64 = struct.unpack("<QQQ", content[-66:-42])
        if (pointer, count64, length64, begin64) != (place, count, length, begin):
            return False
    return count == entries and begin + length == place


class Used(NamedTuple):
    """What a pickle refers to."""

    strings: set[str]
    storages: set[str]


def screen_pickle(stream: IO[bytes]) -> Used:
    """Follow a pickle's operations, building nothing; leaves the stream after its end."""
    try:
        return follow(stream)
    except (ValueError, IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
        if isinstance(error, Suspicious):
            raise
        raise Suspicious(f"the pickle is incomplete or damaged: {error}") from error


def follow(stream: IO[bytes]) -> Used:
    stack: list[Item] = []
    marks: list[int] = []
    memo: dict[int, Item] = {}
    used = Used(set(), set())
    for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
        name = operation.name
        if name not in ALLOWED or count > MOST_OPERATIONS:
            raise Suspicious(f"the pickle is no state dict's: operation {count} is {name}")
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[int(argument or 0)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument or 0)])
        else:
            taken = take(operation, stack, marks)
            stack.extend(result(name, argument, taken, used) for _ in operation.stack_after)
    return used


def take(operation: pickletools.OpcodeInfo, stack: list[Item], marks: list[int]) -> list[Item]:
    """Take off the stack what the operation works on: so many values, then all above a mark."""
    before, above = operation.stack_before, []
    fixed = len(before)
    if pickletools.markobject in before:
        fixed, mark = before.index(pickletools.markobject), marks.pop()
        above = stack[mark:]
        del stack[mark:]
    if len(stack) < fixed:
        raise ValueError("a value is missing")
    below = stack[len(stack) - fixed :]
    del stack[len(stack) - fixed :]
    return below + above


def result(name: str, argument: object, taken: list[Item], used: Used) -> Item:
    """What an operation leaves on the stack, if a state dict may need it."""
    text, nested = "", 0
    if name == "GLOBAL":
        text = str(argument)
        if text not in CALLED and not NAMED.fullmatch(text):
            raise Suspicious(unsafe(text), WEIGHTS_ONLY)
    elif name == "REDUCE" and taken[0].text not in CALLED:
        raise Suspicious(unsafe(taken[0].text), WEIGHTS_ONLY)
    elif name.startswith("TUPLE"):
        nested = 1 + sum(item.nested for item in taken)
        if nested > MOST_NESTED:
            raise Suspicious("the pickle is no state dict's: it has too many tuples in a tuple")
        if len(taken) >= 5 and taken[0].text == "storage":
            text = taken[2].text  # ("storage", type, key, device, length)
    elif name == "BINPERSID":
        used.storages.add(taken[0].text)
    elif isinstance(argument, str):
        text = argument
        used.strings.add(text)
    return Item(text, nested)


def unsafe(name: str) -> str:
    if name.startswith(("torch.nn.", "torchvision.", "timm.", "zoo.")):
        return "this is a whole pickled model, which is a program; nothing of it was run"
    called = name.replace(" ", ".")[:100] or "a value"
    return f"the file wants to call {called}; nothing of it was run"
