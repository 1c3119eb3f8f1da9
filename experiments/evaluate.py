"""How good a checkpoint is on a folder of pictures, class by class, and where it is surely wrong.

    python -m experiments.evaluate CHECKPOINT DIR
    python -m experiments.evaluate --model resnet50 --weights IMAGENET1K_V2 imagenet/val

DIR: train/CLASS/ and test/CLASS/ (or else val/), which is evaluated on; or one folder of classes;
or cifar10. Pictures of one folder that the checkpoint was trained on or chosen by are left out,
unless those were more than 60,000: then it does not list them.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from sklearn.metrics import classification_report
from torch import Tensor
from tqdm import tqdm

from data.collection import (
    PictureSet,
    Source,
    Split,
    checksum,
    open_pictures,
    whole_folder,
)
from data.errors import DataError
from data.images import load_image
from data.view_batches import every_image
from experiments.classifier import FP32, Classifier, about, open_classifier
from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError
from experiments.plumbing.progress import doing
from experiments.plumbing.results import write_csv
from experiments.plumbing.stats import wilson
from experiments.train import infer

BATCH = 64
SHOWN = 20  # pictures on a sheet
EVALUATED = "evaluated"  # the name of the split
WORDNET = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Options:
    """Accuracy, per-class table, confusion matrix and the surest mistakes of a checkpoint."""

    inputs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PATH ...")]
    """A best.safetensors or last.safetensors of experiments.transfer, then the folder of pictures;
    or with --model only the folder."""
    model: str | None = None
    """Instead of a checkpoint: an ImageNet model of the zoo."""
    weights: str = "DEFAULT"
    """With --model: the name of published weights."""
    skip_bad: bool = False
    """Go on without pictures that cannot be decoded."""
    output_dir: Path = Path("runs/evaluation")
    """Where the figures and predictions.csv go."""


def to_evaluate(source: Source, model: Classifier) -> tuple[str, PictureSet]:
    """What to evaluate on, in words, and its pictures: one split, with the checkpoint's labels."""
    pictures = whole_folder(source) if Path(source.data).is_dir() else None
    if pictures is None:
        pictures = open_pictures(source, 0, 0)
        name, part = pictures.tested_on, pictures.splits[pictures.tested_on]
    else:
        name, part = "all of it", pictures.splits["whole"]
        if not part.files:
            raise DataError(
                "no folder in here has pictures, so there are no classes",
                source.data,
                "name the folder above the class folders",
            )
        digits = str(model.metrics.get("seen", ""))
        seen = {digits[i : i + 8] for i in range(0, len(digits), 8)}
        new = [i for i, file in enumerate(part.files) if not seen or checksum(file) not in seen]
        if len(new) < len(part.files):
            pictures.notes.append(
                f"left out: {len(part.files) - len(new)} pictures that the checkpoint was trained "
                "on or chosen by"
            )
            name, part = "those it has not seen", part.chosen(torch.tensor(new, dtype=torch.int64))
    if not len(part.labels):
        raise DataError(
            "there are no pictures here that the checkpoint has not seen",
            source.data,
            "name a folder of other pictures, one folder a class",
        )
    places = labels_of(pictures, model)
    pictures.splits = {EVALUATED: Split(places[part.labels], part.files, part.images)}
    return name, pictures


def labels_of(pictures: PictureSet, model: Classifier) -> Tensor:
    """The checkpoint's label of each class of the pictures, by name."""
    known = {name: label for label, name in enumerate(model.classes)}
    if len(pictures.classes) == len(known) and all(map(WORDNET.fullmatch, pictures.classes)):
        return torch.arange(len(known))  # ImageNet's n01440764 ... are sorted as its classes are
    unknown = sorted(set(pictures.classes) - set(known))
    if unknown or not pictures.classes:
        raise DataError(
            f"the checkpoint does not know {', '.join(unknown) or 'any class'}; its classes are "
            f"{', '.join(model.classes[:20])}" + " ..." * (len(model.classes) > 20),
            pictures.source.data,
            "rename or remove the folder; names come from the checkpoint only",
        )
    return torch.tensor([known[name] for name in pictures.classes])


def evaluate_on(model: Classifier, pictures: PictureSet, split: str) -> Tensor:
    """Logits float32 (N, K) of every picture, in order."""
    labels = pictures.labels(split)
    batches = every_image(
        pictures.pictures(split, model.view), labels, model.view, BATCH, torch.device("cpu"),
    )  # fmt: skip
    total = math.ceil(len(labels) / BATCH)
    bar = tqdm(batches, total=total, unit="batch", leave=False, disable=None)
    return infer(model.model.eval(), bar, FP32)[0]


