"""Broken and hostile files through every way in: nothing runs, each is refused in three lines."""

import hashlib
import io
import json
import os
import pickle
import pickletools
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import refusal, same, shaken

import zoo
from zoo.weights import files, screen
from zoo.weights.download import place_of

build = partial(zoo.build, "resnet18", 3, width=2)


class Run:
    """A pickle of this calls `function` when it is loaded."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


torch.manual_seed(0)
STATE = zoo.export(shaken("resnet18", 3, width=2))


def torch_save(content: object, zipped: bool = True, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def spoilt(value: object, entry: str = "bn1.bias") -> bytes:
    """A .pth file that is good but for this value."""
    return torch_save({**STATE, entry: value})


def entries() -> dict[str, bytes]:
    """The files in a good .pth file."""
    with zipfile.ZipFile(io.BytesIO(torch_save(STATE))) as there:
        return {name: there.read(name) for name in there.namelist()}


def zipped(content: Mapping, method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of these files, by name or by zipfile.ZipInfo."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        for name, file in content.items():
            made.writestr(name, file)
    return buffer.getvalue()


def archive(changes: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    """A good .pth file with some files in it replaced, compressed by `method`."""
    exchanged = {f"archive/{name}": file for name, file in (changes or {}).items()}
    return zipped(entries() | exchanged, method)


def safe(header: dict | bytes, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def part(shape: list[int], end: int) -> dict:
    """The entry of a tensor in the header of a .safetensors file."""
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}


def said(metadata: str) -> bytes:
    return safetensors.torch.save(STATE, {"skipzoo": metadata})


def touch(folder: Path) -> Run:
    return Run(os.system, f"touch {folder}/RAN")


def directory_entry() -> bytes:
    """A storage that is marked as a folder: torch would leave its tensor uninitialised."""
    infos = {zipfile.ZipInfo(name): file for name, file in entries().items()}
    for info in infos:
        info.external_attr = 0x10 if info.filename == "archive/data/7" else 0
    return zipped(infos)


def two_pickles() -> bytes:
    """A harmless data.pkl deeper in the archive, before the one that torch.load takes."""
    return zipped({"archive/x/data.pkl": entries()["archive/data.pkl"]} | entries())


def two_directories() -> bytes:
    """A list of entries where Python looks, and another of the same length where torch does."""
    body = archive()
    count, length, begin = struct.unpack("<HII", body[-12:-2])
    plain = body[begin : begin + length]
    end = body[-22:-12] + struct.pack("<HII", count, length, begin) + b"\0\0"
    return body[:begin] + plain.replace(b"data/1", b"data/2") + plain + end


def legacy_without_a_storage() -> bytes:
    """The list of storages lacks one, whose tensor would be uninitialised."""
    stream = io.BytesIO(torch_save(STATE, zipped=False))
    pickles = []
    for _ in range(5):
        begin = stream.tell()
        list(pickletools.genops(stream))
        pickles.append(stream.getvalue()[begin : stream.tell()])
    keys = pickle.loads(pickles[4])
    rest = stream.read()
    first = 8 + struct.unpack("<q", rest[:8])[0] * 4
    return b"".join(pickles[:4]) + pickle.dumps(keys[1:], 2) + rest[first:]


def pickled(*operations: bytes) -> bytes:
    return archive({"data.pkl": b"\x80\x02" + b"".join(operations) + b"."})


def text(words: str) -> bytes:
    return b"X" + struct.pack("<I", len(words)) + words.encode()


def called(name: str) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


ORDERED = called("collections OrderedDict") + b")R"


def storage(key: str = "1", length: int = 2, kind: str = "Float", view: bytes = b"") -> bytes:
    head = b"(" + text("storage") + called(f"torch {kind}Storage") + text(key) + text("cpu")
    return head + b"J" + struct.pack("<i", length) + view + b"tQ"


def tensor(numbers: bytes, size: bytes = b"K\x02\x85", stride: bytes = b"K\x01\x85") -> bytes:
    """_rebuild_tensor_v2(numbers, 0, size, stride, False, OrderedDict())"""
    name = called("torch._utils _rebuild_tensor_v2")
    return name + b"(" + numbers + b"K\0" + size + stride + b"\x89" + ORDERED + b"tR"


def old(*pickles: bytes, numbers: bytes = b"") -> bytes:
    """The format before PyTorch 1.6: `pickles` are the saved object and the storages' keys."""
    begin = torch_save({}, zipped=False)
    stream = io.BytesIO(begin)
    for _ in range(3):
        list(pickletools.genops(stream))
    return begin[: stream.tell()] + b"".join(b"\x80\x02" + p + b"." for p in pickles) + numbers


