"""The options of experiments.anatomy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.plumbing.cli import Folder, shown

DEFAULT = (
    "resnet20/CIFAR10_AKAMASTER", "resnet32/CIFAR10_AKAMASTER", "resnet56/CIFAR10_AKAMASTER",
    "resnet56/CIFAR10_LI", "plain56/CIFAR10_LI",
)  # fmt: skip
Question = Literal[
    "one-block", "many-blocks", "path-lengths", "contributions", "shattering", "explosion",
    "loss-surface",
]  # fmt: skip
QUICK = Path("runs/quick")


@dataclass(frozen=True)
class Options:
    """Check published claims about skip connections on trained networks."""

    data: Annotated[Path | None, tyro.conf.Positional, shown("FOLDER")] = None
    """CIFAR-10: a folder with train/ and test/, as folders of classes or as zips. Without it,
    torchvision downloads 170 MB."""
    campaign: Annotated[Folder, tyro.conf.arg(name="from")] = None
    """Study the networks of a finished ablation, such as runs/quick, on its own images."""
    models: Annotated[tuple[str, ...], shown("NAME/WEIGHTS ...")] = DEFAULT
    """Published networks: resnet20 to resnet110 with CIFAR10_AKAMASTER; resnet56 and plain56 with
    CIFAR10_LI."""
    questions: tuple[Question, ...] = ()
    """Which to answer (default: all)."""
    images: int = 200
    """Test images for the errors and the loss, with classes balanced."""
    grid: int = 11
    """Points along each side of the plane of the loss."""
    output_dir: Folder = None
    """Folder of the results (default: in runs/). The same command resumes there."""
