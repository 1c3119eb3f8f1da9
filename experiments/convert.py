"""Convert weights from one library's names to another's, class names included.

    python -m experiments.convert resnet50_model.pth animals.safetensors --to zoo \
        --classes cat,dog --preprocess bootcamp
    python -m experiments.convert best.safetensors FOLDER --to transformers

With `--to transformers`, a ResNet for ImageNet or a ViT can be written as a folder in the Hugging
Face Hub's layout. Its files store what a state dict does not: class names, preprocessing, and a
ResNet's strides or a ViT's eps.
With `--to onnx`, the network itself is written, not only its weights (plumbing/onnx_files.py).
The naming scheme and the network are detected from the entries of the file. The weights are loaded
into that network and exported again, so everything that zoo.load refuses is refused here, too
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
    """Convert a file of weights from one library's names to another's."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IN")]
    """A .pth or .safetensors file, its URL, hf:OWNER/NAME, or a folder in the Hub's layout."""
    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """The file to write: .safetensors or .pth, or .onnx with --to onnx. With --to transformers, OUT
    can be a folder."""
    to: Literal["torchvision", "transformers", "timm", "cifar", "zoo", "onnx"]
    """The library whose names the output has. onnx: an ONNX file with the whole network."""
    model: cli.Word = None
    """The network, such as plain20, if the weights fit several."""
    classes: cli.Classes = None
    """Class names in the order of the outputs: a,b,c; a text or JSON file; or the folder of class
    folders that the network was trained on."""
    preprocess: cli.Preprocess = None
    """How the network's images are prepared: a recipe such as bootcamp; published weights such as
    IMAGENET1K_V2; or numbers: resize=256,crop=224,mean=0.5,std=0.5 or squash=224,mean=..."""


def main(options: Options) -> None:
    """Convert the file; raise UsageError if the output exists or has another suffix."""
    suffixes = {"transformers": (*SUFFIXES, ""), "onnx": (".onnx",)}.get(options.to, SUFFIXES)
    if options.output.exists() or options.output.suffix not in suffixes:
        why = "OUT must be new: a .safetensors or .pth file, or a folder with --to transformers"
        if options.to == "onnx":
            why = "OUT must be new, and end in .onnx"
        raise UsageError(why, options.output, "choose another name")
    cli.check_folder(options.output.parent)
    with doing("loading the libraries"):
        from experiments.plumbing.conversion import convert
    convert(**vars(options))


if __name__ == "__main__":
    cli.run(main, Options, "convert")
