"""Broken and hostile files through every way in: nothing runs, each is refused in three lines."""

import hashlib
import io
import json
import os
import pickle
import pickletools
import struct
import sys
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

import zoo
from experiments.proof.checks import shake
from zoo.weights import files, screen
from zoo.weights.download import place_of


class Run:
    """A pickle of this calls `function` when it is loaded."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def state(**changes) -> dict:
    torch.manual_seed(0)
    model = zoo.build("resnet18", 3, width=2)
    shake(model)
    return {**zoo.export(model), **changes}


def torch_save_as(protocol: int) -> bytes:
    buffer = io.BytesIO()
    torch.save(state(), buffer, pickle_protocol=protocol)
    return buffer.getvalue()


def torch_save(content: object, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def archive(changes: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    """A good .pth file with files in it exchanged or added, and compressed by `method`."""
    buffer = io.BytesIO()
    good = zipfile.ZipFile(io.BytesIO(torch_save(state())))
    with good, zipfile.ZipFile(buffer, "w", method) as bad:
        for entry in good.infolist():
            name = entry.filename.split("/", 1)[1]
            bad.writestr(entry.filename, (changes or {}).get(name, good.read(entry)))
    return buffer.getvalue()


def safe(header: dict | bytes, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def touch(folder: Path) -> Run:
    return Run(os.system, f"touch {folder}/RAN")


def directory_entry() -> bytes:
    """A storage that is said to be a folder: torch leaves its tensor as the memory was."""
    buffer = io.BytesIO()
    good = zipfile.ZipFile(io.BytesIO(torch_save(state())))
    with good, zipfile.ZipFile(buffer, "w") as bad:
        for entry in good.infolist():
            copy = zipfile.ZipInfo(entry.filename)
            copy.external_attr = 0x10 if entry.filename.endswith("/data/7") else 0
            bad.writestr(copy, good.read(entry))
    return buffer.getvalue()


def two_directories() -> bytes:
    """A list of entries where Python looks, and another of the same length where torch does."""
    body = archive(method=zipfile.ZIP_STORED)
    count, length, begin = struct.unpack("<HII", body[-12:-2])
    plain = body[begin : begin + length]
    end = body[-22:-12] + struct.pack("<HII", count, length, begin) + b"\0\0"
    return body[:begin] + plain.replace(b"data/1", b"data/2") + plain + end


def legacy_without_a_storage() -> bytes:
    """The list of storages that follow lacks one, whose tensor would be what the memory was."""
    stream = io.BytesIO(torch_save(state(), zipped=False))
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


def two_pickles() -> bytes:
    """A harmless data.pkl deeper in the archive, before the one that torch.load takes."""
    buffer = io.BytesIO()
    good = zipfile.ZipFile(io.BytesIO(torch_save(state())))
    with good, zipfile.ZipFile(buffer, "w") as bad:
        bad.writestr("archive/x/data.pkl", good.read("archive/data.pkl"))
        for entry in good.infolist():
            bad.writestr(entry.filename, good.read(entry))
    return buffer.getvalue()


def old(*pickles: bytes, numbers: bytes = b"") -> bytes:
    """The format before PyTorch 1.6: `pickles` are what was saved, and the storages' keys."""
    begin = torch_save({}, zipped=False)
    stream = io.BytesIO(begin)
    for _ in range(3):
        list(pickletools.genops(stream))
    return begin[: stream.tell()] + b"".join(b"\x80\x02" + p + b"." for p in pickles) + numbers


EIGHT = struct.pack("<q", 2) + struct.pack("<ff", 1, 2)


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :]


def safe_zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, content in files.items():
            made.writestr(name, content)
    return buffer.getvalue()


