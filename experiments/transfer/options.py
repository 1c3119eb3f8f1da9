"""The options of experiments.transfer, and the runs that they ask for."""

import itertools
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import tyro

import zoo
from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError
from experiments.train import Settings
from experiments.transfer.job import Transfer
from experiments.transfer.recipes import RECIPES, Recipe
from experiments.transfer.strategies import STRATEGIES

if TYPE_CHECKING:
    StrategyName: TypeAlias = str
    RecipeName: TypeAlias = str
else:
    StrategyName, RecipeName = Literal[("all", *STRATEGIES)], Literal[tuple(RECIPES)]

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


def recipe_of(options: Options) -> Recipe:
    """The named recipe with what the command line changes: every option that it has, too."""
    recipe, given = RECIPES[options.recipe], vars(options.more) | vars(options)
    names = [setting.name for setting in fields(Recipe) if setting.name != "batch_size"]
    named = {name: given.get(name) for name in names}
    changes = {k: v for k, v in named.items() if v is not None and v is not False}
    if options.lr:
        changes["head_lr"] = options.lr * recipe.head_lr / recipe.lr
        if recipe.probe_lr:
            changes["probe_lr"] = options.lr * recipe.probe_lr / recipe.lr
    if options.size:
        changes["input_size"] = None
    return replace(recipe, **changes)


def plan(options: Options, base: dict[str, Settings], pictures: str) -> list[Transfer]:
    """Every model, batch size, strategy and seed; one seed of everything first."""
    strategies = STRATEGIES if "all" in options.strategy else options.strategy
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
        if strategy != "moving-bn" or "vit" not in model  # without batch norms
    ]


def check(options: Options) -> None:
    """UsageError or zoo.ModelError for what can be seen to be wrong before any work."""
    cli.check_numbers(options, LIMITS)
    cli.check_numbers(options.more, MORE_LIMITS)
    for name in ("scale", "ratio"):
        low, high = getattr(options.more, name) or (0, 1)
        if low > high:
            raise UsageError(
                f"--{name} is not a range", f"--{name} {low} {high}", "the smaller number first"
            )
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
