"""Weights from a server: whole or not at all, checked at every load. The server is on loopback."""

import hashlib
import http.server
import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import ROOT

import zoo
from zoo.weights import download, published
from zoo.weights.download import place_of


def saved(**settings) -> bytes:
    buffer = io.BytesIO()
    torch.save(torchvision.models.resnet18(**settings).state_dict(), buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def content() -> bytes:
    torch.manual_seed(0)
    return saved(num_classes=7)


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
        if server.mode != "no length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.mode == "truncated":
            body = body[: len(body) // 2]
        if server.mode == "flipped":
            body = body[:5000] + bytes([body[5000] ^ 1]) + body[5001:]
        if server.mode in ("slow", "stalled", "endless"):
            for start in range(0, len(body), len(body) // 5 + 1):
                self.wfile.write(body[start : start + len(body) // 5 + 1])
                if server.mode != "slow" or server.release.wait(0.2):
                    server.release.wait(60)
        else:
            self.wfile.write(body)
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


def fails(server, *words: str, name: str | None = None) -> str:
    with pytest.raises(zoo.WeightsError) as error:
        zoo.build("resnet18", 7, weights=url_of(server, name))
    assert len(str(error.value).splitlines()) == 3
    for word in words:
        assert word in str(error.value), str(error.value)
    return str(error.value)


def test_a_good_file_is_downloaded_once_and_its_sha256_kept(server, capfd):
    url = url_of(server)
    name = url.split("/")[-1]
    model = zoo.build("resnet18", 7, weights=url)
    theirs = torch.load(io.BytesIO(server.content), weights_only=True)
    assert all(torch.equal(v, theirs[key]) for key, v in zoo.export(model).items())
    assert name in capfd.readouterr().err  # the bar
    assert cached() == [name, f"{name}.sha256"]
    record = place_of(url).with_name(f"{name}.sha256")
    assert record.read_text() == f"{hashlib.sha256(server.content).hexdigest()}  {name}\n"
    checked = subprocess.run(["sha256sum", "-c", record.name], cwd=record.parent, check=False)
    assert checked.returncode == 0
    server.mode = "404"
    zoo.load(zoo.build("resnet18", 7), url)
    assert server.requests == 1


def test_torch_home_is_where_torchvision_looks_too(server):
    path = place_of(url_of(server))
    assert path.parent == Path(torch.hub.get_dir()) / "checkpoints"
    assert str(path).startswith(os.environ["TORCH_HOME"])


@pytest.mark.parametrize(
    ("mode", "words"),
    [("404", ("the server answers 404",)), ("truncated", ("bytes came",)),
     ("flipped", ("its SHA-256 begins with", "under another name")), ("stalled", ("timed out",)),
     ("redirect", ("cannot download",))],
)  # fmt: skip
def test_what_does_not_come_whole_is_not_kept(server, mode, words):
    server.mode = mode
    begin = time.perf_counter()
    said = fails(server, url_of(server), url_of(server).split("/")[-1], *words)
    assert time.perf_counter() - begin < 20
    assert str(place_of(url_of(server)).parent) in said  # where to put it by hand
    assert cached() == []
    server.mode = "good"
    zoo.build("resnet18", 7, weights=url_of(server))


def test_a_slow_server_is_waited_for(server):
    server.mode = "slow"
    begin = time.perf_counter()
    zoo.build("resnet18", 7, weights=url_of(server))
    assert time.perf_counter() - begin > 0.8


def test_a_name_with_a_wrong_hash_is_not_kept(server):
    fails(server, "not with 01234567", "resnet18-01234567.pth", name="resnet18-01234567.pth")
    assert cached() == []


def test_without_a_server_the_message_names_the_file_and_the_folder(server):
    server.shutdown()
    server.server_close()
    said = fails(server, "cannot download", "put resnet18-")
    assert str(place_of(url_of(server)).parent) in said


def test_published_weights_come_through_the_same_door(server, monkeypatch, caplog):
    """The URL is torchvision's; here its host is loopback."""
    url = url_of(server)
    entries = torchvision.models.ResNet18_Weights
    entry = entries.IMAGENET1K_V1
    monkeypatch.setattr(entry, "_value_", type(entry.value)(url, entry.transforms, entry.meta))
    assert published.published("resnet18", "DEFAULT").url == url
    model = zoo.build("resnet18", 7, weights="DEFAULT")
    assert model.head.out_features == 7
    with pytest.raises(zoo.WeightsError, match="pass num_classes=7"):
        zoo.build("resnet18", weights="IMAGENET1K_V1")
    with caplog.at_level(logging.WARNING, "zoo"):
        fresh = zoo.build("resnet18", num_classes=4, weights="IMAGENET1K_V1")
    assert "dropped the head's 2 entries: the model keeps its own, for 4 classes" in caplog.text
    assert torch.equal(fresh.stages[3][1].conv2.weight, model.stages[3][1].conv2.weight)
    assert fresh.head.weight.shape == (4, 512)
    assert server.requests == 1


def test_by_hand_a_file_can_be_put_into_the_cache(server):
    path = place_of(url_of(server))
    path.parent.mkdir(parents=True)
    path.write_bytes(server.content)
    server.mode = "404"
    zoo.build("resnet18", 7, weights=url_of(server))
    assert cached() == [path.name, f"{path.name}.sha256"]


def test_a_file_planted_in_the_cache_is_deleted_and_named(server):
    """There is no record of it yet: the digits in its name must do."""
    path = place_of(url_of(server))
    path.parent.mkdir(parents=True)
    path.write_bytes(saved(num_classes=5))  # good weights, but not these
    fails(server, f"{path.name} is damaged or was exchanged, and was deleted")
    assert cached() == []


def flip(path, at: int = 5000) -> None:
    body = bytearray(path.read_bytes())
    body[at] ^= 1
    path.write_bytes(body)


def test_a_file_changed_after_caching_is_deleted_and_named(server):
    zoo.build("resnet18", 7, weights=url_of(server))
    path = place_of(url_of(server))
    flip(path)
    fails(server, f"{path.name} is damaged or was exchanged, and was deleted", str(path))
    assert cached() == []
    zoo.build("resnet18", 7, weights=url_of(server))  # the same command downloads it again
    assert server.requests == 2


def test_the_whole_hash_is_compared_not_only_the_digits_in_the_name(server):
    """A name without a hash: only the record beside it can tell."""
    url = url_of(server, "model.pth?download=true")
    zoo.build("resnet18", 7, weights=url)
    path = place_of(url)
    assert path.name.endswith("_model.pth")
    assert place_of(url.replace("true", "false")) != path
    flip(path)
    with pytest.raises(zoo.WeightsError, match="was deleted"):
        zoo.build("resnet18", 7, weights=url)
    assert cached() == []


def test_a_record_that_differs_counts_even_where_the_name_fits(server):
    zoo.build("resnet18", 7, weights=url_of(server))
    path = place_of(url_of(server))
    other = hashlib.sha256(server.content).hexdigest()[:8] + "0" * 56
    path.with_name(f"{path.name}.sha256").write_text(f"{other}  {path.name}\n")
    fails(server, "was deleted")


def test_a_file_of_the_users_own_is_checked_and_never_deleted(server, tmp_path):
    path = tmp_path / url_of(server).split("/")[-1]
    path.write_bytes(server.content)
    zoo.build("resnet18", 7, weights=path)
    flip(path)
    with pytest.raises(zoo.WeightsError, match="not what its name says"):
        zoo.build("resnet18", 7, weights=path)
    assert path.exists()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    date = tmp_path / "model-20261121.pth"
    date.write_bytes(server.content)
    with pytest.raises(zoo.WeightsError, match="rename the file"):
        zoo.build("resnet18", 7, weights=date)


@pytest.mark.parametrize(
    "url",
    ["http://", "https:///x.pth", "http://host", "http://host/", "http://[::x]/a.pth",
     "http://host/%2e%2e", "http://ho st/a.pth", "http://host:99999/a.pth",
     "https://host\n/a.pth", "http://host/..", "HTTP://127.0.0.1:1/x.pth"],
)  # fmt: skip
def test_what_is_no_url_is_refused_in_three_lines(url, server):
    with pytest.raises(zoo.WeightsError) as error:
        zoo.load(zoo.build("resnet18", 7), url)
    assert len(str(error.value).splitlines()) == 3
    assert cached() == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_download_leaves_no_half_file(server, how, tmp_path):
    server.mode = "stalled"
    script = (
        "import sys, zoo\nfrom experiments import cli\n"
        "from experiments.convert import Options, main\n"
        "cli.run(main, Options, 'convert')\n"
    )
    arguments = [url_of(server), str(tmp_path / "out.pth"), "--to", "zoo"]
    child = subprocess.Popen([sys.executable, "-c", script, *arguments], cwd=ROOT,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    while not server.requests:
        time.sleep(0.05)
        assert child.poll() is None
    time.sleep(0.3)
    child.send_signal(how)
    _, said = child.communicate(timeout=30)
    assert child.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[how]
    assert "Traceback" not in said
    assert cached() == []
    assert not (tmp_path / "out.pth").exists()


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    fails(server, "TORCH_HOME")
