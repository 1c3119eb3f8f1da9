"""The loop: one network, one stream of batches, one schedule.

`train` is a generator: it takes a step, then hands control back, and its caller evaluates, saves or
stops (__main__.py beside this file; plumbing/resume.py for long runs). It knows nothing of where
images come from, nor of processes. All that a resumed run needs is in State, since batches and
learning rates are pure functions of the step.

Protocol: He et al. 2015 (arXiv 1512.03385), section 4.2; Settings' defaults are the paper's.
Dimension key: N batch.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Batch = tuple[Tensor, Tensor]  # images float32 (N, 3, H, W), labels int64 (N,)


@dataclass(frozen=True)
class Settings:
    """How to train.

    lr, opt, momentum, weight_decay and label_smoothing are torchvision's references' names and mean
    the same; batch_size counts the pictures of all processes, and theirs those of one GPU.
    """

    steps: int = 64_000
    batch_size: int = 128
    schedule: str = "steps"  # as in the paper; "one-cycle" or "cosine" for short runs
    lr: float = 0.1  # the highest rate of any schedule
    milestones: tuple[int, ...] = (32_000, 48_000)  # "steps": divide by 10 at each
    warmup_steps: int = 0  # "steps": 400 for ResNet-110, which does not start at 0.1
    warmup_lr: float = 0.01  # "steps" only; "cosine" rises to `lr` in a straight line
    opt: str = "sgd"  # or "adam", "adamw", with PyTorch's betas
    momentum: float = 0.9
    weight_decay: float = 1e-4  # on everything, norms and biases too: the paper excludes nothing
    label_smoothing: float = 0.0  # Szegedy et al. 2015 (arXiv 1512.00567), section 7
    class_weights: tuple[float, ...] | None = None  # one a class, of its losses
    precision: str = "fp32"  # "bf16", "fp16": convolutions, products by autocast; weights in fp32
    channels_last: bool = True


def lr_at(step: int, settings: Settings) -> float:
    """The learning rate of step 0, 1, ...: a pure function, so that a resumed run cannot differ."""
    if settings.schedule == "one-cycle":
        # Up in a straight line over the first quarter, down to almost nothing at the end.
        done, peak = step + 1, settings.steps / 4
        down = (settings.steps + 1 - done) / (settings.steps + 1 - peak)
        return settings.lr * min(done / peak, down)
    if settings.schedule == "cosine":  # Loshchilov and Hutter 2016 (arXiv 1608.03983), equation 5
        if step < settings.warmup_steps:
            return settings.lr * (step + 1) / (settings.warmup_steps + 1)
        share = (step - settings.warmup_steps) / (settings.steps - settings.warmup_steps)
        return settings.lr * (1 + math.cos(math.pi * share)) / 2
    if step < settings.warmup_steps:
        return settings.warmup_lr
    passed = sum(step >= milestone for milestone in settings.milestones)
    return settings.lr / 10**passed


def starts_epoch(step: int, steps_per_epoch: int, steps: int) -> bool:
    """Before step `step`. 64,000 steps are 164 epochs and a stub, which counts with the 164th."""
    return step % steps_per_epoch == 0 and (step == 0 or steps - step >= steps_per_epoch)


class BatchSource(Protocol):
    """data.batches.Batches, or anything that keeps its promise: pure in the step."""

    def __len__(self) -> int: ...
    def batch(self, step: int) -> tuple[Tensor, Tensor]: ...


class Diverged(ArithmeticError):
    """A step's loss was not finite, or its gradients never fit into fp16.

    Parameters are as before it; running statistics moved.
    """

    def __init__(self, step: int, why: str = "") -> None:
        super().__init__(f"diverged at step {step}{why}")
        self.step = step


@dataclass
class State:
    """What changes while training, and all that a checkpoint has to keep."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    compute: Callable[[Tensor], Tensor]  # the model, or what wraps it: DistributedDataParallel
    scaler: torch.amp.GradScaler  # of the loss in fp16; in fp32 and bf16 it does nothing
    step: int = 0
    # Sums over the steps of the current epoch: of losses, of wrong answers, of pictures.
    loss_sum: float = 0.0
    wrong: int = 0
    seen: int = 0
    lr: float = 0.0  # of the last step, as read from the optimiser after it was set
    skipped_steps: int = 0  # of the whole run: those whose gradients overflowed in fp16
    history: list[dict[str, float]] = field(default_factory=list)  # a row an epoch

    counters = ("step", "loss_sum", "wrong", "seen", "lr", "skipped_steps", "history")

    def state_dict(self) -> dict[str, object]:
        numbers = {name: getattr(self, name) for name in self.counters}
        return {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(), **numbers,
        }  # fmt: skip

    def load_state_dict(self, saved: dict) -> None:
        saved = {"scaler": {}, "skipped_steps": 0, **saved}  # checkpoints older than fp16 lack both
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        for name in self.counters:
            setattr(self, name, saved[name])


