"""Transformers without their additions: what the skip connections of ViT are for, measured.

    python -m experiments.ablation_vit                       minutes on a laptop, no download
    python -m experiments.ablation_vit --data-dir FOLDER     on your own pictures, or CIFAR-10

Two things are predicted. Without additions the tokens of a picture become the same, block by block:
Dong et al. 2021 (arXiv 2103.03404), sections 2 and 3. Then queries and keys have next to no
gradient, and training stalls: Noci et al. 2022 (arXiv 2206.03126).
The arms are ViT, the same without additions, with one of two, and both without MLPs.
Read next: collapse.py, what is measured; report_vit.py, what is said about it.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

import zoo
from data.cifar import is_cifar10
from experiments import cli, collapse, report_vit
from experiments.ablation import (
    Ablation,
    Changes,
    carry_out,
    changed,
    check,
    describe_data,
    introduce,
)
from experiments.device import choose_device
from experiments.progress import doing
from experiments.run import Data, VitRun
from experiments.train import Settings

NETWORKS = ("plainvit", "vit")
PARTS = ("attention-skip", "mlp-skip", "no-mlp", "pure-attention")  # at the largest depth

ABLATION = Ablation(
    question="Do transformers without additions lose the difference of their tokens, and stall?",
    base=VitRun(
        data=Data(size=16, train_images=4000, test_images=1000),
        settings=Settings(
            batch_size=64,
            schedule="one-cycle",
            milestones=(),
            opt="adamw",
            lr=5e-4,  # best for the deepest plain network; residual ones learn more at 2e-3: LOG.md
            weight_decay=0.05,
        ),
    ),
    axes={"seed": (0, 1, 2, 3, 4), "depth": (4, 2, 1), "network": NETWORKS},
    epochs=5,
)


@dataclass(frozen=True)
class Options(Changes):
    """Train vision transformers with and without their additions, and compare them."""


def plan(options: Options, device: torch.device) -> Ablation:
    """The ablation with what the command line changes, and the parts at its largest depth."""
    for depth in options.depths or ABLATION.axes["depth"]:
        zoo.check(f"vit{depth}", {"image_size": options.size} if options.size else {})
    own = options.data_dir is not None and not is_cifar10(options.data_dir)
    ablation = changed(ABLATION, options, device, own)
    also = tuple(
        {"seed": seed, "depth": max(ablation.axes["depth"]), "network": network}
        for seed in ablation.axes["seed"]
        for network in PARTS
    )
    return replace(ablation, also=also)


def main(options: Options) -> None:
    check(options)
    device, why = choose_device(options.device)
    introduce(ABLATION.question, why)
    with doing("loading the pictures"):
        ablation = plan(options, device)
        print(describe_data(ablation.base.data))
    output_dir = options.output_dir or Path("runs") / (
        "ablation-vit" + (f"-{options.data_dir.stem}" if options.data_dir else "")
    )
    runs, results = carry_out(ablation, options, device, output_dir)
    with doing("measuring the tokens of all networks"):
        residuals = collapse.measure(runs, output_dir)
    report_vit.show(results, residuals, Console())
    with doing("drawing the figures"):
        from experiments import figures  # matplotlib; here, because every worker imports this file

        for path in figures.draw_transformers(runs, residuals, output_dir):
            print(f"figure: {path}")
    print(f"rows, histories and residuals: {output_dir}")


if __name__ == "__main__":
    cli.run(main, Options, "ablation_vit", resumes=True)
