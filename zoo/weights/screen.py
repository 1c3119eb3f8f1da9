"""Checks a file of torch.save before torch.load may read it.

`torch.load(weights_only=True)` calls only a few functions that a file names. With these, a hostile
file can still leave weights uninitialised, crash, hang or fill the memory; and torch.load does not
check an archive's checksums. So the pickle is first interpreted with stand-ins for what it would
build. The file must be one plain archive whose checksums match, its pickle may hold dicts, lists,
tuples, numbers, text and tensors, and every tensor must lie within the data in the file.
"""

import io
import pickletools
import re
import struct
import zipfile
from typing import IO, Any, NamedTuple

MOST_OPERATIONS = 1_000_000  # resnet152 with an optimizer's state takes about 100,000
MOST_COUNTERS = 100  # of learning-rate schedules

AGAIN = "get the file again, or ask its author to save it again"
SAVE_AGAIN = "if the file is your own, load it and torch.save(model.state_dict(), PATH)"

BYTES = {  # per number, by the class of the storage
    "torch DoubleStorage": 8, "torch FloatStorage": 4, "torch HalfStorage": 2,
    "torch BFloat16Storage": 2, "torch LongStorage": 8, "torch IntStorage": 4,
    "torch ShortStorage": 2, "torch CharStorage": 1, "torch ByteStorage": 1,
    "torch BoolStorage": 1,
}  # fmt: skip
DTYPE = re.compile(r"torch (b?float\d+|u?int\d+|bool)")
CALLED = frozenset(
    {
        "collections Counter",
        "collections OrderedDict",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_tensor_v2",
    }
)


class Suspicious(ValueError):
    """The file is not what torch.save writes for weights: `why`, and how to `fix` it."""

    def __init__(self, why: str, fix: str = AGAIN) -> None:
        super().__init__(why)
        self.fix = fix


# Stand-ins for what a pickle builds; numbers, text, tuples and lists are built as they are.
DICT, ORDERED, TENSOR = object(), object(), object()
VALUES = frozenset(
    ("BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "BINFLOAT", "BININT", "BININT1", "BININT2",
     "LONG1")
)  # fmt: skip
CONSTANTS = {
    "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "EMPTY_DICT": DICT,
}  # fmt: skip


class Global(NamedTuple):
    """A function or class that the pickle names."""

    name: str


class Storage(NamedTuple):
    """A tensor's numbers, which are stored outside the pickle."""

    kind: str  # a key of BYTES
    key: str
    length: int


def screen(content: bytes, hashed: bool = False) -> None:
    """Raise Suspicious unless `content`, in one of torch.save's two formats, is plain and complete.

    `hashed`: its SHA-256 has been compared, so an archive's checksums need not be.
    """
    try:
        if content[:4] == b"PK\x03\x04":
            screen_archive(content, hashed)
        else:
            screen_stream(content)
    except Suspicious:
        raise
    # zipfile and pickletools raise many kinds of exceptions on hostile input.
    except Exception as error:
        why = str(error) or type(error).__name__
        raise Suspicious(f"the file is incomplete or damaged: {why}") from error


def screen_stream(content: bytes) -> None:
    """Screen the format before PyTorch 1.6: five pickles, then storages in the last one's order.

    The pickles are a magic number, a version, system information, the saved object, and the keys of
    the storages.
    """
    stream, reader = io.BytesIO(content), Reader()
    for _ in range(4):
        reader.follow(stream)
    keys = reader.follow(stream)
    # A storage that is used but not filled would be uninitialised memory.
    if not isinstance(keys, list) or sorted(keys) != sorted(reader.storages):
        raise Suspicious("the tensors' numbers are not all in the file")
    for key in keys:
        storage = reader.storages[key]
        if struct.unpack("<q", stream.read(8)) != (storage.length,):
            raise Suspicious("a tensor's numbers are more or fewer than it needs")
        stream.seek(storage.length * BYTES[storage.kind], io.SEEK_CUR)
    if stream.tell() != len(content):
        raise Suspicious(f"the file has {len(content):,} bytes, but should have {stream.tell():,}")


