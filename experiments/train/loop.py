"""The training loop is a generator: train() yields after every step, and the caller does the rest.

The caller evaluates, saves or stops between two steps. The shortest caller is __main__.py beside
this file: `python -m experiments.train resnet20` runs it. Long runs go through
experiments/plumbing/resume.py. The loop knows nothing about files or processes. Batches and
learning rates are functions of the step, so State is all that a checkpoint has to hold.

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

    The model's parameters are then those before the step, but the running mean and variance of its
    BatchNorms already include the step's batch.
    """

    def __init__(self, step: int, why: str = "") -> None:
        super().__init__(f"diverged at step {step}{why}")
        self.step = step


@dataclass
class State:
    """Everything that training changes. A checkpoint holds all of it but `compute`."""

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
    # loss by the sum of its weights, not by the number of its images.)
    loss_sum: float = 0.0
    wrong: int = 0  # images that were classified wrongly
    seen: int = 0  # images
    lr: float = 0.0  # of the last step
    skipped_steps: int = 0  # of the whole run: steps whose gradients overflowed in fp16
    history: list[dict[str, float]] = field(default_factory=list)  # a row per epoch, by the caller

    # No annotation, so the dataclass does not take it for a field.
    counters = ("step", "loss_sum", "wrong", "seen", "lr", "skipped_steps", "history")

    def state_dict(self) -> dict[str, object]:
        numbers = {name: getattr(self, name) for name in self.counters}
        return {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(), **numbers,
        }  # fmt: skip

    def load_state_dict(self, saved: dict) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        for name in self.counters:
            setattr(self, name, saved[name])


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
    if settings.opt == "sgd":
        optimizer = torch.optim.SGD(learning, lr, settings.momentum, weight_decay=decay)
    else:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.opt]
        optimizer = kind(learning, lr, weight_decay=decay)
    device = next(model.parameters()).device.type
    scaler = torch.amp.GradScaler(device, enabled=settings.precision == "fp16")
    return State(model, optimizer, compute or model, scaler, seed)


def forward(model: Callable[[Tensor], Tensor], images: Tensor, settings: Settings) -> Tensor:
    """Logits float32 (N, classes), computed with the precision and layout of `settings`.

    The model has its layout already (plumbing/precision.py, to_layout).
    """
    if settings.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    else:
        images = images.contiguous()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.precision)
    with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
        return model(images).float()


def is_finite(loss: Tensor) -> bool:
    """Whether training may go on. For several processes, give train() a version that asks all."""
    return bool(loss.isfinite())


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
    finite: Callable[[Tensor], bool] = is_finite,
) -> Iterator[State]:
    """Train from state.step to settings.steps, and yield after every step; raises Diverged.

    `finite`: whether the loss is finite, in all processes that train this network together.
    """
    model, optimizer, class_weights = state.model, state.optimizer, None
    if settings.class_weights:
        device = next(model.parameters()).device
        class_weights = torch.tensor(settings.class_weights, device=device)
    while state.step < settings.steps:
        # --- learning rate, and new sums at the start of an epoch ---
        rate = lr_at(state.step, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1)  # older checkpoints have no factors
        if starts_epoch(state.step, len(batches), settings.steps):
            state.loss_sum, state.wrong, state.seen = 0.0, 0, 0

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
        # Python only queues work for a GPU; reading the loss waits until it is done. So backward()
        # is queued first.
        if not finite(loss):
            raise Diverged(state.step)
        update_weights(state)

        # --- bookkeeping ---
        state.step += 1
        state.lr = rate
        state.loss_sum += loss.item() * len(labels)
        state.wrong += int((logits.argmax(1) != labels).sum())  # waits again
        state.seen += len(labels)
        yield state


@torch.no_grad()
def infer(
    compute: Callable[[Tensor], Tensor], batches: Iterable[Batch], settings: Settings
) -> tuple[Tensor, Tensor]:
    """Outputs float32 (images, classes) and labels int64 (images,) of all batches, on the CPU.

    Call model.eval() first: this function does not change the model's mode.
    """
    # If there are no batches, torch.cat still needs a tensor; otherwise it skips these empty ones.
    outputs, labels = [torch.zeros(0)], [torch.zeros(0, dtype=torch.int64)]
    for images, answers in batches:
        outputs.append(forward(compute, images, settings).cpu())
        labels.append(answers.cpu())
    return torch.cat(outputs), torch.cat(labels)


def evaluate(model: nn.Module, batches: Iterable[Batch], settings: Settings) -> tuple[float, float]:
    """Mean loss and error (0 to 1) over every image."""
    logits, labels = infer(model.eval(), batches, settings)
    return cross_entropy(logits, labels).item(), float((logits.argmax(1) != labels).double().mean())
