"""The options of experiments.transfer, and the runs that they ask for."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

import zoo
from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError
from experiments.train import Settings
from experiments.transfer.job import Transfer
from experiments.transfer.recipes import RECIPES, Recipe
from experiments.transfer.strategies import STRATEGIES

LARGEST_SIZE = 2048
LARGEST = {
    "seeds": 1000, "epochs": 100_000, "lr": 1e30, "weight_decay": 1e30, "probe_l2": 1e6,
    "probe_views": 1000, "rotation": 360, "workers": 256,
}  # fmt: skip
Number = Annotated[int | None, tyro.conf.arg(metavar="N")]
Real = Annotated[float | None, tyro.conf.arg(metavar="X")]
OVERRIDES = (
    "epochs", "opt", "lr", "weight_decay", "lr_scheduler", "lr_step_size", "lr_warmup_epochs",
    "label_smoothing", "crop", "scale", "ratio", "hflip_prob", "rotation", "size", "probe_l2",
    "probe_views",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Transfer a pretrained network to a folder of pictures, in several ways, and compare them."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    """train/CLASS/ with val/CLASS/ or test/CLASS/ or both; or CLASS/ alone, which is then split;
    or cifar10, which is downloaded."""
    strategy: Annotated[
        tuple[
            Literal[
                "all", "finetune", "feature-extraction", "linear-probe", "lp-ft", "scratch",
                "moving-bn",
            ],
            ...,
        ],
        tyro.conf.arg(metavar="NAME ..."),
    ] = ("all",)  # fmt: skip
    """all, or some of finetune, feature-extraction, linear-probe, lp-ft, scratch, moving-bn."""
    model: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("resnet18",)
    """Any model of the zoo, plain ones too; several are compared."""
    weights: str = "DEFAULT"
    """A published name, a FILE, a URL, hf:OWNER/NAME, or none. A plain network takes its twin's."""
    recipe: Literal[
        "default", "bootcamp", "two-strategies", "tutorial", "cifar10", "small", "imagenet"
    ] = "default"  # fmt: skip
    """A known set of settings; the options below change it, and None is the recipe's."""
    seeds: int = 3
    """How many: each draws its own head, order and random views."""
    batch_size: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = ()
    """Pictures a step; several are compared."""
    epochs: Number = None
    """Epochs; linear-probe has them in the recipe cifar10 only."""
    opt: Literal["sgd", "adam", "adamw"] | None = None
    """The optimiser."""
    lr: Real = None
    """The highest learning rate; that of a head alone keeps its proportion to it."""
    weight_decay: Real = None
    """On every weight that learns."""
    lr_scheduler: Literal["step", "cosine", "none"] | None = None
    """step divides by 10."""
    lr_step_size: Number = None
    """step: every so many epochs."""
    lr_warmup_epochs: Number = None
    """Epochs of rising, or of a tenth of, the rate."""
    label_smoothing: Real = None
    """0 to 1."""
    class_weights: bool = False
    """Weigh the loss of a class by its rarity."""
    crop: Literal["resized", "random", "none"] | None = None
    """Random views: RandomResizedCrop, Resize + RandomCrop, or the whole picture."""
    scale: tuple[float, float] | None = None
    """resized: shares of the area."""
    ratio: tuple[float, float] | None = None
    """resized: width by height."""
    hflip_prob: Real = None
    """How often a picture is mirrored."""
    rotation: Real = None
    """Degrees, to either side."""
    size: Annotated[int | None, tyro.conf.arg(metavar="PIXELS")] = None
    """Side of the pictures that the network sees (as the weights ask)."""
    squash: bool = False
    """Evaluate on the whole picture, squashed into the square; not on its middle."""
    probe_l2: Real = None
    """The penalty of linear-probe's logistic regression."""
    probe_views: Number = None
    """Random views of every picture that linear-probe learns from (0: the picture itself)."""
    train_images: Number = None
    """Train on at most so many pictures, the classes in equal shares."""
    test_images: Number = None
    """Evaluate on at most so many of val, and of test."""
    skip_bad: bool = False
    """Go on without pictures that cannot be decoded."""
    cache_gb: float = 4.0
    """Decode a split once if it fits into so many gigabytes, and at every use if not."""
    workers: Number = None
    """Processes that load pictures while training (0 on a CPU; on a GPU one a core, up to 8)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto times steps of what the hardware has and takes the fastest."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    tensorboard: bool = False
    """Also write what TensorBoard reads."""
    resume: bool = False
    """Refuse to start anew: there must be something in --output-dir to go on with. Without it,
    what is there is gone on with too."""
    output_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where results go (runs/transfer-DIR)."""


