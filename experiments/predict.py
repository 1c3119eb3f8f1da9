"""What a trained network sees in pictures.

    python -m experiments.predict CHECKPOINT PICTURES ...
    python -m experiments.predict --model resnet50 --weights IMAGENET1K_V2 PICTURES ...

PICTURES: files, folders or patterns like 'holiday/*.jpg'. In a notebook: experiments/classifier.py.
"""

import glob
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from data.decoding import decode_all
from data.errors import DataError
from data.images import load_image
from data.listing import EXTENSIONS, Listing
from experiments.classifier import Classifier, about, open_classifier, top_k
from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError, doing
from experiments.plumbing.tables import Rows, print_report

BATCH = 32


@dataclass(frozen=True)
class Options:
    """Name what is in pictures, with probabilities."""

    inputs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PATH ...")]
    """A checkpoint of experiments.transfer, then pictures; or with --model only pictures."""
    model: str | None = None
    """Instead of a checkpoint: an ImageNet model of the zoo."""
    weights: str = "DEFAULT"
    """With --model: the name of published weights."""
    k: int = 5
    """How many classes to name (at most all)."""
    json: bool = False
    """Print a list of {"label", "score"} a picture, and nothing else."""
    sheet: Path = Path("runs/predictions.png")
    """Where to draw the pictures with their labels."""


def find_pictures(inputs: Sequence[str]) -> list[Path]:
    """The files that paths, folders and patterns name, each once, in the order given."""
    found: dict[Path, None] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            listing = Listing(path)
            files = [path / name for name in listing.files("") if name.lower().endswith(ENDINGS)]
            print(*listing.sentences(), sep="\n", end="\n" * bool(listing.notes), file=sys.stderr)
            if not files:
                what = "there are no images in this folder"
                raise DataError(what, path, f"looked for {', '.join(ENDINGS)}")
            found |= dict.fromkeys(files)
        elif path.exists() or not glob.has_magic(text):
            found[path] = None  # one that does not exist is reported as what it is
        else:
            matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207  also absolute ones
            if not matches:
                raise DataError("no file fits this pattern", text, "check its folder and its *")
            found |= dict.fromkeys(Path(match) for match in matches if Path(match).is_file())
    return list(found)


ENDINGS = (*EXTENSIONS, ".gif")


def predictions(
    model: Classifier, paths: Sequence[Path], k: int
) -> Iterator[tuple[Path, list[dict] | DataError]]:
    """For each file its k most probable classes, or why it cannot be decoded."""
    for first in range(0, len(paths), BATCH):
        chunk = paths[first : first + BATCH]
        images = list(decode_all(list(map(str, chunk)), model.view, workers=0))
        good = [image for image in images if isinstance(image, Tensor)]
        answers = iter(top_k(model, model.logits(torch.stack(good)), k) if good else ())
        for path, image in zip(chunk, images, strict=True):
            yield path, image if isinstance(image, DataError) else next(answers)


def main(options: Options) -> int:
    cli.check_numbers(options, {"k": (1, 10**6)})
    cli.check_file("--sheet", options.sheet, ".png")
    names = options.inputs if options.model else options.inputs[1:]
    if not names:
        raise UsageError(
            "no pictures are named",
            "python -m experiments.predict " + " ".join(options.inputs),
            "CHECKPOINT PICTURES ..., or --model resnet50 PICTURES ...",
        )
    with doing("loading the network"):
        model = open_classifier(options.inputs[0], options.model, options.weights)
    if not options.json:
        print(about(model))
    answers: dict[Path, list[dict] | None] = {}
    with doing("decoding and classifying"):
        for path, answer in predictions(model, find_pictures(names), options.k):
            answers[path] = None if isinstance(answer, DataError) else answer
            if isinstance(answer, DataError):
                print(answer, file=sys.stderr)
    if options.json:
        as_ascii = (sys.stdout.encoding or "ascii").lower() != "utf-8"
        print(json.dumps(list(answers.values()), ensure_ascii=as_ascii, indent=1))
    else:
        print_report([Rows(("image", "label", "%"), lines(answers), ("---", "---", "---:"))])
    with doing("drawing the sheet"):
        draw(options, model, answers)
    return cli.EXIT_CODES[DataError] if None in answers.values() else 0


def lines(answers: Mapping[Path, list[dict] | None]) -> list[list[str]]:
    found = []
    for path, answer in answers.items():
        rows = [[guess["label"], f"{100 * guess['score']:.1f}"] for guess in answer or ()]
        for place, row in enumerate(rows or [["cannot be decoded", ""]]):
            found.append(["" if place else str(path), *row])
    return found


def draw(options: Options, model: Classifier, answers: Mapping[Path, list[dict] | None]) -> None:
    from experiments.drawing.sheet import MOST_IMAGES, LabelledImage, draw_sheet  # matplotlib

    good = [(path, answer) for path, answer in answers.items() if answer]
    if not good:
        return
    shown = [
        LabelledImage(
            load_image(str(path)), path.name, tuple(guess["label"] for guess in answer),
            tuple(guess["score"] for guess in answer),
        )
        for path, answer in good[:MOST_IMAGES]
    ]  # fmt: skip
    title = f"{Path(model.source).parent.name} {Path(model.source).name}".strip()
    if len(good) > len(shown):
        title += f": the first {len(shown)} of {len(good)} images"
    draw_sheet(options.sheet, shown, title)
    print(f"sheet: {options.sheet}", file=sys.stderr if options.json else sys.stdout)


if __name__ == "__main__":
    cli.run(main, Options, "predict")
