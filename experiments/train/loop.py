"""The training loop is a generator: train() yields after every step, and the caller does the rest.

The caller evaluates, saves or stops between two steps. The shortest caller is __main__.py beside
this file: `python -m experiments.train resnet20` runs it. Long runs go through
experiments/plumbing/resume.py. The loop knows nothing about files or processes. Batches and
learning rates are functions of the step, so a checkpoint needs no random state.

Protocol: He et al. 2015 (arXiv 1512.03385), section 4.2; the defaults of Settings are the paper's.
Dimension key: N batch, H W height and width of an image.
Read next: experiments/ablation/questions.py
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

    lr, opt, momentum, weight_decay and label_smoothing have the names and meanings of torchvision's
    training references, but batch_size is the total of all GPUs, and theirs is per GPU.
    """

    steps: int = 64_000
    batch_size: int = 128
    schedule: str = "step"  # as in the paper; "triangle" or "cosine" for short runs
    lr: float = 0.1  # the highest rate of the schedule
    milestones: tuple[int, ...] = (32_000, 48_000)  # "step": divide the rate by 10 at each
    warmup_steps: int = 0  # 400 for ResNet-110, for which 0.1 is too large a start
    warmup_lr: float = 0.01  # used by "step" only: "cosine" rises linearly from almost 0
    opt: str = "sgd"  # or "adam", "adamw", with PyTorch's betas
    momentum: float = 0.9
    weight_decay: float = 1e-4  # on all parameters, norms and biases too: the paper excludes none
    # With label smoothing s and K classes, the true class is to get the probability 1 - s + s/K and
    # each other one s/K (Szegedy et al. 2015, arXiv 1512.00567, section 7).
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None  # factors of the losses, one per class
    precision: str = "fp32"  # "bf16", "fp16": matrix products have 16 bits, weights stay float32
    channels_last: bool = True  # memory layout (N, H, W, C): faster on most CPUs and GPUs
    compiled: bool = False  # by torch.compile: only on a GPU, see plumbing/precision.py


def lr_at(step: int, settings: Settings) -> float:
    """The learning rate of step 0, 1, ...; it depends on nothing else, so resuming is exact."""
    if settings.schedule == "triangle":
        # Linearly up over the first quarter of the steps, then linearly down, almost to 0. `done`
        # counts this step, too: the first and the last step have a rate above 0.
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
    return settings.lr / 10**passed  # section 4.2: 0.1, 0.01 from 32k on, 0.001 from 48k on


def starts_epoch(step: int, steps_per_epoch: int, steps: int) -> bool:
    """Whether loss_sum, wrong and seen (State, below) go back to 0 at `step`.

    A last, incomplete epoch counts with the one before: with 4 steps per epoch and 10 steps, the
    sums start at steps 0 and 4, not at 8.
    """
    return step % steps_per_epoch == 0 and (step == 0 or steps - step >= steps_per_epoch)


class BatchSource(Protocol):
    """Any object with these methods, such as data.batches.TensorBatches.

    batch(step) depends on nothing but the step.
    """

    def __len__(self) -> int: ...  # steps per epoch
    def batch(self, step: int) -> tuple[Tensor, Tensor]: ...


class Diverged(ArithmeticError):
    """The loss was not finite, or gradients overflow in fp16.

    In fp16 the loss is multiplied by a scale, so that small gradients are not rounded to 0. When
    gradients overflow, the scale is halved; below scale 1, update_weights raises Diverged.

    On a CPU, the model's parameters are then those before the step, but the running mean and
    variance of its BatchNorms already include the step's batch. On a GPU the loss is read later, so
    the parameters may be infinite or NaN.
    """

    def __init__(self, step: int, why: str = "") -> None:
        super().__init__(f"diverged at step {step}{why}")
        self.step = step


NEVER = 2**62  # State.diverged_at of a run whose losses have all been finite


