"""Transfer learning, timed against the loop of PyTorch's tutorial on the same images.

The tutorial ("Transfer Learning for Computer Vision") uses ImageFolder, PIL transforms, a
DataLoader (here without its four workers: one thread) and torchvision's network in fp32. Its frozen
network computes the features of every image again in every epoch.
"""

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from data.decoding import Form, Images
from data.store import store
from data.view_batches import StepDataset, ViewBatches, every_image
from data.views import RandomView, View
from experiments.bench.networks import networks
from experiments.bench.timing import CPU, EAGER, Comparison, compare_steps, same, scratch_folder
from experiments.plumbing.precision import choose_precision
from experiments.transfer.probe import features_of, logistic_regression

EPOCHS, BATCH = 25, 4  # the tutorial's
VIEW = View()
RANDOM_VIEW = RandomView(view=VIEW)
FINISH = [transforms.ToTensor(), transforms.Normalize(list(VIEW.mean), list(VIEW.std))]
TRANSFORMS = {
    "train": [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *FINISH],
    "val": [transforms.Resize(256), transforms.CenterCrop(224), *FINISH],
}


@cache
def drawn_images() -> Path:
    """A folder of 48 + 24 JPEGs of two classes, of 500x375 pixels and about 75 kB, like photos."""
    root, rng = scratch_folder(), np.random.default_rng(0)
    for folder, count in (("train/one", 24), ("train/two", 24), ("val/one", 12), ("val/two", 12)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            small = Image.fromarray(rng.integers(0, 256, (94, 125, 3), dtype=np.uint8))
            small.resize((500, 375)).save(root / folder / f"{i}.jpg", quality=85)
    return root


def tutorial_loader(split: str) -> DataLoader:
    """The tutorial's shuffled batches of a split."""
    images = ImageFolder(str(drawn_images() / split), transforms.Compose(TRANSFORMS[split]))
    return DataLoader(images, BATCH, shuffle=True)


def stored(split: str, form: Form, folder: Path) -> tuple[Images, Tensor]:
    """A split's images, decoded once and stored in `folder`, and their labels int64 (N,)."""
    files, labels = zip(*ImageFolder(str(drawn_images() / split)).samples, strict=True)
    return store(files, form, folder)[0], torch.tensor(labels)


def training_batches(batch_size: int) -> ViewBatches:
    """Our training batches of random views, of images that are decoded already."""
    images, labels = stored("train", RANDOM_VIEW.stored, scratch_folder())
    return ViewBatches(StepDataset(images, labels, RANDOM_VIEW, batch_size, 0), CPU)


def compare_probe() -> Comparison:
    """The tutorial's frozen ResNet-18, with evaluation / our linear probe, with decoding."""
    theirs, ours = networks("resnet18", 2)
    images = torch.randn(4, 3, 224, 224)
    with torch.no_grad():
        expected = nn.Sequential(*list(theirs.eval().children())[:-1])(images).flatten(1)
    computed, _ = features_of(ours, [(images, images)], EAGER)
    difference = float((computed - expected).abs().max())
    same(difference, 0, 1e-4)
    training, evaluation = map(tutorial_loader, ("train", "val"))
    head = theirs.requires_grad_(False).get_submodule("fc").requires_grad_(True)
    optimizer = torch.optim.SGD(head.parameters(), 0.001, momentum=0.9)
    chosen, _ = choose_precision("auto", ours, training_batches(8), EAGER, CPU)

    def one_epoch() -> int:
        theirs.train()
        for images, labels in training:
            optimizer.zero_grad()
            cross_entropy(theirs(images), labels).backward()
            optimizer.step()
        theirs.eval()
        with torch.no_grad():
            return sum(int((theirs(x).argmax(1) == y).sum()) for x, y in evaluation)

    def features(split: str, folder: str) -> tuple[Tensor, Tensor]:
        images = every_image(*stored(split, VIEW, Path(folder)), VIEW, 32, CPU)
        return features_of(ours, images, chosen)

    def whole() -> int:
        with tempfile.TemporaryDirectory() as folder:
            weight, bias = logistic_regression(*features("train", folder), 2, 1e-3)
            inputs, labels = features("val", folder)
            return int(((inputs @ weight.T + bias).argmax(1) == labels).sum())

    title = f"linear probe, resnet18: the tutorial's {EPOCHS} epochs (one timed) / ours, complete"
    checked = f"same features within {difference:.0e}"
    return Comparison(title, one_epoch, whole, checked, EPOCHS)


def compare_step(model_name: str, batch_size: int) -> Comparison:
    """A fine-tuning step: torchvision, eager fp32 / ours, as --precision auto chooses."""
    title = f"{model_name} fine-tuning step, batch {batch_size} at 224: torchvision"
    return compare_steps(title, *networks(model_name, 2), training_batches(batch_size))


COMPARISONS: tuple[Callable[[], Comparison], ...] = (
    compare_probe, lambda: compare_step("resnet18", 16), lambda: compare_step("resnet50", 8),
)  # fmt: skip
