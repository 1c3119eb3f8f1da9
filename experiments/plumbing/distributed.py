"""Train one network in several processes: DistributedDataParallel, started by torchrun.

Each process computes its part of every batch, and the gradients are averaged. A single process runs
the same code with a group of one.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from experiments.plumbing.cli import ResultsError, UsageError

CPU = torch.device("cpu")
PATIENCE = timedelta(seconds=25)  # how long a process waits for another, which may have died


@dataclass(frozen=True)
class Group:
    """The processes that train one network together, and this one's rank among them."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @property
    def part(self) -> tuple[int, int]:
        """Which part of a batch this process computes, and of how many."""
        return self.rank, self.size

    def say(self, text: str) -> None:
        """Print `text` once, not in every process."""
        if self.first:
            print(text)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module to compute with: it averages gradients if there are several processes."""
        return model if self.size == 1 else DistributedDataParallel(model)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes by rank, in every process."""
        gathered = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(gathered, value)
        return gathered

    def sum(self, *values: float) -> list[float]:
        """The sum of each value over all processes."""
        return [sum(column) for column in zip(*self.gather(values), strict=True)]

    def together(self, tensor: Tensor) -> Tensor:
        """The rows of all processes in their original order: row i is of process i % size."""
        parts = self.gather(tensor.cpu())
        # A process without images does not know the row shape; the first has a row if any has.
        rows = torch.empty(sum(map(len, parts)), *parts[0].shape[1:], dtype=tensor.dtype)
        for rank, part in enumerate(parts):
            if len(part):
                rows[rank :: self.size] = part
        return rows.to(tensor.device)

    def agree(self, model: nn.Module) -> None:
        """Copy the first process's buffers (running statistics) to all: they differ by process."""
        for buffer in model.buffers() if self.size > 1 else ():
            dist.broadcast(buffer, 0)

    def earliest(self, step: Tensor) -> int:
        """The smallest `step` of all processes, so that all stop together."""
        smallest = step.clone()
        if self.size > 1:
            dist.all_reduce(smallest, dist.ReduceOp.MIN)
        return int(smallest)

    def same(self, value: Any) -> Any:
        """The first process's value, in every process."""
        return self.gather(value)[0]


ALONE = Group()


@contextmanager
def processes(device: torch.device = CPU) -> Iterator[Group]:
    """The group that torchrun started, or ALONE; raises ResultsError if a process is lost.

    On CUDA devices, each process of a machine gets one; UsageError if there are too few.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            fix = f"start it with --nproc-per-node {gpus}"
            raise UsageError(f"{gpus} GPUs for more processes", f"torchrun, process {local}", fix)
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    group = Group(dist.get_rank(), size)
    try:
        yield group
    except RuntimeError as error:
        if not is_lost(error):
            raise
        why = f"another process of this job is gone: {str(error).splitlines()[0]}"
        fix = "run the same torchrun command again to resume from the last checkpoint"
        raise ResultsError(why, f"process {group.rank} of {group.size}", fix) from error
    finally:
        dist.destroy_process_group()


def is_lost(error: RuntimeError) -> bool:
    """Whether the error is one that gloo or NCCL raise if another process is gone."""
    words = ("closed by peer", "reset by peer", "timed out", "gloo", "nccl", "broken pipe")
    return any(word in str(error).lower() for word in words)
