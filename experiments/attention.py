"""Where a vision transformer looks: attention of every head, and its roll-out, over an image.

    python -m experiments.attention CHECKPOINT PICTURE

Papers: Vaswani et al. 2017 (arXiv 1706.03762), section 3.2, for attention; Abnar and Zuidema 2020,
"Quantifying Attention Flow in Transformers" (arXiv 2005.00928), section 3, for its roll-out.
Dimension key: N batch, L tokens (one for the class, then the patches, row by row), h heads.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from data.images import load_image
from experiments.classifier import load_model, top_k
from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError, doing
from experiments.proof.checks import outputs_of
from zoo.plainvit import MlpSkipOnly, PlainAttentionBlock, PlainEncoderBlock
from zoo.vit import ViT

NOTHING_ADDED = (PlainEncoderBlock, MlpSkipOnly, PlainAttentionBlock)  # to what attention returns


@dataclass(frozen=True)
class Options:
    """Draw the attention of every head, and its roll-out, over an image."""

    checkpoint: tyro.conf.Positional[str]
    """A vision transformer: a .safetensors of experiments.transfer, a folder, or hf:OWNER/NAME."""
    picture: tyro.conf.Positional[Path]
    """Any image."""
    block: int | None = None
    """Whose heads to show, counted from 0 (the last)."""
    output: Path = Path("runs/attention.png")
    """The PNG to write."""


def attention_in(model: ViT, outputs: Mapping[str, Tensor]) -> list[Tensor]:
    """The attention (N, h, L, L) of every block, in order, from the outputs of its first norm."""
    attentions: list[Any] = [block.attention for block in model.blocks]
    tokens = [outputs[f"blocks.{i}.norm1"] for i in range(len(attentions))]
    with torch.no_grad():
        pairs = zip(attentions, tokens, strict=True)
        return [attention.spelled_out(x)[1].cpu() for attention, x in pairs]


def skips_of(model: ViT) -> list[bool]:
    """For every block, whether it adds its attention to the stream."""
    return [not isinstance(block, NOTHING_ADDED) for block in model.blocks]


def rollout(weights: Sequence[Tensor], skips: Sequence[bool]) -> Tensor:
    """How much of each input is in each token after the last block: float64 (N, L, L), rows of 1.

    `weights`: of every block the attention (N, h, L, L). Section 3: A = 0.5 W + 0.5 I, where W is
    the mean over heads and I the skip, and blocks multiply. Rows need not be normalised again:
    those of W and I have the sum 1. A block without the addition keeps nothing of a token but
    what attention takes of it, so there A = W.
    """
    length = weights[0].shape[-1]
    same = torch.eye(length, dtype=torch.float64)
    rolled = same.expand(len(weights[0]), length, length)
    for attention, skip in zip(weights, skips, strict=True):
        mean = attention.double().mean(1)  # (N, h, L, L) -> (N, L, L)
        rolled = (0.5 * mean + 0.5 * same if skip else mean) @ rolled
    return rolled


def patches_of(attention: Tensor) -> Tensor:
    """What the class token takes of each patch: (..., L, L) -> (..., rows, columns), a square."""
    row = attention[..., 0, 1:]  # -> (..., L-1)
    side = math.isqrt(row.shape[-1])
    return row.unflatten(-1, (side, side))


def main(options: Options) -> None:
    # matplotlib: slow to import
    from experiments.drawing.heatmap import draw_attention

    cli.check_file("--output", options.output, ".png")
    with doing("loading the network"):
        classifier = load_model(options.checkpoint)
    model = classifier.model
    if not isinstance(model, ViT):
        why = "this network has no attention to show: it is no vision transformer"
        raise UsageError(why, options.checkpoint, "give a checkpoint of one, such as vit_b_16")
    skips = skips_of(model)
    last = len(skips) - 1
    cli.check_numbers(options, {"block": (0, last)})
    block = last if options.block is None else options.block
    image = classifier.view(load_image(options.picture))
    with doing("looking at the image"), outputs_of(model) as outputs:
        logits = classifier.logits(image[None])
    weights = attention_in(model, outputs)
    best = top_k(classifier, logits, 1)[0][0]
    words = f"{best['label']}, {100 * float(best['score']):.1f} %"
    heads, rolled = (patches_of(found)[0] for found in (weights[block], rollout(weights, skips)))
    where = f"blocks.{block}" + (", the last" if block == last else f" of {len(skips)}")
    with doing("drawing"):
        title = f"{options.picture.name}: {words}"
        draw_attention(options.output, image, title, heads, rolled, where, all(skips))
    print(f"{options.picture}: {words}")
    print(f"attention: {options.output}")


if __name__ == "__main__":
    cli.run(main, Options, "attention")
