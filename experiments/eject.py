"""Write a run of transfer as a script or notebook of plain PyTorch and torchvision.

    python -m experiments.eject runs/transfer-my_images/RUN --as script
    python -m experiments.eject runs/transfer-my_images/RUN --as notebook

The 60 to 90 lines import nothing of this project, and train the same weights on a CPU. Run this
command in the folder where transfer was run: it reads the images again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError, doing

SUFFIXES = {"script": ".py", "notebook": ".ipynb"}


@dataclass(frozen=True)
class Options:
    """Write a run of transfer as a script or notebook of plain PyTorch and torchvision."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The folder of a finished run of experiments.transfer, or its best.safetensors."""
    form: Annotated[Literal["script", "notebook"], tyro.conf.arg(name="as")] = "script"
    """A Python script, or a Jupyter notebook with the same code in cells."""
    output: Annotated[Path | None, cli.shown("FILE")] = None
    """The file to write (default: RUN/ejected.py or RUN/ejected.ipynb)."""


def main(options: Options) -> None:
    """Write the file; raise UsageError if it exists, or if the run cannot be ejected."""
    folder = options.run.parent if options.run.is_file() else options.run
    suffix = SUFFIXES[options.form]
    output = options.output or folder / f"ejected{suffix}"
    if output.exists():
        fix = "name another file with --output, or move this file"
        raise UsageError("this file exists, and may contain your changes", output, fix)
    cli.check_file("--output", output, suffix)
    with doing("loading the libraries"):
        from experiments.transfer.ejection import eject
    eject(folder, output, options.form)


if __name__ == "__main__":
    cli.run(main, Options, "eject")
