"""The vision transformer's rows of `make bench`, and images/s on a GPU."""

import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import zoo
from experiments.bench.timing import Comparison, forward_and_backward, same
from experiments.proof.checks import shake
from experiments.train import Settings, forward

BATCH = 8
BF16 = Settings(precision="bf16", channels_last=True)


def networks() -> tuple[nn.Module, nn.Module]:
    """torchvision's and ours with the same weights; shaken, because the head starts from zero."""
    theirs = torchvision.models.vit_b_16()
    shake(theirs)
    return theirs, zoo.load(zoo.build("vit_b_16"), theirs.state_dict())


def compare_training() -> Comparison:
    """Forward and backward at 224x224: torchvision's vit_b_16 / ours."""
    images, labels = torch.randn(BATCH, 3, 224, 224), torch.arange(BATCH)
    usual, ours = (forward_and_backward(model, images, labels) for model in networks())
    losses = usual(), ours()
    same(*losses, 1e-6)
    return Comparison(
        f"vit_b_16 forward and backward, batch {BATCH} at 224: torchvision / ours",
        usual, ours, f"losses {losses[0]:.6f}, {losses[1]:.6f}",
    )  # fmt: skip


def compare_inference() -> Comparison:
    """The same network without gradients: fp32 eager / bf16."""
    _, model = networks()
    images = torch.randn(BATCH, 3, 224, 224)
    half = zoo.load(zoo.build("vit_b_16"), model.state_dict()).bfloat16()

    def logits(network: nn.Module, dtype: torch.dtype) -> Callable[[], Tensor]:
        shown = images.to(dtype)

        def run() -> Tensor:
            with torch.no_grad():
                return network.eval()(shown).float()

        return run

    usual, ours = logits(model, torch.float32), logits(half, torch.bfloat16)
    wanted = usual()
    difference = float((wanted - ours()).abs().max() / wanted.abs().max())
    same(difference, 0, 0.05)
    return Comparison(
        f"vit_b_16 inference, batch {BATCH} at 224: ours in fp32 / ours in bf16",
        usual, ours, f"logits within {difference:.1%} of the largest",
    )  # fmt: skip


VIT_COMPARISONS: tuple[Callable[[], Comparison], ...] = (compare_training, compare_inference)


def images_per_second(device: torch.device, batch: int = 128, seconds: float = 5.0) -> list[str]:
    """For a GPU: both networks in one run, in turns, training steps and inference under bf16."""
    images = torch.randn(batch, 3, 224, 224, device=device)
    labels = torch.arange(batch, device=device)
    names = ("torchvision", "ours")
    pair = {name: model.to(device) for name, model in zip(names, networks(), strict=True)}
    finish = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def train(model: nn.Module) -> None:
        cross_entropy(forward(model.train(), images, BF16), labels).backward()

    def infer(model: nn.Module) -> None:
        with torch.no_grad():
            forward(model.eval(), images, BF16)

    lines = []
    for word, action in (("training", train), ("inference", infer)):
        counts = dict.fromkeys(pair, 0)
        spent = dict.fromkeys(pair, 0.0)
        for model in pair.values():
            action(model)  # warm up
        while min(spent.values()) < seconds:
            for name, model in pair.items():
                finish()
                begin = time.perf_counter()
                action(model)
                finish()
                spent[name] += time.perf_counter() - begin
                counts[name] += batch
        rates = {name: counts[name] / spent[name] for name in pair}
        said = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
        lines.append(f"vit_b_16 {word}, bf16, batch {batch}, images/s: {said}")
    return lines
