"""The options of experiments.ablation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

LIMITS = {
    "seeds": (1, 1000), "epochs": (1, 100_000), "batch_size": (2, 10**6), "lr": (1e-30, 1e30),
    "size": (2, 4096), "train_images": (2, 10**9), "jobs": (1, 256),
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Train networks with and without their skips, of several depths, and compare them."""

    preset: tyro.conf.Positional[Literal["quick", "cifar10", "paper", "imagenet-nets", "vit"]] = (
        "quick"
    )
    """quick: drawn images, minutes. cifar10: 40 minutes on 2 cores with bf16. paper: section 4.2,
    64,000 steps a run, for a GPU. imagenet-nets: resnet18 and 34 and
    a pair of 50, hours. vit: transformers, minutes."""
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
    holdout: bool = False
    """Evaluate on 10 % of the training images, for tuning without the test set."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto times steps of what the hardware has and takes the fastest for every run."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..., or mps (not tried by us)."""
    jobs: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Runs at a time, each with one thread (one a core, at most 3; 1 on a GPU)."""
    output_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where results go; the same command there goes on where it stopped (below runs/)."""
