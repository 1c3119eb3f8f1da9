"""Find out how a network's images must be prepared, by trying it on labelled images.

    python -m experiments.diagnose resnet50_model.pth my_images

A file of weights rarely says how its training images were prepared, and a wrong preprocessing only
lowers the accuracy. This command recognises the network and compares sizes, crops, normalisations,
RGB with BGR, batch norm in eval and training mode, and orders of the classes
(plumbing/diagnosis.py).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError, doing


@dataclass(frozen=True)
class Options:
    """Find the preprocessing of a file of weights, and write a file that predict accepts."""

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A .pth or .safetensors file."""
    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER")]
    """Labelled images: one folder per class. If it has splits, test/ is used, or else val/."""
    model: cli.Word = None
    """The network, if the entries fit several."""
    images: int = 400
    """The most images to use, at least 20; as many of each class as possible."""
    output: Annotated[Path | None, cli.shown("FILE")] = None
    """The .safetensors file to write: the network, class names and the preprocessing found."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..., or mps (not tested)."""


def main(options: Options) -> None:
    """Diagnose the file; raise UsageError first if the output cannot be written."""
    cli.check_numbers(options, {"images": (20, 10**6)})
    output = options.output
    if output:
        cli.check_file("--output", output, ".safetensors")
        output = output.with_suffix(".safetensors")
        if output.exists():
            raise UsageError("the output must be new", f"--output {output}", "choose another name")
    with doing("loading the libraries"):
        from experiments.plumbing.diagnosis import diagnose
    diagnose(options.file, options.folder, options.model, options.images, output, options.device)


if __name__ == "__main__":
    cli.run(main, Options, "diagnose")
