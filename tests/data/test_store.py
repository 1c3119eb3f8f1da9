"""Pictures decoded once or at every use: the same pixels, whatever interrupts the decoding."""

import json
import os
import pickle
import signal
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import in_a_child
from data.random_batches import Epochs, RandomBatches, every_picture
from PIL import Image

from data import store as module
from data.errors import DataError
from data.store import Shaped, Streamed, estimated_bytes, store, undecodable
from data.views import RandomView, View

CPU = torch.device("cpu")
VIEW = View(20, 16, input_size=16)


@pytest.fixture
def files(tmp_path) -> list[str]:
    rng = np.random.default_rng(0)
    for i in range(12):
        pixels = rng.integers(0, 256, (20 + 3 * i, 50 - i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.{'png' if i % 2 else 'jpg'}")
    return sorted(str(path) for path in tmp_path.iterdir())


def all_of(pictures) -> list[torch.Tensor]:
    return [pictures[i] for i in range(len(pictures))]


def same(first, second) -> bool:
    pairs = zip(all_of(first), all_of(second), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("form", [VIEW, RandomView(size=16).stored], ids=["view", "stored"])
def test_stored_and_streamed_pictures_have_the_same_pixels(files, tmp_path, form, workers):
    stored, bad = store(files, form, tmp_path / "cache", workers=workers)
    assert not bad
    assert same(stored, Streamed(tuple(files), form))
    assert same(pickle.loads(pickle.dumps(stored)), stored)  # as a worker process gets it
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_a_second_time_nothing_is_decoded(files, tmp_path, monkeypatch):
    first, _ = store(files, VIEW, tmp_path / "cache")
    monkeypatch.setattr("data.store.load_image", lambda *_: pytest.fail("decoded again"))
    assert same(store(files, VIEW, tmp_path / "cache")[0], first)


def test_the_cache_is_keyed_by_content_and_form(files, tmp_path):
    cache = tmp_path / "cache"
    first, _ = store(files, VIEW, cache)
    assert store(files, View(18, 16), cache)[0].path != first.path
    Image.new("RGB", (30, 30), "red").save(files[3])
    changed, _ = store(files, VIEW, cache)
    assert changed.path != first.path
    assert changed[3][0].min() == 255
    moved = []
    for file in files:  # elsewhere, with the same content: found again
        moved.append(str(Path(file).rename(tmp_path / f"moved-{Path(file).name}")))
    assert store(moved, VIEW, cache)[0].path == changed.path


@pytest.mark.parametrize("library", ["pillow", "torch", "torchvision"])
def test_another_version_of_a_library_makes_another_cache(files, tmp_path, monkeypatch, library):
    cache = tmp_path / "cache"
    first, _ = store(files, VIEW, cache)
    undecodable(files, VIEW, cache, 0, "")
    stamps = set(cache.glob("*.checked.json"))
    real = module.version
    monkeypatch.setattr(module, "version", lambda name: "0" if name == library else real(name))
    assert store(files, VIEW, cache)[0].path != first.path
    undecodable(files, VIEW, cache, 0, "")
    assert len(stamps) == 1
    assert len(set(cache.glob("*.checked.json")) - stamps) == 1


@pytest.mark.parametrize("damage", ["flipped", "zeros", "short", "gone", "index"])
def test_a_damaged_cache_is_made_again(files, tmp_path, damage):
    """As a power cut leaves it: names that are there, and not their content."""
    stored, _ = store(files, VIEW, tmp_path / "cache")
    whole = stored.path.read_bytes()
    spoiled = {"flipped": whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:], "short": whole[:-1],
               "zeros": bytes(len(whole)), "index": whole}  # fmt: skip
    stored.path.unlink()
    if damage in spoiled:
        stored.path.write_bytes(spoiled[damage])
    if damage == "index":
        stored.path.with_suffix(".json").write_text("{", encoding="utf-8")
    again, _ = store(files, VIEW, tmp_path / "cache")
    assert again.path.read_bytes() == whole


def test_a_bad_picture_is_left_out_and_named(files, tmp_path):
    content = Path(files[4]).read_bytes()
    Path(files[4]).write_bytes(content[: len(content) // 2])
    Path(files[7]).write_bytes(b"")
    for _ in range(2):  # decoded, and from the cache
        stored, bad = store(files, VIEW, tmp_path / "cache")
        assert list(bad) == [4, 7]
        assert all(isinstance(bad[i], DataError) and files[i] in str(bad[i]) for i in bad)
        assert len(stored) == 10
    good = [file for i, file in enumerate(files) if i not in bad]
    assert same(stored, Streamed(tuple(good), VIEW))
    for _ in range(2):
        assert list(undecodable(files, VIEW, tmp_path / "cache", 0, "")) == [4, 7]
    Path(files[7]).write_bytes(Path(files[5]).read_bytes())
    assert list(undecodable(files, VIEW, tmp_path / "cache", 0, "")) == [4]


def store_and_die(files: list[str], at: int, cache: Path) -> None:
    real = module.load_image

    def dying(file, name):
        if file == files[at]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(file, name)

    module.load_image = dying
    store(files, VIEW, cache)


@pytest.mark.parametrize("at", [0, 5, 11])
def test_a_kill_while_decoding_leaves_nothing_that_is_taken_for_whole(files, tmp_path, at):
    """SIGKILL from inside, at one picture; then the next attempt decodes everything."""
    cache = tmp_path / "cache"
    done = in_a_child(partial(store_and_die, files, at, cache), tmp_path)
    assert done.returncode == -signal.SIGKILL
    assert not list(cache.glob("*.json"))
    assert same(store(files, VIEW, cache)[0], Streamed(tuple(files), VIEW))


def test_phone_pictures_are_stored_at_the_size_that_training_needs(tmp_path):
    for i in range(3):
        Image.new("RGB", (1600, 1200), (i, 0, 0)).save(tmp_path / f"{i}.jpg")
    files = [str(path) for path in sorted(tmp_path.glob("*.jpg"))]
    form = RandomView(size=64).stored
    stored, _ = store(files, form, tmp_path / "cache")
    assert stored[0].shape == (3, 144, 192)
    assert estimated_bytes(files, form) == 3 * 3 * 144 * 192 == stored.path.stat().st_size


def batches(pictures, workers=0, part=(0, 1), seed=0, size=4) -> RandomBatches:
    labels = torch.arange(len(pictures))
    view = RandomView(size=16, view=VIEW, rotation=10.0)
    return RandomBatches(Epochs(pictures, labels, view, size, seed, part), CPU, workers)


def test_batches_are_a_pure_function_of_seed_and_step(files, tmp_path):
    """Whatever the order, the workers, and whether pictures are stored or streamed."""
    form = RandomView(size=16).stored
    stored, _ = store(files, form, tmp_path / "cache")
    expected = [batches(stored).batch(step) for step in range(7)]
    streamed = batches(Streamed(tuple(files), form))
    for step in (6, 0, 3, 2):
        for got, wanted in zip(streamed.batch(step), expected[step], strict=True):
            assert torch.equal(got, wanted)
    for workers in (1, 2):
        source = batches(stored, workers)
        for step in (2, 3, 4, 5, 1, 2):  # on, and back again
            for got, wanted in zip(source.batch(step), expected[step], strict=True):
                assert torch.equal(got, wanted)
    assert not torch.equal(batches(stored, seed=1).batch(0)[0], expected[0][0])


def test_an_epoch_shows_every_picture_and_the_next_one_differently(files):
    source = batches(Streamed(tuple(files), RandomView(size=16).stored))
    first, second = ([source.batch(e * 3 + i) for i in range(3)] for e in (0, 1))
    for epoch in (first, second):
        assert sorted(torch.cat([labels for _, labels in epoch]).tolist()) == list(range(12))
    views = [{int(y): x for xs, ys in epoch for x, y in zip(xs, ys, strict=True)} for epoch in
             (first, second)]  # fmt: skip
    assert not any(torch.equal(views[0][i], views[1][i]) for i in range(12))


def test_parts_of_a_batch_are_the_whole(files):
    pictures = Streamed(tuple(files), RandomView(size=16).stored)
    whole = batches(pictures).batch(1)
    parts = [batches(pictures, part=(i, 2)).batch(1) for i in (0, 1)]
    for i in (0, 1):
        assert torch.equal(torch.cat([part[i] for part in parts]), whole[i])


@pytest.mark.parametrize("part", [(0, 1), (0, 3), (1, 3), (2, 3)])
@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_shows_every_picture_once(files, part, workers):
    pictures, labels = Streamed(tuple(files), VIEW), torch.arange(12)
    shown = list(every_picture(pictures, labels, VIEW, 5, CPU, workers, part))
    mine = list(range(part[0], 12, part[1]))
    assert torch.cat([answers for _, answers in shown]).tolist() == mine
    mean, std = (torch.tensor(v)[:, None, None] for v in (VIEW.mean, VIEW.std))
    images = torch.cat([images for images, _ in shown])
    expected = torch.stack([pictures[i] for i in mine])
    assert torch.allclose(images, (expected / 255 - mean) / std, atol=1e-6)


def test_a_batch_of_one_cannot_be_normalised_and_is_refused(files):
    pictures = Streamed(tuple(files), VIEW)
    for size, part, fix in ((1, (0, 1), "2 to 12"), (13, (0, 1), "2 to 12"),
                            (2, (0, 2), "4 to 12, a multiple of 2"),
                            (5, (0, 2), "a multiple of 2")):  # fmt: skip
        with pytest.raises(DataError, match=fix):
            batches(pictures, part=part, size=size)


def test_pictures_in_memory_can_be_given_a_form():
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    shaped = Shaped(images, VIEW)
    assert len(shaped) == 5
    assert torch.equal(shaped[3], VIEW(images[3]))


def test_the_index_says_what_is_in_the_file(files, tmp_path):
    stored, _ = store(files, VIEW, tmp_path / "cache")
    said = json.loads(stored.path.with_suffix(".json").read_text(encoding="utf-8"))
    assert said.pop("crc") == zlib.crc32(stored.path.read_bytes())
    assert said == {"shapes": [[16, 16]] * 12, "bad": {}}
    assert os.path.getsize(stored.path) == 12 * 3 * 16 * 16  # noqa: PTH202
