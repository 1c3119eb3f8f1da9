"""The trained networks that are studied: published ones on CIFAR-10, or those of an ablation."""

import copy
import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import zoo
from data.batches import enlarge
from data.dataset import Dataset, balanced_order
from data.view_batches import normalize_as
from data.views import View
from experiments.ablation.runs import Data, load_data
from experiments.classifier import load_model
from experiments.plumbing.cli import ResultsError, UsageError
from experiments.plumbing.results import is_of_transfer, no_results, read_rows
from zoo.resnet import ResNet
from zoo.weights.published import Published

# By the name of their weights: who trained the published networks, and for how long.
TRAINED = {
    "CIFAR10_AKAMASTER": ("akamaster", "200 epochs"), "CIFAR10_LI": ("Li et al.", "300 epochs"),
}  # fmt: skip
STOCHASTIC = "stochastic-depth"
STUDIED = ("plain", "resnet", STOCHASTIC)  # networks of an ablation
UNLABELLED = 500  # training images for the statistics of batch norms


class Images(NamedTuple):
    """Normalised images float32 (N, 3, H, W), labels int64 (N,); other images without labels."""

    images: Tensor
    labels: Tensor
    unlabelled: Tensor

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """Images and labels of the first `count`, in which the classes take turns."""
        return self.images[:count], self.labels[:count]


@dataclass(frozen=True)
class Subject:
    """A trained network, by name; network and images are loaded when they are needed."""

    name: str  # of its results
    network: str  # the zoo's name
    group: str  # the same for networks that differ in their seed only
    family: str  # the same for networks that were trained in the same way
    budget: str  # how long it was trained, in words
    error: float  # in percent: its training error, or if that is unknown, its test error
    open: Callable[[], tuple[ResNet, Images]]
    seed: int = 0
    identity: str = ""  # of its weights and images: results of others are not taken for its own

    @property
    def depth(self) -> int:
        """The number of layers."""
        return int("".join(filter(str.isdigit, self.network)))

    @property
    def kind(self) -> str:
        """Its name without the depth: "resnet", "plain" ..."""
        return self.network.rstrip("0123456789")

    @property
    def plain(self) -> bool:
        """Whether it has no skips."""
        return self.kind == "plain"


def nothing_trained() -> tuple[ResNet, Images]:
    """For INITIAL."""
    raise AssertionError("questions about random weights build their own networks")


INITIAL = Subject("random-weights", "", "", "", "", 0.0, nothing_trained)


def named(full: str) -> Published:
    """The published weights that a text such as "resnet56/CIFAR10_LI" names.

    Raises UsageError or zoo's errors if there are none, or if they are not for CIFAR-10.
    """
    name, _, weights = full.partition("/")
    entry = zoo.published(name, weights or "DEFAULT")
    if entry.name not in TRAINED:
        what = "only networks that were trained on CIFAR-10 can be studied"
        raise UsageError(what, f"--models {full}", "choose some of the default ones (see --help)")
    return entry


def published(entry: Published, dataset: Dataset, count: int) -> Subject:
    """The network of published weights, with `count` test images of CIFAR-10.

    Downloads the weights if they are not there yet; raises WeightsError if that fails.
    """
    name = entry.model
    model = zoo.build(name, weights=entry.name)
    assert isinstance(model, ResNet)

    def open_it() -> tuple[ResNet, Images]:
        return ready(copy.deepcopy(model)), images_of(dataset, View(**entry.preprocess), count)

    author, budget = TRAINED[entry.name]
    file = f"{name}-{author.split()[0].lower()}"
    identity = f"{entry.sha256[:16]} {zlib.crc32(dataset.test_images.numpy().tobytes()):08x}"
    return Subject(
        file, name, f"{name} ({author})", author, budget, 100 - entry.top1, open_it, 0, identity
    )


def of_campaign(folder: Path, count: int) -> list[Subject]:
    """The finished networks of an ablation of ResNets, with `count` of its test images.

    Raises ResultsError if there are none.
    """
    if is_of_transfer(folder):
        what = "these are results of experiments.transfer"
        raise ResultsError(what, folder, "give those of an ablation, such as runs/quick")
    subjects = []
    rows = read_rows(folder)
    if not rows:
        raise no_results(folder)
    for row in rows:
        run = row["run"]
        if row["status"] != "finished" or run["network"] not in STUDIED or run["norm"] != "batch":
            continue
        if run.get("rates"):  # one of several rates: another question, and another folder's name
            continue
        skips_blocks = run["network"] == STOCHASTIC
        alike = folder.name + f", {STOCHASTIC}" * skips_blocks
        error = row["test_error" if skips_blocks else "train_error"]  # with all blocks
        name = f"{run['network']}{run['depth']}"
        path = folder / f"{name}-seed{run['seed']}" / "final.safetensors"
        identity = hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else ""

        def open_it(path=path, run=run) -> tuple[ResNet, Images]:
            data = Data(**run["data"])
            classifier = load_model(path)
            assert isinstance(classifier.model, ResNet)
            return ready(classifier.model), images_of(load_data(data), classifier.view, count)

        subjects.append(Subject(
            path.parent.name, name, name, alike, f"{run['settings']['steps']:,} steps",
            100 * error, open_it, run["seed"], identity,
        ))  # fmt: skip
    if not subjects:
        what = "there is no finished ResNet or plain network here, with batch norm and one rate"
        raise ResultsError(what, folder, "give the results of `make ablation`: runs/quick")
    return sorted(subjects, key=lambda subject: (not subject.plain, subject.depth, subject.seed))


def ready(model: ResNet) -> ResNet:
    """The network for inference, in the layout that is fastest on CPUs."""
    return model.eval().to(memory_format=torch.channels_last).requires_grad_(False)


def images_of(dataset: Dataset, view: View, count: int) -> Images:
    """`count` test images and UNLABELLED training images, as a network takes them."""
    chosen = balanced_order(dataset.test_labels)[:count]
    others = balanced_order(dataset.train_labels)[:UNLABELLED]
    normalize = normalize_as(view)

    def prepared(images: Tensor) -> Tensor:
        whole = enlarge(normalize(images), view.input_size)
        return whole.contiguous(memory_format=torch.channels_last)

    return Images(
        prepared(dataset.test_images[chosen]), dataset.test_labels[chosen],
        prepared(dataset.train_images[others]),
    )  # fmt: skip
