"""How good a checkpoint is on a folder of pictures, class by class, and where it is surely wrong.

    python -m experiments.evaluate CHECKPOINT DIR

DIR: test/CLASS/ (or val/), or one folder of classes. The folder that a checkpoint's own split was
drawn from is split the same way again, and only its test part counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console
from torch import Tensor
from tqdm import tqdm

from data.errors import DataError
from data.images import load_image
from data.random_batches import every_picture
from experiments import cli
from experiments.classifier import FP32, Classifier, load_model
from experiments.pictures import PictureSet, Source, Split, fingerprint, open_pictures
from experiments.predict import about
from experiments.report import print_table
from experiments.run import csv_of
from experiments.train import forward
from zoo.weights.atomic import write_atomic

SHOWN = 20  # pictures on a sheet


@dataclass(frozen=True)
class Options:
    """Accuracy, per-class table, confusion matrix and the surest mistakes of a checkpoint."""

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """A best.safetensors or last.safetensors of experiments.transfer."""
    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    """Pictures, or cifar10."""
    skip_bad: bool = False
    """Go on without pictures that cannot be decoded."""
    output_dir: Path = Path("runs/evaluation")
    """Where the figures and predictions.csv go."""


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927): holds near 0 and 1, and for small n."""
    z = 1.959964
    middle = (right + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(right * (n - right) / n + z * z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def choose_split(pictures: PictureSet, model: Classifier) -> tuple[str, Split]:
    """What to evaluate on, in words, and its pictures with the checkpoint's labels."""
    name, part = pictures.tested_on, pictures.splits[pictures.tested_on]
    same = model.metrics.get("split") == fingerprint(pictures.table)
    if pictures.test_is_drawn and not same:
        name, parts = "all of it", list(pictures.splits.values())
        part = Split(torch.cat([p.labels for p in parts]), sum((p.files for p in parts), start=()))
    unknown = sorted(set(pictures.classes) - set(model.classes))
    if unknown:
        raise DataError(
            f"the checkpoint does not know {', '.join(unknown)}; its classes are "
            f"{', '.join(model.classes[:20])}",
            pictures.source.data,
            "rename or remove the folder; names come from the checkpoint only",
        )
    places = torch.tensor([model.classes.index(label) for label in pictures.classes])
    return name, Split(places[part.labels], part.files, part.images)


def evaluate_on(model: Classifier, pictures: PictureSet, split: str) -> Tensor:
    """Logits float32 (N, K) of every picture, in order."""
    labels = pictures.labels(split)
    batches = every_picture(
        pictures.pictures(split, model.view), labels, model.view, 64, torch.device("cpu"),
    )  # fmt: skip
    rows = []
    with torch.no_grad(), tqdm(total=len(labels), leave=False, disable=None) as bar:
        for images, answers in batches:
            rows.append(forward(model.model, images, FP32))
            bar.update(len(answers))
    return torch.cat(rows)


def confusion(labels: Tensor, guesses: Tensor, classes: int) -> Tensor:
    """int64 (classes, classes): rows are true classes, columns predicted ones."""
    return (labels * classes + guesses).bincount(minlength=classes**2).view(classes, classes)


def class_lines(matrix: Tensor, classes: Sequence[str]) -> list[list[str]]:
    lines = []
    for label, name in enumerate(classes):
        n, right, said = (int(v) for v in (matrix[label].sum(), matrix[label, label],
                                           matrix[:, label].sum()))  # fmt: skip
        recall = f"{100 * right / n:.1f}" if n else "-"
        precision = f"{100 * right / said:.1f}" if said else "-"
        mistakes = matrix[label].clone()
        mistakes[label] = 0
        worst = classes[int(mistakes.argmax())] if mistakes.any() else "-"
        lines.append([name, f"{n:,}", f"{right:,}", recall, precision, worst])
    return lines


def draw(
    model: Classifier, pictures: PictureSet, split: str, scores: Tensor, title: str, folder: Path
) -> list[Path]:
    """The confusion matrix, a sheet of pictures, and one of the surest mistakes."""
    from experiments.sheets import Shown, draw_confusion, draw_sheet  # matplotlib: slow to import

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
            cells.append(Shown(
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
    model = load_model(options.checkpoint)
    print(about(model))
    pictures = open_pictures(Source(options.data, skip_bad=options.skip_bad), 0, 0)
    for note in pictures.notes:
        print(f"  {note}")
    name, part = choose_split(pictures, model)
    pictures.splits = {"evaluated": part}
    pictures.pictures("evaluated", model.view)  # decodes, and leaves out what it may
    labels = pictures.labels("evaluated")
    scores = evaluate_on(model, pictures, "evaluated").double().softmax(1)
    guesses = scores.argmax(1)
    right = int((guesses == labels).sum())
    matrix = confusion(labels, guesses, len(model.classes))
    header = ("class", "pictures", "right", "recall %", "precision %", "most mistaken for")
    print_table(header, class_lines(matrix, model.classes), Console())
    low, high = wilson(right, len(labels))
    print(
        f"{100 * right / len(labels):.2f} % right on {pictures.name} ({name}): {right:,} of "
        f"{len(labels):,}; 95 % interval {100 * low:.1f} to {100 * high:.1f} %"
    )
    options.output_dir.mkdir(parents=True, exist_ok=True)
    files = pictures.splits["evaluated"].files or [str(i) for i in range(len(labels))]
    rows = [
        {"picture": file, "truth": model.classes[truth], "label": model.classes[guess], "score": s}
        for file, truth, guess, s in zip(
            files, labels.tolist(), guesses.tolist(), scores.max(1).values.tolist(), strict=True
        )
    ]
    text = csv_of(rows, ("picture", "truth", "label", "score"))
    write_atomic(options.output_dir / "predictions.csv", text.encode())
    for path in draw(model, pictures, "evaluated", scores, pictures.name, options.output_dir):
        print(f"figure: {path}")
    print(f"every prediction: {options.output_dir / 'predictions.csv'}")


if __name__ == "__main__":
    cli.run(main, Options, "evaluate")
