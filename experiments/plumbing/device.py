"""Where to compute: chosen by looking, said in one line."""

import torch

from experiments.plumbing.cli import UsageError


def choose_device(requested: str) -> tuple[torch.device, str]:
    """The device for "auto", "cpu", "cuda", "cuda:1", "mps" ..., and one line that says why."""
    if requested == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), f"CUDA: {torch.cuda.get_device_name()} is visible"
        mps = "; --device mps is there, not tried by us" * torch.backends.mps.is_available()
        return torch.device("cpu"), f"CPU: no CUDA device is visible{mps}"
    try:
        device = torch.device(requested)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        why = str(error).splitlines()[0].split(". ")[0]  # the next sentence lists all backends
        what = f"cannot compute on {requested!r}: {why}"
        fix = "--device auto takes what is there"
        raise UsageError(what, f"--device {requested}", fix) from error
    return device, f"{requested}: as requested" + ", not tried by us" * (device.type == "mps")


def make_deterministic(device: torch.device, threads: int | None = 1) -> None:
    """No nondeterministic convolution, and `threads` on the CPU (None: as many as there are).

    Runs can be repeated: bit for bit with the same number of threads.
    """
    if device.type == "cpu" and threads:
        torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware computes in bf16. Other hardware emulates it, up to ten times slower.

    Torch counts emulation too: on a T4 `torch.cuda.is_bf16_supported()` is True.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # also False if oneDNN is held back
        return False
    find_out = getattr(torch.cpu, "get_capabilities", None)  # newer than our oldest torch
    names = ("avx512_bf16", "amx_bf16", "bf16")  # the last one is ARM's
    return find_out is None or any(find_out().get(name) for name in names)
