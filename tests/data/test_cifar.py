"""Datasets from folders, zips and CIFAR-10's download: read correctly, or refused by name."""

import hashlib
import http.server
import io
import pickle
import tarfile
import threading
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sample_images import refused, save
from torchvision.datasets import CIFAR10

from data import cifar
from data.cifar import CLASSES as CIFAR10_CLASSES
from data.cifar import cifar10, is_cifar10
from data.dataset import read_folder


def image(value: int, size=(8, 8), blue=7) -> bytes:
    return save(Image.new("RGB", size, (value % 256, 255 - value % 256, blue)), "PNG")


def make_tree(root: Path, test="test", classes=("ant", "bee"), count=3) -> Path:
    for split in ("train", test):
        for c, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                value, blue = 100 * c + i, 7 if split == "train" else 8
                (root / split / name / f"{i}.png").write_bytes(image(value, blue=blue))
    return root


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_folder_is_read_sorted(tmp_path, test):
    data = read_folder(make_tree(tmp_path, test), 8)
    assert data.classes == ("ant", "bee")
    assert data.train_labels.tolist() == data.test_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train_images[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]
    assert data.train_images.dtype == torch.uint8
    assert data.notes == (() if test == "test" else ("val is used as the test set",))


def test_one_folder_of_classes_is_split(tmp_path):
    data = read_folder(make_tree(tmp_path) / "train", 8)
    assert (len(data.train_labels), len(data.test_labels)) == (4, 2)
    alone, drawn = data.notes
    assert alone.startswith("only train is read; to read train, test, give")
    assert drawn == "test is drawn at random, with seed 0: 15 % of each class per split"


def test_a_zip_has_the_pixels_of_its_folder(tmp_path):
    tree = make_tree(tmp_path / "tree")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as out:
        for file in sorted(tree.rglob("*.png"), reverse=True):
            out.write(file, "my_set/" + str(file.relative_to(tree)))
    expected, found = read_folder(tree, 8), read_folder(tmp_path / "all.zip", 8)
    assert torch.equal(found.train_images, expected.train_images)
    assert torch.equal(found.test_images, expected.test_images)
    content = bytearray((tmp_path / "all.zip").read_bytes())
    content[content.index(b"IDAT") + 6] ^= 255
    (tmp_path / "all.zip").write_bytes(content)
    refused(lambda: read_folder(tmp_path / "all.zip", 8), "all.zip: my_set/")


def test_other_shapes_are_fitted_and_duplicates_noted(tmp_path):
    tree = make_tree(tmp_path)
    (tree / "train" / "ant" / "wide.png").write_bytes(image(9, (40, 20)))
    (tree / "train" / "bee" / "2.png").write_bytes((tree / "test/bee/1.png").read_bytes())
    data = read_folder(tree, 8)
    assert data.train_images.shape == (6, 3, 8, 8)
    assert data.train_images[3, :, 0, 0].tolist() == [9, 246, 7]
    twice = "left out, a copy of another image (1): train/bee/2.png (as test/bee/1.png)"
    assert data.notes == (twice,)
    assert len(read_folder(tree, 8, keep_duplicates=True).train_images) == 7


def test_a_damaged_image_is_named(tmp_path):
    tree = make_tree(tmp_path / "tree")
    bad = tree / "train" / "bee" / "1.png"
    whole = image(50, (64, 64))
    bad.write_bytes(whole[: len(whole) // 2])
    refused(lambda: read_folder(tree, 8), "cannot decode", str(bad))
    refused(lambda: read_folder(tmp_path / "nowhere", 8), "No such file", "nowhere")


# --- CIFAR-10 ---


def fake_archive(per_batch: int) -> tuple[bytes, dict]:
    """A small archive in the form of cifar-10-python.tar.gz, and torchvision's tables for it."""
    generator, files = np.random.default_rng(0), {}
    labels, batches = [i % 10 for i in range(per_batch)], [f"data_batch_{i}" for i in range(1, 6)]
    for name in (*batches, "test_batch"):
        pixels = generator.integers(0, 256, (per_batch, 3072), dtype=np.uint8)
        files[name] = pickle.dumps({"data": pixels, "labels": labels})
    files["batches.meta"] = pickle.dumps({"label_names": list(CIFAR10_CLASSES)})
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{cifar.FOLDER}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    archive = out.getvalue()
    return archive, {
        "tgz_md5": hashlib.md5(archive).hexdigest(),
        "train_list": [[name, md5[name]] for name in batches],
        "test_list": [["test_batch", md5["test_batch"]]],
        "meta": {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]},
    }


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Point torchvision's download at a loopback server; yields the file that it serves."""
    archive, tables = fake_archive(20)
    file = tmp_path / "served" / CIFAR10.filename
    file.parent.mkdir()
    file.write_bytes(archive)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=file.parent)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}"
    for name, value in {**tables, "url": url}.items():
        monkeypatch.setattr(CIFAR10, name, value)
    monkeypatch.setattr(cifar, "CIFAR_CACHE", tmp_path / "cache")
    yield file
    server.shutdown()
    server.server_close()


def test_the_download_works_once_and_is_found_again(served, tmp_path):
    data = cifar10()
    assert data.classes == CIFAR10_CLASSES
    assert data.train_images.shape == (100, 3, 32, 32)
    served.unlink()  # from here on nothing can be downloaded
    assert torch.equal(cifar10().train_images, data.train_images)
    own = cifar10(tmp_path / "cache")  # as with --data-dir
    assert torch.equal(own.test_images, data.test_images)
    assert is_cifar10(tmp_path / "cache")


def test_a_download_that_fails_says_what_to_do_and_the_next_one_works(served, tmp_path):
    good = served.read_bytes()
    served.unlink()
    refused(cifar10, "cannot download CIFAR-10", "put cifar-10-python.tar.gz there", "--data-dir")
    served.write_bytes(good[: len(good) // 2])
    refused(cifar10, "cannot download CIFAR-10", str(tmp_path))
    served.write_bytes(good)
    assert len(cifar10().train_labels) == 100


def test_without_a_network_the_message_names_file_and_folder(served, monkeypatch):
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    refused(cifar10, "cannot download CIFAR-10", "cifar-10-python.tar.gz", "cache")


def test_what_only_has_the_names_of_cifar10_is_any_folder_of_images(tmp_path, monkeypatch):
    make_tree(tmp_path, classes=CIFAR10_CLASSES, count=2)
    assert not is_cifar10(tmp_path)
    refused(lambda: cifar10(tmp_path), "not CIFAR-10", "5,000 train", "choose the preset quick")
    assert read_folder(tmp_path, 8).name == tmp_path.name
    monkeypatch.setattr(cifar, "COUNTS", {"train": 2, "test": 2})
    assert is_cifar10(tmp_path)
    assert cifar10(tmp_path).name == "CIFAR-10"


def test_other_names_are_not_cifar10(tmp_path):
    assert not is_cifar10(make_tree(tmp_path))
    refused(lambda: cifar10(tmp_path), "not CIFAR-10")


def test_the_real_cifar10(real_cifar10):
    data = real_cifar10
    assert data.train_images.shape == (50_000, 3, 32, 32)
    assert data.test_images.shape == (10_000, 3, 32, 32)
    # The means that everyone uses for CIFAR-10's training set.
    means = data.train_images.double().mean((0, 2, 3)) / 255
    assert means.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
