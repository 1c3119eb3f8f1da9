"""Ways of transferring what a network has learned to other images.

finetune            every weight goes on learning, from the pretrained ones
feature-extraction  only a new head learns, on random views; frozen means frozen
linear-probe        the same head, found by logistic regression on features computed once
lp-ft               linear-probe first, then fine-tuning at a low rate (Kumar et al. 2022)
scratch             no pretrained weights: what they are worth
moving-bn           feature-extraction as in most notebooks: requires_grad is off, and train()
                    leaves the batch norms' running statistics moving (pytorch #86590)
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from experiments.train.loop import Settings
from experiments.transfer.recipes import Recipe
from zoo.networks import Network

STRATEGIES = ("finetune", "feature-extraction", "linear-probe", "lp-ft", "scratch", "moving-bn")
HEAD_ONLY = ("feature-extraction", "linear-probe", "moving-bn")
LOW = 0.1  # of `lr`, for fine-tuning after a probe: a head that fits need not be found again


class Frozen(nn.Module):
    """A network of which only the head learns.

    Batch norms use the statistics that they came with: in eval mode they compute with them and
    leave them alone. `moving` is the mistake of leaving them in train mode.
    """

    def __init__(self, model: Network, moving: bool = False) -> None:
        super().__init__()
        self.model, self.moving = model, moving
        model.requires_grad_(False)
        model.head.requires_grad_(True)

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        if not self.moving:
            self.model.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.model.features(images)  # (N, 3, H, W) -> (N, C)
        return self.model.head(features)  # -> (N, classes)


def to_train(strategy: str, model: Network) -> nn.Module:
    """What the loop trains: the network, or the network with all but its head frozen."""
    if strategy in HEAD_ONLY:
        return Frozen(model, moving=strategy == "moving-bn")
    return model


def training_settings(
    recipe: Recipe,
    strategy: str,
    steps_per_epoch: int,
    labels: Tensor,
    classes: int,
    base: Settings,
) -> Settings:
    """The loop's settings, in steps; `base` has the precision and layout."""
    lr = recipe.head_lr if strategy in HEAD_ONLY else recipe.lr
    if strategy == "lp-ft":
        lr *= LOW
    steps = recipe.epochs * steps_per_epoch
    every = recipe.lr_step_size * steps_per_epoch
    return replace(
        base,
        steps=steps,
        batch_size=recipe.batch_size,
        schedule="cosine" if recipe.lr_scheduler == "cosine" else "step",
        lr=lr,
        milestones=tuple(range(every, steps, every)) if recipe.lr_scheduler == "step" else (),
        warmup_steps=min(recipe.lr_warmup_epochs * steps_per_epoch, steps - 1),
        warmup_lr=lr / 10,
        opt=recipe.opt,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        label_smoothing=recipe.label_smoothing,
        class_weights=rarity(labels, classes) if recipe.class_weights else None,
    )


def rarity(labels: Tensor, classes: int) -> tuple[float, ...]:
    """A weight a class, inverse to how often it comes, 1 on average over the images.

    0 for a class without images, which has no losses to weigh.
    """
    counts = labels.bincount(minlength=classes).double()
    weights = len(labels) / ((counts > 0).sum() * counts)
    return tuple(weights.where(counts > 0, 0.0).tolist())
