"""Draw where a network looks: Grad-CAM of a ResNet; of a ViT, attention and roll-out.

    python -m experiments.saliency CHECKPOINT IMAGES ...

Beside Grad-CAM and roll-out is the same map of the network with random weights. If the two are
alike, the map shows the image and the architecture, not what was learned (Adebayo et al. 2018,
arXiv 1810.03292). If they are not, nothing is proved: this check can only refute a map.

Papers: Selvaraju et al. 2017 (arXiv 1610.02391), section 3, for Grad-CAM; Vaswani et al. 2017
(arXiv 1706.03762), section 3.2, for attention; Abnar and Zuidema 2020 (arXiv 2005.00928),
section 3, for the roll-out.
Dimension key: N batch, C channels, H W of the last map, h heads, L tokens (the class token, then
the patches row by row).
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import tyro

from data.errors import DataError, printable
from data.progress import say
from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError, doing

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.classifier import Classifier
    from zoo.networks import Network
    from zoo.resnet import ResNet
    from zoo.vit import ViT

RANDOM = 5  # networks with random weights
ALIKE = 0.5  # mean absolute rank correlation from which maps count as alike


@dataclass(frozen=True)
class Options:
    """Draw where a network looks: Grad-CAM of a ResNet; of a ViT, attention and roll-out."""

    checkpoint: tyro.conf.Positional[str]
    """A network: a file of experiments.transfer, a Hugging Face folder, or hf:OWNER/NAME."""
    inputs: cli.Paths
    """Images: files, folders or patterns."""
    classes: cli.Classes = None
    """For a file that stores no class names, in the order of its outputs: a,b,c; a text or JSON
    file; or the folder of class folders that the network was trained on."""
    preprocess: cli.Preprocess = None
    """For a file that stores no preprocessing: a recipe such as bootcamp; published weights such as
    IMAGENET1K_V2; or numbers: resize=256,crop=224,mean=0.5,std=0.5 or squash=224,mean=..."""
    block: cli.Count = None
    """Of a ViT: the block whose heads to draw, counted from 0; without it, the last block."""
    output: Path = Path("runs/saliency.png")
    """The PNG to write; for several images, a folder of this name without .png."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..., or mps (not tested)."""


def grad_cam(model: ResNet, inputs: Tensor, labels: Sequence[int]) -> Tensor:
    """Grad-CAM for a class of each image: float32 (N, H, W), not negative. Equations 1 and 2.

    `inputs`: float32 (N, 3, ...), normalised. The channels of the last stage's map are added up,
    each weighted by the mean over the map of the gradient of the class's logit; then ReLU.
    """
    import torch

    with torch.enable_grad():
        x = model.stages(model.stem(inputs))  # (N, C, H, W)
        logits = model.head(x.mean((2, 3)))  # as in ResNet.features and ResNet.forward
        chosen = logits[torch.arange(len(logits)), list(labels)].sum()
        (gradients,) = torch.autograd.grad(chosen, x)
    weights = gradients.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
    return (weights * x).sum(1).relu().detach().cpu()


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


