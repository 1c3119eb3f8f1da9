"""Check published claims about skip connections on trained networks, without training.

    python -m experiments.anatomy                        published networks, CIFAR-10 downloaded
    python -m experiments.anatomy FOLDER                 the same, with CIFAR-10 from a folder
    python -m experiments.anatomy --from runs/quick      the networks of an ablation

Start reading with one_block.py.
"""

from pathlib import Path

from experiments.anatomy.options import Options
from experiments.plumbing import cli
from experiments.plumbing.cli import doing


def main(options: Options) -> None:
    """Find the networks, answer the questions and print the table."""
    cli.check_numbers(options, {"images": (20, 10_000), "grid": (3, 101)})
    of = options.campaign.resolve().name if options.campaign else "published"
    folder = options.output_dir or Path(f"runs/anatomy-{of}")
    cli.check_folder(folder)
    with doing("loading the libraries"):
        from experiments.anatomy import study
        from experiments.plumbing.results import lock
    with lock(folder):
        study.carry_out(options, folder).show()


if __name__ == "__main__":
    cli.run(main, Options, "anatomy", resumes=True)
