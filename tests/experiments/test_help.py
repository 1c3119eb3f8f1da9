"""--help and a wrong option are answered at once: they import no library that takes seconds."""

import subprocess
import sys

import pytest
from conftest import ROOT

from experiments.__main__ import commands

IN_A_FRESH_INTERPRETER = """
import runpy, sys

SLOW = ("torch", "torchvision", "sklearn", "matplotlib", "scipy", "transformers", "timm", "PIL",
        "numpy", "pandas", "huggingface_hub", "safetensors")

def refuse(event, arguments):
    if event == "import" and arguments[0].partition(".")[0] in SLOW:
        raise AssertionError(f"imports {arguments[0]}")  # its traceback says from where

sys.addaudithook(refuse)
name, option = sys.argv[1:]
sys.argv[1:] = [option]
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""


def answer(name: str, option: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_INTERPRETER, f"experiments.{name}", option],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", commands())
def test_help_imports_nothing_that_takes_seconds(name):
    done = answer(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m experiments.{name}" in done.stdout


def test_a_wrong_option_imports_nothing_that_takes_seconds():
    done = answer("shapes", "--sise")
    assert done.returncode == 2, done.stderr
    assert "--sise" in done.stderr
