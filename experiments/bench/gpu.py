"""Rows of `make bench ARGS='--device cuda'`: CIFAR-10 networks, large networks, the paper's preset.

Targets for an H100 or H200 are in docs/speed.md. Sizes are chosen for less than eight minutes (not
measured); a test runs everything at a tiny size on a CPU.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

import zoo
from experiments.ablation.questions import ABLATIONS
from experiments.bench.networks import both_networks, drawn_batches
from experiments.bench.timing import EAGER, Comparison, same, step_of
from experiments.bench.transfer import compare_probe
from experiments.plumbing.precision import (
    choose_compile,
    choose_precision,
    compile_training,
    to_layout,
)
from experiments.train.loop import Batch, BatchSource, Settings, start, train
from zoo.fold import for_inference


@dataclass(frozen=True)
class Sizes:
    """How much each comparison computes."""

    depths: tuple[int, ...] = (20, 56, 110)  # of the CIFAR-10 networks
    steps: int = 100  # of 128 images, for each side and round
    pixels: int = 224
    batch: int = 256  # of the ImageNet networks
    networks: tuple[str, ...] = ("resnet50", "vit_b_16")
    paper_steps: int = 200  # of each network, for each side and round


EPOCH = 390  # steps of an epoch of CIFAR-10, in batches of 128
AUTOCAST = Settings(precision="bf16", channels_last=True)


class Drawn:
    """One batch of random images on the device, at every step."""

    def __init__(self, device: torch.device, size: int, pixels: int) -> None:
        images = torch.randn(size, 3, pixels, pixels, device=device)
        self.drawn: Batch = images, torch.arange(size, device=device) % 1000

    def __len__(self) -> int:
        return 1

    def batch(self, step: int) -> Batch:
        """The batch."""
        return self.drawn


def chosen_for(
    model: nn.Module, batches: BatchSource, steps: int, device: torch.device
) -> tuple[Settings, str]:
    """Precision, layout and compilation as the ablation chooses them; and the reason."""
    settings, why = choose_precision("auto", model, batches, EAGER, device)
    return choose_compile(model, batches, settings, steps, why)


def trainer(
    model: nn.Module, batches: BatchSource, settings: Settings, steps: int
) -> Callable[[], float]:
    """A function that trains `steps` more steps, and returns the mean loss of the last epoch."""
    model = to_layout(model, settings)
    settings = replace(settings, steps=steps, lr=1e-4)
    state = start(model, settings, compile_training(model) if settings.compiled else None)

    def run() -> float:
        state.step = 0
        for _ in train(batches, settings, state):
            pass
        return float(state.loss_sum) / state.seen

    return run


def agree(model: nn.Module, batches: BatchSource, settings: Settings) -> str:
    """The first losses in eager fp32 and with `settings`; raises AssertionError if they differ."""
    losses = [
        step_of(to_layout(copy.deepcopy(model), how), batches.batch(0), how)()
        for how in (EAGER, settings)
    ]
    same(losses[0], losses[1], 2e-2)
    return f"losses {losses[0]:.5f}, {losses[1]:.5f}"


def compare_epoch(depth: int, sizes: Sizes, device: torch.device) -> Comparison:
    """Training steps of a CIFAR-10 network: eager fp32 with the usual optimiser / as we choose."""
    batches = drawn_batches(10, device)
    model = zoo.build(f"resnet{depth}").to(device)
    settings, why = chosen_for(model, batches, 64_000, device)
    checked = f"{agree(model, batches, settings)}; {why}"
    ours = trainer(copy.deepcopy(model), batches, settings, sizes.steps)
    eager = step_of(model, batches.batch(0), EAGER, sgd=True)

    def usual() -> None:
        for _ in range(sizes.steps):
            eager()

    title = (f"ResNet-{depth}, {sizes.steps} steps of 128 images (an epoch has {EPOCH}): "
             "eager fp32 / ours")  # fmt: skip
    return Comparison(title, usual, ours, checked, images=sizes.steps * 128)


def compare_large(name: str, training: bool, sizes: Sizes, device: torch.device) -> Comparison:
    """An ImageNet network: torchvision, channels_last and bf16 autocast / ours.

    Ours: in training as chosen by timing; in inference zoo.for_inference, bf16, compiled.
    """
    theirs, model = (part.to(device) for part in both_networks(name))
    batches, why = Drawn(device, sizes.batch, sizes.pixels), ""
    usual = step_of(to_layout(theirs, AUTOCAST), batches.batch(0), AUTOCAST, sgd=training,
                    training=training)  # fmt: skip
    if training:
        settings, why = chosen_for(model, batches, 10_000, device)
        ours = trainer(copy.deepcopy(model), batches, settings, 1)
        same(usual(), ours(), 5e-2)
    else:
        fast = for_inference(model, torch.bfloat16, compiled=True)
        images = batches.batch(0)[0]
        theirs.eval()
        usual = partial(largest_logit, theirs, images)
        ours = partial(largest_logit, fast, images)
        same(usual(), ours(), 5e-2)
    work = "training" if training else "inference"
    title = f"{name} {work}, batch {sizes.batch} at {sizes.pixels}: torchvision, bf16 / ours"
    return Comparison(title, usual, ours, why or "largest logits within 5 %", images=sizes.batch)


@torch.no_grad()
def largest_logit(model: nn.Module, images: torch.Tensor) -> float:
    """The largest absolute logit, in bf16."""
    with torch.autocast(images.device.type, torch.bfloat16):
        return float(model(images.contiguous(memory_format=torch.channels_last)).abs().max())


def compare_paper(sizes: Sizes, device: torch.device) -> Comparison:
    """Plain-56 and ResNet-56 of the preset `paper`, from a few steps: eager / as we choose."""
    protocol = ABLATIONS["paper"].base.settings
    batches, each = drawn_batches(10, device), sizes.paper_steps
    usual, ours, reasons = [], [], []
    for name in ("plain56", "resnet56"):
        model = zoo.build(name).to(device)
        settings, why = chosen_for(model, batches, protocol.steps, device)
        usual.append(trainer(copy.deepcopy(model), batches, EAGER, each))
        ours.append(trainer(model, batches, settings, each))
        reasons.append(f"{agree(model, batches, settings)}; {why}")
    title = (f"the preset paper: {each} steps of plain-56 and of ResNet-56 "
             f"(a run has {protocol.steps:,}): eager fp32")  # fmt: skip

    def run(sides: list[Callable[[], float]]) -> list[float]:
        return [side() for side in sides]

    images = 2 * each * protocol.batch_size
    return Comparison(title, partial(run, usual), partial(run, ours), reasons[-1], images=images)


def comparisons(device: torch.device, sizes: Sizes) -> dict[str, Callable[[], Comparison]]:
    """Every comparison on a GPU, by name."""
    large = [(name, training) for name in sizes.networks for training in (True, False)]
    return {
        **{f"epoch-resnet{n}": partial(compare_epoch, n, sizes, device) for n in sizes.depths},
        **{f"{'training' if training else 'inference'}-{name}":
           partial(compare_large, name, training, sizes, device) for name, training in large},
        "probe": partial(compare_probe, device),
        "paper": partial(compare_paper, sizes, device),
    }  # fmt: skip
