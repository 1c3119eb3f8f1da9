"""The fastest way to compute the outputs of many batches in fp32 here, chosen by timing.

bf16 would be faster still where the hardware computes in it, but changes probabilities, and one
image in about a thousand its class: predictions and accuracies are those of fp32.
"""

import time

import torch
from torch import Tensor, nn

import zoo
from zoo.fold import has_compiler

FEW = 16  # batches: with fewer, folding and timing take about as long as they save
LONG = 120.0  # seconds: compiling takes up to 60, and saves a fifth of the rest


def for_many(model: nn.Module, images: Tensor, batches: int) -> nn.Module:
    """A module that computes what `model` does in eval mode, for that many batches like `images`.

    With FEW batches or more, batch norms are folded (zoo/fold.py): outputs differ by rounding. If
    all batches take longer than LONG, the folded network is also compiled, and the faster one
    stays.
    """
    if batches < FEW:
        return model.eval()
    folded = zoo.for_inference(model)
    seconds = seconds_of(folded, images)
    if seconds * batches < LONG or not has_compiler():
        return folded
    compiled = zoo.for_inference(model, compiled=True)
    seconds_of(compiled, images)  # compiles
    return compiled if seconds_of(compiled, images) < seconds else folded


@torch.no_grad()
def seconds_of(model: nn.Module, images: Tensor) -> float:
    """Seconds of one batch; on a GPU, until it is done."""
    begin = time.perf_counter()
    model(images).flatten()[0].item()
    return time.perf_counter() - begin