@dataclass
class State:
    """What training changes, and what it needs for that. Checkpoints hold state_dict()."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    # What the loop calls: the model; with several GPUs, a wrapper that averages gradients.
    compute: Callable[[Tensor], Tensor]
    # Scales the loss in fp16. It does nothing in fp32 and bf16, which have a larger range.
    scaler: torch.amp.GradScaler
    seed: int = 0  # of what the model draws at random in training, as dropout does
    step: int = 0  # steps done
    # Sums over the current epoch, of this process; divided by `seen`, they are the mean loss and
    # the error. (With class_weights, loss_sum / seen is no exact mean: PyTorch divides each batch's
    # loss by the sum of its weights, not by the number of its images.) On a GPU, the sums stay
    # there: Python only queues the GPU's work, and has to wait for all of it to read a number.
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    wrong: Tensor = field(default_factory=lambda: torch.tensor(0))  # images classified wrongly
    seen: int = 0  # images
    diverged_at: Tensor = field(default_factory=lambda: torch.tensor(NEVER))  # a step, or NEVER
    lr: float = 0.0  # of the last step
    skipped_steps: int = 0  # of the whole run: steps whose gradients overflowed in fp16
    history: list[dict[str, float]] = field(default_factory=list)  # a row per epoch, by the caller

    # No annotation, so the dataclass does not take it for a field.
    counters = ("step", "loss_sum", "wrong", "seen", "lr", "skipped_steps", "history")

    def state_dict(self) -> dict[str, object]:
        values = {name: getattr(self, name) for name in self.counters}
        numbers = {k: v.item() if isinstance(v, Tensor) else v for k, v in values.items()}
        return {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(), **numbers,
        }  # fmt: skip

    def load_state_dict(self, saved: dict) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        for name in self.counters:
            now, value = getattr(self, name), saved[name]
            setattr(self, name, torch.full_like(now, value) if isinstance(now, Tensor) else value)

    def check_finite(self, earliest: Callable[[Tensor], int] = int) -> None:
        """Raise Diverged if a loss was not finite; waits for a GPU. Call it before saving.

        `earliest`: the smallest diverged_at of all processes that train this network together.
        """
        if (step := earliest(self.diverged_at)) < NEVER:
            raise Diverged(step)


def start(
    model: nn.Module, settings: Settings, compute: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0, factor_of: Callable[[str], float] = lambda name: 1.0,
) -> State:  # fmt: skip
    """The state before the first step, with an optimiser of all parameters that are not frozen.

    `factor_of(name)`: the factor of a parameter's learning rate.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(factor_of(name), []).append(parameter)
    learning = [{"params": group, "factor": factor} for factor, group in groups.items()]
    # The rate does not matter here: train() sets it before every step.
    lr, decay = settings.lr, settings.weight_decay
    optimizer: torch.optim.Optimizer
    device = next(model.parameters()).device
    # One kernel for all parameters. Not in fp16: if the first step overflows, fused SGD skips it,
    # but the momentum of the next step is memory that nobody has set.
    fused = True if device.type == "cuda" and settings.precision != "fp16" else None
    if settings.opt == "sgd":
        optimizer = torch.optim.SGD(
            learning, lr, settings.momentum, weight_decay=decay, fused=fused
        )
    else:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.opt]
        optimizer = kind(learning, lr, weight_decay=decay, fused=fused)
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
    state = State(model, optimizer, model if compute is None else compute, scaler, seed)
    exact = torch.float64 if device.type in ("cpu", "cuda") else torch.float32  # mps has no fp64
    state.loss_sum = state.loss_sum.to(device, exact)
    state.wrong, state.diverged_at = state.wrong.to(device), state.diverged_at.to(device)
    return state


def forward(model: Callable[[Tensor], Tensor], images: Tensor, settings: Settings) -> Tensor:
    """Logits float32 (N, classes), computed with the precision and layout of `settings`.

    The model has its layout already (plumbing/precision.py, to_layout).
    """
    if settings.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    else:
        images = images.contiguous()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.precision)
    # Without autocast's cache: its bf16 copies of the weights are kept until the outermost autocast
    # ends. Inside another one they would outlive the step: all steps would use the first weights.
    cast = torch.autocast(images.device.type, dtype, dtype is not None, cache_enabled=False)
    with cast:
        return model(images).float()


