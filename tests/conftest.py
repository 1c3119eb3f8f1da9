"""Shared by all tests: one thread, real data if available, and commands run as a user runs them.

The top of this file imports no module of the project: child processes must import those themselves.
"""

import importlib
import io
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).parent.parent

settings.register_profile("zoo", deadline=None, max_examples=25, print_blob=True)
settings.load_profile("zoo")

# A clean process that forks: children start at once, with the libraries that we use but without
# modules of the project, and inherit none of pytest's threads.
forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload([
    "torch._dynamo", "torchvision.transforms.v2", "safetensors.torch", "matplotlib.pyplot",
    "tyro", "rich.console", "rich.table", "tqdm", "filelock", "pytest", "hypothesis",
])  # fmt: skip


SLOWEST = ("test_signals.py", "test_transfer.py", "test_study.py", "test_parallel.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: then none of two processes waits for the other."""
    items.sort(key=lambda item: item.path.name not in SLOWEST)


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder ZOO_TEST_DATA: skips if it is not set, fails if the folder is incomplete."""
    if "ZOO_TEST_DATA" not in os.environ:
        pytest.skip("ZOO_TEST_DATA is not set: no real CIFAR-10 here")
    folder = Path(os.environ["ZOO_TEST_DATA"])
    assert (folder / "cifar10" / "test.zip").is_file(), f"{folder} is incomplete"
    return folder


@pytest.fixture(scope="session")
def real_cifar10(real_data):
    """CIFAR-10's 60,000 images, decoded in about 10 s."""
    from data.cifar import cifar10

    return cifar10(real_data / "cifar10")


@pytest.fixture
def files(tmp_path) -> list[str]:
    """Six JPEGs and six PNGs of noise, each of a different size."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(12):
        pixels = rng.integers(0, 256, (20 + 3 * i, 50 - i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.{'png' if i % 2 else 'jpg'}")
    return sorted(str(path) for path in tmp_path.iterdir())


def in_a_child(action, folder: Path, timeout: float = 120) -> subprocess.CompletedProcess:
    """Run action() at the root in its own process, which need not import torch."""
    said = [folder / f".said{number}" for number in (1, 2)]
    process = forked.Process(target=acting, args=(action, said))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        pytest.fail(f"{action} takes more than {timeout} s")
    texts = [path.read_text(encoding="utf-8") for path in said]
    return subprocess.CompletedProcess([], process.exitcode, *texts)


def acting(action, said: list[Path]) -> None:
    for number, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(ROOT)
    action()


def run_and_kill(child, arguments, kill_at: int | None) -> tuple[int | None, list[int]]:
    """Run child(*arguments, steps) in a process, killed by SIGKILL after `kill_at` steps.

    The child writes the step at which it resumed and its last step into `steps`. Returns its exit
    code and `steps`.
    """
    steps = forked.Array("q", [-1, 0], lock=False)
    process = forked.Process(target=child, args=(*arguments, steps))
    process.start()
    while kill_at is not None and process.is_alive() and steps[1] < kill_at:
        time.sleep(0.001)
    if kill_at is not None:
        os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    return process.exitcode, list(steps)


def shaken(name: str, *arguments, **settings) -> torch.nn.Module:
    """A network from zoo.build, with every parameter and buffer moved from its initial value."""
    import zoo
    from experiments.proof.checks import shake

    model = zoo.build(name, *arguments, **settings)
    shake(model)
    return model


def unfilled(name: str, *arguments, **settings) -> torch.nn.Module:
    """A network from zoo.build without initialisation: its weights must be loaded before use."""
    import zoo

    with torch.device("meta"):
        model = zoo.build(name, *arguments, **settings)
    return model.to_empty(device="cpu")


def vit_pair(name: str, library: str, num_classes: int = 1000, size: int | None = None) -> tuple:
    """Our ViT and another library's, with the same shaken weights."""
    import zoo
    from experiments.proof.checks import shake
    from experiments.proof.oracles import VIT_ORACLES

    pytest.importorskip(library)
    oracle = VIT_ORACLES[library]
    theirs = oracle.build(name, num_classes, size)
    shake(theirs)
    ours = unfilled(name, num_classes, image_size=size, **oracle.settings)
    return zoo.load(ours, theirs.state_dict()), theirs


def same(a: dict, b: dict) -> bool:
    """Both have the same tensors, to the last bit, under the same names in the same order."""
    return list(a) == list(b) and held(a, b)


def held(part: dict, whole: dict) -> bool:
    """Every tensor of `part` is in `whole` too, to the last bit."""
    return all(torch.equal(value, whole[key]) for key, value in part.items())


@contextmanager
def refusal(error: type[Exception], *words: str):
    """The block raises this error; its message has three printable lines and contains `words`."""
    with pytest.raises(error) as caught:
        yield
    lines = str(caught.value).split("\n")
    assert len(lines) == 3, lines
    assert all(line.strip() and line.isprintable() for line in lines), lines
    for word in words:
        assert word in str(caught.value), (word, lines)


@pytest.fixture
def command(tmp_path):
    """Run `python -m ARGUMENTS` from the root; returns the finished process, with output as text.

    It runs in a child that has not imported our code. `before()` runs there first.
    """

    def run(*arguments: object, before=None) -> subprocess.CompletedProcess:
        return in_a_child(partial(as_main, list(map(str, arguments)), before), tmp_path)

    return run


def as_main(words: list[str], before) -> None:
    if before is not None:
        before()
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


@pytest.fixture(scope="session")
def campaign(tmp_path_factory):
    """README's command with tiny settings, as a user runs it: its folder and finished process."""
    return typed(tmp_path_factory.mktemp("campaign") / "out", "experiments.ablation", *TINY)


@pytest.fixture(scope="session")
def vit_campaign(tmp_path_factory):
    """The same with ViTs."""
    folder = tmp_path_factory.mktemp("campaign") / "ablation-vit"
    return typed(folder, "experiments.ablation", "vit", *TINY_VIT)


def typed(folder: Path, *arguments: str) -> tuple[Path, subprocess.CompletedProcess]:
    done = subprocess.run(
        [sys.executable, "-m", *arguments, "--output-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done


TINY = ("--depths", "8", "20", "--seeds", "2", "--epochs", "1", "--train-images", "128",
        "--precision", "fp32")  # fmt: skip
TINY_VIT = ("--depths", "1", "2", "--seeds", "2", "--epochs", "1", "--train-images", "128",
            "--precision", "fp32", "--jobs", "1")  # fmt: skip


@pytest.fixture(scope="session")
def examined():
    """gallery.examine, cached: 26 networks in seven checks take about a minute."""
    from experiments.proof import gallery

    return cache(gallery.examine)


@pytest.fixture
def quick_workers(monkeypatch):
    """Fork a campaign's workers, so that they import nothing; without this they are spawned."""
    monkeypatch.setattr("experiments.ablation.pool.get_context", lambda _: forked)


@pytest.fixture
def invoke(capfd, monkeypatch):
    """Like `command`, but in this process: for tests that need no signals and no real start-up."""

    def run(module: str, *arguments: object) -> subprocess.CompletedProcess:
        from experiments.plumbing import cli

        is_package = (ROOT / module.replace(".", "/")).is_dir()
        program = importlib.import_module(module + ".__main__" * is_package)
        monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
        monkeypatch.setattr("experiments.plumbing.signals.listen", lambda: None)
        monkeypatch.setattr("experiments.plumbing.signals.kill_children", lambda: None)
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.run(program.main, program.Options, module.removeprefix("experiments."))
        said = capfd.readouterr()
        return subprocess.CompletedProcess([], int(stop.value.code), said.out, said.err)

    return run


def assert_prints(done: subprocess.CompletedProcess, *words: str, code: int = 0) -> None:
    """The command ends with this exit code, and its output contains `words`."""
    assert done.returncode == code, done.stderr
    for word in words:
        assert word in done.stdout, done.stdout


class Terminal(io.StringIO):
    """Collects what is written, and says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def assert_three_lines(done: subprocess.CompletedProcess, code: int, *words: str) -> None:
    """The last three lines of stderr are the error: it contains `words`, and no traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    lines = done.stderr.split("\r")[-1].rstrip("\n").split("\n")[-3:]
    assert len(lines) == 3, done.stderr
    assert all(line.strip() for line in lines), done.stderr
    for word in words:
        assert word in "\n".join(lines), (word, lines)
