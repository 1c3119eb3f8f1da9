"""The options of experiments.transfer."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

StrategyName = Literal[
    "all", "finetune", "feature-extraction", "linear-probe", "lp-ft", "scratch", "moving-bn"
]
RecipeName = Literal[
    "default", "bootcamp", "two-strategies", "tutorial", "cifar10", "small", "imagenet"
]
Number = Annotated[int | None, tyro.conf.arg(metavar="N")]
Real = Annotated[float | None, tyro.conf.arg(metavar="X")]
LIMITS = {
    "seeds": (1, 1000), "epochs": (1, 100_000), "lr": (1e-30, 1e30), "size": (1, 2048),
    "batch_size": (2, 10**6), "train_images": (2, 10**9),
}  # fmt: skip
MORE_LIMITS = {
    "weight_decay": (0, 1e30), "lr_step_size": (1, 100_000), "lr_warmup_epochs": (0, 100_000),
    "label_smoothing": (0, 1), "scale": (1e-6, 1), "ratio": (0.01, 100), "hflip_prob": (0, 1),
    "rotation": (0, 360), "probe_l2": (0, 1e6), "probe_views": (0, 1000),
    "test_images": (1, 10**9), "cache_gb": (0, 1e9), "workers": (0, 256),
}  # fmt: skip


@dataclass(frozen=True)
class More:
    """Rarely needed."""

    weight_decay: Real = None
    """On every weight that learns (the recipe's, as all that follow to --probe-views)."""
    lr_scheduler: Literal["step", "cosine", "none"] | None = None
    """step divides by 10."""
    lr_step_size: Number = None
    """step: every so many epochs."""
    lr_warmup_epochs: Number = None
    """Warm-up epochs: linear for cosine, at a tenth of the rate for step."""
    label_smoothing: Real = None
    """0 to 1."""
    class_weights: bool = False
    """Weigh the loss of a class by its rarity."""
    crop: Literal["resized", "random", "none"] | None = None
    """Random views: RandomResizedCrop, Resize + RandomCrop, or the whole image."""
    scale: tuple[float, float] | None = None
    """resized: shares of the area."""
    ratio: tuple[float, float] | None = None
    """resized: width by height."""
    hflip_prob: Real = None
    """How often an image is mirrored."""
    rotation: Real = None
    """Degrees, to either side."""
    probe_l2: Real = None
    """The penalty of linear-probe's logistic regression."""
    probe_views: Number = None
    """Random views of every image that linear-probe learns from (0: the image itself)."""
    test_images: Number = None
    """Evaluate on at most so many of val, and of test."""
    cache_gb: float = 4.0
    """Decode a split once if it fits into so many gigabytes, and at every use if not."""
    workers: Number = None
    """Processes that load images while training (0 on a CPU; on a GPU one a core, up to 8)."""
    tensorboard: bool = False
    """Also write what TensorBoard reads."""


@dataclass(frozen=True)
class Options:
    """Transfer a pretrained network to a folder of images, in several ways, and compare them."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    """train/CLASS/ with val/CLASS/ or test/CLASS/ or both; or CLASS/ alone, which is then split;
    or cifar10, which is downloaded."""
    strategy: Annotated[tuple[StrategyName, ...], tyro.conf.arg(metavar="NAME ...")] = ("all",)
    """all, or some of finetune, feature-extraction, linear-probe, lp-ft, scratch, moving-bn."""
    model: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("resnet18",)
    """Any model of the zoo, plain ones too; several are compared."""
    weights: str = "DEFAULT"
    """A published name, a FILE, a URL, hf:OWNER/NAME, or none. A plain network takes its twin's."""
    recipe: RecipeName = "default"
    """Settings by name; --epochs, --lr and so on replace single ones of them."""
    seeds: int = 3
    """How many: each draws its own head, order and random views."""
    batch_size: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = ()
    """Images a step; several are compared."""
    epochs: Number = None
    """Epochs; linear-probe has them in the recipe cifar10 only."""
    opt: Literal["sgd", "adam", "adamw"] | None = None
    """The optimiser."""
    lr: Real = None
    """The highest learning rate; that of a head alone keeps its proportion to it."""
    size: Annotated[int | None, tyro.conf.arg(metavar="PIXELS")] = None
    """Side of the images that the network sees (as the weights ask)."""
    squash: bool = False
    """Evaluate on the whole image, squashed into the square; not on its middle."""
    train_images: Number = None
    """Train on at most so many images, the classes in equal shares."""
    skip_bad: bool = False
    """Go on without images that cannot be decoded."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto times steps of what the hardware has and takes the fastest."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..., or mps (not tried by us)."""
    output_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where results go; the same command there continues (runs/transfer-DIR)."""
    more: Annotated[More, tyro.conf.OmitArgPrefixes] = field(default_factory=More)