def confusion(labels: Tensor, guesses: Tensor, classes: int) -> Tensor:
    """int64 (classes, classes): rows are true classes, columns predicted ones."""
    return (labels * classes + guesses).bincount(minlength=classes**2).view(classes, classes)


def draw(
    model: Classifier, pictures: PictureSet, split: str, scores: Tensor, title: str, folder: Path
) -> list[Path]:
    """The confusion matrix, a sheet of pictures, and one of the surest mistakes."""
    from experiments.drawing.sheet import (  # matplotlib: slow to import
        LabelledImage,
        draw_confusion,
        draw_sheet,
    )

    labels, guesses = pictures.labels(split), scores.argmax(1)
    matrix = confusion(labels, guesses, len(model.classes))
    draw_confusion(folder / "confusion.png", matrix, model.classes)
    shown = pictures.pictures(split, model.view)
    files = pictures.splits[split].files

    def sheet(name: str, places: Sequence[int], words: str) -> Path:
        cells = []
        for i in places:
            best, order = scores[i].topk(min(3, len(model.classes)))
            image = load_image(files[i], files[i]) if files else shown[i]
            cells.append(LabelledImage(
                image, Path(files[i]).name if files else f"picture {i}",
                tuple(model.classes[j] for j in order), tuple(best.tolist()),
                model.classes[int(labels[i])],
            ))  # fmt: skip
        draw_sheet(folder / name, cells, words)
        return folder / name

    step = max(1, len(labels) // SHOWN)
    paths = [folder / "confusion.png"]
    paths.append(sheet("samples.png", range(0, len(labels), step)[:SHOWN], f"{title}: samples"))
    wrong = (guesses != labels).nonzero().flatten()
    if len(wrong):
        surest = wrong[scores[wrong].max(1).values.argsort(descending=True, stable=True)]
        title = f"{title}: the surest of {len(wrong)} mistakes"
        paths.append(sheet("mistakes.png", surest[:SHOWN].tolist(), title))
    return paths


def main(options: Options) -> None:
    wanted = 1 if options.model else 2
    if len(options.inputs) != wanted:
        raise UsageError(
            f"{wanted} paths are needed, and {len(options.inputs)} are given",
            "python -m experiments.evaluate " + " ".join(options.inputs),
            "CHECKPOINT DIR, or --model resnet50 DIR",
        )
    cli.check_folder(options.output_dir)
    with doing("loading the network"):
        model = open_classifier(options.inputs[0], options.model, options.weights)
    print(about(model))
    source = Source(options.inputs[-1], skip_bad=options.skip_bad)
    with doing(f"looking through {source.data}"):
        name, pictures = to_evaluate(source, model)
    with doing("decoding the images"):
        pictures.pictures(EVALUATED, model.view)  # and leaves out what it may
    for note in pictures.notes:
        print(f"  {note}")
    labels = pictures.labels(EVALUATED)
    with doing(f"evaluating {len(labels):,} pictures"):
        scores = evaluate_on(model, pictures, EVALUATED).double().softmax(1)
    guesses = scores.argmax(1)
    right = int((guesses == labels).sum())
    print(classification_report(
        labels, guesses, labels=range(len(model.classes)), target_names=model.classes,
        digits=3, zero_division=math.nan,
    ))  # fmt: skip
    low, high = wilson(right, len(labels))
    print(
        f"{100 * right / len(labels):.2f} % right on {pictures.name} ({name}): {right:,} of "
        f"{len(labels):,}; 95 % interval {100 * low:.1f} to {100 * high:.1f} %"
    )
    options.output_dir.mkdir(parents=True, exist_ok=True)
    files = pictures.splits[EVALUATED].files or [str(i) for i in range(len(labels))]
    rows = [
        {"picture": file, "truth": model.classes[truth], "label": model.classes[guess], "score": s}
        for file, truth, guess, s in zip(
            files, labels.tolist(), guesses.tolist(), scores.max(1).values.tolist(), strict=True
        )
    ]
    columns = ("picture", "truth", "label", "score")
    write_csv(options.output_dir / "predictions.csv", rows, columns)
    with doing("drawing the figures"):
        figures = draw(model, pictures, EVALUATED, scores, pictures.name, options.output_dir)
    for path in figures:
        print(f"figure: {path}")
    print(f"every prediction: {options.output_dir / 'predictions.csv'}")


if __name__ == "__main__":
    cli.run(main, Options, "evaluate")
