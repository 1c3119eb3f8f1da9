"""Plain against residual networks: what the skip connections are for, measured.

    python -m experiments.ablation                       minutes on a laptop, nothing to download
    python -m experiments.ablation cifar10               the same question on CIFAR-10
    python -m experiments.ablation --data-dir FOLDER     and on your own pictures

An ablation is data: a question in plain words, a base, and axes. Its rows differ from the base in
the axes' fields, and those of `also` in the fields that they name. The paper's one exception is
ours too: with_warmup gives networks of 110 layers a warm-up.
Paper: He et al. 2015 (arXiv 1512.03385), sections 4.1 and 4.2, figure 6.
"""

import itertools
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console

import zoo
from data.cifar import is_cifar10
from experiments import cli, report
from experiments.campaign import default_jobs, run_campaign
from experiments.cli import NumericError, UsageError
from experiments.device import choose_device, choose_precision, make_deterministic
from experiments.progress import doing
from experiments.results import ELSEWHERE, STARTS, read_object, refuse_folder_with
from experiments.run import Data, Run, build_model, load_data, make_batches, within_memory
from experiments.train import Settings
from zoo.weights.atomic import write_atomic


@dataclass(frozen=True)
class Ablation:
    question: str
    base: Run
    axes: dict[str, tuple]  # a field of Run -> the values that it takes
    epochs: int | None = None  # None: the base's steps
    also: tuple[dict, ...] = ()  # more rows, each the base but for these fields
    on_gpu: dict[str, int] = field(default_factory=dict)  # better settings where there is a GPU


ONE_CYCLE = Settings(schedule="one-cycle", milestones=())
NETWORKS = ("plain", "resnet")
SEEDS = (0, 1, 2)

ABLATIONS = {
    "quick": Ablation(
        question="Do plain networks train worse as they get deeper, and residual ones not?",
        base=Run(
            data=Data(size=16, train_images=4000, test_images=1000),
            # 0.1 is too high for the deepest network of either arm in so few steps.
            settings=replace(ONE_CYCLE, batch_size=64, lr=0.03),
        ),
        axes={"seed": SEEDS, "depth": (56, 20, 8), "network": NETWORKS},
        epochs=9,
        # For the figure of gradient norms: the deepest pair without batch normalisation.
        also=tuple({"depth": 56, "network": network, "norm": "none"} for network in NETWORKS),
    ),
    "cifar10": Ablation(
        question="The same on CIFAR-10, its 50,000 and 10,000 pictures, on a CPU reduced to 16x16.",
        base=Run(data=Data("cifar10", size=16), settings=ONE_CYCLE),
        axes={"seed": SEEDS, "depth": (56, 20, 8), "network": NETWORKS},
        epochs=8,
        also=tuple({"depth": 56, "network": network, "norm": "none"} for network in NETWORKS),
        on_gpu={"size": 32, "epochs": 30},
    ),
    "paper": Ablation(
        question="Section 4.2 to the letter: figure 6 and table 6 of He et al. 2015.",
        base=Run(data=Data("cifar10", size=32, normalize="pixel-mean"), settings=Settings()),
        axes={"seed": SEEDS, "depth": (110, 56, 44, 32, 20), "network": NETWORKS},
    ),
    "imagenet-nets": Ablation(
        question="The same with the networks made for ImageNet: 18 and 50 layers, 7x7 stem.",
        base=Run(data=Data("cifar10", size=64), settings=ONE_CYCLE),
        axes={"seed": SEEDS, "depth": (50, 18), "network": NETWORKS},
        epochs=10,
    ),
}
LARGEST = {"seeds": 1000, "epochs": 100_000, "lr": 1e30, "size": zoo.LARGEST_IMAGE}
MOST_DRAWN = 100_000  # training pictures; that takes a minute
CAMPAIGN = ("precision", "channels_last", "reason", "device", "question", *STARTS)
WARMUP_DEPTH, WARMUP_STEPS = 110, 400  # section 4.2: 0.1 is too large to start ResNet-110 with


def rows(ablation: Ablation) -> list[Run]:
    """The base with every combination of the axes' values, the last axis fastest."""
    combinations = itertools.product(*ablation.axes.values())
    changes = [dict(zip(ablation.axes, values, strict=True)) for values in combinations]
    return [replace(ablation.base, **change) for change in [*changes, *ablation.also]]


