"""Pictures from folders, zips and the download: read right, or refused by name."""

import hashlib
import http.server
import io
import pickle
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from data.folder import read_folder
from PIL import Image
from torchvision.datasets import CIFAR10
from torchvision.datasets.folder import IMG_EXTENSIONS

from data import cifar, folder
from data.cifar import cifar10, is_cifar10
from data.errors import DataError
from data.images import load_image


def picture(value: int, size=(8, 8)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (value, 255 - value, 7)).save(out, "PNG")
    return out.getvalue()


def make_tree(root: Path, test="test", classes=("ant", "bee"), count=3) -> Path:
    for split in ("train", test):
        for c, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                (root / split / name / f"{i}.png").write_bytes(picture(100 * c + i))
    return root


def zipped(root: Path, archive: Path, prefix="") -> Path:
    with zipfile.ZipFile(archive, "w") as out:
        for file in sorted(root.rglob("*.png"), reverse=True):
            out.write(file, prefix + str(file.relative_to(root)))
    return archive


def refused(action, *words: str) -> None:
    with pytest.raises(DataError) as error:
        action()
    text = str(error.value)
    assert len(text.splitlines()) == 3
    assert all(word in text for word in words), text


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_folder_is_read_sorted(tmp_path, test):
    data = read_folder(make_tree(tmp_path, test), 8)
    assert data.classes == ("ant", "bee")
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train_images[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]
    assert data.train_images.dtype == torch.uint8
    assert len(data.test_labels) == 6


def test_zips_are_read_as_if_unpacked_together(tmp_path):
    tree = make_tree(tmp_path / "tree")
    expected = read_folder(tree, 8)
    (tmp_path / "zips").mkdir()
    zipped(tree / "train", tmp_path / "zips" / "a.zip", "train/")
    zipped(tree / "test", tmp_path / "zips" / "b.zip", "set/test/")
    single = zipped(tree, tmp_path / "one.zip", "my_set/")
    for source in (tmp_path / "zips", single):
        data = read_folder(source, 8)
        assert data.classes == expected.classes
        assert torch.equal(data.train_images, expected.train_images)
        assert torch.equal(data.test_labels, expected.test_labels)


def test_zips_beside_what_they_were_unpacked_to_do_not_count_twice(tmp_path):
    tree = make_tree(tmp_path)
    zipped(tree, tmp_path / "all.zip")
    assert len(read_folder(tmp_path, 8).train_labels) == 6


def test_other_shapes_are_fitted_and_other_files_left_out(tmp_path):
    tree = make_tree(tmp_path)
    (tree / "train" / "ant" / "wide.png").write_bytes(picture(9, (40, 20)))
    (tree / "train" / "ant" / "notes.txt").write_text("no picture", encoding="utf-8")
    (tree / "train" / "ant" / ".hidden.png").write_text("no picture", encoding="utf-8")
    (tree / "train" / ".ipynb_checkpoints").mkdir()
    (tree / "train" / ".ipynb_checkpoints" / "0.png").write_bytes(picture(1))
    data = read_folder(tree, 8)
    assert data.train_images.shape == (7, 3, 8, 8)
    assert data.classes == ("ant", "bee")


def test_the_extensions_are_torchvisions():
    assert folder.EXTENSIONS == IMG_EXTENSIONS


def test_missing_or_half_unzipped_data_is_refused(tmp_path):
    refused(lambda: read_folder(tmp_path / "nowhere", 8), "no such data folder", "nowhere")
    refused(lambda: read_folder(tmp_path, 8), "no train pictures", str(tmp_path))
    tree = make_tree(tmp_path / "tree", classes=("ant", "bee", "cat"))
    for file in (tree / "test" / "cat").iterdir():
        file.unlink()
    refused(lambda: read_folder(tree, 8), "same classes", "cat is on one side only")
    archive = zipped(tree, tmp_path / "all.zip")
    archive.write_bytes(archive.read_bytes()[:-200])
    refused(lambda: read_folder(archive, 8), "cannot read a zip", "all.zip")


