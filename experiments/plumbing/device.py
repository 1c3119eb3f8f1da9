"""Where to compute, and with which precision: chosen by looking and timing, said in one line."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from experiments.plumbing.cli import UsageError
from experiments.train import BatchSource, Settings, forward

Model = TypeVar("Model", bound=nn.Module)
TIMING = 8.0  # seconds


def choose_device(asked: str) -> tuple[torch.device, str]:
    """The device for "auto", "cpu", "cuda", "cuda:1" ..., and one line that says why."""
    if asked == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), f"CUDA: {torch.cuda.get_device_name()} is visible"
        return torch.device("cpu"), "CPU: no CUDA device is visible"
    try:
        device = torch.device(asked)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UsageError(
            f"cannot compute on {asked!r}: {str(error).splitlines()[0]}",
            f"--device {asked}",
            "--device auto takes what is there",
        ) from error
    return device, f"{asked}: as asked"


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


def choose_precision(
    asked: str, model: nn.Module, batches: BatchSource, settings: Settings, device: torch.device
) -> tuple[Settings, str]:
    """Settings with the precision and memory layout that train fastest here, and why.

    "auto" times the forward and backward pass of what the hardware has: fp32 in both memory
    layouts, and bf16. "fp32" and "bf16" are taken as they are, with channels_last, which wins
    almost everywhere.
    """
    if asked != "auto":
        chosen = replace(settings, precision=asked, channels_last=True)
        return chosen, f"{asked}, channels_last: as asked"
    fp32 = replace(settings, precision="fp32", channels_last=False)
    options = [replace(fp32, channels_last=True), fp32]
    if has_bf16(device):
        options.append(replace(fp32, precision="bf16", channels_last=True))
        left_out = ""
    else:
        left_out = "; bf16 is not tried, since this hardware is not known to compute in it"
    seconds = fastest_of(options, lambda option: time_step(model, batches, option))
    chosen = min(options, key=lambda option: seconds[option])
    timed = ", ".join(f"{name(option)} {1000 * spent:.0f} ms" for option, spent in seconds.items())
    return chosen, f"{name(chosen)}: fastest of {timed} a step{left_out}"


def fastest_of(
    options: Sequence[Settings], seconds_of: Callable[[Settings], float]
) -> dict[Settings, float]:
    """The least seconds of each option, in turns, for at most TIMING seconds and a round."""
    seconds = dict.fromkeys(options, math.inf)
    left, begin = list(options), time.perf_counter()
    seconds_of(options[0])  # the first step of a process starts threads and loads libraries
    for clearly_slower in (3.0, 1.3, 1.3, 1.3):  # times the fastest; in round 1 caches are cold
        for option in left:
            seconds[option] = min(seconds[option], seconds_of(option))
        limit = clearly_slower * min(seconds.values())
        left = [option for option in left if seconds[option] <= limit]
        if len(left) == 1 or time.perf_counter() - begin > TIMING:
            break
    return seconds


def name(settings: Settings) -> str:
    return settings.precision + (" channels_last" if settings.channels_last else "")


def time_step(model: nn.Module, batches: BatchSource, settings: Settings) -> float:
    """Seconds of one forward and backward pass; the model is left as it was."""
    model = to_layout(copy.deepcopy(model), settings).train()
    images, labels = batches.batch(0)
    synchronize(images.device)
    start = time.perf_counter()
    cross_entropy(forward(model, images, settings), labels).backward()
    synchronize(images.device)
    return time.perf_counter() - start


def to_layout(model: Model, settings: Settings) -> Model:
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    return model.to(memory_format=layout)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
