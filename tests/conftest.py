"""Shared by all tests: one thread, real data where there is some, commands as a user types them."""

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from experiments import cli

ROOT = Path(__file__).parent.parent

settings.register_profile("zoo", deadline=None, max_examples=25, print_blob=True)
settings.load_profile("zoo")


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder ZOO_TEST_DATA: skips where it is not set, fails where it is set and not there."""
    if "ZOO_TEST_DATA" not in os.environ:
        pytest.skip("ZOO_TEST_DATA is not set: no real CIFAR-10 here")
    folder = Path(os.environ["ZOO_TEST_DATA"])
    assert (folder / "cifar10" / "test.zip").is_file(), f"{folder} is incomplete"
    return folder


@pytest.fixture
def command(tmp_path):
    """Run `python -m ARGUMENTS` from the root; the finished process, output as text."""

    def run(*arguments: object, timeout: float = 120, **options) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False, **options,
        )  # fmt: skip

    return run


@pytest.fixture
def invoke(capfd, monkeypatch):
    """The same command inside this process: for commands that end before any worker starts."""

    def run(module: str, *arguments: object) -> subprocess.CompletedProcess:
        program = importlib.import_module(module)
        monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.run(program.main, program.Options, module.removeprefix("experiments."))
        said = capfd.readouterr()
        return subprocess.CompletedProcess([], int(stop.value.code), said.out, said.err)

    return run


def assert_three_lines(done: subprocess.CompletedProcess, code: int, *words: str) -> None:
    """The error is three lines, the last ones on stderr, without a traceback, naming `words`."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    lines = done.stderr.split("\r")[-1].rstrip("\n").split("\n")[-3:]
    assert len(lines) == 3, done.stderr
    assert all(line.strip() for line in lines), done.stderr
    for word in words:
        assert word in "\n".join(lines), (word, lines)
