"""Training that can be interrupted at any moment: resumed runs end with the same bits.

The loop is in train/loop.py. This file adds what happens between its steps: rows of history,
checkpoints and the clock. A checkpoint holds State, the clock, and the settings of its run. It is
written atomically, and a checksum detects damage.
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from experiments.plumbing.cli import CheckpointError
from experiments.plumbing.distributed import ALONE, Group
from experiments.plumbing.results import completed
from experiments.train.loop import Batch, BatchSource, Settings, State, starts_epoch, train
from zoo.weights.atomic import write_atomic

MAGIC = b"skipzoo checkpoint, sha256 "
SAVE_SHARE = 0.02  # checkpoints within epochs take at most this share of the time


@dataclass
class Clock:
    """Seconds, summed over all attempts at a run."""

    total: float = 0.0
    training: float = 0.0  # in steps, without evaluation and saving
    waiting: float = 0.0  # for the next batch; part of the training time


@dataclass
class Timed:
    """A batch source that adds the time spent waiting for batches to a clock."""

    batches: BatchSource
    clock: Clock

    def __len__(self) -> int:
        return len(self.batches)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of `step`."""
        begin = time.perf_counter()
        batch = self.batches.batch(step)
        self.clock.waiting += time.perf_counter() - begin
        return batch


def timed(batches: Iterable[Batch], clock: Clock) -> Iterator[Batch]:
    """Yield the same batches, and add the time spent waiting for them to the clock."""
    mark = time.perf_counter()
    for batch in batches:
        clock.waiting += time.perf_counter() - mark
        yield batch
        mark = time.perf_counter()


class Stopped(Exception):
    """Training or evaluation was asked to stop."""


def until_stopped(batches: Iterable[Batch], should_stop: Callable[[], bool]) -> Iterator[Batch]:
    """Yield the same batches; raise Stopped before the next one once should_stop() is True."""
    for batch in batches:
        if should_stop():
            raise Stopped
        yield batch


def train_resumably(
    state: State, batches: BatchSource, settings: Settings, path: Path, owner: str, clock: Clock, *,
    end_epoch: Callable[[], None], progress: Callable[[int], None] = lambda step: None,
    should_stop: Callable[[], bool] = lambda: False, save_every: float = 10, group: Group = ALONE,
) -> bool:  # fmt: skip
    """Train to the last step and return True; or save and return False once should_stop() is True.

    Resumes from the checkpoint at `path` if there is one, which must belong to `owner`. `end_epoch`
    adds a row to the history; if it raises Stopped, it is called again on resuming. `save_every`:
    seconds between checkpoints, or more if saving would take over SAVE_SHARE of the time. Of
    several processes only the first saves, and only between epochs, when all are at the same step.
    Raises Diverged, and CheckpointError for a checkpoint that is damaged or of another run.
    """
    resume(state, path, owner, clock)
    saved, save_cost = time.perf_counter(), 0.0
    began = saved - clock.total

    def save() -> None:
        nonlocal saved, save_cost
        if group.size == 1:  # several processes save after an epoch, when train() has checked
            state.check_finite()
        start = time.perf_counter()
        clock.total = start - began
        if group.first:
            save_checkpoint(path, {"run": owner, "clock": asdict(clock), **state.state_dict()})
        saved = time.perf_counter()
        save_cost = saved - start

    def epoch_ended() -> bool:
        last = state.step == settings.steps
        return last or starts_epoch(state.step, len(batches), settings.steps)

    progress(state.step)
    try:
        evaluated = state.history[-1]["step"] if state.history else 0
        if epoch_ended() and evaluated < state.step:  # stopped before or during the evaluation
            end_epoch()
        mark = time.perf_counter()
        for _ in train(Timed(batches, clock), settings, state, group.earliest):
            clock.training += time.perf_counter() - mark
            ended = epoch_ended()
            if ended:
                end_epoch()
            progress(state.step)
            if should_stop():
                raise Stopped
            late = time.perf_counter() - saved > max(save_every, save_cost / SAVE_SHARE)
            if late if group.size == 1 else ended:
                save()
            mark = time.perf_counter()
        save()  # the caller's work after training can be interrupted, too
    except Stopped:
        save()
        return False
    finally:
        clock.total = time.perf_counter() - began
    return True


def resume(state: State, path: Path, owner: str, clock: Clock) -> None:
    """Load the checkpoint at `path`, if there is one, into `state` and `clock`.

    Raises CheckpointError if it is damaged or belongs to another run.
    """
    if not path.exists():
        return
    saved = load_checkpoint(path)
    if saved.get("run") != owner and completed(json.loads(saved["run"])) != json.loads(owner):
        fix = "choose another --output-dir, or the options that it was made with"
        raise CheckpointError("the checkpoint belongs to a run with other settings", path, fix)
    state.load_state_dict(saved)
    vars(clock).update(saved["clock"])


def remove_checkpoint(path: Path) -> None:
    """Remove a finished run's checkpoint, and what a process that was killed left of one."""
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()


def save_checkpoint(path: Path, content: dict) -> None:
    """Write one line with a SHA-256, then torch.save's bytes: torch misses most flipped bits."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    body = buffer.getvalue()
    write_atomic(path, MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def load_checkpoint(path: Path) -> dict:
    """The content of a checkpoint, on the CPU; CheckpointError if a single bit has changed."""
    head, _, body = path.read_bytes().partition(b"\n")
    if head != MAGIC + hashlib.sha256(body).hexdigest().encode():
        what = "the checkpoint is damaged, or of another version or command"
        fix = "choose another --output-dir; or move this file away to start the run again"
        raise CheckpointError(what, path, fix)
    return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