def screen_archive(content: bytes, hashed: bool) -> None:
    """Screen the format since PyTorch 1.6: a zip archive of one pickle and a file per storage."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        root = next(iter(entries)).split("/")[0]
        if f"{root}/constants.pkl" in entries:
            raise Suspicious(
                "this is a TorchScript program, not weights",
                "load it with torch.jit.load and save its state_dict()",
            )
        size = sum(entry.file_size for entry in entries.values())
        if size > len(content) or any(entry.compress_type for entry in entries.values()):
            raise Suspicious(
                f"the archive unpacks {len(content):,} bytes to {size:,}, but torch.save does not "
                "compress"
            )
        check_directory(content, len(entries))
        names = {name.lower() for name in entries}  # torch.load ignores case: data.pkl, DATA.PKL
        folders = any(e.is_dir() or e.external_attr & 0x10 for e in entries.values())
        roots = {name.split("/")[0] for name in names}
        pickle = f"{root}/data.pkl"
        if len(names) < len(archive.infolist()) or len(roots) != 1 or folders:
            raise Suspicious("the archive's entries are not those of one torch.save")
        if pickle not in entries or sum(name.endswith("data.pkl") for name in names) != 1:
            raise Suspicious("the archive has no data.pkl, or two, so torch.save did not write it")
        damaged = None if hashed else archive.testzip()
        if damaged is not None:
            raise Suspicious(
                f"the checksum of {damaged} is wrong or missing: the file may be damaged"
            )
        reader = Reader()
        reader.follow(io.BytesIO(archive.read(pickle)))
        for storage in reader.storages.values():
            entry = entries.get(f"{root}/data/{storage.key}")
            if entry is None or entry.file_size != storage.length * BYTES[storage.kind]:
                raise Suspicious("a tensor's numbers are not in the file, or more or fewer")


def check_directory(content: bytes, entries: int) -> None:
    """Check that the zip's directory is where its end record says: no reader may find another."""
    end, place = content[-22:], len(content) - 22
    count, length, begin = struct.unpack("<HII", end[10:20])
    plain = end.startswith(b"PK\x05\x06") and end.endswith(b"\0\0")
    if content[-42:-38] == b"PK\x06\x07":  # the 64-bit end record comes first
        place = len(content) - 98
        plain = plain and content[place : place + 4] == b"PK\x06\x06"
        (pointer,) = struct.unpack("<Q", content[-34:-26])
        count64, length64, begin64 = struct.unpack("<QQQ", content[-66:-42])
        plain = plain and (pointer, count64, length64, begin64) == (place, count, length, begin)
    if not plain or count != entries or begin + length != place:
        raise Suspicious("the archive is incomplete, or more than one in one file")


