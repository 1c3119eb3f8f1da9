"""Find the preprocessing that a network was trained with: try it out on labelled images.

A trial is one way to prepare the images. Two trials are compared image by image (McNemar 1947). If
the images are too few to tell, or if no trial is better than chance, the verdict says so.
Dimension key: N images, K classes.
"""

import copy
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from data.batches import enlarge
from data.collection import ImageDataset, Source, open_dataset, whole_folder
from data.dataset import balanced_order
from data.errors import DataError, printable
from data.progress import Progress
from data.view_batches import normalize_as
from data.views import View
from experiments.classifier import FP32, network_of, save_classifier
from experiments.plumbing.cli import doing, python
from experiments.plumbing.device import choose_device
from experiments.plumbing.preprocess import NORMALIZATIONS, default_view, in_words
from experiments.plumbing.stats import wilson
from experiments.plumbing.tables import Rows, print_report
from experiments.train.loop import forward
from zoo.networks import Network
from zoo.weights.dialects import IMAGENET_MEAN_STD
from zoo.weights.load import open_weights

LEVEL = 0.01  # of significance: lower than usual, since many trials are compared
ALIKE = 0.95  # share of equal predictions from which two trials are the same in practice
FEWEST, BATCH = 20, 50  # images
TRIED = "tried"  # the name of the split
SHOWN = 12  # rows of the table
HEADER = ("images prepared by", "accuracy", "95 % interval", "loss")


def diagnose(
    file: str, folder: str, name: str | None, limit: int, output: Path | None, device_name: str
) -> None:
    """Print the table and the verdict, and write the network with what was found to `output`.

    `name`: the network, if it is known; `limit`: the most images to use. Raises DataError if
    `output` is given but one cannot tell.
    """
    with doing(f"reading {file}"):
        device, why = choose_device(device_name)
        weights = open_weights(file)
        name, model = network_of(weights, name)
        outputs = model.to(device).head.out_features
    with doing(f"listing the images in {folder}"):
        dataset, classes = labelled(folder, limit, weights.metadata.classes, outputs)
    images = len(dataset.labels(TRIED))
    print(f"{name} with {outputs} outputs, {images} labelled images; device {why}")
    found = trials(model, dataset, device)
    print(*(f"  {note}\n" for note in dataset.notes), sep="", end="")
    order = class_order(found, outputs)
    if order is not None:
        found = [replace(trial, labels=order[trial.labels]) for trial in found]
        classes = tuple(classes[label] for label in order.argsort())
        listed = printable(", ".join(classes))
        print(f"the outputs are not in the order of the folders, but: {listed}")
    found.sort(key=lambda trial: (-int(trial.right.sum()), trial.loss))
    text, chosen = verdict(found)
    table = Rows(HEADER, [trial.row for trial in found[:SHOWN]])
    print_report([table, f"The best of {len(found)} different trials. {text}"])
    if not output:
        print("to use it: repeat with --output FILE.safetensors" if chosen else "nothing is chosen")
        return
    if not chosen:
        fix = "see above; or choose the preprocessing: python -m experiments.convert --preprocess"
        raise DataError("nothing is written: one cannot tell", folder, fix)
    view = chosen.view
    if chosen.bgr:  # make the network take RGB
        with torch.no_grad():
            model.stem.conv.weight.copy_(model.stem.conv.weight.flip(1))
        view = replace(view, mean=view.mean[::-1], std=view.std[::-1])
    save_classifier(output, name, model, classes, view, {"accuracy": chosen.row[1]})
    print(f"network, class names and preprocessing: {output}")
    print(f"use it: {python()} -m experiments.predict {shlex.quote(str(output))} IMAGES")


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
    part = splits.get("whole") or splits[dataset.tested_on]
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
    """Whole images squashed to a square, and center crops, in sizes that are usual for the network.

    Large networks are often trained on small images, so 32x32 is always tried.
    """
    side = default_view(model).crop
    whole, small = (View(n, n, squash=True, input_size=n) for n in (side, 32))
    return [whole, replace(whole, resize=256 if side == 224 else side, squash=False), small]


@torch.no_grad()
def trials(model: Network, dataset: ImageDataset, device: torch.device) -> list[Trial]:
    """Every view with every normalisation, RGB and BGR; with batch norm, also in training mode.

    A view that gives the same pixels as one before is left out, such as the crop of a square.
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

    The first half of the images gives the order, and the second half tests it. None if the order of
    the labels is as good.
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
    """What the trials (best first) show, and the one to use; None if one cannot tell."""
    from scipy.stats import binomtest

    best, n = found[0], len(found[0].labels)
    chance = int(best.labels.bincount().max()) / n
    p = binomtest(int(best.right.sum()), n, chance, alternative="greater").pvalue
    rivals = [trial for trial in found if not is_better(best.right, trial.right)]
    usable = sorted((t for t in rivals if not t.training), key=lambda trial: trial.loss)
    if p > LEVEL / len(found):
        text = f"One cannot tell: on {n} images, none is better than chance, {100 * chance:.0f} %. "
        return text + "Check that these are its classes, and that it was trained.", None
    if not usable:
        text = f"Its BatchNorm statistics are bad: {best.row[1]} are correct in training mode, and "
        text += "far fewer in eval mode. Pass training images through it in training mode, under "
        return text + "torch.no_grad(), and save it again.", None
    chosen, *others = usable
    same = min([1.0, *(float((chosen.guesses == t.guesses).double().mean()) for t in others)])
    listed = "; or ".join(trial.words for trial in usable[:4]) + " ..." * (len(usable) > 4)
    if same < ALIKE:
        text = f"One cannot tell: {n} images are too few to choose between {listed}. "
        return text + f"Repeat with more: --images {4 * n}, and a folder that has them.", None
    text = f"Most likely, it was trained with {chosen.words}: {chosen.row[1]} {chosen.row[2]}."
    if others:
        text += f" These cannot be told apart: {listed}. But at least {100 * same:.0f} % of their "
        text += "predictions are equal, so each will do."
    return text, chosen
