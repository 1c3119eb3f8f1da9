"""Train networks with and without their skip connections, and compare them.

    python -m experiments.ablation                       minutes on a laptop, no download
    python -m experiments.ablation cifar10               the same question on CIFAR-10
    python -m experiments.ablation vit                   for vision transformers
    python -m experiments.ablation --data-dir FOLDER     on your own images

For transformers, the literature predicts two effects. Without skips, the tokens of an image become
identical block by block: Dong et al. 2021 (arXiv 2103.03404), sections 2 and 3. Then the gradients
of queries and keys vanish, and training stalls: Noci et al. 2022 (arXiv 2206.03126).
Start reading with questions.py.
"""

from pathlib import Path

from experiments.ablation.options import LIMITS, Options
from experiments.plumbing import cli
from experiments.plumbing.cli import doing


def main(options: Options) -> None:
    """Check the options and run the ablation."""
    cli.check_numbers(options, LIMITS)
    cli.check_folder(options.output_dir or Path("runs"))
    with doing("loading the libraries"):
        from experiments.ablation import campaign
    campaign.carry_out(options).show()


if __name__ == "__main__":
    cli.run(main, Options, "ablation", resumes=True)
