"""experiments.doctor: each problem is found when it is planted, and its fix is one line."""

import os
import re
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from conftest import ROOT, assert_prints

from experiments import doctor
from experiments.plumbing.forecast import Forecast

CPU = torch.device("cpu")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


@pytest.fixture
def smi(monkeypatch, tmp_path):
    """Plant an nvidia-smi that prints this driver and a GPU, or fails; torch is for CUDA 13."""

    def plant(driver: str) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        answer = f"echo '{driver}, Tesla T4'" if driver else "echo no; exit 9"
        program.write_text(f"#!/bin/sh\n{answer}\n", encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return plant


def of_gpu() -> tuple:
    """(what, found, fix) for the device."""
    return doctor.of_gpu(*doctor.nvidia_smi())[1]


@without_gpu
def test_why_a_gpu_is_not_used_and_what_to_do(smi, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    smi("535.183.01")
    _, found, fix = of_gpu()
    assert "driver 535.183.01 is too old for CUDA 13.0, which needs 580" in found
    assert fix.startswith("pip install uv && uv pip install --python ")
    assert "--torch-backend auto" in fix
    (tmp_path / ".made").touch()  # by make
    assert of_gpu()[2] == "make setup TORCH=auto"
    smi("580.65.06")
    assert "docker run --gpus all" in of_gpu()[2]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert of_gpu()[2] == "unset CUDA_VISIBLE_DEVICES"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert of_gpu()[1:] == (
        "CPU, although there is a GPU: this torch is built without CUDA", "make setup TORCH=auto",
    )  # fmt: skip


@without_gpu
def test_without_a_gpu_there_is_nothing_to_fix_but_in_colab(smi, monkeypatch):
    smi("")
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    assert doctor.nvidia_smi() == ("nvidia-smi fails", "")
    assert of_gpu() == ("device", "CPU: no CUDA device is visible", "")
    monkeypatch.setenv("COLAB_RELEASE_TAG", "1")
    assert "T4 GPU" in of_gpu()[2]


@without_gpu
def test_a_gpu_that_cannot_compute_needs_another_build(smi, monkeypatch):
    smi("580.65.06")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GeForce GTX 1060")
    _, found, fix = of_gpu()
    assert "cannot compute on 'cuda'" in found
    assert "cu126" in fix


@without_gpu
def test_a_gpu_with_little_memory_is_used_and_no_fault(invoke, monkeypatch):
    monkeypatch.setattr(
        "experiments.plumbing.device.choose_device", lambda _: (torch.device("cuda"), "CUDA: T4")
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1e9, 16e9))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    monkeypatch.setattr(doctor, "LAST_START", -1.0)
    monkeypatch.setenv("COLUMNS", "200")
    words = "CUDA: T4; 1.0 of 16.0 GB free", "fp16 (compute capability 7.5)", "nvidia-smi lists"
    assert_prints(invoke("experiments.doctor"), *words)


def test_an_encoding_that_is_not_utf8_and_that_the_fix_works():
    code = "from experiments.doctor import of_encoding; print(of_encoding())"

    def found(**variables: str) -> str:
        variables = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", **variables}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=variables, capture_output=True, check=True
        )
        return done.stdout.decode().strip()

    assert found(PYTHONUTF8="0") == "('encoding', 'ascii', 'export PYTHONUTF8=1')"
    assert found(PYTHONUTF8="1") == "('encoding', 'utf-8', '')"
    assert "'unset PYTHONIOENCODING'" in found(PYTHONUTF8="1", PYTHONIOENCODING="cp949")


def test_a_missing_font_comes_with_the_line_that_installs_one(monkeypatch):
    monkeypatch.setattr("experiments.drawing.style.drawable", lambda: {65})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for program, line in (("apt", "sudo apt install -y fonts-nanum"),
                          ("brew", "brew install --cask font-nanum-gothic"),
                          ("none", "fonts.google.com")):  # fmt: skip
        monkeypatch.setattr(doctor.shutil, "which", lambda name, p=program: name == p)
        assert line in doctor.of_font()[2]
    monkeypatch.setattr("experiments.drawing.style.drawable", lambda: {doctor.HANGUL})
    assert doctor.of_font()[2] == ""


