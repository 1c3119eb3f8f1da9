"""Strategies for transferring a pretrained network to other images.

finetune            train all weights, starting from the pretrained ones
feature-extraction  train a new head on augmented images; all else is frozen, statistics included
linear-probe        fit the same head by logistic regression, on features computed once
lp-ft               linear-probe first, then fine-tune at a low rate (Kumar et al. 2022)
partial             train the last stage and a new head, or what --unfreeze names; all else is
                    frozen, statistics included
scratch             train all weights, starting from random ones, for comparison
moving-bn           feature-extraction with a common mistake: requires_grad is off, but train()
                    keeps updating the running statistics of batch norms (pytorch #86590)
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from experiments.plumbing.recipes import Recipe
from experiments.train.loop import Settings
from zoo.networks import Network, stages_of

STRATEGIES = (
    "finetune", "feature-extraction", "linear-probe", "lp-ft", "partial", "scratch", "moving-bn",
)  # fmt: skip
DECAYING = ("finetune", "lp-ft", "partial")  # those that --lr-decay has an effect on
PROBE = "linear-probe"  # the strategy without epochs
HEAD_ONLY = ("feature-extraction", PROBE, "moving-bn")
LOW = 0.1  # factor of `lr` for fine-tuning after a probe, since the head already fits


class Frozen(nn.Module):
    """A network of which only some modules are trained, `unfrozen`: names such as "stages.3".

    All other batch norms stay in eval mode: they use their running statistics and do not update
    them. `moving` reproduces the common mistake of leaving them in train mode.
    """

    def __init__(self, model: Network, unfrozen: Sequence[str], moving: bool = False) -> None:
        super().__init__()
        self.model, self.unfrozen, self.moving = model, tuple(unfrozen), moving
        model.requires_grad_(False)
        for name in self.unfrozen:
            model.get_submodule(name).requires_grad_(True)

    def train(self, mode: bool = True) -> "Frozen":
        """Set the mode of what is trained; all else stays in eval mode, unless `moving`."""
        super().train(mode)
        if not self.moving:
            self.model.eval()
            for name in self.unfrozen:
                self.model.get_submodule(name).train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)  # (N, 3, H, W) -> (N, classes)


def to_train(strategy: str, model: Network, unfreeze: str | None = None) -> nn.Module:
    """The module to train: the network itself, or Frozen around it. `unfreeze`: see Recipe."""
    if strategy in HEAD_ONLY:
        return Frozen(model, ["head"], moving=strategy == "moving-bn")
    if strategy == "partial":
        last = stages_of(model)[-2] + stages_of(model)[-1]
        return Frozen(model, unfreeze.split(",") if unfreeze else last)
    return model


def factor_of(name: str, model: Network, decay: float) -> float:
    """The factor of a parameter's rate: 1 in the head, `decay` in the last stage, and so on.

    Each stage has the rate of the next one times `decay` (Howard and Ruder 2018, arXiv 1801.06146,
    section 3.2; their decay is 1 / 2.6). `name`: the parameter's, as in the network or in Frozen.
    """
    stages, name = stages_of(model), name.removeprefix("model.")
    places = [i for i, names in enumerate(stages) for n in names if name.startswith(f"{n}.")]
    return decay ** (len(stages) - 1 - places[0])


def training_settings(
    recipe: Recipe,
    strategy: str,
    steps_per_epoch: int,
    class_weights: tuple[float, ...] | None,
    base: Settings,
) -> Settings:
    """Settings of the training loop, in steps; precision and memory layout come from `base`."""
    lr = recipe.head_lr if strategy in HEAD_ONLY else recipe.lr
    if strategy == "lp-ft":
        lr *= LOW
    steps = recipe.epochs * steps_per_epoch
    every = recipe.lr_step_size * steps_per_epoch
    return replace(
        base, steps=steps, batch_size=recipe.batch_size, lr=lr, warmup_lr=lr / 10,
        schedule="cosine" if recipe.lr_scheduler == "cosine" else "step",
        milestones=tuple(range(every, steps, every)) if recipe.lr_scheduler == "step" else (),
        warmup_steps=min(recipe.lr_warmup_epochs * steps_per_epoch, steps - 1),
        opt=recipe.opt, momentum=recipe.momentum, weight_decay=recipe.weight_decay,
        label_smoothing=recipe.label_smoothing, class_weights=class_weights,
    )  # fmt: skip


def rarity(labels: Tensor, classes: int) -> tuple[float, ...]:
    """Class weights, inverse to class frequency, with mean 1 over the images.

    The weight of a class without images is 0.
    """
    counts = labels.bincount(minlength=classes).double()
    weights = len(labels) / ((counts > 0).sum() * counts)
    return tuple(weights.where(counts > 0, 0.0).tolist())
