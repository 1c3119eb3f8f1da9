"""Transfer learning, timed against the loop of PyTorch's tutorial on the same pictures.

The tutorial ("Transfer Learning for Computer Vision"): ImageFolder, PIL transforms, a DataLoader
(here without its four workers: one thread), torchvision's network, fp32; its frozen network is
shown every picture again in every epoch.
"""

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

import zoo
from data.decoding import DecodedOnUse, Images
from data.images import load_image
from data.store import DecodedOnce, store
from data.view_batches import StepDataset, ViewBatches, every_image
from data.views import RandomView, View
from experiments.bench.timing import CPU, Comparison, same, scratch_folder, training_step
from experiments.classifier import FP32
from experiments.plumbing.precision import choose_precision, name, to_layout
from experiments.train import Settings
from experiments.transfer.probe import features_of, logistic_regression

EPOCHS, BATCH = 25, 4  # the tutorial's
VIEW = View()
RANDOM_VIEW = RandomView(view=VIEW)


@cache
def drawn_pictures() -> Path:
    """48 + 24 JPEGs of two classes, 500 x 375 pixels and about 75 kB, as photographs have."""
    root, rng = scratch_folder(), np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 12)):
        for label in ("one", "two"):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                small = rng.integers(0, 256, (47, 63, 3), dtype=np.uint8)
                large = Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC)
                noisy = np.asarray(large) + rng.normal(0, 12, (375, 500, 3))
                picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
                picture.save(root / split / label / f"{i}.jpg", quality=85)
    return root


def tutorial_loaders(root: Path) -> dict[str, DataLoader]:
    finish = [transforms.ToTensor(), transforms.Normalize(list(VIEW.mean), list(VIEW.std))]
    training = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *finish]
    evaluation = [transforms.Resize(256), transforms.CenterCrop(224), *finish]
    return {
        split: DataLoader(
            ImageFolder(str(root / split), transforms.Compose(steps)), BATCH, shuffle=True
        )
        for split, steps in (("train", training), ("val", evaluation))
    }


def files_and_labels(root: Path, split: str) -> tuple[list[str], torch.Tensor]:
    samples = ImageFolder(str(root / split)).samples
    return [file for file, _ in samples], torch.tensor([label for _, label in samples])


def store_of(
    root: Path, split: str, form: View | RandomView, folder: Path
) -> tuple[DecodedOnce, Tensor]:
    files, labels = files_and_labels(root, split)
    return store(files, form.stored if isinstance(form, RandomView) else form, folder)[0], labels


def batches_of(stored: tuple[Images, Tensor], batch_size: int) -> ViewBatches:
    return ViewBatches(StepDataset(*stored, RANDOM_VIEW, batch_size, 0), CPU)


def compare_probe() -> Comparison:
    """The tutorial's frozen resnet18, 25 epochs with val / ours, from files to accuracy."""
    root, images, loaders = drawn_pictures(), torch.randn(4, 3, 224, 224), None
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=2)
    ours = zoo.load(zoo.build("resnet18", 2), theirs.state_dict())
    with torch.no_grad():
        expected = nn.Sequential(*list(theirs.eval().children())[:-1])(images).flatten(1)
        found, _ = features_of(ours, [(images, images)], FP32)
    difference = float((found - expected).abs().max())
    same(difference, 0, 1e-4)

    loaders = tutorial_loaders(root)
    theirs.requires_grad_(False)
    theirs.fc.requires_grad_(True)
    optimizer = torch.optim.SGD(theirs.fc.parameters(), 0.001, momentum=0.9)
    few = batches_of(store_of(root, "train", RANDOM_VIEW, scratch_folder()), 8)
    chosen, _ = choose_precision("auto", ours, few, Settings(), CPU)

    def one_epoch() -> int:
        theirs.train()
        for images, labels in loaders["train"]:
            optimizer.zero_grad()
            loss = cross_entropy(theirs(images), labels)
            loss.backward()
            optimizer.step()
        theirs.eval()
        with torch.no_grad():
            return sum(int((theirs(x).argmax(1) == y).sum()) for x, y in loaders["val"])

    def whole() -> int:
        with tempfile.TemporaryDirectory() as folder:
            train, val = (
                every_image(*store_of(root, split, VIEW, Path(folder)), VIEW, 32, CPU)
                for split in ("train", "val")
            )
            features, labels = features_of(ours, train, chosen)
            weight, bias = logistic_regression(features, labels, 2, 1e-3)
            features, labels = features_of(ours, val, chosen)
            return int(((features @ weight.T + bias).argmax(1) == labels).sum())

    return Comparison(
        f"linear probe, resnet18: the tutorial's {EPOCHS} epochs (one timed) / ours, whole",
        one_epoch, whole, f"same features within {difference:.0e}", EPOCHS,
    )  # fmt: skip


def compare_step(model_name: str, batch_size: int) -> Comparison:
    """A whole fine-tuning step at 224: torchvision's network, fp32 / ours as --precision auto."""
    stored = store_of(drawn_pictures(), "train", RANDOM_VIEW, scratch_folder())
    batches = batches_of(stored, batch_size)
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(model_name, num_classes=2)
    ours = zoo.load(zoo.build(model_name, 2), theirs.state_dict())
    chosen, _ = choose_precision("auto", ours, batches_of(stored, 8), Settings(), CPU)
    eager = Settings(precision="fp32", channels_last=False)
    usual = training_step(theirs, *batches.batch(0), eager)
    step = training_step(to_layout(ours, chosen), *batches.batch(0), chosen)
    losses = usual(), step()
    same(*losses, 2e-2)
    return Comparison(
        f"{model_name} fine-tuning step, batch {batch_size} at 224: torchvision / {name(chosen)}",
        usual, step, f"losses {losses[0]:.4f}, {losses[1]:.4f}",
    )  # fmt: skip


DATA_PATHS = {
    "streamed": "decoded at every use",
    "first": "first epoch, and what the later ones need is stored",
    "later": "later epochs",
}


def compare_data(way: str) -> Comparison:
    """An epoch of random views at 224: the tutorial's loader / ours, in one of DATA_PATHS."""
    root = drawn_pictures()
    files, labels = files_and_labels(root, "train")
    for file in files[:8]:
        with Image.open(file) as picture:
            theirs = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
        same(int((theirs.int() - load_image(file, file)).abs().max()), 0, 0)
    loader = tutorial_loaders(root)["train"]
    stored = store_of(root, "train", RANDOM_VIEW, scratch_folder())
    streamed = DecodedOnUse(tuple(files), RANDOM_VIEW.stored), labels

    def usual() -> None:
        for _ in loader:
            pass

    def epoch(pictures: tuple[Images, Tensor]) -> None:
        batches = batches_of(pictures, BATCH)
        for step in range(len(batches)):
            batches.batch(step)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            if way == "first":
                epoch(store_of(root, "train", RANDOM_VIEW, Path(folder)))
            else:
                epoch(streamed if way == "streamed" else stored)

    return Comparison(
        f"data path, {DATA_PATHS[way]}: the tutorial's loader / ours",
        usual, ours, "same decoded pixels",
    )  # fmt: skip


COMPARISONS: tuple[Callable[[], Comparison], ...] = (
    compare_probe,
    lambda: compare_step("resnet18", 16),
    lambda: compare_step("resnet50", 8),
    lambda: compare_data("streamed"),
    lambda: compare_data("first"),
    lambda: compare_data("later"),
)