class Reader:
    """Interprets a pickle with stand-ins, and refuses operations that a state dict never needs.

    Keys of a dict may only be text and small numbers, so hashing is never slow.
    """

    def __init__(self) -> None:
        self.operations = 0
        self.counters = 0
        self.storages: dict[str, Storage] = {}

    def follow(self, stream: IO[bytes]) -> Any:
        """What the pickle would build; the stream is left at the pickle's end."""
        stack: list[Any] = []
        below: list[list[Any]] = []  # the stacks under each mark
        memo: dict[Any, Any] = {}
        for operation, argument, _ in pickletools.genops(stream):
            self.operations += 1
            if self.operations > MOST_OPERATIONS:
                raise Suspicious(f"the pickle has more than {MOST_OPERATIONS:,} operations")
            name, above = operation.name, []
            if pickletools.markobject in operation.stack_before:
                above, stack = stack, below.pop()
            if name in VALUES:
                stack.append(argument)
            elif name in CONSTANTS:
                stack.append(CONSTANTS[name])
            elif name == "EMPTY_LIST":
                stack.append([])
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name == "MARK":
                below.append(stack)
                stack = []
            elif name == "TUPLE":
                stack.append(tuple(above))
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                stack.append(tuple(pop(stack, int(name[-1]))))
            elif name == "APPEND":
                append(pop(stack, 1), stack[-1])
            elif name == "APPENDS":
                append(above, stack[-1])
            elif name == "SETITEM":
                set_items(pop(stack, 2), stack[-1])
            elif name == "SETITEMS":
                set_items(above, stack[-1])
            elif name == "BUILD":
                (state,) = pop(stack, 1)
                build_object(state, stack[-1])
            elif name == "GLOBAL":
                stack.append(Global(allowed(str(argument))))
            elif name == "REDUCE":
                stack.append(self.call(*pop(stack, 2)))
            elif name == "BINPERSID":
                stack.append(self.storage(*pop(stack, 1)))
            elif name == "STOP":
                return stack.pop()
            elif name != "PROTO":
                raise Suspicious(f"the pickle is not a state dict's: it has {name}", SAVE_AGAIN)
        raise Suspicious("the pickle has no end")

    def call(self, called: Any, arguments: Any) -> object:
        """The stand-in for the result of a call, if function and arguments are allowed."""
        name = called.name if isinstance(called, Global) else "something"
        match name, arguments:
            case "collections OrderedDict", ():
                return ORDERED
            case "collections OrderedDict", (list(pairs),):  # as Python 2 writes it
                for pair in pairs:
                    key, value = pair
                    set_items([key, value], DICT)
                return ORDERED
            case "collections Counter", (counts,) if counts is DICT:
                self.counters += 1
                if self.counters <= MOST_COUNTERS:
                    return DICT
            case "torch._utils _rebuild_parameter", (tensor, bool(), hooks):
                if tensor is TENSOR and hooks is ORDERED:
                    return TENSOR
            case "torch._utils _rebuild_tensor", (Storage() as storage, offset, size, stride):
                if lies_within(storage, offset, size, stride):
                    return TENSOR
            case "torch._utils _rebuild_tensor_v2", (
                Storage() as storage, offset, size, stride, bool(), hooks,
            ):  # fmt: skip
                if hooks is ORDERED and lies_within(storage, offset, size, stride):
                    return TENSOR
        odd = f"the file calls {name} in a way that torch.save does not; nothing of it was run"
        raise Suspicious(odd if name in CALLED else unsafe(name), SAVE_AGAIN)

    def storage(self, description: Any) -> Storage:
        """A Storage from ("storage", class, key, device, length); before PyTorch 1.6, plus None."""
        match description:
            case ("storage", Global(kind), str(key), str(), int(length), *view):
                storage = Storage(kind, key, length)
                same = self.storages.setdefault(key, storage) == storage
                if kind in BYTES and length >= 0 and view in ([], [None]) and same:
                    return storage
        raise Suspicious("a tensor's storage is described in a way that torch.save does not")


def pop(stack: list[Any], count: int) -> list[Any]:
    """Remove the last `count` values from the stack, and return them."""
    if count > len(stack):
        raise Suspicious("the pickle takes more values than it has")
    taken = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return taken


def append(items: list[Any], target: object) -> None:
    """Append to a list, and to nothing else."""
    if not isinstance(target, list):
        raise Suspicious("the pickle appends to something that is not a list")
    target.extend(items)


def set_items(items: list[Any], target: object) -> None:
    """Check the keys of [key, value, key, value ...] for a dict; the stand-in stores nothing."""
    if target is not DICT and target is not ORDERED:
        raise Suspicious("the pickle puts entries into something that is not a dict")
    for key in items[::2]:
        if type(key) is not str and not (type(key) is int and abs(key) < 2**60):
            raise Suspicious("a dict of the pickle has keys other than text and numbers")


def build_object(state: object, target: object) -> None:
    """Allow a state for an OrderedDict only: model.state_dict() stores module versions there."""
    if state is not DICT or target is not ORDERED:
        raise Suspicious("the pickle modifies an object that it has built", SAVE_AGAIN)


def lies_within(storage: Storage, offset: Any, size: Any, stride: Any) -> bool:
    """True if a tensor of this offset, size and stride stays within its storage."""
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        return False
    if len(size) > 8 or any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
        return False
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    return 0 in size or last < storage.length


def allowed(name: str) -> str:
    """Return the name of a function or class that a pickle may use; else raise Suspicious."""
    if name not in CALLED and name not in BYTES and not DTYPE.fullmatch(name):
        raise Suspicious(unsafe(name), SAVE_AGAIN)
    return name


def unsafe(name: str) -> str:
    """The message for a function or class that a pickle must not use."""
    if name.startswith(("torch.nn.modules", "torchvision.models", "timm.models", "zoo.")):
        return "this is a whole pickled model, which is a program; nothing of it was run"
    return f"the file wants to call {name.replace(' ', '.')[:100]}; nothing of it was run"