def start(
    model: nn.Module, settings: Settings, compute: Callable[[Tensor], Tensor] | None = None
) -> State:
    """Before the first step: an optimiser over every parameter that is to learn."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    lr, decay = settings.lr, settings.weight_decay
    optimizer: torch.optim.Optimizer
    if settings.opt == "sgd":
        optimizer = torch.optim.SGD(learning, lr, settings.momentum, weight_decay=decay)
    else:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.opt]
        optimizer = kind(learning, lr, weight_decay=decay)
    device = next(model.parameters()).device.type
    scaler = torch.amp.GradScaler(device, enabled=settings.precision == "fp16")
    return State(model, optimizer, compute or model, scaler)


def forward(model: Callable[[Tensor], Tensor], images: Tensor, settings: Settings) -> Tensor:
    """Logits in fp32, computed with the precision and memory layout of `settings`."""
    if settings.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    else:
        images = images.contiguous()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.precision)
    with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
        return model(images).float()


def is_finite(loss: Tensor) -> bool:
    return bool(loss.isfinite())


def update_weights(state: State) -> None:
    """Step the optimiser, unless a gradient overflowed in fp16: then the scaler halves its scale.

    Raises Diverged below scale 1, where it is not the scale that makes them overflow. In
    DistributedDataParallel, backward() has averaged the gradients while they were scaled: all
    processes find the same infinities, skip the same steps, and go on with the same scale.
    """
    scale = state.scaler.get_scale()  # 1 in fp32 and bf16
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.scaler.get_scale() < 1:
        raise Diverged(state.step, ": gradients overflow in fp16 at every scale")
    state.skipped_steps += state.scaler.get_scale() < scale


def train(
    batches: BatchSource,
    settings: Settings,
    state: State,
    finite: Callable[[Tensor], bool] = is_finite,
) -> Iterator[State]:
    """Train from state.step to settings.steps, yielding after every step; raises Diverged.

    `finite`: whether a loss is a number, of all processes that train the network together.
    """
    model, optimizer, class_weights = state.model, state.optimizer, None
    if settings.class_weights:
        device = next(model.parameters()).device
        class_weights = torch.tensor(settings.class_weights, device=device)
    while state.step < settings.steps:
        for group in optimizer.param_groups:
            group["lr"] = lr_at(state.step, settings)
        if starts_epoch(state.step, len(batches), settings.steps):
            state.loss_sum, state.wrong, state.seen = 0.0, 0, 0

        model.train()
        images, labels = batches.batch(state.step)  # (N, 3, H, W), (N,)
        logits = forward(state.compute, images, settings)  # -> (N, classes)
        loss = cross_entropy(
            logits, labels, class_weights, label_smoothing=settings.label_smoothing
        )
        optimizer.zero_grad()
        state.scaler.scale(loss).backward()  # scaled: fp16 rounds gradients below 3e-8 to 0
        if not finite(loss):  # the CPU waits for the GPU: no step may follow a loss that is NaN
            raise Diverged(state.step)
        update_weights(state)

        state.step += 1
        state.lr = optimizer.param_groups[0]["lr"]
        state.loss_sum += loss.item() * len(labels)
        state.wrong += int((logits.argmax(1) != labels).sum())  # and here it waits for the GPU
        state.seen += len(labels)
        yield state


@torch.no_grad()
def infer(
    compute: Callable[[Tensor], Tensor], batches: Iterable[Batch], settings: Settings
) -> tuple[Tensor, Tensor]:
    """Outputs float32 (N, C) and labels int64 (N,) of all batches, on the CPU.

    In the mode that the model is in: call model.eval() first.
    """
    outputs, labels = [torch.zeros(0)], [torch.zeros(0, dtype=torch.int64)]
    for images, answers in batches:
        outputs.append(forward(compute, images, settings).cpu())
        labels.append(answers.cpu())
    return torch.cat(outputs), torch.cat(labels)


def evaluate(model: nn.Module, batches: Iterable[Batch], settings: Settings) -> tuple[float, float]:
    """Mean loss and error (0 to 1) over every image."""
    logits, labels = infer(model.eval(), batches, settings)
    return cross_entropy(logits, labels).item(), float((logits.argmax(1) != labels).double().mean())
