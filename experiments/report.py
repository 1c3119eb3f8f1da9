"""The table, verdict or advice of finished results, again.

python -m experiments.report runs/quick
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

import experiments.ablation.report
import experiments.transfer.report
from data.listing import readable
from experiments.ablation import report_vit
from experiments.plumbing import cli
from experiments.plumbing.results import is_of_transfer


@dataclass(frozen=True)
class Options:
    """Show the results of an ablation, or of experiments.transfer, again."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Where the command wrote its results."""


def main(options: Options) -> None:
    if is_of_transfer(readable(options.folder)):
        experiments.transfer.report.show_again(options.folder)
        return
    results = experiments.ablation.report.read_results(options.folder)
    if any(result["norm"] == "layer" for result in results):
        folder = options.folder if options.folder.is_dir() else options.folder.parent
        report_vit.show(results, report_vit.read_residuals(folder), Console())
    else:
        experiments.ablation.report.show(results, Console())


if __name__ == "__main__":
    cli.run(main, Options, "report")
