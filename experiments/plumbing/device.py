"""Choose the device, make its results repeatable, and leave a notebook's PyTorch as it was."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from experiments.plumbing.cli import UsageError


def choose_device(requested: str) -> tuple[torch.device, str]:
    """The device for "auto", "cpu", "cuda", "cuda:1", "mps" ..., and the reason in one line.

    Raises UsageError if it cannot compute.
    """
    if requested == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), f"CUDA: {torch.cuda.get_device_name()} is visible"
        mps = "; --device mps is available, but not tested" * torch.backends.mps.is_available()
        return torch.device("cpu"), f"CPU: no CUDA device is visible{mps}"
    try:
        device = torch.device(requested)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        why = str(error).splitlines()[0].split(". ")[0]  # the next sentence lists all backends
        what = f"cannot compute on {requested!r}: {why}"
        fix = "choose another device; --device auto finds one"
        raise UsageError(what, f"--device {requested}", fix) from error
    return device, f"{requested}: as requested" + ", not tested" * (device.type == "mps")


def make_deterministic(device: torch.device, threads: int | None = 1) -> None:
    """Disable nondeterministic convolutions; use `threads` threads on the CPU (None: PyTorch's).

    On a CPU, runs are then repeatable, bit for bit, with the same number of threads. Not tested on
    a GPU.
    """
    if device.type == "cpu" and threads:
        torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_memory() -> bool:
    """Keep up to 2 GB of freed memory for the next step; returns False without Linux's glibc.

    By default, glibc returns the memory of a step's feature maps to the system. In the next step,
    the system clears this memory and hands it out again, page by page. With this function, the
    process keeps freed memory until it ends, except for single blocks over 32 MB.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    # In bytes. Some versions of glibc accept at most 2**25 as the first limit, all 2**31 - 1 as the
    # second one.
    return bool(mallopt(M_MMAP_THRESHOLD, 2**25) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


@contextmanager
def torch_as_started() -> Iterator[None]:
    """Inside, PyTorch is as in a new process: gradients are on, numbers fp32, autocast off.

    Afterwards its settings and random numbers are as before: a notebook's kernel does not notice.
    Settings and random numbers belong to the process: no other thread should use PyTorch meanwhile.
    """
    dtype, threads, cudnn = torch.get_default_dtype(), torch.get_num_threads(), torch.backends.cudnn
    settings = cudnn.benchmark, cudnn.deterministic
    rounding, default = torch.get_float32_matmul_precision(), torch.get_default_device()
    mkldnn: Any = torch.backends.mkldnn
    fast = mkldnn.enabled
    # Only if CUDA is in use: otherwise fork_rng would start it, on every GPU.
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    torch.set_default_device(None)
    mkldnn.enabled = True
    try:
        with (
            torch.random.fork_rng(gpus), torch.inference_mode(False), torch.enable_grad(),
            torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False),
        ):  # fmt: skip
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(rounding)
        mkldnn.enabled = fast
        if default.type != "cpu":  # a default device slows every call down: none for the CPU
            torch.set_default_device(default)
        torch.set_num_threads(threads)
        cudnn.benchmark, cudnn.deterministic = settings


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware computes in bf16. Other hardware emulates it, up to ten times slower.

    PyTorch counts emulation, too: `torch.cuda.is_bf16_supported()` is True on a T4.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # also False if oneDNN is restricted
        return False
    find_out = getattr(torch.cpu, "get_capabilities", None)  # missing in our oldest PyTorch
    names = ("avx512_bf16", "amx_bf16", "bf16")  # the last one is ARM's
    return find_out is None or any(find_out().get(name) for name in names)
