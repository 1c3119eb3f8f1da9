"""What the command line may change in an ablation."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

import zoo
from data.cifar import is_cifar10
from experiments.ablation.questions import ABLATIONS, Ablation
from experiments.ablation.runs import Data, make_batches
from experiments.plumbing import cli

LIMITS = {
    "seeds": (1, 1000), "epochs": (1, 100_000), "batch_size": (2, 10**6), "lr": (1e-30, 1e30),
    "size": (2, zoo.LARGEST_IMAGE), "train_images": (2, 10**9), "jobs": (1, 256),
}  # fmt: skip
MOST_DRAWN = 100_000  # training images; that takes a minute


@dataclass(frozen=True)
class Options:
    """Train networks with and without their skips, of several depths, and compare them."""

    preset: tyro.conf.Positional[Literal["quick", "cifar10", "paper", "imagenet-nets", "vit"]] = (
        "quick"
    )
    """quick: drawn images, minutes. cifar10: 40 minutes on 2 cores with bf16. paper: section 4.2,
    64,000 steps a run, for a GPU. imagenet-nets: resnet18 and 50. vit: transformers, minutes."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Images: a folder with train/CLASS/ and test/CLASS/ or val/CLASS/, or with zips of them.
    Without it they are drawn, or CIFAR-10 is downloaded, as the preset says."""
    depths: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = ()
    """Layers of the networks, or blocks of the transformers (the preset's)."""
    seeds: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many seeds (the preset's: 3 or more)."""
    epochs: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Epochs of every run; the schedule is shortened in proportion."""
    batch_size: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Images a step."""
    lr: Annotated[float | None, tyro.conf.arg(metavar="RATE")] = None
    """The highest learning rate."""
    size: Annotated[int | None, tyro.conf.arg(metavar="PIXELS")] = None
    """Side of the images that the network sees."""
    train_images: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Train on at most so many images, the classes in equal shares."""
    choose: bool = False
    """Test on a tenth held out of the training images: for choosing settings, not for a claim."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto times steps of what the hardware has and takes the fastest for every run."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..., or mps (not tried by us)."""
    jobs: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Runs at a time, each with one thread (one a core, at most 3; 1 on a GPU)."""
    output_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where results go; the same command there goes on where it stopped (below runs/)."""


def plan(options: Options, device: torch.device) -> Ablation:
    """The preset with what the command line changes."""
    ablation = ABLATIONS[options.preset]
    for depth in options.depths or ablation.axes["depth"]:
        sizes = {"image_size": options.size} if options.preset == "vit" and options.size else {}
        zoo.check(f"{ablation.base.network}{depth}", sizes)
    on_gpu = ablation.on_gpu if device.type == "cuda" else {}
    data, base = change_data(ablation.base.data, options, on_gpu), ablation.base
    settings = replace(base.settings, **given(batch_size=options.batch_size, lr=options.lr))
    base = replace(base, data=data, settings=settings)
    epochs = options.epochs or on_gpu.get("epochs", ablation.epochs)
    if epochs:
        steps = epochs * len(make_batches(base, torch.device("cpu")))
        share = steps / settings.steps
        milestones = tuple(round(milestone * share) for milestone in settings.milestones)
        base = replace(base, settings=replace(settings, steps=steps, milestones=milestones))
    depths, seeds = sorted(set(options.depths), reverse=True), range(options.seeds or 0)
    axes = ablation.axes | given(depth=tuple(depths), seed=tuple(seeds))
    return replace(ablation, base=base, axes=axes, epochs=epochs)


def change_data(data: Data, options: Options, on_gpu: dict[str, int]) -> Data:
    if options.data_dir is not None:
        data = replace(data, source="cifar10", data_dir=str(options.data_dir))
        anything = options.preset in ("imagenet-nets", "vit") and not is_cifar10(options.data_dir)
        if options.preset == "quick" or anything:
            data = replace(data, source="folder", size=max(data.size, 32), test_images=None)
    if data.source == "drawn":
        cli.check_numbers(options, {"train_images": (2, MOST_DRAWN)})
    size = options.size or on_gpu.get("size")
    numbers = given(size=size, train_images=options.train_images)
    return replace(data, choose=options.choose, **numbers)


def given(**values: Any) -> dict[str, Any]:
    """The values that the command line has."""
    return {name: value for name, value in values.items() if value}