def reading_waits(device: torch.device) -> bool:
    """Whether Python has to wait for the device before it can read a number."""
    return device.type != "cpu"


def update_weights(state: State) -> None:
    """An optimiser step; if a gradient overflowed in fp16, skip it and halve the scale instead.

    Raises Diverged when the scale falls below 1: then gradients overflow without any scaling. With
    DistributedDataParallel, backward() averages the scaled gradients, so all processes see the
    same infinities, skip the same steps and keep the same scale.
    """
    scale = state.scaler.get_scale()  # 1 in fp32 and bf16
    state.scaler.step(state.optimizer)  # no update if a gradient is infinite
    state.scaler.update()  # halves the scale in that case; doubles it after 2,000 good steps
    if state.scaler.get_scale() < 1:
        raise Diverged(state.step, ": gradients overflow in fp16 at every scale")
    state.skipped_steps += state.scaler.get_scale() < scale


def train(
    batches: BatchSource,
    settings: Settings,
    state: State,
    earliest: Callable[[Tensor], int] = int,
) -> Iterator[State]:
    """Train from state.step to settings.steps, and yield after every step.

    Raises Diverged: on a CPU before the step's update, on a GPU at the end of the epoch, since
    nothing is read from a GPU within an epoch (except in fp16, for the scaler, which may raise it
    at any step). `earliest`: see State.check_finite.
    """
    model, optimizer, class_weights = state.model, state.optimizer, None
    device = next(model.parameters()).device
    if settings.class_weights:
        class_weights = torch.tensor(settings.class_weights, device=device)
    while state.step < settings.steps:
        # --- learning rate, and new sums at the start of an epoch ---
        rate = lr_at(state.step, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1)  # older checkpoints have no factors
        if starts_epoch(state.step, len(batches), settings.steps):
            state.loss_sum = torch.zeros_like(state.loss_sum)
            state.wrong, state.seen = torch.zeros_like(state.wrong), 0

        # --- forward, backward, update ---
        model.train()  # batch statistics for BatchNorm; the caller may have called eval()
        torch.manual_seed(state.seed * settings.steps + state.step)  # so resuming is exact
        images, labels = batches.batch(state.step)  # (N, 3, H, W), (N,)
        logits = forward(state.compute, images, settings)  # -> (N, classes)
        loss = cross_entropy(
            logits, labels, class_weights, label_smoothing=settings.label_smoothing
        )
        optimizer.zero_grad()
        state.scaler.scale(loss).backward()  # scaled: fp16 rounds gradients below 3e-8 to 0
        bad = torch.where(loss.detach().isfinite(), NEVER, state.step)
        state.diverged_at = torch.minimum(state.diverged_at, bad)
        if not reading_waits(device):
            state.check_finite(earliest)
        update_weights(state)

        # --- bookkeeping ---
        state.step += 1
        state.lr = rate
        state.loss_sum += loss.detach().to(state.loss_sum.dtype) * len(labels)
        state.wrong += (logits.argmax(1) != labels).sum()
        state.seen += len(labels)
        if starts_epoch(state.step, len(batches), settings.steps) or state.step == settings.steps:
            state.check_finite(earliest)
        yield state


@torch.no_grad()
def infer(
    compute: Callable[[Tensor], Tensor], batches: Iterable[Batch], settings: Settings
) -> tuple[Tensor, Tensor]:
    """Outputs float32 (images, classes) and labels int64 (images,) of all batches, on the CPU.

    Call model.eval() first: this function does not change the model's mode.
    """
    outputs, labels = [], []
    for images, answers in batches:
        outputs.append(forward(compute, images, settings))
        labels.append(answers)
    if not labels:
        return torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    return torch.cat(outputs).cpu(), torch.cat(labels).cpu()  # read from a GPU once


def evaluate(model: nn.Module, batches: Iterable[Batch], settings: Settings) -> tuple[float, float]:
    """Mean loss and error (0 to 1) over every image."""
    logits, labels = infer(model.eval(), batches, settings)
    return cross_entropy(logits, labels).item(), float((logits.argmax(1) != labels).double().mean())