def overlapping() -> bytes:
    """Two entries of an archive's directory that are the same megabyte: small file, large sum."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bad:
        bad.writestr("archive/data.pkl", bytes(2**20))
        bad.filelist.extend(bad.filelist * 50)
    return buffer.getvalue()


GOOD = safetensors.torch.save(state())
(LENGTH,) = struct.unpack("<Q", GOOD[:8])
NAN = torch.full((2,), float("nan"))
STATE = OrderedDict(state())
Made = Callable[[Path], bytes]
FILES: dict[str, Made] = {
    # pickles that run code
    "os.system": lambda folder: torch_save(touch(folder)),
    "os.system, bare": lambda folder: torch_save(touch(folder), zipped=False),
    "os.system in a plain pickle": lambda folder: pickle.dumps(touch(folder)),
    "os.system beside the weights": lambda folder: torch_save({**state(), "x": touch(folder)}),
    "os.system in a key": lambda folder: torch_save({touch(folder): 1}),
    "eval": lambda folder: torch_save(Run(eval, f"open({str(folder / 'RAN')!r}, 'w')")),
    "exec in a list": lambda folder: torch_save([Run(exec, f"open({str(folder / 'RAN')!r}, 'w')")]),
    "a file opened": lambda folder: torch_save(Run(open, str(folder / "RAN"), "w")),
    "an exit": lambda folder: torch_save(Run(sys.exit, 0)),
    "torch.load in torch.load": lambda folder: torch_save(Run(torch.load, "x", None)),
    "data.pkl exchanged": lambda folder: archive({"data.pkl": pickle.dumps(touch(folder))}),
    "a whole model": lambda folder: torch_save(zoo.build("resnet18", 3, width=2)),
    # archives that grow, or are none
    "a zip bomb": lambda folder: archive({"data/0": bytes(2**28)}, zipfile.ZIP_DEFLATED),
    "compressed weights": lambda folder: archive(method=zipfile.ZIP_DEFLATED),
    "overlapping entries": lambda folder: overlapping(),
    "a tenth of a file": lambda folder: torch_save(state())[:9999],
    "the last byte missing": lambda folder: torch_save(state())[:-1],
    "the middle missing": lambda folder: torch_save(state())[:9000] + torch_save(state())[19000:],
    "a bare pickle cut": lambda folder: torch_save(state(), zipped=False)[:-999],
    "an empty file": lambda folder: b"",
    "zeros": lambda folder: bytes(5000),
    "a web page": lambda folder: b"<!DOCTYPE html><title>404</title>",
    "a Git LFS pointer": lambda folder: b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    "an empty archive": lambda folder: b"PK\x05\x06" + bytes(18),
    # what torch.load itself takes
    "a storage that is a folder": lambda folder: directory_entry(),
    "two lists of entries": lambda folder: two_directories(),
    "two archives": lambda folder: archive() + archive(),
    "an archive and a tail": lambda folder: archive() + bytes(9),
    "a bit of a number flipped": lambda folder: flipped(archive(), len(archive()) // 2),
    "storages that are not filled": lambda folder: legacy_without_a_storage(),
    "an uninitialised tensor": lambda folder: torch_save(
        state(**{"fc.weight": Run(torch.Tensor, 3, 16)})
    ),
    "a tensor with methods of its own": lambda folder: torch_save(
        state(
            **{
                "fc.bias": Run(
                    torch._utils._rebuild_parameter_with_state,
                    torch.full((3,), torch.nan),
                    False,
                    OrderedDict(),
                    {"isfinite": torch.Tensor},
                )
            }
        )
    ),
    "a dict with methods of its own": lambda folder: pickled(
        b"ccollections\nOrderedDict\n)R}X\x04\0\0\0keysccollections\nOrderedDict\nsb"
    ),
    "a pickle beside the pickle": lambda folder: two_pickles(),
    "a tensor that is changed": lambda folder: pickled(tensor(storage()), b")b"),
    "a storage that is changed": lambda folder: pickled(storage(), b"}b"),
    "a dict for a storage": lambda folder: pickled(tensor(ORDERED)),
    "a parameter of nothing": lambda folder: pickled(
        called("torch._utils _rebuild_parameter"), b"(N\x89", ORDERED, b"tR"
    ),
    "a tensor beyond its storage": lambda folder: pickled(tensor(storage(), b"K\x03\x85")),
    "a tensor of nine sides": lambda folder: pickled(
        tensor(storage(), b"(" + b"K\x01" * 9 + b"t", b"(" + b"K\x01" * 9 + b"t")
    ),
    "a negative stride": lambda folder: pickled(tensor(storage(), stride=b"J\xff\xff\xff\xff\x85")),
    "a storage of two kinds": lambda folder: pickled(
        b"]", tensor(storage()), b"a", tensor(storage(kind="Half")), b"a"
    ),
    "a storage of another length": lambda folder: pickled(tensor(storage(length=99999))),
    "a storage that is not there": lambda folder: pickled(tensor(storage("nowhere"))),
    "a storage named by a number": lambda folder: pickled(
        b"(", text("storage"), called("torch FloatStorage"), b"K\x01", text("cpu"), b"K\x02tQ"
    ),
    "numbers that collide as keys": lambda folder: pickled(b"}\x8a\x09", b"\xff" * 8 + b"\0Ns"),
    "a million sizes": lambda folder: pickled(called("torch Size"), b"]\x85R"),
    "a thousand counters": lambda folder: pickled(
        b"}q\0", (called("collections Counter") + b"h\0\x85R") * 1000
    ),
    "an entry for a number": lambda folder: pickled(b"K\x01", text("a"), b"Ns"),
    "an item for a number": lambda folder: pickled(b"K\x01Na"),
    "a value from under the mark": lambda folder: pickled(b"N(\x85"),
    "protocol 4": lambda folder: torch_save_as(4),
    "old: numbers that are missing": lambda folder: old(tensor(storage("1", view=b"N")), b"]"),
    "old: keys that are not returned": lambda folder: old(
        tensor(storage("1", view=b"N")), text("1") + b"]", numbers=EIGHT
    ),
    "old: a view of a storage": lambda folder: old(
        tensor(storage("1", view=text("v") + b"K\0K\x02\x87")),
        b"]" + text("1") + b"a",
        numbers=EIGHT,
    ),
    "old: more numbers than said": lambda folder: old(
        tensor(storage("1", view=b"N")),
        b"]" + text("1") + b"a",
        numbers=struct.pack("<q", 3) + bytes(12),
    ),
    "old: a tail": lambda folder: torch_save(state(), zipped=False) + b"1",
    "old: no pickles": lambda folder: b"\x80\x02}.",
    "150,000 tuples as a key": lambda folder: pickled(b"})", b"\x85" * 150_000, b"Ns"),
    "2^60 tuples as a key": lambda folder: pickled(b"})", b"q\x05h\x05\x86" * 60, b"Ns"),
    "a name of 100,000 letters": lambda folder: pickled(b"c" + b"a" * 100_000, b"\nb\n"),
    "a prefix 200,000 times": lambda folder: torch_save({"module." * 200_000 + "x": torch.ones(1)}),
    "10 GB of zeros": lambda folder: torch_save(Run(bytearray, 10**10)),
    "two million dicts": lambda folder: pickled(b"}" * 2_000_000),
    "a value that is missing": lambda folder: pickled(b"}s"),
    "a mark that is missing": lambda folder: pickled(b"}u"),
    "a memo that is missing": lambda folder: pickled(b"h\x07"),
    "a number called": lambda folder: pickled(b"K\x01)R"),
    "a storage called": lambda folder: pickled(b"ctorch\nFloatStorage\nK\x09\x85R"),
    "no end": lambda folder: archive({"data.pkl": b"\x80\x02}"}),
    "no data.pkl": lambda folder: safe_zip({"archive/data/0": b"1234"}),
    "TorchScript": lambda folder: safe_zip({"a/data.pkl": b".", "a/constants.pkl": b"."}),
    "a storage cut short": lambda folder: archive({"data/0": b"1234"}),
    # safetensors
    "a header of 2^63 bytes": lambda folder: struct.pack("<Q", 2**63) + b"{}" + bytes(99),
    "a header of 1 GB": lambda folder: struct.pack("<Q", 2**30) + b'{"a"' + bytes(99),
    "a header of 90 MB": lambda folder: safe(b'{"a":"' + b"x" * 90 * 2**20 + b'"}'),
    "a deep header": lambda folder: safe(b'{"a":' + b"[" * 100_000),
    "offsets past the end": lambda folder: safe(
        {"a": {"dtype": "F32", "shape": [9999], "data_offsets": [0, 39996]}}, bytes(16)
    ),
    "overlapping offsets": lambda folder: safe(
        {k: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for k in "ab"}, bytes(8)
    ),
    "a shape that overflows": lambda folder: safe(
        {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, bytes(8)
    ),
    "safetensors cut": lambda folder: GOOD[:-1],
    "only a header": lambda folder: GOOD[: 8 + LENGTH],
    "metadata that is no JSON": lambda folder: safetensors.torch.save(state(), {"skipzoo": "{"}),
    "metadata of other types": lambda folder: safetensors.torch.save(
        state(), {"skipzoo": '{"classes": [[1]], "settings": 3}'}
    ),
    "metadata that is null": lambda folder: safe(
        {"__metadata__": None, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        bytes(4),
    ),
    "a side of 2^63": lambda folder: safe(
        {"a": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}
    ),
    "metadata with classes 0": lambda folder: safetensors.torch.save(
        state(), {"skipzoo": '{"classes": 0}'}
    ),
    "metadata of 30 MB": lambda folder: safetensors.torch.save(
        state(), {"skipzoo": "[" + "[]," * 10_000_000 + "[]]"}
    ),
    "a tail of zeros": lambda folder: GOOD[: len(GOOD) // 2] + bytes(len(GOOD) - len(GOOD) // 2),
    # tensors that are none, or make nonsense
    "NaN": lambda folder: torch_save(state(**{"bn1.bias": NAN})),
    "NaN in safetensors": lambda folder: safetensors.torch.save(state(**{"bn1.bias": NAN})),
    "infinity": lambda folder: torch_save(state(**{"bn1.bias": NAN.nan_to_num(torch.inf)})),
    "negative variances": lambda folder: torch_save(state(**{"bn1.running_var": -torch.ones(2)})),
    "int8 weights": lambda folder: torch_save({k: v.to(torch.int8) for k, v in state().items()}),
    "fp8 weights": lambda folder: safetensors.torch.save(
        {k: v.to(torch.float8_e4m3fn) for k, v in state().items()}
    ),
    "fp64 weights": lambda folder: torch_save({k: v.double() for k, v in state().items()}),
    "a sparse tensor": lambda folder: torch_save(state(**{"bn1.bias": torch.ones(2).to_sparse()})),
    "a meta tensor": lambda folder: torch_save(state(**{"bn1.bias": torch.ones(2, device="meta")})),
    "a terabyte of one number": lambda folder: torch_save(
        state(**{"bn1.bias": torch.ones(1).expand(2**38)})
    ),
    "a number for a tensor": lambda folder: torch_save(state(**{"bn1.bias": 1.0})),
    "numbers for keys": lambda folder: torch_save(dict(enumerate(state().values()))),
    "a list": lambda folder: torch_save(list(state().values())),
    "a state dict in itself": lambda folder: torch_save(itself()),
    "keys that write to the terminal": lambda folder: torch_save(
        {"\x1b[2J\n\n\r" + k: v for k, v in state().items()}
    ),
}


def itself() -> dict:
    content: dict = {"epoch": 1}
    content["state_dict"] = content
    content["model"] = content
    return content


def test_there_are_enough_of_them():
    assert len(FILES) >= 25


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_file_that_they_are_made_from_is_good(tmp_path, suffix):
    (tmp_path / f"w{suffix}").write_bytes(archive() if suffix == ".pth" else GOOD)
    zoo.build("resnet18", 3, width=2, weights=tmp_path / f"w{suffix}")


@pytest.fixture(scope="module")
def model():
    return zoo.build("resnet18", 3, width=2)


@pytest.mark.parametrize("name", FILES)
def test_nothing_runs_and_every_file_is_refused_by_every_way_in(name, model, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    content = FILES[name](tmp_path)
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    digits = hashlib.sha256(content).hexdigest()[:8]
    url = f"http://127.0.0.1:1/planted-{digits}.pth"  # in the cache already, under its true hash
    place_of(url).parent.mkdir(parents=True)
    place_of(url).write_bytes(content)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ways = [lambda: zoo.load(model, path),
            lambda: zoo.build("resnet18", 3, width=2, weights=str(path))]  # fmt: skip
    if name != "a bit of a number flipped":  # as published, by the hash in its name
        ways.append(lambda: zoo.load(model, url))
    for way in ways:
        with pytest.raises(zoo.WeightsError) as error:
            way()
        lines = str(error.value).split("\n")
        assert len(lines) == 3
        assert all(line.strip() and line.isprintable() for line in lines), lines
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not (tmp_path / "RAN").exists()


def test_pickles_made_by_hand_are_good_where_nothing_is_wrong_with_them(tmp_path):
    """Or the tests above would refuse them for another reason."""
    good = old(
        b"}" + text("x") + tensor(storage("1", view=b"N")) + b"s", b"]" + text("1") + b"a",
        numbers=EIGHT,
    )  # fmt: skip
    assert torch.equal(files.decode(good, "").tensors["x"], torch.tensor([1.0, 2.0]))
    with zipfile.ZipFile(io.BytesIO(archive())) as there:
        size = there.getinfo("archive/data/1").file_size // 4
    good = pickled(b"}", text("x"), tensor(storage("1", size)), b"s")
    assert files.decode(good, "").tensors["x"].shape == (2,)


def test_the_pickles_do_run_where_they_are_trusted(tmp_path):
    """Or the test above could not fail."""
    for name in ("os.system", "os.system, bare", "eval", "a file opened"):
        content = FILES[name](tmp_path)
        torch.load(io.BytesIO(content), weights_only=False)
        assert (tmp_path / "RAN").exists(), name
        (tmp_path / "RAN").unlink()
    pickle.loads(FILES["os.system in a plain pickle"](tmp_path))
    assert (tmp_path / "RAN").exists()


def test_no_variable_of_the_environment_makes_it_trust(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    (tmp_path / "w.pth").write_bytes(FILES["os.system"](tmp_path))
    with pytest.raises(zoo.WeightsError, match=r"call posix\.system; nothing of it was run"):
        zoo.build("resnet18", 3, width=2, weights=tmp_path / "w.pth")
    assert not (tmp_path / "RAN").exists()


def test_behind_the_screen_torch_load_trusts_nothing_either(tmp_path, monkeypatch):
    """The screen is not the only wall: without it code is still not run."""
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


def test_what_is_not_a_file_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "loop.pth").symlink_to(tmp_path / "loop.pth")
    (tmp_path / "gone.pth").symlink_to(tmp_path / "nowhere")
    sparse = tmp_path / "huge.pth"
    with sparse.open("wb") as file:
        file.truncate(2**40)
    ways = [tmp_path, tmp_path / "pipe.pth", tmp_path / "loop.pth", tmp_path / "gone.pth", sparse,
            "/dev/zero", "nowhere/w.pth", "", "x" * 5000, "a\0b.pth"]  # fmt: skip
    for path in ways:
        with pytest.raises(zoo.WeightsError) as error:
            zoo.load(zoo.build("resnet18", 3, width=2), path)
        assert len(str(error.value).splitlines()) == 3, path


def test_flipped_bits_never_end_in_another_error(tmp_path):
    """Of numbers they change the value, of all else they are refused; never a crash."""
    good = torch_save(state())
    draw = torch.Generator().manual_seed(0)
    path = tmp_path / "w.pth"
    refused = 0
    for _ in range(60):
        content = bytearray(good)
        at = int(torch.randint(len(good), (1,), generator=draw))
        content[at] ^= 1 << int(torch.randint(8, (1,), generator=draw))
        path.write_bytes(content)
        try:
            zoo.build("resnet18", 3, width=2, weights=path)
        except zoo.WeightsError:
            refused += 1
    assert refused > 0
    assert threading.active_count() < 20
