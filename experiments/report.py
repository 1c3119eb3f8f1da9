"""Print the tables, verdicts or advice of finished runs again.

python -m experiments.report runs/quick
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.plumbing import cli
from experiments.plumbing.cli import doing


@dataclass(frozen=True)
class Options:
    """Print the results of an ablation, of experiments.transfer or anatomy, again."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """The folder that the command wrote its results to."""


def main(options: Options) -> None:
    """Detect which command wrote the results, and print its report."""
    with doing("loading the libraries"):
        from data.listing import readable
        from experiments.ablation import report as ablation
        from experiments.anatomy import findings as anatomy
        from experiments.plumbing.results import FINDINGS, is_of_transfer
        from experiments.plumbing.tables import print_report
        from experiments.transfer import report as transfer
        from experiments.transfer import stages
    folder = readable(options.folder)
    package = transfer if is_of_transfer(folder) else ablation
    if (folder / FINDINGS).is_file():
        package = anatomy
    if (folder / stages.FILE).is_file() and package is ablation:  # of experiments.stages
        print_report(stages.report_of_stages(stages.read(folder)))
    else:
        print_report(package.report_of(folder))


if __name__ == "__main__":
    cli.run(main, Options, "report")
