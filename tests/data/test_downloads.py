"""Datasets by name, from a loopback server: downloaded once, checked, and all or nothing."""

import http.server
import socket
import threading
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from sample_images import refused
from test_cifar import image

from data import collection
from data.collection import Source, open_dataset
from data.downloads import ARCHIVES, checksum_of, folder_of

NAME = "hymenoptera"


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A loopback server in place of the real one; yields the zip that it serves."""
    tree = tmp_path / "tree" / "hymenoptera_data"
    for split, count in (("train", 5), ("val", 2)):
        for label, name in enumerate(("ants", "bees")):
            (tree / split / name).mkdir(parents=True)
            for i in range(count):
                value = 100 * label + 10 * (split == "val") + i
                (tree / split / name / f"{i}.png").write_bytes(image(value))
    archive = tmp_path / "served" / "data.zip"
    archive.parent.mkdir()
    pack(archive, tree)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=archive.parent)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/data.zip"
    ours = replace(ARCHIVES[NAME], url=url, sha256=checksum_of(tree))
    monkeypatch.setitem(ARCHIVES, NAME, ours)
    monkeypatch.chdir(tmp_path)
    yield archive
    server.shutdown()
    server.server_close()


def pack(archive: Path, tree: Path, extra: str = "") -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for path in sorted(tree.rglob("*.png"), reverse=True):
            out.write(path, path.relative_to(tree.parent))
        if extra:
            out.writestr(extra, "x")


def test_a_dataset_is_downloaded_once_by_its_name(served):
    dataset = open_dataset(Source(NAME), 0, 0)
    assert dataset.classes == ("ants", "bees")
    assert {name: len(part.labels) for name, part in dataset.splits.items()} == {
        "train": 10, "val": 4
    }  # fmt: skip
    served.unlink()  # from here on nothing can be downloaded
    folder = folder_of(NAME)
    assert open_dataset(Source(NAME), 0, 0).source.data == str(folder)  # as if given as a folder
    assert sorted(path.name for path in folder.parent.iterdir()) == [
        ".hymenoptera.lock", "hymenoptera_data"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "damage", ["gone", "cut", "text", "bytes", "locked", "another image", "an image less"]
)
def test_a_download_that_fails_leaves_nothing_and_the_next_one_works(served, tmp_path, damage):
    whole, tree = served.read_bytes(), tmp_path / "tree" / "hymenoptera_data"
    if damage == "gone":
        served.unlink()
    elif damage == "cut":
        served.write_bytes(whole[: len(whole) // 2])
    elif damage == "bytes":  # of a compressed image
        place = whole.index(b".png") + 6  # the first bytes behind the name
        served.write_bytes(whole[:place] + b"\xff" * 40 + whole[place + 40 :])
    elif damage == "locked":  # encrypted
        flags = whole.index(b"PK\x01\x02") + 8
        served.write_bytes(whole[:flags] + b"\x01\x00" + whole[flags + 2 :])
    elif damage == "text":
        served.write_bytes(b"<html>not found</html>")
    else:
        victim = tree / "val" / "ants" / "0.png"
        victim.unlink() if "less" in damage else victim.write_bytes(image(99))
        pack(served, tree)
    words = "not the expected ones" if "image" in damage else "cannot download hymenoptera"
    refused(lambda: open_dataset(Source(NAME), 0, 0), words, "http://127.0.0.1", "download")
    assert [path.name for path in Path("cache").iterdir()] == [".hymenoptera.lock"]
    served.write_bytes(whole)
    assert len(open_dataset(Source(NAME), 0, 0).labels("train")) == 10


def test_another_packing_of_the_same_images_is_fine_and_nothing_is_written_elsewhere(
    served, tmp_path
):
    pack(served, tmp_path / "tree" / "hymenoptera_data", extra="../../outside.txt")
    assert len(open_dataset(Source(NAME), 0, 0).labels("train")) == 10
    assert not list(tmp_path.rglob("../outside.txt"))
    assert not (tmp_path / "outside.txt").exists()


@pytest.mark.parametrize("name", [NAME, "cifar10"])
def test_a_folder_of_that_name_goes_first_and_is_named(served, tmp_path, name, monkeypatch):
    monkeypatch.setattr(collection, "cifar10", lambda _: pytest.fail("downloads"))
    (tmp_path / "tree" / "hymenoptera_data").rename(tmp_path / name)
    served.unlink()
    dataset = open_dataset(Source(name), 0, 0)
    assert len(dataset.labels("train")) == 10
    assert dataset.notes[0] == f"{name}: this folder is used, not the download of that name"


def test_the_hash_is_that_of_the_real_images(real_data, tmp_path):
    with zipfile.ZipFile(real_data / "hymenoptera_data.zip") as archive:
        archive.extractall(tmp_path)
    assert checksum_of(tmp_path / "hymenoptera_data") == ARCHIVES[NAME].sha256


@pytest.mark.parametrize(
    "answer",
    [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nx", b"",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nshort"],
    ids=["no HTTP", "a length of abc", "nothing", "half a chunk"],
)  # fmt: skip
def test_an_answer_that_is_no_file_is_refused(tmp_path, monkeypatch, answer):
    def serve() -> None:
        connection, _ = server.accept()
        connection.recv(2**16)
        connection.sendall(answer)
        connection.close()

    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/data.zip"
        monkeypatch.setitem(ARCHIVES, NAME, replace(ARCHIVES[NAME], url=url))
        threading.Thread(target=serve, daemon=True).start()
        refused(lambda: folder_of(NAME), "cannot download hymenoptera", "127.0.0.1")
    assert [path.name for path in Path("cache").iterdir()] == [".hymenoptera.lock"]
