"""Images decoded once or at every use have the same pixels, even after an interruption."""

import json
import multiprocessing
import os
import pickle
import signal
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import in_a_child
from PIL import Image

from data import decoding
from data import store as module
from data.decoding import DecodedOnUse, decode_all, size_of
from data.errors import DataError
from data.store import estimated_bytes, results_of, store
from data.views import RandomView, View

VIEW = View(20, 16, input_size=16)


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        torch.equal(first[i], second[i]) for i in range(len(first))
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("form", [VIEW, RandomView(size=16).stored], ids=["view", "stored"])
def test_stored_and_streamed_images_have_the_same_pixels(files, tmp_path, form, workers):
    stored, bad = store(files, form, tmp_path / "cache", workers=workers)
    assert not bad
    assert same(stored, DecodedOnUse(tuple(files), form))
    assert same(pickle.loads(pickle.dumps(stored)), stored)  # as a worker process receives it
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_a_second_time_nothing_is_decoded(files, tmp_path, monkeypatch):
    first, _ = store(files, VIEW, tmp_path / "cache")
    monkeypatch.setattr("data.decoding.load_image", lambda *_: pytest.fail("decoded again"))
    assert same(store(files, VIEW, tmp_path / "cache")[0], first)


def test_the_cache_is_keyed_by_content_and_form(files, tmp_path):
    cache = tmp_path / "cache"
    first, _ = store(files, VIEW, cache)
    assert store(files, View(18, 16), cache)[0].path != first.path
    Image.new("RGB", (30, 30), "red").save(files[3])
    changed, _ = store(files, VIEW, cache)
    assert changed.path != first.path
    assert changed[3][0].min() == 255
    # Moved files with the same content are found again.
    moved = [str(Path(file).rename(tmp_path / f"moved-{Path(file).name}")) for file in files]
    assert store(moved, VIEW, cache)[0].path == changed.path


@pytest.mark.parametrize("library", ["pillow", "torch", "torchvision"])
def test_another_version_of_a_library_makes_another_cache(files, tmp_path, monkeypatch, library):
    cache = tmp_path / "cache"
    first, _ = store(files, VIEW, cache)
    results_of(files, size_of, cache, 0, "")
    (stamp,) = cache.glob("*.checked.json")
    real = module.version
    monkeypatch.setattr(module, "version", lambda name: "0" if name == library else real(name))
    assert store(files, VIEW, cache)[0].path != first.path
    results_of(files, size_of, cache, 0, "")
    assert len({*cache.glob("*.checked.json"), stamp}) == 2


@pytest.mark.parametrize("damage", ["zeros", "short", "gone", "index", "no index"])
def test_an_incomplete_store_is_made_again(files, tmp_path, damage):
    stored, _ = store(files, VIEW, tmp_path / "cache")
    whole, index = stored.path.read_bytes(), stored.path.with_suffix(".json")
    path = index if "index" in damage else stored.path
    path.unlink()
    contents = {"zeros": bytes(len(whole)), "short": whole[:-1], "index": b"{"}
    if damage in contents:
        path.write_bytes(contents[damage])
    again, _ = store(files, VIEW, tmp_path / "cache")
    assert again.path.read_bytes() == whole


def test_without_a_decodable_image_the_store_is_empty(tmp_path):
    (tmp_path / "0.png").write_bytes(b"no image")
    for _ in range(2):  # first decoded, then read from the cache
        stored, bad = store([str(tmp_path / "0.png")], VIEW, tmp_path / "cache")
        assert (len(stored), list(bad)) == (0, [0])


def test_a_bad_image_is_left_out_and_named(files, tmp_path):
    content = Path(files[4]).read_bytes()
    Path(files[4]).write_bytes(content[: len(content) // 2])
    Path(files[7]).write_bytes(b"")
    for _ in range(2):  # first decoded, then read from the cache
        stored, bad = store(files, VIEW, tmp_path / "cache")
        assert list(bad) == [4, 7]
        assert all(isinstance(bad[i], DataError) and files[i] in str(bad[i]) for i in bad)
        assert len(stored) == 10
    good = tuple(file for i, file in enumerate(files) if i not in bad)
    assert same(stored, DecodedOnUse(good, VIEW))
    for _ in range(2):
        assert list(results_of(files, size_of, tmp_path / "cache", 0, "")[1]) == [4, 7]
    Path(files[7]).write_bytes(Path(files[5]).read_bytes())
    assert list(results_of(files, size_of, tmp_path / "cache", 0, "")[1]) == [4]


def store_and_die(files: list[str], at: int, cache: Path) -> None:
    real = decoding.load_image

    def dying(file, name):
        if file == files[at]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(file, name)

    decoding.load_image = dying
    store(files, VIEW, cache)


@pytest.mark.parametrize("at", [0, 5, 11])
def test_a_kill_while_decoding_leaves_nothing_that_is_taken_for_whole(files, tmp_path, at):
    """The process kills itself at one image; the next attempt decodes everything."""
    cache = tmp_path / "cache"
    done = in_a_child(partial(store_and_die, files, at, cache), tmp_path)
    assert done.returncode == -signal.SIGKILL
    assert not list(cache.glob("*.json"))
    assert same(store(files, VIEW, cache)[0], DecodedOnUse(tuple(files), VIEW))


def test_phone_images_are_stored_at_the_size_that_training_needs(tmp_path):
    for i in range(3):
        Image.new("RGB", (1600, 1200), (i, 0, 0)).save(tmp_path / f"{i}.jpg")
    files = [str(path) for path in sorted(tmp_path.glob("*.jpg"))]
    form = RandomView(size=64).stored
    stored, _ = store(files, form, tmp_path / "cache")
    assert stored[0].shape == (3, 144, 192)
    assert estimated_bytes(files, form) == 3 * 3 * 144 * 192


def test_the_store_is_a_flat_array_that_numpy_reads(files, tmp_path):
    stored, _ = store(files, VIEW, tmp_path / "cache")
    pixels = np.load(stored.path, mmap_mode="r")
    assert (pixels.dtype, pixels.shape) == (np.uint8, (12 * 3 * 16 * 16,))
    index = json.loads(stored.path.with_suffix(".json").read_text(encoding="utf-8"))
    assert index == {"shapes": [[16, 16]] * 12, "bad": {}}
    stored[0].zero_()  # the file is never written to
    assert same(store(files, VIEW, tmp_path / "cache")[0], DecodedOnUse(tuple(files), VIEW))


# --- decoding ---


def test_workers_give_the_same_results_in_the_same_order(files):
    Path(files[3]).write_bytes(b"")
    alone = list(decode_all(files * 2, size_of, 0))
    shared = list(decode_all(files * 2, size_of, 2))
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
    with pytest.raises(DataError, match=r"was killed(.|\n)*0\.jpg(.|\n)*fewer --workers"):
        list(decode_all(files, wait, 1))
    killer.join()


def test_closing_the_iterator_stops_the_workers(files):
    arriving = decode_all(files * 5, size_of, 1)
    assert isinstance(next(arriving), tuple)
    (worker,) = multiprocessing.active_children()
    arriving.close()
    worker.join(10)
    assert worker.exitcode == 0
