"""Out of memory: say which batch size would fit, by trying."""

from collections.abc import Callable
from typing import TypeVar

import torch

from experiments.plumbing.cli import UsageError

Result = TypeVar("Result")


def telling_what_fits(
    what: str,
    batch_size: int,
    device: torch.device,
    take_step: Callable[[int], object],
    action: Callable[[], Result],
) -> Result:
    """action(), but running out of memory becomes a UsageError with a batch size that works.

    `take_step(batch_size)` makes everything anew and takes one step.
    """
    try:
        return action()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = str(error).splitlines()[0] if str(error) else "not enough memory"
    # Out here the error is gone, and with it the tensors that its frames kept alive.
    size = batch_that_fits(batch_size, take_step)
    raise UsageError(
        f"out of memory: {what}, batch size {batch_size}",
        f"{device}: {message}",
        f"--batch-size {size} fits" if size else "even 2 pictures do not fit: a smaller --size",
    )


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA has a class of its own; on the CPU torch raises a RuntimeError with these words."""
    words = ("can't allocate memory", "not enough memory", "out of memory", "bad alloc",
             "bad_alloc")  # fmt: skip
    text = str(error).lower()
    # oneDNN's whole message where there is no room for its machine code.
    no_room = text == "could not create a primitive"
    return isinstance(error, MemoryError) or no_room or any(word in text for word in words)


def batch_that_fits(batch_size: int, take_step: Callable[[int], object]) -> int | None:
    """The first half, quarter, ... of the batch size with which a step works."""
    size = batch_size // 2
    while size >= 2:
        try:
            take_step(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return size
        size //= 2
    return None
