"""Weights from one library's names into another's, with the class names that go with them.

    python -m experiments.convert resnet50_model.pth animals.safetensors --to zoo --classes cat,dog
    python -m experiments.convert best.safetensors FOLDER --to transformers

A transformer for transformers can become a folder, as the Hugging Face Hub has them: its files say
what a state dict does not, the norms' eps, the class names and how images are shown.
Whose names the file has, and of which network it is, is recognised from its entries. The weights
are loaded into that network and exported again, so everything that zoo.load refuses is refused
(plumbing/conversion.py).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError, doing

SUFFIXES = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class Options:
    """Convert a file of weights from one library's names into another's."""

    input: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IN")]
    """A .pth or .safetensors file, the URL of one, hf:OWNER/NAME or a folder in its layout."""
    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Where to write: .safetensors or .pth; or a folder, for a ViT of transformers."""
    to: Literal["torchvision", "transformers", "timm", "cifar", "zoo"]
    """Whose names the output has."""
    classes: str | None = None
    """Class names in the order of the head's outputs: a,b,c."""


def main(options: Options) -> None:
    suffix, as_folder = options.output.suffix, options.to == "transformers"
    if options.output.exists() or (suffix not in SUFFIXES and (suffix or not as_folder)):
        why = "only new .safetensors and .pth files are written, and new folders for transformers"
        raise UsageError(why, options.output, "choose another name")
    cli.check_folder(options.output.parent)
    with doing("loading the libraries"):
        from experiments.plumbing.conversion import convert
    convert(options.input, options.output, options.to, options.classes)


if __name__ == "__main__":
    cli.run(main, Options, "convert")
