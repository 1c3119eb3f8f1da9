"""The options of experiments.ablation."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from experiments.plumbing.cli import Count, Folder, Pixels, Real, shown

LIMITS = {
    "seeds": (1, 1000), "epochs": (1, 100_000), "batch_size": (2, 10**6), "lr": (1e-30, 1e30),
    "size": (2, 4096), "train_images": (2, 10**9), "jobs": (1, 256),
}  # fmt: skip


Preset = Literal[
    "quick", "cifar10", "paper", "imagenet-nets", "vit",
    "shortcuts", "order", "rate", "no-norm", "zero-gamma", "stochastic-depth",
]  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Train networks of several depths with and without skip connections, and compare them."""

    preset: tyro.conf.Positional[Preset] = "quick"
    """quick: synthetic images, minutes. cifar10: 3 hours on 2 cores (40 minutes with bf16).
    paper: He et al. 2015, section 4.2, for a GPU. vit: transformers, minutes.
    imagenet-nets: 18, 34 and 50 layers, 2 hours on 2 cores.
    shortcuts, order: which part of relu(x + F(x)) matters? rate, no-norm, zero-gamma,
    stochastic-depth: learning rates, networks without batch norm, missing blocks. See --scale."""
    scale: Literal["quick", "cifar10", "paper"] = "quick"
    """For shortcuts and the presets after it: the images and steps of this preset."""
    data_dir: Folder = None
    """Images: a folder with train/CLASS/ (or train.zip), and with test/ or val/ of the same form.
    Without it, images are synthetic, or CIFAR-10 is downloaded, depending on the preset."""
    depths: Annotated[tuple[int, ...], shown("N ...")] = ()
    """Numbers of layers, or of blocks for transformers (default: the preset's)."""
    seeds: Count = None
    """Number of seeds (default: the preset's)."""
    epochs: Count = None
    """Epochs of each run (default: the preset's); the schedule of the rate is stretched to fit."""
    batch_size: Count = None
    """Images per step (default: the preset's)."""
    lr: Real = None
    """The highest learning rate of the schedule (default: the preset's)."""
    size: Pixels = None
    """Side of the network's input images.
    Default: the preset's; for your own images, 32 if the preset's is smaller."""
    train_images: Count = None
    """Train on at most N images, with classes as balanced as possible (default: the preset's)."""
    holdout: bool = False
    """Evaluate on 10 % of the training images, for tuning without the test set."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: time what the hardware supports, and use the fastest for all runs."""
    compile: Literal["auto", "off"] = "auto"
    """On a GPU, auto times a step with torch.compile, and uses it for all runs if it pays."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..., or mps (not tested)."""
    jobs: Count = None
    """Runs at the same time, one thread each (default: one per core, at most 3; 1 on a GPU)."""
    shard: Annotated[str | None, shown("I/N")] = None
    """Train only every N-th run, beginning with the I-th, for job arrays. Without a shared disk,
    also give --precision, and copy all runs into one folder. The command without --shard reports.
    """
    output_dir: Folder = None
    """Folder of the results (default: in runs/). The same command resumes there."""
