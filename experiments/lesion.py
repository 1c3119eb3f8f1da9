"""Remove one arm of one block at a time, and see how the prediction for an image changes.

    python -m experiments.lesion CHECKPOINT IMAGE

A block of a ResNet has two arms: the residual branch F(x), and the skip. Of a plain network, the
block is removed; of a ViT, a block's attention or its MLP. stages.0.1 is the second block of the
first stage.
For errors over many images: python -m experiments.anatomy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from experiments.plumbing import cli
from experiments.plumbing.cli import doing

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.classifier import Classifier
    from zoo.networks import Network


@dataclass(frozen=True)
class Options:
    """How a prediction changes when one residual branch, or one skip, is removed."""

    checkpoint: tyro.conf.Positional[str]
    """A file of weights, a Hugging Face folder, or hf:OWNER/NAME; with --model, also a published
    name such as IMAGENET1K_V2."""
    image: tyro.conf.Positional[str]
    """An image."""
    model: cli.Word = None
    """The network, if the checkpoint does not say it."""
    classes: cli.Classes = None
    """For a file that stores no class names, in the order of its outputs: a,b,c; a text or JSON
    file; or the folder of class folders that the network was trained on."""
    preprocess: cli.Preprocess = None
    """For a file that stores no preprocessing: as in experiments.predict."""
    output: Path = Path("runs/lesion.png")
    """The PNG to write."""


def lesions(model: Network) -> Iterator[tuple[str, str, Any, Callable[..., Tensor]]]:
    """Block, arm, the module whose output is replaced, and its replacement: a forward hook."""
    import torch

    from experiments.anatomy.chain import blocks_of, keeps_shape, last_norm
    from zoo.plainvit import (
        AttentionSkipOnly,
        MlpSkipOnly,
        PlainAttentionBlock,
        PlainEncoderBlock,
    )
    from zoo.vit import ViT

    without_skip = {  # the blocks in which nothing is added to the output of attention, or MLP
        "attention": (PlainEncoderBlock, PlainAttentionBlock, MlpSkipOnly),
        "mlp": (PlainEncoderBlock, AttentionSkipOnly),
    }

    def nothing(module: Any, inputs: Any, output: Tensor) -> Tensor:
        return torch.zeros_like(output)

    def unchanged(module: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return inputs[0]

    if isinstance(model, ViT):
        for number, block in enumerate(model.blocks):
            for arm, skipless in without_skip.items():
                if hasattr(block, arm):
                    hook = unchanged if isinstance(block, skipless) else nothing
                    yield f"blocks.{number}", arm, getattr(block, arm), hook
        return
    for name, block in blocks_of(model).items():
        if hasattr(block, "shortcut"):
            yield name, "residual branch", last_norm(block), nothing
            yield name, "skip", block.shortcut, nothing
        elif keeps_shape(block):
            yield name, "block", block, unchanged


def probabilities(
    classifier: Classifier, image: Tensor
) -> tuple[Tensor, list[tuple[str, str, Tensor]]]:
    """The probabilities, float64 (K,), intact; and for each lesion with its block and arm.

    `image`: uint8 (3, S, S), as the classifier's view returns it.
    """
    intact = classifier.logits(image[None]).double().softmax(1)[0]
    changed = []
    for name, arm, module, hook in lesions(classifier.model):
        handle = module.register_forward_hook(hook)
        changed.append((name, arm, classifier.logits(image[None]).double().softmax(1)[0]))
        handle.remove()
    return intact, changed


def main(options: Options) -> None:
    """Draw the probability of the predicted class without each arm; print where it is lost."""
    cli.check_file("--output", options.output, ".png")
    with doing("loading the network"):
        # Not at the top: importing torch takes seconds, and --help does not need it.
        from data.images import load_image
        from experiments.classifier import about, load_model

        classifier = load_model(
            options.checkpoint, options.model, options.classes, options.preprocess
        )
    variant = getattr(classifier.model, "variant", None)
    if variant not in (None, "stochastic-depth", "zero-gamma"):  # their blocks are relu(F(x) + h)
        what = f"the blocks of this network are a variant, {variant}"
        raise cli.UsageError(what, options.checkpoint, "give a network of BasicBlocks")
    print(about(classifier))
    image = classifier.view(load_image(options.image))
    with doing("removing one arm at a time"):
        intact, changed = probabilities(classifier, image)
    best = int(intact.argmax())
    print(f"intact: {classifier.classes[best]}, {100 * intact[best]:.1f} %")
    others = [(name, arm, s, int(s.argmax())) for name, arm, s in changed if s.argmax() != best]
    print(f"the answer for this image changes without {len(others)} of {len(changed)} arms")
    for name, arm, scores, other in others:
        print(f"  the {arm} of {name}: {classifier.classes[other]}, {100 * scores[other]:.1f} %")
    draw(options.output, image, Path(options.image).name, classifier, intact, changed)
    print(f"figure: {options.output}")


def draw(
    path: Path, image: Tensor, name: str, classifier: Classifier, intact: Tensor,
    changed: list[tuple[str, str, Tensor]],
) -> None:  # fmt: skip
    """The image, and by block the probability of its class without each arm."""
    from experiments.drawing.style import COLOURS, fit, png

    best = int(intact.argmax())
    title = f"{name}: {classifier.classes[best]}, {100 * intact[best]:.1f} %"
    with png(path, 12, 4.4) as figure:
        figure.suptitle(fit(title, 800, 14), size=14)
        left, right = figure.subplots(1, 2, width_ratios=[1, 2.4])
        left.imshow(image.permute(1, 2, 0).numpy())
        left.set_axis_off()
        names = list(dict.fromkeys(block for block, _, _ in changed))
        right.axhline(100 * float(intact[best]), color="black", ls=":", label="intact")
        for arm, colour in zip(
            dict.fromkeys(arm for _, arm, _ in changed), COLOURS[1:], strict=False
        ):
            points = [(names.index(b), 100 * float(s[best])) for b, a, s in changed if a == arm]
            right.plot(
                *zip(*points, strict=True), "o-", color=colour, ms=4, label=f"without the {arm}"
            )
        right.set_xticks(range(len(names)), names, rotation=90, size=8)
        right.set(
            ylim=(-3, 103), ylabel=fit(f"probability of {classifier.classes[best]} (%)", 250, 12)
        )
        right.legend(frameon=False, fontsize=10)


if __name__ == "__main__":
    cli.run(main, Options, "lesion")
