"""Find the preprocessing that a network was trained with: try it out on labelled images.

Two trials are compared image by image (McNemar 1947). If the images are too few to tell, or if no
trial is better than chance, the verdict says so.
Dimension key: N images, K classes.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from data.batches import enlarge
from data.collection import ImageDataset, Source, open_dataset, whole_folder
from data.dataset import balanced_order
from data.errors import DataError
from data.progress import Progress
from data.view_batches import normalize_as
from data.views import View
from experiments.classifier import FP32
from experiments.plumbing.preprocess import NORMALIZATIONS, in_words
from experiments.plumbing.stats import wilson
from experiments.train.loop import forward
from zoo.networks import Network
from zoo.resnet import CifarStem
from zoo.vit import ViT
from zoo.weights.dialects import IMAGENET_MEAN_STD

LEVEL = 0.01  # of significance: lower than usual, since many trials are compared
ALIKE = 0.97  # share of equal predictions from which two trials are the same in practice
FEWEST, BATCH = 20, 50  # images
TRIED = "tried"  # the name of the split


@dataclass(frozen=True)
class Trial:
    """One way to prepare images, and what the network then predicts."""

    view: View
    bgr: bool  # channels in OpenCV's order
    training: bool  # batch norm uses the statistics of the batch
    logits: Tensor  # float32 (N, K)
    labels: Tensor  # int64 (N,)

    @property
    def guesses(self) -> Tensor:
        """The predicted classes, int64 (N,)."""
        return self.logits.argmax(1)

    @property
    def right(self) -> Tensor:
        """Which predictions are correct, bool (N,)."""
        return self.guesses == self.labels

    @property
    def words(self) -> str:
        """The preprocessing as text."""
        return in_words(self.view) + ", BGR" * self.bgr + ", training mode" * self.training

    @property
    def row(self) -> tuple[str, str, str, str]:
        """Preprocessing, accuracy, its 95 % interval and the loss, as text."""
        right, n = int(self.right.sum()), len(self.labels)
        interval = ", ".join(f"{100 * end:.0f}" for end in wilson(right, n))
        return self.words, f"{100 * right / n:.1f} %", f"[{interval}]", f"{self.loss:.3f}"

    @property
    def loss(self) -> float:
        """The mean cross-entropy."""
        return cross_entropy(self.logits, self.labels).item()


def labelled(
    folder: str, limit: int, stored: tuple[str, ...] | None, outputs: int
) -> tuple[ImageDataset, tuple[str, ...]]:
    """Images of a folder of classes, or of its test/ or val/; and the names of the outputs.

    The split TRIED has at most `limit` images, and the classes take turns. `stored`: the names in
    the file of weights, if any. Raises DataError if the classes cannot be those of the network.
    """
    source = Source(folder, skip_bad=True)
    dataset = whole_folder(source) or open_dataset(source, 0, 0)
    classes, splits = dataset.classes, dataset.splits
    part = splits["whole"] if "whole" in splits else splits[dataset.tested_on]
    part = part.chosen(balanced_order(part.labels)[:limit])
    if stored and set(classes) <= set(stored):
        part.labels = torch.tensor([stored.index(name) for name in classes])[part.labels]
        classes = stored
    if len(classes) != outputs or len(part.labels) < FEWEST:
        what = f"{len(part.labels)} images of {len(classes)} classes; the network has {outputs}"
        fix = f"give a folder with images of all its classes, {FEWEST} or more in all"
        raise DataError(what, folder, fix)
    dataset.splits = {TRIED: part}
    return dataset, classes


def views_for(model: Network) -> list[View]:
    """Whole images, squashed, and center crops, in the sizes that such networks are trained with.

    Many train large networks on small images, so 32x32 is tried with all ResNets.
    """
    side, small = 224, [View(32, 32, squash=True, input_size=32)]
    if isinstance(model, ViT):
        side, small = model.stem.image_size, []
    elif isinstance(model.stem, CifarStem):
        side = 32
    whole = View(side, side, squash=True, input_size=side)
    resize = side if side == 32 else round(side * 8 / 7)  # 224 -> 256
    return [whole, replace(whole, resize=resize, squash=False), *small]


@torch.no_grad()
def trials(model: Network, dataset: ImageDataset, device: torch.device) -> list[Trial]:
    """Every view with every normalisation, RGB and BGR; with batch norm, also in training mode.

    Views that show the same as one before are left out, as for square images.
    """
    images: dict[View, Tensor] = {}
    for view in views_for(model):
        seen = dataset.images(TRIED, view)
        pixels = torch.stack([seen[i] for i in range(len(seen))])  # uint8 (N, 3, crop, crop)
        if not any(torch.equal(pixels, other) for other in images.values()):
            images[view] = pixels
    labels = dataset.labels(TRIED)
    ways = [(*way, False) for way in product(NORMALIZATIONS.values(), (False, True))]
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        # The statistics of the batch undo the normalisation, so one is enough.
        ways.append((IMAGENET_MEAN_STD, False, True))
    parts, found = -(-len(labels) // BATCH), []
    with Progress(total=len(images) * len(ways) * parts, desc="trying") as bar:
        for (view, pixels), ((mean, std), bgr, training) in product(images.items(), ways):
            view = replace(view, mean=mean, std=std)
            used = copy.deepcopy(model).train() if training else model.eval()
            normalize, logits = normalize_as(view).to(device), []
            for part in pixels.tensor_split(parts):  # equal parts, for batch norm
                batch = normalize((part.flip(1) if bgr else part).to(device))
                logits.append(forward(used, enlarge(batch, view.input_size), FP32).cpu())
                bar.update()
            found.append(Trial(view, bgr, training, torch.cat(logits), labels))
    return found


def is_better(right: Tensor, other: Tensor) -> bool:
    """Whether the first answers, bool (N,), are better than the others (McNemar's exact test)."""
    from scipy.stats import binomtest  # slow to import, so only here

    wins, losses = int((right & ~other).sum()), int((~right & other).sum())
    return wins > losses and binomtest(wins, wins + losses).pvalue < LEVEL


def class_order(found: Sequence[Trial], classes: int) -> Tensor | None:
    """The output of each class, int64 (K,), if the outputs are not in the order of the labels.

    The first half of the images gives the order, and the second half tests it.
    """
    from scipy.optimize import linear_sum_assignment

    labels, half = found[0].labels, len(found[0].labels) // 2

    def order(trial: Trial, n: int) -> Tensor:
        pairs = labels[:n] * classes + trial.guesses[:n]
        counts = pairs.bincount(minlength=classes**2).view(classes, classes)
        return torch.from_numpy(linear_sum_assignment(counts, maximize=True)[1])

    reordered = [(trial.guesses == order(trial, half)[labels])[half:] for trial in found]
    place = max(range(len(found)), key=lambda i: int(reordered[i].sum()))
    straight = max((trial.right for trial in found), key=lambda right: int(right.sum()))
    if is_better(reordered[place], straight[half:]):
        return order(found[place], len(labels))
    return None


def verdict(found: Sequence[Trial]) -> tuple[str, Trial | None]:
    """What the trials, best first, show; and the one to use, or None if one cannot tell."""
    from scipy.stats import binomtest

    best, n = found[0], len(found[0].labels)
    chance = int(best.labels.bincount().max()) / n
    p = binomtest(int(best.right.sum()), n, chance, alternative="greater").pvalue
    if p > LEVEL / len(found):
        return (
            f"It cannot tell: on {n} images, no trial is better than chance ({100 * chance:.0f} %)."
            " Check that these are the network's classes, or that it was trained at all."
        ), None
    rivals = [trial for trial in found if not is_better(best.right, trial.right)]
    usable = [trial for trial in rivals if not trial.training]
    if not usable:
        return (
            f"Its BatchNorm statistics are bad: {best.row[1]} are correct in training mode, and far"
            " fewer in eval mode. Pass training images through it in training mode, under"
            " torch.no_grad(), and save it again."
        ), None
    chosen, *others = sorted(usable, key=lambda trial: trial.loss)
    same = min([1.0, *(float((chosen.guesses == t.guesses).double().mean()) for t in others)])
    listed = "; or ".join(trial.words for trial in others[:3]) + " ..." * (len(others) > 3)
    if same < ALIKE:
        return (
            f"It cannot tell: {n} images are too few to choose between {chosen.words}; or {listed}."
            " Give more labelled images, and a larger --images."
        ), None
    text = f"Most likely, it was trained with: {chosen.words} ({chosen.row[1]} {chosen.row[2]})."
    if others:
        text += f" Or: {listed}. {100 * same:.0f} % of predictions are equal, so either will do."
    return text, chosen


def as_rgb(model: Network, view: View) -> View:
    """Make a network for BGR take RGB, by swapping its weights; return the swapped view."""
    with torch.no_grad():
        model.stem.conv.weight.copy_(model.stem.conv.weight.flip(1))
    return replace(view, mean=view.mean[::-1], std=view.std[::-1])