def rolled_out(model: ViT, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The roll-out from the class token, (N, rows, columns), and the attention of every block."""
    from experiments.proof.checks import outputs_of

    with outputs_of(model) as outputs:
        model(inputs)
    weights = attention_in(model, outputs)
    return patches_of(rollout(weights, skips_of(model))), weights


# --- the check with random weights ---


def with_random_weights(model: Network, seed: int) -> Network:
    """A copy of the network with random weights in every layer; BatchNorm statistics are reset."""
    import torch
    from torch import nn

    from zoo.resnet import ResNet

    device = next(model.parameters()).device
    # Numbers are drawn in the order of memory: on every device and in every layout the same.
    model = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for module in model.modules():
            if reset := getattr(module, "reset_parameters", None):
                reset()
                continue
            # A ViT's position and class token; the scalars of blocks without norms.
            for parameter in module.parameters(recurse=False):
                nn.init.normal_(parameter, std=0.02)
        if isinstance(model, ResNet):
            model.init_weights()
    return model.eval().to(device)


@lru_cache(maxsize=1)  # the same ones for all images
def random_networks(model: Network) -> list[Network]:
    """Copies of a network with random weights."""
    return [with_random_weights(model, seed) for seed in range(RANDOM)]


def likeness(one: Tensor, other: Tensor) -> float:
    """Spearman's rank correlation of two maps; nan if one of them is the same everywhere."""
    from scipy.stats import rankdata

    ranks = [rankdata(values.double().flatten().numpy()) for values in (one, other)]
    first, second = (rank - rank.mean() for rank in ranks)
    size = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / size if size else math.nan


def most_alike(ours: Tensor, random: Sequence[Tensor]) -> Tensor:
    """The map of random weights that is most like this one, by the absolute rank correlation."""
    ranks = [abs(likeness(ours, other)) for other in random]
    return random[max(range(len(random)), key=lambda i: -1 if math.isnan(ranks[i]) else ranks[i])]


def is_nearly_empty(values: Tensor) -> bool:
    """Whether less than a twentieth of a map is above a tenth of its largest value."""
    return float((values > 0.1 * values.max()).double().mean()) < 0.05


def verdict(ours: Tensor, random: Sequence[Tensor]) -> str:
    """A sentence: is this map like those of the same network with random weights?

    If it is, it shows nothing that was learned. If it is not, it depends on the weights; whether on
    learned ones, it cannot say: two random networks differ, too.
    """
    found = [likeness(ours, other) for other in random]
    ranks = [value for value in found if not math.isnan(value)]
    if not ranks:
        return "This map, or that of random weights, is the same everywhere: nothing can be said."
    mean = fmean(map(abs, ranks))
    about = f"rank correlations {min(ranks):+.2f} to {max(ranks):+.2f}, their mean size "
    about += f"{mean:.2f}, n = {len(ranks)} networks"
    if others := len(random) - len(ranks):
        about += f"; {others} more without any pattern"
    if mean >= ALIKE:
        return f"Random weights give similar maps: this one proves nothing ({about})."
    if sum(map(is_nearly_empty, random)) > len(random) / 2:
        return f"Most maps of random weights are nearly empty: comparing says little ({about})."
    return f"Random weights give other maps, so this one depends on the weights ({about})."


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
    if isinstance(classifier.model, ViT):
        cli.check_numbers(options, {"block": (0, len(classifier.model.blocks) - 1)})
    elif options.block is not None:
        what = "--block chooses the attention of a ViT, and this is none"
        raise UsageError(what, options.checkpoint, "leave --block out")
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
            words = draw_one(classifier, options.block, image, path.name, output)
            say(f"{printable(str(path))}: {words}\nsaliency: {output}")
    return code


def draw_one(
    classifier: Classifier, block: int | None, image: Tensor, name: str, output: Path
) -> str:
    """Draw one image, uint8 (3, S, S); return its predicted class and the verdict as text.

    One at a time: the attention of a batch may take gigabytes, and drawing takes most of the time.
    """
    from experiments.classifier import in_percent, top_k
    from experiments.drawing.heatmap import draw_cam, draw_rollout

    logits, inputs = classifier.logits(image[None]), classifier.inputs(image[None])
    words = in_percent(top_k(classifier, logits, 1)[0][0])
    networks: list[Any] = [classifier.model, *random_networks(classifier.model)]
    title = f"{name}: {words}"
    if hasattr(classifier.model, "blocks"):  # a ViT
        (ours, weights), *pairs = (rolled_out(model, inputs) for model in networks)
        random = [rolled for rolled, _ in pairs]
        other, said, last = most_alike(ours, random), verdict(ours, random), len(weights) - 1
        block = last if block is None else block
        where = f"blocks.{block}" + (", the last" if block == last else f" of {last + 1}")
        heads, adds = patches_of(weights[block])[0], all(skips_of(networks[0]))
        draw_rollout(output, image, title, ours[0], other[0], said, heads, where, adds)
    else:
        ours, *random = (grad_cam(model, inputs, logits.argmax(1).tolist()) for model in networks)
        said = verdict(ours, random)
        other = most_alike(ours, random)
        draw_cam(output, image, title, ours[0], other[0], said)
    return f"{words}\n  {said}"


if __name__ == "__main__":
    cli.run(main, Options, "saliency")
