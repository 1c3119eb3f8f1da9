"""Networks with and without their skip connections, measured: what the skips are for.

    python -m experiments.ablation                       minutes on a laptop, nothing to download
    python -m experiments.ablation cifar10               the same question on CIFAR-10
    python -m experiments.ablation vit                   of vision transformers
    python -m experiments.ablation --data-dir FOLDER     and on your own pictures

Of transformers two things are predicted. Without additions the tokens of a picture become the same,
block by block: Dong et al. 2021 (arXiv 2103.03404), sections 2 and 3. Then queries and keys have
next to no gradient, and training stalls: Noci et al. 2022 (arXiv 2206.03126).
Read first: questions.py.
"""

from dataclasses import replace
from pathlib import Path

import torch

import zoo
from experiments.ablation import collapse, tables
from experiments.ablation.overrides import Options, check, plan
from experiments.ablation.pool import default_jobs, run_campaign
from experiments.ablation.questions import ABLATIONS, NETWORKS, Ablation, rows, with_warmup
from experiments.ablation.report import report
from experiments.ablation.runs import Data, Run, build_model, load_data, make_batches
from experiments.plumbing import cli
from experiments.plumbing.cli import NumericError
from experiments.plumbing.device import choose_device, make_deterministic
from experiments.plumbing.precision import ALL, choose_precision, settle
from experiments.plumbing.progress import doing
from experiments.plumbing.results import STARTS, refuse_folder_with, write_csv
from experiments.plumbing.tables import print_report
from experiments.train import Settings


def settle_precision(
    options: Options, ablation: Ablation, device: torch.device, output_dir: Path
) -> Settings:
    """Choose precision once an ablation, on its deepest residual network, and remember it there."""
    refuse_folder_with(output_dir, "transfer.json")
    make_deterministic(device)
    run = replace(ablation.base, depth=max(ablation.axes["depth"]))

    def choose(_: str) -> tuple[Settings, str]:
        if options.precision == "auto":
            print(f"Precision: timing steps of {run.model} ...")
        model, batches = build_model(run).to(device), make_batches(run, device)
        return choose_precision(options.precision, model, batches, run.settings, device)

    about = {"question": ablation.question, "device": device.type, **STARTS}
    path = output_dir / "campaign.json"
    chosen = settle(path, about, [ALL], options.precision, choose)[ALL]
    return replace(
        ablation.base.settings, precision=chosen.precision, channels_last=chosen.channels_last
    )


def explain_parameters(ablation: Ablation) -> list[str]:
    """A line for every plain network that has fewer parameters than its residual twin."""
    lines = []
    classes = len(load_data(ablation.base.data).classes)
    for depth in sorted(ablation.axes["depth"]):
        plain, residual = (
            sum(p.numel() for p in zoo.build(f"{network}{depth}", classes).parameters())
            for network in NETWORKS
        )
        if plain != residual:
            lines.append(
                f"plain{depth} has {plain:,} parameters, resnet{depth} {residual:,}: without its "
                f"skips the network also lost {residual - plain:,} in their projections"
            )
    return lines


def carry_out(
    ablation: Ablation, options: Options, device: torch.device, output_dir: Path
) -> tuple[list[Run], list[dict]]:
    """Every run of the ablation, trained, and their results, which are also in results.csv."""
    settings = settle_precision(options, ablation, device, output_dir)
    ablation = replace(ablation, base=replace(ablation.base, settings=settings))
    runs = [with_warmup(run) for run in rows(ablation)]
    made = run_campaign(runs, output_dir, device, options.jobs or default_jobs(device))
    results = list(map(tables.flatten, made))
    write_csv(output_dir / "results.csv", results, tuple(tables.FIELDS))
    if not any(r["status"] == "finished" for r in results if r["norm"] != "none"):
        raise NumericError("every run diverged", output_dir, "a lower --lr in a new --output-dir")
    return runs, results


def describe_data(data: Data) -> str:
    dataset = load_data(data)
    counts = (
        f"Data {dataset.name}: {len(dataset.train_labels):,} training and "
        f"{len(dataset.test_labels):,} test pictures, {len(dataset.classes)} classes, "
        f"{data.size}x{data.size}"
    )
    return "\n  ".join((counts, *dataset.notes))


def main(options: Options) -> None:
    check(options)
    device, why = choose_device(options.device)
    print(ABLATIONS[options.preset].question)
    print(f"Device {why}")
    with doing("loading the pictures"):
        ablation = plan(options, device)
        print(describe_data(ablation.base.data))
    name = "ablation-vit" if options.preset == "vit" else options.preset
    output_dir = options.output_dir or Path("runs") / (
        name + (f"-{options.data_dir.stem}" if options.data_dir else "")
    )
    for line in explain_parameters(ablation) if options.preset != "vit" else ():
        print(line)
    runs, results = carry_out(ablation, options, device, output_dir)
    residuals = []
    if options.preset == "vit":
        with doing("measuring the tokens of all networks"):
            residuals = collapse.measure(runs, output_dir)
    print_report(report(results, residuals))
    with doing("drawing the figures"):
        from experiments.ablation import figures  # matplotlib, which no worker needs

        paths = figures.draw_all(runs, residuals, output_dir, device)
    for path in paths:
        print(f"figure: {path}")
    print(f"rows and histories: {output_dir}")


if __name__ == "__main__":
    cli.run(main, Options, "ablation", resumes=True)
