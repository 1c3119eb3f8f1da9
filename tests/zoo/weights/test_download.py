"""Weights from a (loopback) server: downloaded whole or not at all, and checked at every load."""

import hashlib
import http.server
import io
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import ROOT, held, refusal, same

import zoo
from zoo.weights import download, published
from zoo.weights.download import place_of

build = partial(zoo.build, "resnet18", 7, width=8)


@pytest.fixture(scope="module")
def content() -> bytes:
    buffer = io.BytesIO()
    torch.manual_seed(0)
    torch.save(zoo.export(build()), buffer)
    return buffer.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves server.content, spoiled as server.mode says."""

    def do_GET(self) -> None:
        server, body = self.server, self.server.content
        server.requests += 1
        if server.mode == "404":
            return self.send_error(404)
        if server.mode == "redirect":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            return self.end_headers()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.mode in ("cut", "stalled"):
            body = body[: len(body) // 2]
        if server.mode == "flipped":
            body = body[:5000] + bytes([body[5000] ^ 1]) + body[5001:]
        self.wfile.write(body)
        if server.mode == "stalled":
            server.release.wait(60)
        return None

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def server(content, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "TIMEOUT", 1.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.content, running.mode, running.requests = content, "good", 0
        running.release = threading.Event()
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.release.set()
        running.shutdown()


def url_of(server, name: str | None = None) -> str:
    digits = hashlib.sha256(server.content).hexdigest()[:8]
    return f"http://127.0.0.1:{server.server_port}/{name or f'resnet18-{digits}.pth'}"


def cached() -> list[str]:
    folder = place_of("http://x/y-01234567.pth").parent
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def fails(url: str | Path, *words: str) -> None:
    with refusal(zoo.WeightsError, *words):
        build(weights=url)


def test_a_good_file_is_downloaded_once(server):
    url = url_of(server)
    model = build(weights=url)
    theirs = torch.load(io.BytesIO(server.content), weights_only=True)
    assert held(zoo.export(model), theirs)
    path = place_of(url)
    assert path.parent == Path(torch.hub.get_dir()) / "checkpoints"  # where torchvision looks too
    assert str(path).startswith(os.environ["TORCH_HOME"])
    assert cached() == [path.name]
    server.mode = "404"
    zoo.load(build(), url)
    assert server.requests == 1


@pytest.mark.parametrize("name", [None, "model.pth"])
@pytest.mark.parametrize(
    ("mode", "words"),
    [("404", ("cannot download", "404")), ("redirect", ("cannot download", "not allowed")),
     ("stalled", ("cannot download", "timed out")), ("cut", ()), ("flipped", ())],
)  # fmt: skip
def test_failed_and_damaged_downloads_are_not_kept(server, mode, words, name):
    """Even without a hash in the name: then the content is checked before it is kept."""
    server.mode, url = mode, url_of(server, name)
    begin = time.perf_counter()
    fails(url, *words)
    assert time.perf_counter() - begin < 20
    assert cached() == []
    server.mode = "good"
    build(weights=url)


def test_the_message_says_where_to_put_a_file_by_hand(server):
    server.shutdown()
    server.server_close()
    path = place_of(url_of(server))
    fails(url_of(server), "cannot download", f"put {path.name} into {path.parent}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(server.content)
    build(weights=url_of(server))


def test_a_name_with_a_wrong_hash_is_not_kept(server):
    fails(url_of(server, "resnet18-01234567.pth"), "invalid hash value", "01234567")
    assert cached() == []


def test_a_file_changed_after_caching_is_refused_and_named(server):
    url = url_of(server)
    build(weights=url)
    body = bytearray(place_of(url).read_bytes())
    body[5000] ^= 1
    place_of(url).write_bytes(body)
    fails(url, "not what its name says", str(place_of(url)), "delete this file", url)
    place_of(url).unlink()
    build(weights=url)
    assert server.requests == 2


def test_files_of_one_name_from_two_urls_do_not_collide(server):
    first, second = (url_of(server, f"model.pth?of={owner}") for owner in "ab")
    assert place_of(first).name.endswith("_model.pth")
    assert place_of(first) != place_of(second)
    build(weights=first)
    build(weights=second)
    assert server.requests == len(cached()) == 2


def test_published_weights_are_downloaded_in_the_same_way(server, monkeypatch):
    """The URL is torchvision's; here its host is loopback."""
    entry = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    new = type(entry.value)(url_of(server), entry.transforms, entry.meta)
    monkeypatch.setattr(entry, "_value_", new)
    assert published.published("resnet18", "DEFAULT").url == url_of(server)
    first, second = (build(weights=name) for name in ("DEFAULT", "IMAGENET1K_V1"))
    assert held(zoo.export(first), torch.load(io.BytesIO(server.content)))
    assert same(first.state_dict(), second.state_dict())
    assert server.requests == 1


def test_published_cifar_weights_are_compared_with_their_whole_hash(server, monkeypatch):
    plain = zoo.build("plain8", width=2)
    buffer = io.BytesIO()
    torch.save({"acc": 86.7, "epoch": 300, "state_dict": zoo.export(plain, "li")}, buffer)
    server.content = buffer.getvalue()
    digest, url = hashlib.sha256(server.content).hexdigest(), url_of(server, "model_300.t7")
    table = {("plain8", "CIFAR10_LI"): (url, digest, 86.7)}
    monkeypatch.setattr(published, "CIFAR10", table)
    loaded = zoo.build("plain8", width=2, weights="CIFAR10_LI")
    assert same(loaded.state_dict(), plain.state_dict())
    table["plain8", "CIFAR10_LI"] = (url, digest[:-1] + ("1" if digest[-1] == "0" else "0"), 86.7)
    with refusal(zoo.WeightsError, "cannot download", url):
        zoo.build("plain8", width=2, weights="DEFAULT")
    assert server.requests == 2


def test_a_file_of_the_users_own_is_checked(server, tmp_path):
    path = tmp_path / url_of(server).split("/")[-1]
    path.write_bytes(server.content)
    build(weights=path)
    path.write_bytes(server.content[:-1] + b"x")
    fails(path, "not what its name says")
    date = tmp_path / "model-20261121.pth"
    date.write_bytes(server.content)
    fails(date, "rename the file")


@pytest.mark.parametrize(
    "url",
    ["http://", "https:///x.pth", "http://host", "http://host/",
     "http://host/%2e%2e", "http://ho st/a.pth", "http://host:99999/a.pth",
     "https://host\n/a.pth", "http://host/..", "HTTP://127.0.0.1:1/x.pth", "ftp://host/a.pth"],
)  # fmt: skip
def test_an_invalid_url_is_refused_in_three_lines(url, server):
    fails(url)
    assert cached() == []


def test_a_killed_download_is_never_taken_for_a_whole_one(server):
    server.mode, url = "stalled", url_of(server)
    script = f"import zoo; zoo.build('resnet18', 7, width=8, weights={url!r})"
    child = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE)
    while not server.requests:
        time.sleep(0.05)
        assert child.poll() is None
    time.sleep(0.3)
    child.kill()
    child.communicate(timeout=30)
    assert child.returncode
    assert not place_of(url).exists()
    server.mode = "good"
    build(weights=url)


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    fails(url_of(server), "TORCH_HOME")
