"""Images decoded once or at every use have the same pixels, even after an interruption."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import in_a_child
from PIL import Image

from data import store as module
from data.decoding import DecodedOnUse, decode_all, size_of
from data.errors import DataError
from data.processes import is_lost_loader
from data.store import DecodedOnce, errors_in, estimated_bytes, results_of
from data.views import RandomView, View

VIEW = View(20, 16, input_size=16)


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        torch.equal(first[i], second[i]) for i in range(len(first))
    )


@pytest.mark.parametrize("form", [VIEW, RandomView(view=VIEW).stored], ids=["view", "stored"])
def test_images_decoded_once_and_on_use_have_the_same_pixels(files, tmp_path, form):
    stored = DecodedOnce(files, form, tmp_path)
    for _ in range(2):  # first decoded, then read
        assert same(stored, DecodedOnUse(tuple(files), form))
    assert same(pickle.loads(pickle.dumps(stored)), stored)  # as a worker process receives it
    assert not list(tmp_path.glob("*.tmp"))
    stored[0].zero_()  # the file is never written to
    assert same(stored, DecodedOnUse(tuple(files), form))


def test_a_second_time_nothing_is_decoded(files, tmp_path, monkeypatch):
    first = torch.stack(list(decode_all(DecodedOnce(files, VIEW, tmp_path), workers=2)))
    monkeypatch.setattr("data.decoding.load_image", lambda *_: pytest.fail("decoded again"))
    assert same(DecodedOnce(files, VIEW, tmp_path), first)


def test_the_cache_is_keyed_by_file_and_form(files, tmp_path):
    first = DecodedOnce(files, VIEW, tmp_path)
    assert not {*DecodedOnce(files, View(18, 16), tmp_path).paths} & {*first.paths}
    assert len(list(first)) == len({*first.paths})
    Image.new("RGB", (30, 30), "red").save(files[3])
    changed = DecodedOnce(files, VIEW, tmp_path)
    assert [a == b for a, b in zip(first.paths, changed.paths, strict=True)].count(False) == 1
    assert changed[3][0].min() == 255


@pytest.mark.parametrize("library", ["pillow", "torch", "torchvision"])
def test_another_version_of_a_library_makes_another_cache(files, tmp_path, monkeypatch, library):
    first = DecodedOnce(files, VIEW, tmp_path)
    results_of(files, size_of, tmp_path, 0, "")
    (stamp,) = tmp_path.glob("*.results.json")
    real = module.version
    monkeypatch.setattr(module, "version", lambda name: "0" if name == library else real(name))
    assert not {*DecodedOnce(files, VIEW, tmp_path).paths} & {*first.paths}
    results_of(files, size_of, tmp_path, 0, "")
    assert len({*tmp_path.glob("*.results.json"), stamp}) == 2


@pytest.mark.parametrize("damage", ["zeros", "half", "zip", "short", "empty", "gone"])
def test_a_damaged_file_is_made_again(files, tmp_path, damage):
    pixels = DecodedOnce(files, VIEW, tmp_path)[5].clone()
    stored = DecodedOnce(files, VIEW, tmp_path)
    path = stored.paths[5]
    whole = path.read_bytes()
    path.unlink()
    half = whole[:500] + bytes(len(whole) - 516) + whole[-16:]  # as a power cut leaves it
    contents = {"zeros": bytes(len(whole)), "half": half, "zip": b"PK\3\4" + whole[4:],
                "short": whole[:-1], "empty": b""}  # fmt: skip
    if damage in contents:
        path.write_bytes(contents[damage])
    assert torch.equal(stored[5], pixels)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_damaged_file_of_results_is_made_again(files, tmp_path, content):
    first = results_of(files, size_of, tmp_path, 0, "")
    (path,) = tmp_path.glob("*.results.json")
    path.write_bytes(content)
    assert results_of(files, size_of, tmp_path, 0, "") == first
    assert path.stat().st_size > 10


def test_a_bad_image_is_named_every_time(files, tmp_path):
    content = Path(files[4]).read_bytes()
    Path(files[4]).write_bytes(content[: len(content) // 2])
    Path(files[7]).write_bytes(b"")
    for _ in range(2):  # first decoded, then read from the cache
        bad = errors_in(list(decode_all(DecodedOnce(files, VIEW, tmp_path), 0)))
        assert list(bad) == [4, 7]
        assert all(isinstance(bad[i], DataError) and files[i] in str(bad[i]) for i in bad)
        assert list(errors_in(results_of(files, size_of, tmp_path, 0, ""))) == [4, 7]
    Path(files[7]).write_bytes(Path(files[5]).read_bytes())
    assert list(errors_in(results_of(files, size_of, tmp_path, 0, ""))) == [4]


def store_and_die(files: list[str], cache: Path) -> None:
    real = module.replacing

    @contextmanager
    def dying(path):
        with real(path) as file:
            file.write(bytes(100))  # a part of the pixels
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
            yield file

    module.replacing = dying
    DecodedOnce(files, VIEW, cache)[3]


def test_a_kill_while_writing_leaves_nothing_that_is_taken_for_whole(files, tmp_path):
    done = in_a_child(partial(store_and_die, files, tmp_path), tmp_path)
    assert done.returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("*.pixels"))
    assert same(DecodedOnce(files, VIEW, tmp_path), DecodedOnUse(tuple(files), VIEW))


def test_damaged_sides_are_noticed(files, tmp_path):
    """The last 16 bytes are H, W and the sum."""
    stored = DecodedOnce(files, VIEW, tmp_path)
    expected, path = stored[3].clone(), stored.paths[3]
    content = path.read_bytes()
    height, width = (int.from_bytes(content[i : i + 4], "little") for i in (-16, -12))
    sides = (height // 2).to_bytes(4, "little") + (width * 2).to_bytes(4, "little")
    for damaged in (content[:-16] + sides + content[-8:], bytes(16), bytes(7), b""):
        assert damaged != content
        path.write_bytes(damaged)
        assert torch.equal(DecodedOnce(files, VIEW, tmp_path)[3], expected)


def test_phone_images_are_stored_at_the_size_that_training_needs(tmp_path):
    for i in range(3):
        Image.new("RGB", (1600, 1200), (i, 0, 0)).save(tmp_path / f"{i}.jpg")
    files = [str(path) for path in sorted(tmp_path.glob("*.jpg"))]
    form = RandomView(view=View(80, 64)).stored
    stored = DecodedOnce(files, form, tmp_path)
    assert stored[0].shape == (3, 144, 192)
    assert estimated_bytes(files, form) == 3 * 3 * 144 * 192
    assert stored.paths[0].stat().st_size == 144 * 192 * 3 + 16


# --- decoding ---


def test_workers_give_the_same_results_in_the_same_order(files):
    Path(files[3]).write_bytes(b"")
    images = DecodedOnUse(tuple(files * 2), size_of)
    alone = list(decode_all(images, 0))
    shared = list(decode_all(images, 2))
    assert [i for i, image in enumerate(alone) if isinstance(image, DataError)] == [3, 15]
    assert list(map(str, shared)) == list(map(str, alone))
    width, height = Image.open(files[0]).size
    assert alone[0] == (height, width)


def wait(image: torch.Tensor) -> torch.Tensor:
    time.sleep(100)
    return image


def test_a_killed_worker_is_an_error_and_nothing_hangs(files):
    def kill():
        while not (children := multiprocessing.active_children()):
            time.sleep(0.01)
        for child in children:
            child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RuntimeError) as caught:
        list(decode_all(DecodedOnUse(tuple(files), wait), 1))
    assert is_lost_loader(caught.value)
    killer.join()


def test_closing_the_iterator_stops_the_workers(files):
    arriving = decode_all(DecodedOnUse(tuple(files * 5), size_of), 1)
    assert isinstance(next(arriving), tuple)
    (worker,) = multiprocessing.active_children()
    arriving.close()
    worker.join(10)
    assert worker.exitcode == 0
