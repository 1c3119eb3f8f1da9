"""Recipes: common training settings for fine-tuning, by name (recipes.toml); ours is `default`."""

import tomllib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data.views import RandomView, View


@dataclass(frozen=True)
class Recipe:
    """Training settings, in epochs; named as in torchvision's references, where they exist there.

    batch_size counts the images of all processes; theirs, those of one GPU.
    """

    epochs: int = 20  # enough for every strategy's validation loss to level off on 250 images
    batch_size: int = 32
    opt: str = "sgd"  # "sgd", "adam" or "adamw"
    lr: float = 0.01  # a tenth of the rate from scratch, to preserve the weights
    head_lr: float = 0.1  # for training only the head, which has no weights to preserve
    momentum: float = 0.9
    weight_decay: float = 1e-4
    lr_scheduler: str = "cosine"  # no milestones to choose; "step" or "none"
    lr_step_size: int = 7  # "step": epochs between divisions by 10
    lr_warmup_epochs: int = 1  # a new head's first gradients would damage the pretrained weights
    label_smoothing: float = 0.0
    class_weights: bool = False  # factors of the losses, inverse to class frequency
    probe_l2: float = 1e-3  # L2 penalty of linear-probe, on standardised features
    crop: str = "resized"  # see data.views.RandomView, as for those below
    scale: tuple[float, float] = (0.35, 1.0)  # ImageNet's 0.08 is too strong for few images
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip_prob: float = 0.5
    size: int | None = None  # side of the cropped square; None: what the weights expect
    squash: bool = False
    padding: int = 0
    input_size: int | None = None  # None: `size`; larger: the square is enlarged to it
    mean_std: str = "weights"  # what the weights were trained with; or "cifar10"

    def in_use(self) -> dict[str, str]:
        """The settings that have an effect, by the names of their options."""
        idle = {name for name, value in asdict(self).items() if value in (None, 0)}
        idle |= {"lr_step_size"} if self.lr_scheduler != "step" else set()
        idle |= {"momentum"} if self.opt != "sgd" else set()
        idle |= {"scale", "ratio"} if self.crop != "resized" else set()
        kept = {name: value for name, value in asdict(self).items() if name not in idle}
        return {
            name.replace("_", "-"): " to ".join(f"{v:.3g}" for v in value)
            if isinstance(value, tuple)
            else str(value)
            for name, value in kept.items()
        }


def recipe_from(entries: dict[str, Any]) -> Recipe:
    """A recipe with these entries of TOML, which has no tuples."""
    settings: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in entries.items()}
    return Recipe(**settings)


TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
DEFAULT = Recipe()
RECIPES = {"default": DEFAULT} | {name: recipe_from(table) for name, table in TABLES.items()}

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def evaluation_view(recipe: Recipe, expected: View) -> View:
    """The view for evaluation: what the weights expect, unless the recipe overrides it."""
    size, mean = recipe.size or expected.crop, expected.mean
    if size != expected.crop and len(mean) > 3:  # a mean for each pixel, at another size
        mean = tuple(torch.tensor(mean).view(3, -1).mean(1).tolist())
    view = replace(
        expected,
        mean=mean,
        resize=round(expected.resize * size / expected.crop),
        crop=size,
        squash=recipe.squash or expected.squash,
        input_size=recipe.input_size or recipe.size or expected.input_size,
    )
    if recipe.mean_std == "cifar10":
        view = replace(view, mean=CIFAR10_MEAN, std=CIFAR10_STD)
    return view


def training_view(recipe: Recipe, view: View) -> RandomView:
    """The recipe's augmentation of images that evaluation sees as `view`."""
    return RandomView(
        recipe.crop, view.crop, recipe.scale, recipe.ratio, recipe.padding, recipe.hflip_prob,
        view,
    )  # fmt: skip
