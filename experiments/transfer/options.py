"""The options of experiments.transfer."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from experiments.plumbing.cli import Count, Folder, Pixels, Preprocess, Real, shown

StrategyName = Literal[
    "all", "finetune", "feature-extraction", "linear-probe", "lp-ft", "partial", "scratch",
    "moving-bn",
]  # fmt: skip
RecipeName = Literal[
    "default", "bootcamp", "two-strategies", "tutorial", "cifar10", "small", "imagenet"
]
Schedule = Literal["step", "cosine", "none"]
Augment = Literal["none", "shift", "crop", "color", "randaugment", "trivial", "erasing"]
LIMITS = {
    "seeds": (1, 1000), "epochs": (1, 100_000), "lr": (1e-30, 1e30), "size": (1, 2048),
    "batch_size": (2, 10**6), "train_images": (2, 10**9),
}  # fmt: skip
MORE_LIMITS = {
    "weight_decay": (0, 1e30), "lr_step_size": (1, 100_000), "lr_warmup_epochs": (0, 100_000),
    "label_smoothing": (0, 1), "lr_decay": (0.01, 1), "probe_l2": (0, 1e6),
    "test_images": (1, 10**9), "workers": (0, 256),
}  # fmt: skip


@dataclass(frozen=True)
class More:
    """Rarely needed; those from --weight-decay to --probe-l2 override the recipe."""

    weight_decay: Real = None
    """Weight decay, on all trainable parameters."""
    lr_scheduler: Annotated[Schedule | None, shown("{step,cosine,none}")] = None
    """Schedule of the rate (default: the recipe's). step divides it by 10; none: it is constant."""
    lr_step_size: Count = None
    """With --lr-scheduler step: epochs between two divisions."""
    lr_warmup_epochs: Count = None
    """Warm-up epochs: with cosine the rate rises linearly, with step it is a tenth of --lr."""
    label_smoothing: Real = None
    """Label smoothing, 0 to 1."""
    class_weights: bool = False
    """Weight the loss of each class by the inverse of its frequency."""
    unfreeze: Annotated[str | None, shown("PART,...")] = None
    """With partial: what to train (default: the last stage and the head)."""
    lr_decay: Real = None
    """The rate of a stage is X (0.01 to 1) times the next one's (finetune, lp-ft, partial)."""
    augment: Annotated[
        Augment | None, shown("{none,shift,crop,color,randaugment,trivial,erasing}")
    ] = None
    """Crops of random size (shift: of random place), flips, then the named transform; or none."""
    probe_l2: Real = None
    """L2 penalty of linear-probe's logistic regression."""
    test_images: Count = None
    """Evaluate on at most this many images of val, and of test."""
    workers: Count = None
    """Processes that load images (default: 0 on a CPU; on a GPU one per core, up to 8)."""


@dataclass(frozen=True)
class Options:
    """Compare strategies for transferring a pretrained network to a folder of images."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    """A folder with one folder per class (it is split for you);
    or with train/ and at least one of val/ and test/, each with one folder per class;
    or the word hymenoptera (ants and bees) or cifar10, which downloads these images."""
    strategy: Annotated[tuple[StrategyName, ...], tyro.conf.arg(metavar="NAME ...")] = ("all",)
    """all, or any of finetune, feature-extraction, linear-probe, lp-ft, partial, scratch, and
    moving-bn: feature-extraction with a common mistake, BatchNorm statistics that keep moving."""
    model: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("resnet18",)
    """Any model of the zoo, plain ones included. Give several to compare them."""
    weights: str = "DEFAULT"
    """A published name, a FILE, a URL, hf:OWNER/NAME, or none. A plain network loads its own
    published ones (plain56: CIFAR10_LI), or its twin's, with which it was never trained."""
    preprocess: Preprocess = None
    """How images were prepared for --weights, if the file does not say: a recipe such as bootcamp;
    published weights such as IMAGENET1K_V2; or numbers: squash=224,mean=0.5,std=0.5"""
    recipe: RecipeName = "default"
    """A preset of training settings; options such as --epochs and --lr override it."""
    seeds: int = 3
    """Number of seeds; each has its own initial head, image order and augmentation."""
    batch_size: Annotated[tuple[int, ...], shown("N ...")] = ()
    """Images per step (default: the recipe's). Give several sizes to compare them."""
    epochs: Count = None
    """Epochs of all strategies but linear-probe, which has none."""
    opt: Annotated[Literal["sgd", "adam", "adamw"] | None, shown("{sgd,adam,adamw}")] = None
    """The optimiser."""
    lr: Real = None
    """Highest learning rate (default: the recipe's).
    Strategies that train only the head have a rate of their own; --lr scales it, too."""
    size: Pixels = None
    """Side of the network's input images (default: what the weights expect)."""
    squash: bool = False
    """Evaluate on the whole image, squashed to a square, not on its centre crop."""
    train_images: Count = None
    """Train on at most this many images, with balanced classes."""
    skip_bad: bool = False
    """Leave out images that cannot be decoded, instead of stopping."""
    skip_near_duplicates: bool = False
    """Leave out images of train and val that are nearly the same as one of a later split."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto takes the fastest that the hardware has and that hardly changes the features."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..., or mps (not tested)."""
    output_dir: Folder = None
    """Folder of the results (default: runs/transfer-DIR). The same command resumes there."""
    more: Annotated[More, tyro.conf.OmitArgPrefixes] = field(default_factory=More)
