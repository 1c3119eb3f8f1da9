"""Evaluate a checkpoint on a folder of images: accuracy, each class, most confident mistakes.

    python -m experiments.evaluate CHECKPOINT DIR
    python -m experiments.evaluate --model resnet50 --weights IMAGENET1K_V2 imagenet/val

DIR: a folder with train/CLASS/ and test/CLASS/ (or else val/), of which the latter is used; or one
folder of classes; or cifar10. From one folder of classes, images that the checkpoint was trained on
or chosen by are left out. A checkpoint lists these images only if there are at most 60,000.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import DataError
from data.progress import Progress
from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError, doing

if TYPE_CHECKING:
    from torch import Tensor

    from data.collection import ImageDataset, Source
    from experiments.classifier import Classifier
    from experiments.drawing.sheet import LabelledImage

SHOWN = 20  # images on a sheet
EVALUATED = "evaluated"  # the name of the split
COLUMNS = ("image", "truth", "label", "score")  # of predictions.csv
IMAGENET_IDS = Path(__file__).parents[1] / "data" / "imagenet_ids.txt"  # in order of the classes


@dataclass(frozen=True)
class Options:
    """Accuracy, per-class table, confusion matrix and most confident mistakes of a checkpoint."""

    inputs: cli.Paths
    """A file of weights (from experiments.transfer, or your own) or hf:OWNER/NAME; then the
    folder of images. With --model, only the folder."""
    model: cli.Word = None
    """An ImageNet model of the zoo, instead of a checkpoint."""
    weights: str = "DEFAULT"
    """The name of published weights, or a file, for --model."""
    classes: cli.Classes = None
    """For a file that stores no class names, in the order of its outputs: a,b,c; a text or JSON
    file; or the folder of class folders that the network was trained on."""
    preprocess: cli.Preprocess = None
    """For a file that stores no preprocessing: a recipe such as bootcamp; published weights such as
    IMAGENET1K_V2; or numbers: resize=256,crop=224,mean=0.5,std=0.5 or squash=224,mean=..."""
    skip_bad: bool = False
    """Leave out images that cannot be decoded."""
    output_dir: Path = Path("runs/evaluation")
    """Folder for the figures and predictions.csv."""
    batch_size: int = 64
    """Images per batch."""
    workers: cli.Count = None
    """Processes that decode images (default: one per core, at most 8); 0: no extra process."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..., or mps (not tested)."""


def to_evaluate(source: Source, model: Classifier) -> tuple[str, ImageDataset]:
    """A name for the images to evaluate on, and the images: one split with the checkpoint's labels.

    Raises DataError if there are none, or if the checkpoint does not know one of their classes.
    """
    from data.collection import Split, checksum, open_dataset, whole_folder

    seen = set(re.findall("[0-9a-f]{8}", str(model.metrics.get("seen", ""))))

    def unseen(files: Sequence[str]) -> list[int]:
        return [i for i, file in enumerate(files) if not seen or checksum(file) not in seen]

    images = whole_folder(source) if Path(source.data).is_dir() else None
    if images is None:
        images = open_dataset(source, 0, 0)
        name, part = images.tested_on, images.splits[images.tested_on]
        if known := len(part.files) - len(unseen(part.files)):
            why = "too good: the checkpoint was trained on, or chosen by,"
            images.notes.append(f"the accuracy may be {why} {known} of these images")
    else:
        name, part = "all images", images.splits["whole"]
        new = unseen(part.files)
        if not new:
            why = f"the checkpoint was trained on, or chosen by, all {len(part.files)} images here"
            fix = "give other images; to use those of val/, give the folder that has it and train/"
            raise DataError(why, source.data, fix)
        if left_out := len(part.files) - len(new):
            why = "images that the checkpoint was trained on or chosen by"
            images.notes.append(f"left out: {left_out} {why}")
            name, part = "images it has not seen", part.chosen(part.labels.new_tensor(new))
    places = labels_of(images, model)
    images.splits = {EVALUATED: Split(places[part.labels], part.files, part.images)}
    return name, images


def labels_of(images: ImageDataset, model: Classifier) -> Tensor:
    """The checkpoint's label, int64, of each class of the images, matched by name.

    For ImageNet's 1,000 classes, folders may be named by WordNet ids (n01440764) or class numbers
    (0 to 999).
    """
    import torch

    from data.listing import some

    names, known = set(images.classes), {name: i for i, name in enumerate(model.classes)}
    is_imagenet = len(model.classes) == 1000 and model.classes[0].startswith("tench")
    if is_imagenet and not names & known.keys():
        lines = IMAGENET_IDS.read_text(encoding="utf-8").split()
        ids = {name: number for number, name in enumerate(lines)}
        ids |= {name: int(name) for name in names if name.isdecimal() and int(name) < len(lines)}
        if found := sorted(names & ids.keys()):
            known = ids
            what = "folder names are taken as ImageNet's WordNet ids or class numbers"
            first = model.classes[ids[found[0]]]
            images.notes.append(f"{what}: {found[0]} is {first}, and so on")
    if unknown := names - known.keys():
        why = f"the checkpoint does not know {some(unknown)}; it knows {some(model.classes)}"
        fix = "rename or remove the folders; or rename the checkpoint's classes: --classes"
        raise DataError("; ".join((why, *images.notes)), images.source.data, fix)
    return torch.tensor([known[name] for name in images.classes])