def with_warmup(run: Run) -> Run:
    """The one exception of section 4.2, in both arms: lr 0.01 for the first 400 steps."""
    if run.depth == WARMUP_DEPTH and run.settings.schedule == "steps":
        return replace(run, settings=replace(run.settings, warmup_steps=WARMUP_STEPS))
    return run


@dataclass(frozen=True)
class Changes:
    """What the command line may change in any ablation."""

    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Pictures: a folder with train/CLASS/ and test/CLASS/ or val/CLASS/, or with zips of them.
    Without it they are drawn, or CIFAR-10 is downloaded, as the preset says."""
    depths: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = ()
    """Layers of the networks, or blocks of the transformers (the preset's)."""
    seeds: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many seeds (the preset's: 3 or more)."""
    epochs: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Epochs of every run; the schedule is shortened in proportion."""
    batch_size: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Pictures a step."""
    lr: Annotated[float | None, tyro.conf.arg(metavar="RATE")] = None
    """The highest learning rate."""
    size: Annotated[int | None, tyro.conf.arg(metavar="PIXELS")] = None
    """Side of the pictures that the network sees."""
    train_images: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Train on at most so many pictures, the classes in equal shares."""
    choose: bool = False
    """Test on a tenth held out of the training pictures: for choosing settings, not for a claim."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto times steps of what the hardware has and takes the fastest for every run."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    jobs: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Runs at a time, each with one thread (one a core, at most 3; 1 on a GPU)."""
    output_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where results go; the same command there goes on where it stopped (below runs/)."""


@dataclass(frozen=True)
class Options(Changes):
    """Train plain and residual networks of several depths and compare them."""

    preset: tyro.conf.Positional[Literal["quick", "cifar10", "paper", "imagenet-nets"]] = "quick"
    """quick: drawn pictures, minutes. cifar10: 40 minutes on 2 cores with bf16. paper: section 4.2,
    64,000 steps a run, for a GPU. imagenet-nets: resnet18 and 50."""


def plan(options: Options, device: torch.device) -> Ablation:
    """The preset with what the command line changes."""
    for depth in options.depths:
        zoo.check(f"resnet{depth}", {})
    own = options.preset == "quick" or (
        options.preset == "imagenet-nets"
        and options.data_dir is not None
        and not is_cifar10(options.data_dir)
    )
    return changed(ABLATIONS[options.preset], options, device, own)


def changed(ablation: Ablation, options: Changes, device: torch.device, own: bool) -> Ablation:
    """`ablation` as the command line wants it; `own`: --data-dir is any pictures, not CIFAR-10."""
    on_gpu = ablation.on_gpu if device.type == "cuda" else {}
    data, settings = ablation.base.data, ablation.base.settings
    if options.data_dir is not None:
        data = replace(data, source="folder" if own else "cifar10", data_dir=str(options.data_dir))
        if own:
            data = replace(data, size=max(data.size, 32), test_images=None)
    data = replace(
        data,
        size=options.size or on_gpu.get("size", data.size),
        train_images=options.train_images or data.train_images,
        choose=options.choose,
    )
    if data.source == "embedded":
        cli.at_most(options, {"train_images": MOST_DRAWN})
    settings = replace(
        settings,
        batch_size=options.batch_size or settings.batch_size,
        lr=options.lr or settings.lr,
    )
    epochs = options.epochs or on_gpu.get("epochs", ablation.epochs)
    base = replace(ablation.base, data=data, settings=settings)
    if epochs:
        steps = epochs * len(make_batches(base, torch.device("cpu")))
        share = steps / settings.steps
        milestones = tuple(round(milestone * share) for milestone in settings.milestones)
        base = replace(base, settings=replace(settings, steps=steps, milestones=milestones))
    axes = dict(ablation.axes)
    if options.depths:
        axes["depth"] = tuple(sorted(set(options.depths), reverse=True))
    if options.seeds:
        axes["seed"] = tuple(range(options.seeds))
    deepest = max(axes["depth"])
    also = tuple(change | {"depth": deepest} for change in ablation.also)
    return replace(ablation, base=base, axes=axes, also=also, epochs=epochs)


def check(options: Changes) -> None:
    """UsageError for what can be seen to be wrong before any work."""
    for name in ("seeds", "epochs", "batch_size", "size", "train_images", "jobs", "lr"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            flag = cli.flag_of(name)
            raise UsageError(f"{flag} must be above 0", f"{flag} {value}", "give a larger number")
    cli.at_most(options, LARGEST)
    cli.check_folder(options.output_dir or Path("runs"))
    for name in ("size", "train_images"):
        if getattr(options, name) == 1:
            flag = cli.flag_of(name)
            raise UsageError(f"{flag} must be above 1", f"{flag} 1", "give 2 or more")


def settle_precision(
    options: Changes, ablation: Ablation, device: torch.device, output_dir: Path
) -> Settings:
    """Choose precision once a campaign, on its deepest residual network, and remember it there."""
    path = output_dir / "campaign.json"
    refuse_folder_with(output_dir, "transfer.json")
    if path.exists():
        saved = read_object(path, CAMPAIGN)
        if saved["question"] != ablation.question:
            raise UsageError("these are results of another ablation", path, ELSEWHERE)
        precision, channels_last, where = (
            saved[name] for name in ("precision", "channels_last", "device")
        )
        if where != device.type or options.precision not in ("auto", precision):
            raise UsageError(
                f"these results were made on {where} in {precision}, and runs are not mixed",
                path,
                f"--device {where} --precision {precision}, or another --output-dir",
            )
        print(f"Precision {saved['reason']} (settled earlier)")
        return replace(ablation.base.settings, precision=precision, channels_last=channels_last)
    run = replace(ablation.base, depth=max(ablation.axes["depth"]))
    make_deterministic(device)
    if options.precision == "auto":
        print(f"Precision: timing steps of {run.model} ...")
    settings, reason = within_memory(
        run,
        device,
        lambda: choose_precision(
            options.precision,
            build_model(run).to(device),
            make_batches(run, device),
            run.settings,
            device,
        ),
    )
    output_dir.mkdir(parents=True, exist_ok=True)
    content = {
        "question": ablation.question, "device": device.type, "reason": reason,
        "precision": settings.precision, "channels_last": settings.channels_last,
        "base": asdict(ablation.base), **STARTS,
    }  # fmt: skip
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())
    print(f"Precision {reason}")
    return settings


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
    ablation: Ablation, options: Changes, device: torch.device, output_dir: Path
) -> tuple[list[Run], list[dict]]:
    """Every run of the ablation, trained, and their results, which are also in results.csv."""
    settings = settle_precision(options, ablation, device, output_dir)
    ablation = replace(ablation, base=replace(ablation.base, settings=settings))
    runs = [with_warmup(run) for run in rows(ablation)]
    made = run_campaign(runs, output_dir, device, options.jobs or default_jobs(device))
    results = [report.flatten(row) for row in made]
    write_atomic(output_dir / "results.csv", report.results_csv(results).encode())
    if not any(r["status"] == "finished" for r in results if r["norm"] != "none"):
        raise NumericError("every run diverged", output_dir, "a lower --lr in a new --output-dir")
    return runs, results


def introduce(question: str, why: str) -> None:
    """Question and device, a line each, before anything that takes time."""
    print(question)
    print(f"Device {why}")


def describe_data(data: Data) -> str:
    dataset = load_data(data)
    return (
        f"Data {dataset.name}: {len(dataset.train_labels):,} training and "
        f"{len(dataset.test_labels):,} test pictures, {len(dataset.classes)} classes, "
        f"{data.size}x{data.size}"
    )


def main(options: Options) -> None:
    check(options)
    device, why = choose_device(options.device)
    introduce(ABLATIONS[options.preset].question, why)
    with doing("loading the pictures"):
        ablation = plan(options, device)
        print(describe_data(ablation.base.data))
    output_dir = options.output_dir or Path("runs") / (
        options.preset + (f"-{options.data_dir.stem}" if options.data_dir else "")
    )
    for line in explain_parameters(ablation):
        print(line)
    runs, results = carry_out(ablation, options, device, output_dir)
    report.show(results, Console())
    with doing("drawing the figures"):
        from experiments import figures  # matplotlib; here, because every worker imports this file

        for path in figures.draw_all(runs, output_dir, device):
            print(f"figure: {path}")
    print(f"rows and histories: {output_dir}")


if __name__ == "__main__":
    cli.run(main, Options, "ablation", resumes=True)
