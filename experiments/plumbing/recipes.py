"""Recipes: common training settings for fine-tuning, by name; ours is `default`.

Only `tutorial` and `imagenet` have a published source. The others are what many notebooks and
courses have in common.
"""

from dataclasses import asdict, dataclass, replace

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
    augment: str = "crop"  # a key of data.views.AUGMENTS
    scale: tuple[float, float] = (0.35, 1.0)  # ImageNet's 0.08 is too strong for few images
    size: int | None = None  # side of the cropped square; None: what the weights expect
    squash: bool = False
    input_size: int | None = None  # None: `size`; larger: the square is enlarged to it
    unfreeze: str | None = None  # of "partial": modules, such as "stages.3,head"; None: those two
    lr_decay: float | None = None  # factor of the rate from each stage to the one before it
    mean_std: str = "weights"  # what the weights were trained with; or "cifar10"

    def in_use(self, probe_alone: bool = False) -> dict[str, str]:
        """The settings that have an effect, by the names of their options.

        `probe_alone`: on a linear probe, which has no epochs, rates or random crops.
        """
        needs = {
            "lr_step_size": self.lr_scheduler == "step", "momentum": self.opt == "sgd",
            "scale": self.augment not in ("none", "shift"),
        }  # fmt: skip
        used = {}
        for name, value in asdict(self).items():
            idle = value in (None, 0) or not needs.get(name, True)
            if idle or (probe_alone and name not in OF_PROBE):
                continue
            numbers = value if isinstance(value, tuple) else ()
            used[name.replace("_", "-")] = " to ".join(f"{v:.3g}" for v in numbers) or str(value)
        return used


OF_PROBE = {"probe_l2", "class_weights", "size", "squash", "input_size", "mean_std"}
DEFAULT = Recipe()
PLAIN_ADAM = replace(
    DEFAULT, opt="adam", lr=1e-3, head_lr=1e-3, weight_decay=0.0, lr_scheduler="none",
    lr_warmup_epochs=0, augment="none", squash=True,
)  # fmt: skip
PLAIN_SGD = replace(
    DEFAULT, opt="sgd", lr=1e-3, head_lr=1e-3, weight_decay=0.0, lr_scheduler="none",
    lr_warmup_epochs=0, epochs=25, scale=(0.08, 1.0),
)  # fmt: skip

RECIPES = {
    "default": DEFAULT,
    # The first notebook of courses: Adam, and whole images squashed to 224x224.
    "bootcamp": replace(PLAIN_ADAM, epochs=10, size=224),
    # Notebooks that compare fine-tuning with feature extraction: SGD at one low rate.
    "two-strategies": PLAIN_SGD,
    # PyTorch's tutorial "Transfer Learning for Computer Vision": rate / 10 every 7 epochs.
    "tutorial": replace(PLAIN_SGD, batch_size=4, lr_scheduler="step", lr_step_size=7),
    # Notebooks on CIFAR-10: 32x32 crops enlarged to 224x224.
    "cifar10": replace(
        PLAIN_SGD, batch_size=256, lr=5e-4, head_lr=1e-3, lr_scheduler="step", lr_step_size=5,
        epochs=10, augment="shift", size=32, squash=True, input_size=224,
        mean_std="cifar10",
    ),
    # A first try without a GPU: like bootcamp, at 32x32.
    "small": replace(PLAIN_ADAM, size=32),
    # torchvision's references/classification for its IMAGENET1K_V1 weights, with 8 x 32 images.
    "imagenet": replace(
        DEFAULT, batch_size=256, epochs=90, lr=0.1, head_lr=0.1, lr_scheduler="step",
        lr_step_size=30, lr_warmup_epochs=0, scale=(0.08, 1.0),
    ),
}  # fmt: skip

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def evaluation_view(recipe: Recipe, expected: View) -> View:
    """The view for evaluation: what the weights expect, unless the recipe overrides it."""
    size, mean, std = recipe.size or expected.crop, expected.mean, expected.std
    if recipe.mean_std == "cifar10":
        mean, std = CIFAR10_MEAN, CIFAR10_STD
    elif size != expected.crop and len(mean) > 3:  # a mean for each pixel, at another size
        mean = tuple(torch.tensor(mean).view(3, -1).mean(1).tolist())
    return View(
        round(expected.resize * size / expected.crop), size, expected.interpolation,
        recipe.squash or expected.squash, mean, std,
        recipe.input_size or recipe.size or expected.input_size,
    )  # fmt: skip


def training_view(recipe: Recipe, view: View) -> RandomView:
    """The recipe's augmentation of images that evaluation sees as `view`."""
    return RandomView(recipe.augment, view, recipe.scale)
