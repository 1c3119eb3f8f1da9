"""Networks with and without their skip connections, measured: what the skips are for.

    python -m experiments.ablation                       minutes on a laptop, nothing to download
    python -m experiments.ablation cifar10               the same question on CIFAR-10
    python -m experiments.ablation vit                   of vision transformers
    python -m experiments.ablation --data-dir FOLDER     and on your own images

Of transformers two things are predicted. Without additions the tokens of an image become the same,
block by block: Dong et al. 2021 (arXiv 2103.03404), sections 2 and 3. Then queries and keys have
next to no gradient, and training stalls: Noci et al. 2022 (arXiv 2206.03126).
Begin with questions.py.
"""

from pathlib import Path

from experiments.ablation.options import LIMITS, Options
from experiments.plumbing import cli
from experiments.plumbing.cli import doing


def main(options: Options) -> None:
    cli.check_numbers(options, LIMITS)
    cli.check_folder(options.output_dir or Path("runs"))
    with doing("loading the libraries"):
        from experiments.ablation import campaign
    campaign.carry_out(options)


if __name__ == "__main__":
    cli.run(main, Options, "ablation", resumes=True)
