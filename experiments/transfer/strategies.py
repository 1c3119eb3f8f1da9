"""Strategies for transferring a pretrained network to other images.

finetune            train all weights, starting from the pretrained ones
feature-extraction  train a new head on augmented images; all else is frozen, statistics included
linear-probe        fit the same head by logistic regression, on features computed once
lp-ft               linear-probe first, then fine-tune at a low rate (Kumar et al. 2022)
scratch             train all weights, starting from random ones, for comparison
moving-bn           feature-extraction as in most notebooks: requires_grad is off, but train()
                    keeps updating the running statistics of batch norms (pytorch #86590)
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from experiments.plumbing.recipes import Recipe
from experiments.train.loop import Settings
from zoo.networks import Network

STRATEGIES = ("finetune", "feature-extraction", "linear-probe", "lp-ft", "scratch", "moving-bn")
HEAD_ONLY = ("feature-extraction", "linear-probe", "moving-bn")
LOW = 0.1  # factor of `lr` for fine-tuning after a probe, since the head already fits


class Frozen(nn.Module):
    """A network in which only the head is trained.

    Batch norms stay in eval mode: they use their running statistics and do not update them.
    `moving` reproduces the common mistake of leaving them in train mode.
    """

    def __init__(self, model: Network, moving: bool = False) -> None:
        super().__init__()
        self.model, self.moving = model, moving
        model.requires_grad_(False)
        model.head.requires_grad_(True)

    def train(self, mode: bool = True) -> "Frozen":
        """Set the mode; the network itself stays in eval mode, unless `moving`."""
        super().train(mode)
        if not self.moving:
            self.model.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.model.features(images)  # (N, 3, H, W) -> (N, C)
        return self.model.head(features)  # -> (N, classes)


def to_train(strategy: str, model: Network) -> nn.Module:
    """The module to train: the network itself, or Frozen around it."""
    if strategy in HEAD_ONLY:
        return Frozen(model, moving=strategy == "moving-bn")
    return model


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
