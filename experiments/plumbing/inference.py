"""A faster way to compute the outputs of many batches in fp32: folded, and compiled if that pays.

bf16 is not used: where the hardware computes in it, it is faster, but it changes probabilities and
a few predicted classes.
"""

import time

import torch
from torch import Tensor, nn

import zoo
from zoo.fold import has_compiler

FEW = 16  # batches: with fewer, folding and timing take about as long as they save
LONG = 300.0  # seconds: compiling takes up to 60, and saves about a fifth of the rest


def for_many(model: nn.Module, images: Tensor, batches: int) -> nn.Module:
    """A module that computes what `model` does in eval mode, for that many batches like `images`.

    With FEW batches or more, batch norms are folded (zoo/fold.py): outputs differ by rounding. If
    all batches would take LONG or more, the folded network is also compiled (if there is a
    compiler), and the faster of the two is returned.
    """
    if batches < FEW:
        return model.eval()
    folded = zoo.for_inference(model)
    seconds = min(seconds_of_batch(folded, images) for _ in range(2))  # the first one warms up
    if seconds * batches < LONG or not has_compiler():
        return folded
    compiled = zoo.for_inference(model, compiled=True)
    seconds_of_batch(compiled, images)  # compiles
    # A last, smaller batch is compiled again.
    return compiled if seconds_of_batch(compiled, images) < 0.9 * seconds else folded


@torch.no_grad()
def seconds_of_batch(model: nn.Module, images: Tensor) -> float:
    """Seconds of one batch; on a GPU, until it is done."""
    begin = time.perf_counter()
    model(images).flatten()[0].item()
    return time.perf_counter() - begin