EIGHT = struct.pack("<q", 2) + struct.pack("<ff", 1, 2)


def flipped(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :]


def overlapping() -> bytes:
    """51 entries in an archive's directory for the same megabyte: a small file, a large sum."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bad:
        bad.writestr("archive/data.pkl", bytes(2**20))
        bad.filelist.extend(bad.filelist * 50)
    return buffer.getvalue()


def itself() -> dict:
    content: dict = {"epoch": 1}
    content |= {"state_dict": content, "model": content}
    return content


def nan_that_denies_it() -> Run:
    rebuild, methods = torch._utils._rebuild_parameter_with_state, {"isfinite": torch.Tensor}
    return Run(rebuild, torch.full((3,), torch.nan), False, OrderedDict(), methods)


GOOD, PTH, OLD = safetensors.torch.save(STATE), torch_save(STATE), torch_save(STATE, zipped=False)
(LENGTH,) = struct.unpack("<Q", GOOD[:8])
NAN = torch.full((2,), float("nan"))
OLD_TENSOR = tensor(storage(view=b"N"))
KEYS = b"]" + text("1") + b"a"
NINE = b"(" + b"K\x01" * 9 + b"t"
FILES: dict[str, bytes | Callable[[Path], bytes]] = {
    # pickles that run code
    "os.system": lambda folder: torch_save(touch(folder)),
    "os.system, bare": lambda folder: torch_save(touch(folder), zipped=False),
    "os.system in a plain pickle": lambda folder: pickle.dumps(touch(folder)),
    "os.system beside the weights": lambda folder: spoilt(touch(folder), "x"),
    "os.system in a key": lambda folder: torch_save({touch(folder): 1}),
    "eval": lambda folder: torch_save(Run(eval, f"open({str(folder / 'RAN')!r}, 'w')")),
    "exec in a list": lambda folder: torch_save([Run(exec, f"open({str(folder / 'RAN')!r}, 'w')")]),
    "a file opened": lambda folder: torch_save(Run(open, str(folder / "RAN"), "w")),
    "data.pkl exchanged": lambda folder: archive({"data.pkl": pickle.dumps(touch(folder))}),
    "an exit": torch_save(Run(sys.exit, 0)), "a whole model": torch_save(build()),
    "torch.load in torch.load": torch_save(Run(torch.load, "x", None)),
    # archives that grow when they are read, or are no archives
    "a zip bomb": lambda _: archive({"data/0": bytes(2**26)}, zipfile.ZIP_DEFLATED),
    "compressed weights": archive(method=zipfile.ZIP_DEFLATED),
    "overlapping entries": lambda _: overlapping(),
    "a tenth of a file": PTH[:9999], "the last byte missing": PTH[:-1],
    "the middle missing": PTH[:9000] + PTH[19000:], "a bare pickle cut": OLD[:-999],
    "an empty file": b"", "zeros": bytes(5000), "a web page": b"<!DOCTYPE html><title>404</title>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    "an empty archive": b"PK\x05\x06" + bytes(18),
    # files that torch.load itself would accept
    "a storage that is a folder": directory_entry(), "two lists of entries": two_directories(),
    "two archives": PTH + PTH, "an archive and a tail": PTH + bytes(9),
    "a bit of a number flipped": flipped(archive()),
    "storages that are not filled": legacy_without_a_storage(),
    "an uninitialised tensor": spoilt(Run(torch.Tensor, 3, 16), "fc.weight"),
    "a tensor with methods of its own": spoilt(nan_that_denies_it(), "fc.bias"),
    "a dict with methods of its own": pickled(
        ORDERED, b"}", text("keys"), called("collections OrderedDict"), b"sb"),
    "a pickle beside the pickle": two_pickles(),
    "a tensor that is changed": pickled(tensor(storage()), b")b"),
    "a storage that is changed": pickled(storage(), b"}b"),
    "a dict for a storage": pickled(tensor(ORDERED)),
    "a parameter of nothing": pickled(
        called("torch._utils _rebuild_parameter"), b"(N\x89", ORDERED, b"tR"),
    "a tensor beyond its storage": pickled(tensor(storage(), b"K\x03\x85")),
    "a tensor of nine sides": pickled(tensor(storage(), NINE, NINE)),
    "a negative stride": pickled(tensor(storage(), stride=b"J\xff\xff\xff\xff\x85")),
    "a storage of two kinds": pickled(
        b"]", tensor(storage()), b"a", tensor(storage(kind="Half")), b"a"),
    "a storage of another length": pickled(tensor(storage(length=99999))),
    "a storage that is not there": pickled(tensor(storage("nowhere"))),
    "a storage named by a number": pickled(
        b"(", text("storage"), called("torch FloatStorage"), b"K\x01", text("cpu"), b"K\x02tQ"),
    "numbers that collide as keys": pickled(b"}\x8a\x09", b"\xff" * 8 + b"\0Ns"),
    "a million sizes": pickled(called("torch Size"), b"]\x85R"),
    "a thousand counters": pickled(
        b"}q\0", (called("collections Counter") + b"h\0\x85R") * 1000),
    "an entry for a number": pickled(b"K\x01", text("a"), b"Ns"),
    "an item for a number": pickled(b"K\x01Na"), "a value from under the mark": pickled(b"N(\x85"),
    "protocol 4": torch_save(STATE, protocol=4),
    "old: numbers that are missing": old(OLD_TENSOR, b"]"),
    "old: keys that are not returned": old(OLD_TENSOR, text("1") + b"]", numbers=EIGHT),
    "old: a view of a storage": old(
        tensor(storage(view=text("v") + b"K\0K\x02\x87")), KEYS, numbers=EIGHT),
    "old: more numbers than said": old(
        OLD_TENSOR, KEYS, numbers=struct.pack("<q", 3) + bytes(12)),
    "old: a tail": OLD + b"1", "old: no pickles": b"\x80\x02}.",
    "150,000 tuples as a key": pickled(b"})", b"\x85" * 150_000, b"Ns"),
    "2^60 tuples as a key": pickled(b"})", b"q\x05h\x05\x86" * 60, b"Ns"),
    "a name of 100,000 letters": pickled(b"c" + b"a" * 100_000, b"\nb\n"),
    "a prefix 200,000 times": torch_save({"module." * 200_000 + "x": torch.ones(1)}),
    "10 GB of zeros": torch_save(Run(bytearray, 10**10)),
    "two million dicts": lambda _: pickled(b"}" * 2_000_000),
    "a value that is missing": pickled(b"}s"), "a mark that is missing": pickled(b"}u"),
    "a memo that is missing": pickled(b"h\x07"), "a number called": pickled(b"K\x01)R"),
    "a storage called": pickled(called("torch FloatStorage"), b"K\x09\x85R"),
    "no end": archive({"data.pkl": b"\x80\x02}"}),
    "no data.pkl": zipped({"archive/data/0": b"1234"}),
    "TorchScript": zipped({"a/data.pkl": b".", "a/constants.pkl": b"."}),
    "a storage cut short": archive({"data/0": b"1234"}),
    # safetensors
    "a header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}" + bytes(99),
    "a header of 1 GB": struct.pack("<Q", 2**30) + b'{"a"' + bytes(99),
    "a header of 9 MB": lambda _: safe(b'{"a":"' + b"x" * 9 * 2**20 + b'"}'),
    "a deep header": safe(b'{"a":' + b"[" * 100_000),
    "offsets past the end": safe({"a": part([9999], 39996)}, bytes(16)),
    "overlapping offsets": safe({"a": part([2], 8), "b": part([2], 8)}, bytes(8)),
    "a shape that overflows": safe({"a": part([2**40, 2**40], 8)}, bytes(8)),
    "a side of 2^63": safe({"a": part([0, 2**63], 0)}),
    "safetensors cut": GOOD[:-1], "only a header": GOOD[: 8 + LENGTH],
    "a tail of zeros": GOOD[: len(GOOD) // 2] + bytes(len(GOOD) - len(GOOD) // 2),
    "metadata that is no JSON": said("{"), "metadata with classes 0": said('{"classes": 0}'),
    "metadata of other types": said('{"classes": [[1]], "settings": 3}'),
    "metadata that is null": safe({"__metadata__": None, "a": part([1], 4)}, bytes(4)),
    "metadata of 1 MB": lambda _: said('{"versions": {"a": "' + "x" * 2**20 + '"}}'),
    # entries that are no tensors, or make no sense
    "NaN": spoilt(NAN), "NaN in safetensors": safetensors.torch.save(STATE | {"bn1.bias": NAN}),
    "infinity": spoilt(NAN.nan_to_num(torch.inf)),
    "negative variances": spoilt(-torch.ones(2), "bn1.running_var"),
    "int8 weights": torch_save({k: v.to(torch.int8) for k, v in STATE.items()}),
    "fp8 weights": safetensors.torch.save(
        {k: v.to(torch.float8_e4m3fn) for k, v in STATE.items()}),
    "a sparse tensor": spoilt(torch.ones(2).to_sparse()),
    "a meta tensor": spoilt(torch.ones(2, device="meta")),
    "a terabyte of one number": spoilt(torch.ones(1).expand(2**38)),
    "a number for a tensor": spoilt(1.0), "a state dict in itself": torch_save(itself()),
    "numbers for keys": torch_save(dict(enumerate(STATE.values()))),
    "a list": torch_save(list(STATE.values())),
    "keys that write to the terminal": torch_save(
        {"\x1b[2J\n\n\r" + k: v for k, v in STATE.items()}),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_file_from_which_they_are_made_is_good(tmp_path, suffix):
    (tmp_path / f"w{suffix}").write_bytes(archive() if suffix == ".pth" else GOOD)
    build(weights=tmp_path / f"w{suffix}")


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.mark.parametrize("name", FILES)
def test_nothing_runs_and_every_file_is_refused_by_every_way_in(name, model, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    made = FILES[name]
    content = made if isinstance(made, bytes) else made(tmp_path)
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    digits = hashlib.sha256(content).hexdigest()[:8]
    url = f"http://127.0.0.1:1/planted-{digits}.pth"  # in the cache already, under its true hash
    place_of(url).parent.mkdir(parents=True)
    place_of(url).write_bytes(content)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ways = [partial(zoo.load, model, path), partial(build, weights=str(path))]
    if name != "a bit of a number flipped":  # accepted, as its name has its hash
        ways.append(partial(zoo.load, model, url))
    for way in ways:
        with refusal(zoo.WeightsError):
            way()
    assert same(model.state_dict(), before)
    assert not (tmp_path / "RAN").exists()


def test_pickles_made_by_hand_are_good_where_nothing_is_wrong_with_them(tmp_path):
    """Otherwise the files above might be refused for another reason."""
    made, name = old(b"}" + text("bn1.x") + OLD_TENSOR + b"s", KEYS, numbers=EIGHT), "bn1.x"
    assert torch.equal(files.decode(made, "")[0][name], torch.tensor([1.0, 2.0]))
    made = pickled(
        b"}", text(name), tensor(storage(length=len(entries()["archive/data/1"]) // 4)), b"s"
    )
    assert files.decode(made, "")[0][name].shape == (2,)


def test_the_pickles_do_run_where_they_are_trusted(tmp_path):
    """Otherwise the test above could not fail."""
    for name in ("os.system", "os.system, bare", "eval", "a file opened"):
        torch.load(io.BytesIO(FILES[name](tmp_path)), weights_only=False)
        assert (tmp_path / "RAN").exists(), name
        (tmp_path / "RAN").unlink()
    pickle.loads(FILES["os.system in a plain pickle"](tmp_path))
    assert (tmp_path / "RAN").exists()


def test_no_variable_of_the_environment_makes_it_trust(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    (tmp_path / "w.pth").write_bytes(FILES["os.system"](tmp_path))
    with pytest.raises(zoo.WeightsError, match=r"call posix\.system; nothing of it was run"):
        build(weights=tmp_path / "w.pth")
    assert not (tmp_path / "RAN").exists()


def test_behind_the_screen_torch_load_trusts_nothing_either(tmp_path, monkeypatch):
    """The screen is not the only defence: without it, code is still not run."""
    monkeypatch.setattr(files, "screen", lambda *_: None)
    for name in ("os.system", "os.system, bare", "eval"):
        with pytest.raises(zoo.WeightsError):
            files.decode(FILES[name](tmp_path), "")
        assert not (tmp_path / "RAN").exists()


def test_a_tensor_may_use_its_last_number_and_none_after_it():
    numbers = screen.Storage("torch FloatStorage", "0", 6)
    for offset, size, stride, within in [
        (0, (2, 3), (3, 1), True), (0, (6,), (1,), True), (1, (6,), (1,), False),
        (5, (), (), True), (6, (), (), False), (0, (7,), (1,), False), (0, (2, 3), (4, 1), False),
        (0, (9,), (0,), True), (9, (0,), (1,), True), (0, (True,), (1,), False),
        (-1, (2,), (1,), False), (0, (2,), (1, 1), False), (0, [2], [1], False),
    ]:  # fmt: skip
        assert screen.lies_within(numbers, offset, size, stride) == within, (offset, size, stride)


def test_what_is_not_a_file_does_not_hang(model, tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "loop.pth").symlink_to(tmp_path / "loop.pth")
    (tmp_path / "gone.pth").symlink_to(tmp_path / "nowhere")
    sparse = tmp_path / "huge.pth"
    with sparse.open("wb") as file:
        file.truncate(2**40)
    ways = [tmp_path, tmp_path / "pipe.pth", tmp_path / "loop.pth", tmp_path / "gone.pth", sparse,
            "/dev/zero", "nowhere/w.pth", "", "x" * 5000, "a\0b.pth"]  # fmt: skip
    for path in ways:
        with refusal(zoo.WeightsError):
            zoo.load(model, path)


def test_flipped_bits_never_end_in_another_error(tmp_path):
    """A flipped bit changes a weight, or the file is refused; it never causes another error."""
    good = torch_save(STATE)
    draw = torch.Generator().manual_seed(0)
    path = tmp_path / "w.pth"
    refused = 0
    for _ in range(60):
        content = bytearray(good)
        at = int(torch.randint(len(good), (1,), generator=draw))
        content[at] ^= 1 << int(torch.randint(8, (1,), generator=draw))
        path.write_bytes(content)
        try:
            build(weights=path)
        except zoo.WeightsError:
            refused += 1
    assert refused > 0
