"""Known ways of fine-tuning, each a set of settings by name; ours is `default`.

Only `tutorial` and `imagenet` have a source to quote. The others are what many notebooks and
courses have in common.
"""

from dataclasses import asdict, dataclass, replace

from data.views import RandomView, View


@dataclass(frozen=True)
class Recipe:
    """How to train, in epochs; names as in torchvision's references, where those have the setting.

    batch_size counts the images of all processes, and theirs those of one GPU.
    """

    epochs: int = 20  # enough for every strategy's validation loss to level off on 250 images
    batch_size: int = 32
    opt: str = "sgd"  # "sgd", "adam" or "adamw"
    lr: float = 0.01  # a tenth of training from scratch: the weights are to be changed, not lost
    head_lr: float = 0.1  # where only the head learns, there is nothing to lose
    momentum: float = 0.9
    weight_decay: float = 1e-4
    lr_scheduler: str = "cosine"  # no milestones to choose; "step" or "none"
    lr_step_size: int = 7  # "step": divided by 10 every so many epochs
    lr_warmup_epochs: int = 1  # a fresh head's first gradients would shake good weights
    label_smoothing: float = 0.0
    class_weights: bool = False  # the loss of a class weighed by its rarity
    probe_l2: float = 1e-3  # of linear-probe's logistic regression, on standardised features
    probe_lr: float | None = None  # SGD at this rate instead, as some recipes have it
    probe_views: int = 0  # augmented views of an image that the probe learns from; 0: as it is
    crop: str = "resized"  # as data.views.RandomView has it
    scale: tuple[float, float] = (0.35, 1.0)  # gentler than ImageNet's 0.08: few images
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip_prob: float = 0.5
    rotation: float = 0.0
    size: int | None = None  # of the square that the network sees; None: as the weights ask
    squash: bool = False
    padding: int = 0
    input_size: int | None = None  # None: `size`; larger: the square is enlarged to it
    mean_std: str = "weights"  # as they were trained with; or "cifar10"

    def in_use(self) -> dict[str, str]:
        """The settings that change something, by the names of their options."""
        idle = {name for name, value in asdict(self).items() if value in (None, 0)}
        idle |= {"lr_step_size"} if self.lr_scheduler != "step" else set()
        idle |= {"momentum"} if self.opt != "sgd" else set()
        idle |= {"scale", "ratio"} if self.crop != "resized" else set()
        kept = {name: value for name, value in asdict(self).items() if name not in idle}
        return {
            name.replace("_", "-"): " to ".join(f"{v:.3g}" for v in value)
            if isinstance(value, tuple) else str(value)
            for name, value in kept.items()
        }  # fmt: skip


DEFAULT = Recipe()
PLAIN_ADAM = replace(
    DEFAULT, opt="adam", lr=1e-3, head_lr=1e-3, weight_decay=0.0, lr_scheduler="none",
    lr_warmup_epochs=0, crop="none", hflip_prob=0.0, squash=True,
)  # fmt: skip
PLAIN_SGD = replace(
    DEFAULT, opt="sgd", lr=1e-3, head_lr=1e-3, weight_decay=0.0, lr_scheduler="none",
    lr_warmup_epochs=0, epochs=25, scale=(0.08, 1.0),
)  # fmt: skip

RECIPES = {
    "default": DEFAULT,
    # A course's first notebook: Adam, and whole images squashed to 224 pixels a side.
    "bootcamp": replace(PLAIN_ADAM, epochs=10, size=224),
    # Notebooks that compare fine-tuning with feature extraction: SGD at one low rate.
    "two-strategies": PLAIN_SGD,
    # PyTorch's tutorial "Transfer Learning for Computer Vision": a tenth of the rate each 7 epochs.
    "tutorial": replace(PLAIN_SGD, batch_size=4, lr_scheduler="step", lr_step_size=7),
    # Notebooks on CIFAR-10: crops of 32 pixels enlarged to 224, the probe trained by SGD.
    "cifar10": replace(
        PLAIN_SGD, batch_size=256, lr=5e-4, head_lr=1e-3, probe_lr=1e-3, lr_scheduler="step",
        lr_step_size=5, epochs=10, crop="random", size=32, padding=4, squash=True, input_size=224,
        mean_std="cifar10",
    ),
    # A first try without a GPU: as bootcamp, with 32 pixels a side.
    "small": replace(PLAIN_ADAM, size=32),
    # torchvision's references/classification for its IMAGENET1K_V1 weights: 8 GPUs of 32 images.
    "imagenet": replace(
        DEFAULT, batch_size=256, epochs=90, lr=0.1, head_lr=0.1, lr_scheduler="step",
        lr_step_size=30, lr_warmup_epochs=0, scale=(0.08, 1.0),
    ),
}  # fmt: skip

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def evaluation_view(recipe: Recipe, asked: View) -> View:
    """How evaluation shows images: as the weights `asked`, but for what the recipe sets."""
    size = recipe.size or asked.crop
    view = replace(
        asked,
        resize=round(asked.resize * size / asked.crop),
        crop=size,
        squash=recipe.squash or asked.squash,
        input_size=recipe.input_size or recipe.size or asked.input_size,
    )
    if recipe.mean_std == "cifar10":
        view = replace(view, mean=CIFAR10_MEAN, std=CIFAR10_STD)
    return view


def training_view(recipe: Recipe, view: View) -> RandomView:
    return RandomView(
        recipe.crop, view.crop, recipe.scale, recipe.ratio, recipe.padding, recipe.hflip_prob,
        recipe.rotation, view,
    )  # fmt: skip
