"""Where to compute, and with which precision: chosen by looking and timing, said in one line."""

import copy
import time
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from experiments.cli import UsageError
from experiments.train import BatchSource, Settings, forward

Model = TypeVar("Model", bound=nn.Module)


def choose_device(asked: str) -> tuple[torch.device, str]:
    """The device for "auto", "cpu", "cuda", "cuda:1" ..., and one line that says why."""
    if asked == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), f"CUDA: {torch.cuda.get_device_name()} is visible"
        return torch.device("cpu"), "CPU: no CUDA device is visible"
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
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


def choose_precision(
    asked: str, model: nn.Module, batches: BatchSource, settings: Settings
) -> tuple[Settings, str]:
    """Settings with the precision and memory layout that train fastest here, and why.

    "auto" times the forward and backward pass in fp32 and bf16, in both memory layouts, in turns:
    bf16 is twice as fast on some machines and ten times slower on others, whatever they claim.
    "fp32" and "bf16" are taken as they are, with channels_last, which wins almost everywhere.
    """
    if asked != "auto":
        chosen = replace(settings, precision=asked, channels_last=True)
        return chosen, f"{asked}, channels_last: as asked"
    options = [
        replace(settings, precision=precision, channels_last=channels_last)
        for precision in ("fp32", "bf16")
        for channels_last in (False, True)
    ]
    seconds = [float("inf")] * len(options)
    for _ in range(4):  # the first round warms up; the best of the others counts
        for i, option in enumerate(options):
            seconds[i] = min(seconds[i], time_step(model, batches, option))
    chosen = options[seconds.index(min(seconds))]
    timed = ", ".join(
        f"{name(option)} {1000 * spent:.0f} ms"
        for option, spent in zip(options, seconds, strict=True)
    )
    return chosen, f"{name(chosen)}: fastest of {timed} a step"


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