def test_slow_disks_are_those_of_windows_and_of_networks(monkeypatch, tmp_path):
    slow = tmp_path / "a b" / "checkout"
    slow.mkdir(parents=True)
    monkeypatch.setattr(doctor, "MOUNTS", tmp_path / "mounts")
    windows = f"C:\\134 {tmp_path}/a\\040b 9p rw,aname=drvfs 0 0"
    doctor.MOUNTS.write_text(f"/dev/sda / ext4 rw 0 0\n{windows}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert doctor.of_mount() == ("disk", "ext4, not known to be slow", "")
    monkeypatch.chdir(slow)
    fix = "copy it to Linux's own disk: cp -r . /tmp/skipzoo"
    assert doctor.of_mount() == ("disk", "9p: slow", fix)
    monkeypatch.setattr(doctor, "MOUNTS", tmp_path / "none")  # not Linux
    assert doctor.of_mount()[2] == ""


def test_few_cores_threads_and_gigabytes(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(9e9, 5e9, 4e9))
    assert "cache may be deleted" in doctor.of_disk()[2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0, 0))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for usable, fix in ((4, ""), (2, "export OMP_NUM_THREADS=2; for an ablation, --jobs 2")):
        monkeypatch.setattr("data.processes.usable_cores", lambda n=usable: n)
        assert doctor.of_cores()[2] == fix
    monkeypatch.setattr("data.processes.usable_cores", lambda: 8)
    monkeypatch.setattr(os, "getloadavg", lambda: (7.1, 0, 0))
    assert "load 7.1" in doctor.of_cores()[1]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert doctor.of_cores()[2] == "unset OMP_NUM_THREADS"


def test_forecasts_of_an_ablation_and_a_transfer_from_one_step_each():
    """Not of the two large presets, which take seconds a step."""
    now = time.perf_counter()
    ablation = doctor.foretell("quick", "fp32", CPU, now)
    transfer = doctor.foretell(None, "fp32", CPU, now)
    assert ablation.timed.endswith("a step of resnet56")
    assert transfer.timed.endswith("a step of resnet18")
    for found in (ablation, transfer):
        assert 1 < found.seconds / 60 < 10_000


@without_gpu
def test_odd_answers_of_nvidia_smi_are_no_crash(smi, monkeypatch):
    smi("[N/A]")
    assert "there is a GPU" in of_gpu()[1]
    monkeypatch.setattr(sys, "stdout", None)  # closed from the start, as by >&-
    assert doctor.of_encoding()[0] == "encoding"


@without_gpu
def test_the_table_and_the_exit_code(invoke, smi, monkeypatch):
    asked = []

    def found(preset, *_):
        asked.append(preset)
        return Forecast(361.0, "0.13 s a step of resnet56")

    monkeypatch.setattr(doctor, "foretell", found)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("data.cifar.CIFAR_CACHE", Path("nowhere"))
    smi("535.1")
    done = invoke("experiments.doctor")
    line = "about 6 minutes (timed: 0.13 s a step of resnet56)"
    needs = f"{line}; first it downloads CIFAR-10, 170 MB"
    assert_prints(done, "Python", "for CUDA 13.0", "535.1, for Tesla T4", line, needs, code=1)
    assert set(asked) == {"quick", "vit", "cifar10", "imagenet-nets", None}
    # A fix is on one line, to be copied.
    assert re.search(r"(?m)^to fix:$(\n  .*)*\n  device: make setup TORCH=auto$", done.stdout) or (
        re.search(r"(?m)^  device: pip install uv && uv pip install .*torchvision$", done.stdout)
    )
    smi("")
    monkeypatch.setattr(doctor, "LAST_START", -1.0)
    done = invoke("experiments.doctor")
    assert_prints(done, "nvidia-smi fails", "not timed: too little time, the machine is busy")