def evaluate_on(model: Classifier, images: ImageDataset, batch_size: int) -> Tensor:
    """Logits float32 (N, K) of all images, in order, on the CPU."""
    from data.view_batches import every_image
    from experiments.classifier import FP32
    from experiments.plumbing.inference import for_many
    from experiments.train.loop import infer

    labels, viewed = images.labels(EVALUATED), images.images(EVALUATED, model.view)
    count = math.ceil(len(labels) / batch_size)
    batches = every_image(viewed, labels, model.view, batch_size, model.device, images.loaders)
    first = next(batches)
    faster = for_many(model.model, first[0], count)
    return infer(faster, Progress(chain([first], batches), "evaluating", count), FP32)[0]


def draw_figures(model: Classifier, images: ImageDataset, logits: Tensor, folder: Path) -> None:
    """Draw the confusion matrix, a sheet of samples, and one of the most confident mistakes."""
    import torch
    from sklearn.metrics import confusion_matrix

    from experiments.drawing.sheet import draw_confusion, draw_sheet

    labels, (best, guesses) = images.labels(EVALUATED), logits.double().softmax(1).max(1)
    matrix = confusion_matrix(labels, guesses, labels=range(len(model.classes)))
    draw_confusion(folder / "confusion.png", torch.from_numpy(matrix), model.classes)
    print(f"figure: {folder / 'confusion.png'}")
    samples = torch.arange(0, len(labels), max(1, len(labels) // SHOWN))
    wrong = (guesses != labels).nonzero().flatten()
    surest = wrong[best[wrong].argsort(descending=True, stable=True)]
    for name, places, what in (
        ("samples.png", samples, "samples"),
        ("mistakes.png", surest, f"the most confident of {len(wrong)} mistakes"),
    ):
        if len(places):
            cells = [cell(model, images, logits, i) for i in places[:SHOWN].tolist()]
            draw_sheet(folder / name, cells, f"{images.name}: {what}")
            print(f"figure: {folder / name}")


def cell(model: Classifier, images: ImageDataset, logits: Tensor, i: int) -> LabelledImage:
    """One image of a sheet, with its three most probable classes and its true one."""
    from data.images import load_image
    from experiments.classifier import on_sheet, top_k

    part = images.splits[EVALUATED]
    image, name = images.images(EVALUATED, model.view)[i], f"image {i}"
    if part.files:
        image, name = load_image(part.files[i]), Path(part.files[i]).name
    answers = top_k(model, logits[i][None], 3)[0]
    return on_sheet(image, name, answers, model.classes[int(part.labels[i])])


def main(options: Options) -> None:
    """Evaluate the checkpoint, print the results, and write figures and predictions."""
    wanted = 1 if options.model else 2
    if len(options.inputs) != wanted:
        why = f"{wanted} paths are needed, but {len(options.inputs)} are given"
        line = "python -m experiments.evaluate " + " ".join(options.inputs)
        raise UsageError(why, line, "give CHECKPOINT DIR, or --model resnet50 DIR")
    cli.check_numbers(options, {"batch_size": (1, 100_000), "workers": (0, 256)})
    cli.check_folder(options.output_dir)
    with doing("loading the network"):
        # Not at the top: importing torch takes seconds, and --help does not need it.
        from data.collection import Source
        from experiments.classifier import CORES, open_classifier

        model, opened = open_classifier(options)
    print(opened)
    source = Source(options.inputs[-1], skip_bad=options.skip_bad)
    with doing(f"scanning {source.data}"):
        name, images = to_evaluate(source, model)
    images.workers = images.loaders = CORES if options.workers is None else options.workers
    with doing("decoding the images"):
        images.images(EVALUATED, model.view)  # leaves out bad images if --skip-bad allows it
    for note in images.notes:
        print(f"  {note}")
    with doing(f"evaluating {len(images.labels(EVALUATED)):,} images"):
        logits = evaluate_on(model, images, options.batch_size)
    show_results(model, images, name, logits, options.output_dir)
    with doing("drawing the figures"):
        draw_figures(model, images, logits, options.output_dir)


def show_results(
    model: Classifier, images: ImageDataset, name: str, logits: Tensor, folder: Path
) -> None:
    """Print the table of classes and the accuracy; write every prediction to `folder`."""
    from sklearn.metrics import classification_report  # slow to import: not before it is needed

    from experiments.plumbing.results import write_csv
    from experiments.plumbing.stats import wilson

    labels, (best, guesses) = images.labels(EVALUATED), logits.double().softmax(1).max(1)
    print(classification_report(
        labels, guesses, labels=range(len(model.classes)), target_names=model.classes,
        digits=3, zero_division=math.nan,
    ))  # fmt: skip
    right = int((guesses == labels).sum())
    low, high = wilson(right, len(labels))
    print(
        f"{100 * right / len(labels):.2f} % correct on {images.name} ({name}): {right:,} of "
        f"{len(labels):,}; 95 % interval {100 * low:.1f} to {100 * high:.1f} %"
    )
    folder.mkdir(parents=True, exist_ok=True)
    files = images.splits[EVALUATED].files or range(len(labels))
    truths, predicted = ([model.classes[i] for i in of.tolist()] for of in (labels, guesses))
    table = zip(files, truths, predicted, best.tolist(), strict=True)
    path = folder / "predictions.csv"
    write_csv(path, [dict(zip(COLUMNS, row, strict=True)) for row in table], COLUMNS)
    print(f"all predictions: {path}")


if __name__ == "__main__":
    cli.run(main, Options, "evaluate")
