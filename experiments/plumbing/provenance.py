"""What computed a result: hardware, threads, versions, commit."""

import functools
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch


def machine(device: torch.device) -> dict:
    """Hardware, threads, versions and commit, for a row of results."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else cpu_name(),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": version("torchvision"),
        },
        "commit": commit(),
    }


def cpu_name() -> str:
    """What Linux calls the processor, or the next best name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return next(line.split(": ", 1)[1] for line in text.splitlines() if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@functools.cache
def commit() -> str:
    """The commit of this checkout, "-dirty" if it was changed since, or "unknown" without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    here = Path(__file__).parent
    try:
        described = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return described.stdout.strip() or "unknown"
