"""The table, verdict or advice of finished results, again.

python -m experiments.report runs/quick
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

import experiments.ablation.report
import experiments.transfer.report
from data.listing import readable
from experiments.plumbing import cli
from experiments.plumbing.results import is_of_transfer
from experiments.plumbing.tables import print_report


@dataclass(frozen=True)
class Options:
    """Show the results of an ablation, or of experiments.transfer, again."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Where the command wrote its results."""


def main(options: Options) -> None:
    is_transfer = is_of_transfer(readable(options.folder))
    package = experiments.transfer if is_transfer else experiments.ablation
    print_report(package.report.report_of(options.folder))


if __name__ == "__main__":
    cli.run(main, Options, "report")
