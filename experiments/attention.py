"""Draw the attention of a vision transformer over images: every head, and attention rollout.

    python -m experiments.attention CHECKPOINT IMAGES ...

Papers: Vaswani et al. 2017 (arXiv 1706.03762), section 3.2, for attention; Abnar and Zuidema 2020,
"Quantifying Attention Flow in Transformers" (arXiv 2005.00928), section 3, for attention rollout.
Dimension key: N batch, L tokens (the class token, then the patches row by row), h heads.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from data.errors import DataError, printable
from data.progress import say
from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError, doing

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.classifier import Classifier
    from zoo.vit import ViT


@dataclass(frozen=True)
class Options:
    """Draw the attention of every head, and attention rollout, over each image."""

    checkpoint: tyro.conf.Positional[str]
    """A ViT: a file of experiments.transfer, a Hugging Face folder, or hf:OWNER/NAME."""
    inputs: cli.Paths
    """Images: files, folders or patterns."""
    classes: cli.Classes = None
    """For a file that stores no class names, in the order of its outputs: a,b,c; a text or JSON
    file; or the folder of class folders that the network was trained on."""
    preprocess: cli.Preprocess = None
    """For a file that stores no preprocessing: a recipe such as bootcamp; published weights such as
    IMAGENET1K_V2; or numbers: resize=256,crop=224,mean=0.5,std=0.5 or squash=224,mean=..."""
    block: cli.Count = None
    """The block whose heads to draw, counted from 0; without it, the last block."""
    output: Path = Path("runs/attention.png")
    """The PNG to write; for several images, a folder of this name without .png."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..., or mps (not tested)."""


def attention_in(model: ViT, outputs: Mapping[str, Tensor]) -> list[Tensor]:
    """The attention weights (N, h, L, L) of every block, in order.

    `outputs`: module name -> output; the weights are computed from those of each block's norm1.
    """
    blocks: list[Any] = list(model.blocks)
    tokens = [outputs[f"blocks.{i}.norm1"] for i in range(len(blocks))]
    pairs = zip(blocks, tokens, strict=True)
    return [block.attention.with_weights(x)[1].detach().cpu() for block, x in pairs]


def skips_of(model: ViT) -> list[bool]:
    """For every block, whether it has a skip around its attention."""
    from zoo.plainvit import MlpSkipOnly, PlainAttentionBlock, PlainEncoderBlock

    nothing_added = (PlainEncoderBlock, MlpSkipOnly, PlainAttentionBlock)
    return [not isinstance(block, nothing_added) for block in model.blocks]


def rollout(weights: Sequence[Tensor], skips: Sequence[bool]) -> Tensor:
    """Share of each input token in each token after the last block: float64 (N, L, L).

    Every row sums to 1. `weights`: the attention (N, h, L, L) of each block. Section 3: the product
    over blocks of A = 0.5 W + 0.5 I, where W is the mean over heads and I is the skip. Rows of W
    and I sum to 1, so A needs no normalisation. A block without the skip passes tokens on through
    attention only, so there A = W.
    """
    import torch

    length = weights[0].shape[-1]
    same = torch.eye(length, dtype=torch.float64)
    rolled = same.expand(len(weights[0]), length, length)
    for attention, skip in zip(weights, skips, strict=True):
        mean = attention.double().mean(1)  # (N, h, L, L) -> (N, L, L)
        rolled = (0.5 * mean + 0.5 * same if skip else mean) @ rolled
    return rolled


def patches_of(attention: Tensor) -> Tensor:
    """The class token's attention to each patch: (..., L, L) -> (..., rows, columns), a square."""
    row = attention[..., 0, 1:]  # -> (..., L-1)
    side = math.isqrt(row.shape[-1])
    return row.unflatten(-1, (side, side))


def main(options: Options) -> int:
    """Draw each image; return 0, or the exit code of DataError if one cannot be decoded."""
    with doing("loading the network"):
        # Not at the top: importing torch takes seconds, and --help does not need it.
        from data.decoding import DecodedOnUse, decode_all
        from experiments.classifier import about, find_images, load_model
        from experiments.plumbing.device import choose_device
        from zoo.vit import ViT

        device, why = choose_device(options.device)
        paths = find_images(options.inputs)
        if len(paths) == 1 or not options.output.is_dir():  # several images: a folder of figures
            cli.check_file("--output", options.output, ".png")
        classifier = load_model(options.checkpoint, None, options.classes, options.preprocess)
        classifier.model.to(device)
    if not isinstance(classifier.model, ViT):
        what = "this network has no attention to show: it is not a vision transformer"
        raise UsageError(what, options.checkpoint, "give a checkpoint of a ViT, such as vit_b_16")
    last = len(classifier.model.blocks) - 1
    cli.check_numbers(options, {"block": (0, last)})
    block = last if options.block is None else options.block
    print(f"{about(classifier)}; device {why}")
    output, folder, code = options.output, options.output.with_suffix(""), 0
    images = decode_all(DecodedOnUse(tuple(map(str, paths)), classifier.view), 0, "drawing")
    with doing("drawing"):
        for number, (path, image) in enumerate(zip(paths, images, strict=True), 1):
            if isinstance(image, DataError):
                code = cli.EXIT_CODES[DataError]
                say(str(image), sys.stderr)
                continue
            if len(paths) > 1:  # numbered: two images may have the same name
                output = folder / f"{number:0{len(str(len(paths)))}}-{path.stem[:50]}.png"
            words = draw_one(classifier, block, image, path.name, output)
            say(f"{printable(str(path))}: {words}\nattention: {output}")
    return code


def draw_one(classifier: Classifier, block: int, image: Tensor, name: str, output: Path) -> str:
    """Draw one image, uint8 (3, S, S); return its predicted class and probability as text.

    One at a time: the attention of a batch may take gigabytes, and drawing takes most of the time.
    """
    from experiments.classifier import in_percent, top_k
    from experiments.drawing.heatmap import draw_attention
    from experiments.proof.checks import outputs_of

    model: Any = classifier.model
    with outputs_of(model) as outputs:
        logits = classifier.logits(image[None])
    weights, skips = attention_in(model, outputs), skips_of(model)
    words = in_percent(top_k(classifier, logits, 1)[0][0])
    heads, rolled = (patches_of(matrix)[0] for matrix in (weights[block], rollout(weights, skips)))
    where = f"blocks.{block}" + (", the last" if block == len(skips) - 1 else f" of {len(skips)}")
    draw_attention(output, image, f"{name}: {words}", heads, rolled, where, all(skips))
    return words


if __name__ == "__main__":
    cli.run(main, Options, "attention")