def recipe_of(options: Options) -> Recipe:
    """The named recipe with what the command line changes."""
    recipe = RECIPES[options.recipe]
    given = {name: getattr(options, name) for name in OVERRIDES}
    changes = {name: value for name, value in given.items() if value is not None}
    if options.lr:
        changes["head_lr"] = options.lr * recipe.head_lr / recipe.lr
        if recipe.probe_lr:
            changes["probe_lr"] = options.lr * recipe.probe_lr / recipe.lr
    if options.size:
        changes["input_size"] = None
    return replace(
        recipe,
        **changes,
        squash=options.squash or recipe.squash,
        class_weights=options.class_weights or recipe.class_weights,
    )


def plan(options: Options, base: dict[str, Settings], pictures: str) -> list[Transfer]:
    """Every model, batch size, strategy and seed; one seed of everything first."""
    strategies = STRATEGIES if "all" in options.strategy else options.strategy
    without_bn = {name for name in options.model if "vit" in name}
    recipe, weights = recipe_of(options), None if options.weights == "none" else options.weights
    sizes = options.batch_size or (recipe.batch_size,)
    combinations = itertools.product(
        range(options.seeds), dict.fromkeys(options.model), dict.fromkeys(sizes),
        dict.fromkeys(strategies),
    )  # fmt: skip
    return [
        Transfer(
            strategy, model, weights, seed, replace(recipe, batch_size=size), base[model], pictures
        )
        for seed, model, size, strategy in combinations
        if strategy != "moving-bn" or model not in without_bn
    ]


def check(options: Options) -> None:
    """UsageError or zoo.ModelError for what can be seen to be wrong before any work."""
    check_numbers(options)
    for name in ("model", "strategy"):
        if not getattr(options, name):
            raise UsageError(f"--{name} names nothing", f"--{name}", "give a name, or leave it out")
    for name in options.model:
        zoo.check(name, {"image_size": options.size} if "vit" in name and options.size else {})
        if "vit" in name and set(options.strategy) == {"moving-bn"}:
            raise UsageError(
                f"{name} has no batch norms whose statistics could move",
                "--strategy moving-bn",
                "choose a ResNet, or feature-extraction",
            )
    cli.check_folder(options.output_dir or Path("runs"))


def check_numbers(options: Options) -> None:
    for name in ("seeds", "epochs", "lr", "size", "train_images", "test_images", "lr_step_size"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            flag = cli.flag_of(name)
            raise UsageError(f"{flag} must be above 0", f"{flag} {value}", "give a larger number")
    for name in ("workers", "probe_l2", "probe_views", "weight_decay", "lr_warmup_epochs",
                 "rotation", "cache_gb"):  # fmt: skip
        value = getattr(options, name)
        if value is not None and not value >= 0:
            flag = cli.flag_of(name)
            raise UsageError(f"{flag} is below 0", f"{flag} {value}", "give 0 or more")
    for name in ("label_smoothing", "hflip_prob"):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= 1:
            flag = cli.flag_of(name)
            raise UsageError(f"{flag} is a share", f"{flag} {value}", "give a number from 0 to 1")
    for name, least, most in (("scale", 0, 1), ("ratio", 0.01, 100)):
        low, high = getattr(options, name) or (1, 1)
        if not least <= low <= high <= most or not low:
            raise UsageError(
                f"--{name} is not a range",
                f"--{name} {low} {high}",
                f"the smaller number first, both from {least} to {most}",
            )
    if options.size and options.size > LARGEST_SIZE:
        raise UsageError(
            "pictures that large are not trained on",
            f"--size {options.size}",
            f"give {LARGEST_SIZE} pixels or fewer",
        )
    cli.at_most(options, LARGEST)
    for size in options.batch_size:
        if size < 2:
            raise UsageError("batch norm needs 2 pictures", f"--batch-size {size}", "2 or more")
    if options.train_images == 1:
        raise UsageError("batch norm needs 2 pictures", "--train-images 1", "2 or more")
