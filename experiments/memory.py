"""Out of memory: say which batch size would fit, by trying."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from experiments.cli import UsageError
from experiments.device import time_step
from experiments.run import Run, build_model, make_batches

Result = TypeVar("Result")


def telling_what_fits(run: Run, device: torch.device, action: Callable[[], Result]) -> Result:
    """action(), but running out of memory becomes a UsageError with a batch size that works."""
    try:
        return action()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = str(error).splitlines()[0]
    # Out here the error is gone, and with it the tensors that its frames kept alive.
    size = batch_that_fits(run, device)
    raise UsageError(
        f"out of memory: {run.model}, batch size {run.settings.batch_size}, "
        f"pictures of {run.data.size} pixels a side",
        f"{device}: {message}",
        f"--batch-size {size} fits" if size else "even 2 pictures do not fit: a smaller --size",
    )


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA has a class of its own; on the CPU torch raises a RuntimeError with these words."""
    words = ("can't allocate memory", "not enough memory", "out of memory", "bad alloc")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def batch_that_fits(run: Run, device: torch.device) -> int | None:
    """The first half, quarter, ... of the batch size with which a step works."""
    size = run.settings.batch_size // 2
    while size >= 2:
        settings = replace(run.settings, batch_size=size)
        smaller = replace(run, settings=settings)
        try:
            time_step(build_model(smaller).to(device), make_batches(smaller, device), settings)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return size
        size //= 2
    return None