def test_a_damaged_picture_is_named(tmp_path):
    tree = make_tree(tmp_path / "tree")
    bad = tree / "train" / "bee" / "1.png"
    whole = picture(50, (64, 64))
    bad.write_bytes(whole[: len(whole) // 2])
    refused(lambda: read_folder(tree, 8), "cannot decode", str(bad))
    bad.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    refused(lambda: read_folder(tree, 8), "cannot decode", str(bad))
    good = zipped(make_tree(tmp_path / "other"), tmp_path / "z.zip").read_bytes()
    place = good.index(b"IDAT") + 6
    (tmp_path / "z.zip").write_bytes(good[:place] + bytes([good[place] ^ 255]) + good[place + 1 :])
    refused(lambda: read_folder(tmp_path / "z.zip", 8), "z.zip")


def test_pictures_are_turned_as_their_exif_says(tmp_path):
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise makes it upright
    image.save(tmp_path / "turned.png", exif=exif)
    loaded = load_image(str(tmp_path / "turned.png"), "turned.png")
    assert loaded.shape == (3, 4, 2)
    assert loaded[:, 0, 1].tolist() == [255, 255, 255]


# --- CIFAR-10 ---


def fake_archive(per_batch: int) -> tuple[bytes, dict]:
    """A small archive in the form of cifar-10-python.tar.gz, and torchvision's tables for it."""
    generator, files = np.random.default_rng(0), {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        pixels = generator.integers(0, 256, (per_batch, 3072), dtype=np.uint8)
        labels = [i % 10 for i in range(per_batch)]
        files[name] = pickle.dumps({"data": pixels, "labels": labels})
    files["batches.meta"] = pickle.dumps({"label_names": list(cifar.CLASSES)})
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
        "train_list": [[f"data_batch_{i}", md5[f"data_batch_{i}"]] for i in range(1, 6)],
        "test_list": [["test_batch", md5["test_batch"]]],
        "meta": {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]},
    }


@pytest.fixture
def served(tmp_path, monkeypatch):
    """torchvision's download pointed at a server on loopback; the test sets what it answers."""
    archive, tables = fake_archive(20)
    answer = {"status": 200, "body": archive, "asked": 0}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer["asked"] += 1
            self.send_response(answer["status"])
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}"
    for name, value in {**tables, "url": url}.items():
        monkeypatch.setattr(CIFAR10, name, value)
    monkeypatch.setattr(cifar, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(cifar, "COUNTS", (100, 20))
    yield answer
    server.shutdown()
    server.server_close()


def test_the_download_works_once_and_is_found_again(served, tmp_path):
    data = cifar10()
    assert data.classes == cifar.CLASSES
    assert data.train_images.shape == (100, 3, 32, 32)
    asked = served["asked"]
    assert asked > 0
    again = cifar10()
    assert served["asked"] == asked
    assert torch.equal(again.train_images, data.train_images)
    own = cifar10(tmp_path / "cache")  # named as --data-dir, nothing is downloaded
    assert torch.equal(own.test_images, data.test_images)
    assert is_cifar10(tmp_path / "cache")


def test_a_download_that_fails_says_what_to_do_and_the_next_one_works(served, tmp_path):
    good = served["body"]
    served.update(status=404, body=b"")
    refused(cifar10, "cannot download CIFAR-10", "put cifar-10-python.tar.gz into", "--data-dir")
    served.update(status=200, body=good[: len(good) // 2])
    refused(cifar10, "incomplete or damaged", str(tmp_path))
    served.update(body=good)
    assert len(cifar10().train_labels) == 100


def test_without_a_network_the_message_names_file_and_folder(served, monkeypatch):
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    refused(cifar10, "cannot download CIFAR-10", "cifar-10-python.tar.gz", "cache")


def test_a_part_of_cifar_is_refused_with_its_counts(tmp_path):
    make_tree(tmp_path, classes=cifar.CLASSES)
    refused(lambda: cifar10(tmp_path), "train has 30 pictures where 50,000 belong", "3 of 5,000")
    assert is_cifar10(tmp_path)


def test_the_real_cifar10(real_cifar10):
    data = real_cifar10
    assert data.train_images.shape == (50_000, 3, 32, 32)
    assert data.test_images.shape == (10_000, 3, 32, 32)
    # The means that everyone uses for CIFAR-10's training set.
    means = data.train_images.double().mean((0, 2, 3)) / 255
    assert means.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    held = data.holding_out()
    assert (len(held.train_labels), len(held.test_labels)) == (45_000, 5_000)
