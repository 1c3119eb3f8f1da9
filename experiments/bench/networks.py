"""Rows of `make bench`: training, augmentation, torchvision's networks against ours."""

from collections.abc import Callable
from copy import deepcopy

import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision import transforms

import zoo
from data.augment import crop_flip
from data.batches import TensorBatches, channel_normalize
from data.synthetic import synthetic
from experiments.bench.timing import CPU, EAGER, Comparison, compare_steps, same, step_of
from experiments.proof.checks import shake
from zoo.networks import Network


def drawn_batches(count: int) -> TensorBatches:
    """`count` batches of 128 synthetic 32x32 images per epoch."""
    dataset = synthetic(train=count * 128, test=10)
    normalize = channel_normalize(dataset.train_images)
    return TensorBatches(dataset, normalize, 128, 0, CPU, input_size=32, padding=4)


def compare_training() -> Comparison:
    """A training step of ResNet-20: eager fp32 / as --precision auto chooses."""
    model = zoo.build("resnet20")
    title = "ResNet-20 training step, batch 128: eager fp32 NCHW"
    return compare_steps(title, deepcopy(model), model, drawn_batches(1))


def compare_augmentation() -> Comparison:
    """Random crops and flips of 20 batches: torchvision on PIL images / crop_flip()."""
    batches = drawn_batches(20)
    images, normalize = batches.images, batches.normalize
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    mean, std = normalize.mean.flatten().tolist(), normalize.std.flatten().tolist()
    finish = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    pipeline = transforms.Compose(
        [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), finish]
    )
    # Compared at one offset: the centre crop, not flipped, is the image itself.
    middle = torch.full((len(images),), 4)
    ours = crop_flip(normalize(images), middle, middle, torch.zeros_like(middle).bool(), 4)
    theirs = torch.stack([finish(Image.fromarray(array)) for array in arrays])
    difference = float((ours - theirs).abs().max())
    same(difference, 0, 1e-5)

    def usual() -> None:
        for first in range(0, len(arrays), 128):
            torch.stack([pipeline(Image.fromarray(a)) for a in arrays[first : first + 128]])

    def gather() -> None:
        for step in range(len(batches)):
            batches.batch(step)

    title = "augmentation, 20 batches of 128: torchvision on PIL images / one gather per batch"
    return Comparison(title, usual, gather, f"same pixels within {difference:.0e}")


def networks(name: str, classes: int = 1000) -> tuple[nn.Module, Network]:
    """torchvision's network and ours, with the same weights (shaken: a new ViT has a zero head)."""
    theirs = torchvision.models.get_model(name, num_classes=classes)
    shake(theirs)
    return theirs, zoo.load(zoo.build(name, classes), theirs.state_dict())


def compare_network(name: str, batch_size: int, tolerance: float = 0) -> Comparison:
    """A forward and backward pass: torchvision / ours."""
    batch = torch.randn(batch_size, 3, 224, 224), torch.arange(batch_size)
    usual, ours = (step_of(model, batch, EAGER) for model in networks(name))
    losses = usual(), ours()
    same(*losses, tolerance)
    title = f"{name} forward and backward, batch {batch_size} at 224: torchvision / ours"
    return Comparison(title, usual, ours, f"losses {losses[0]:.6f}, {losses[1]:.6f}")


COMPARISONS: tuple[Callable[[], Comparison], ...] = (
    compare_training, compare_augmentation,
    lambda: compare_network("resnet18", 8), lambda: compare_network("resnet50", 4),
    lambda: compare_network("vit_b_16", 8, tolerance=1e-6),
)  # fmt: skip
