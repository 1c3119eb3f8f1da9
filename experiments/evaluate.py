"""Evaluate a checkpoint on a folder of images: accuracy, each class, most confident mistakes.

    python -m experiments.evaluate CHECKPOINT DIR
    python -m experiments.evaluate --model resnet50 --weights IMAGENET1K_V2 imagenet/val

DIR: a folder with train/CLASS/ and test/CLASS/ (or else val/), of which the latter is used; or one
folder of classes; or cifar10. From one folder of classes, images that the checkpoint was trained on
or chosen by are left out. A checkpoint lists these images only if there are at most 60,000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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

    images = whole_folder(source) if Path(source.data).is_dir() else None
    if images is None:
        images = open_dataset(source, 0, 0)
        name, part = images.tested_on, images.splits[images.tested_on]
    else:
        name, part = "all images", images.splits["whole"]
        digits = str(model.metrics.get("seen", ""))
        seen = {digits[i : i + 8] for i in range(0, len(digits), 8)}
        new = [i for i, file in enumerate(part.files) if not seen or checksum(file) not in seen]
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

    For ImageNet's 1,000 classes, folders may be named by WordNet ids or class numbers.
    """
    import torch

    from data.listing import some

    known = {name: label for label, name in enumerate(model.classes)}
    if not known.keys() & set(images.classes) and (ids := imagenet_ids(images.classes, model)):
        known, first = ids, min(ids)
        what = "folder names are taken as ImageNet's WordNet ids or class numbers"
        images.notes.append(f"{what}: {first} is {model.classes[ids[first]]}, and so on")
    if unknown := set(images.classes) - set(known):
        why = f"the checkpoint does not know {some(unknown)}; it knows {some(model.classes)}"
        fix = "rename or remove the folders; or rename the checkpoint's classes: --classes"
        raise DataError("; ".join((why, *images.notes)), images.source.data, fix)
    return torch.tensor([known[name] for name in images.classes])


def imagenet_ids(names: Sequence[str], model: Classifier) -> dict[str, int]:
    """The class number of each name that is a WordNet id (n01440764) or a number (0 to 999).

    Empty if the model's classes are not ImageNet's.
    """
    if len(model.classes) != 1000 or not model.classes[0].startswith("tench"):
        return {}
    ids = IMAGENET_IDS.read_text(encoding="utf-8").split()
    numbers = {name: number for number, name in enumerate(ids)}
    numbers |= {name: int(name) for name in names if name.isdecimal() and int(name) < len(ids)}
    return {name: numbers[name] for name in names if name in numbers}


def evaluate_on(model: Classifier, images: ImageDataset, batch_size: int) -> Tensor:
    """Logits float32 (N, K) of all images, in order, on the CPU."""
    from data.view_batches import every_image
    from experiments.classifier import FP32
    from experiments.train.loop import infer

    device = next(model.model.parameters()).device
    labels, viewed = images.labels(EVALUATED), images.images(EVALUATED, model.view)
    batches = every_image(viewed, labels, model.view, batch_size, device, images.loaders)
    bar = Progress(batches, "evaluating", math.ceil(len(labels) / batch_size))
    return infer(model.model.eval(), bar, FP32)[0]


def draw_figures(
    model: Classifier, images: ImageDataset, scores: Tensor, folder: Path
) -> list[Path]:
    """Draw the confusion matrix, a sheet of samples, and one of the most confident mistakes.

    Returns the paths of the figures.
    """
    from sklearn.metrics import confusion_matrix

    from data.images import load_image
    from experiments.drawing.sheet import LabelledImage, draw_confusion, draw_sheet, thumbnail

    labels, guesses, title = images.labels(EVALUATED), scores.argmax(1), images.name
    matrix = confusion_matrix(labels, guesses, labels=range(len(model.classes)))
    paths = [folder / "confusion.png"]
    draw_confusion(paths[0], labels.new_tensor(matrix), model.classes)
    viewed, files = images.images(EVALUATED, model.view), images.splits[EVALUATED].files

    def sheet(name: str, places: Sequence[int], words: str) -> None:
        cells = []
        for i in places:
            best, order = scores[i].topk(min(3, len(model.classes)))
            cells.append(LabelledImage(
                # Full-size photos would take gigabytes.
                thumbnail(load_image(files[i])) if files else viewed[i],
                Path(files[i]).name if files else f"image {i}",
                tuple(model.classes[j] for j in order), tuple(best.tolist()),
                model.classes[int(labels[i])],
            ))  # fmt: skip
        draw_sheet(folder / name, cells, words)
        paths.append(folder / name)

    step = max(1, len(labels) // SHOWN)
    sheet("samples.png", range(0, len(labels), step)[:SHOWN], f"{title}: samples")
    wrong = (guesses != labels).nonzero().flatten()
    if len(wrong):
        surest = wrong[scores[wrong].max(1).values.argsort(descending=True, stable=True)]
        words = f"{title}: the most confident of {len(wrong)} mistakes"
        sheet("mistakes.png", surest[:SHOWN].tolist(), words)
    return paths


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
        from experiments.classifier import CORES, about, open_classifier
        from experiments.plumbing.device import choose_device

        device, why = choose_device(options.device)
        model = open_classifier(
            options.inputs[0], options.model, options.weights, options.classes, options.preprocess
        )
        model.model.to(device)
    print(f"{about(model)}; device {why}")
    source = Source(options.inputs[-1], skip_bad=options.skip_bad)
    with doing(f"scanning {source.data}"):
        name, images = to_evaluate(source, model)
    images.workers = images.loaders = CORES if options.workers is None else options.workers
    with doing("decoding the images"):
        images.images(EVALUATED, model.view)  # leaves out bad images if --skip-bad allows it
    for note in images.notes:
        print(f"  {note}")
    with doing(f"evaluating {len(images.labels(EVALUATED)):,} images"):
        scores = evaluate_on(model, images, options.batch_size).double().softmax(1)
    show_results(model, images, name, scores, options.output_dir)
    with doing("drawing the figures"):
        figures = draw_figures(model, images, scores, options.output_dir)
    for figure in figures:
        print(f"figure: {figure}")


def show_results(
    model: Classifier, images: ImageDataset, name: str, scores: Tensor, folder: Path
) -> None:
    """Print the table of classes and the accuracy; write every prediction to `folder`."""
    from sklearn.metrics import classification_report  # slow to import: not before it is needed

    from experiments.plumbing.results import write_csv
    from experiments.plumbing.stats import wilson

    labels, (best, guesses) = images.labels(EVALUATED), scores.max(1)
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
    truths = [model.classes[i] for i in labels.tolist()]
    predicted = [model.classes[i] for i in guesses.tolist()]
    table = zip(files, truths, predicted, best.tolist(), strict=True)
    path = folder / "predictions.csv"
    write_csv(path, [dict(zip(COLUMNS, row, strict=True)) for row in table], COLUMNS)
    print(f"all predictions: {path}")


if __name__ == "__main__":
    cli.run(main, Options, "evaluate")
