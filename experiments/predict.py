"""Predict the classes of images with a trained network.

    python -m experiments.predict CHECKPOINT IMAGES ...
    python -m experiments.predict --model resnet50 --weights IMAGENET1K_V2 IMAGES ...
    python -m experiments.predict resnet50_model.pth IMAGES --classes cat,dog --preprocess bootcamp

IMAGES: files, folders or patterns like 'holiday/*.jpg'. In a notebook: experiments/classifier.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from data.errors import DataError, printable
from data.progress import say
from experiments.plumbing import cli
from experiments.plumbing.cli import doing

if TYPE_CHECKING:
    from experiments.classifier import Classifier

SHOWN = 30  # images on the sheet


@dataclass(frozen=True)
class Options:
    """Print the most probable classes of each image."""

    inputs: cli.Paths
    """A file of weights, the folder of a run of experiments.transfer, or hf:OWNER/NAME; then
    images. With --model, only images."""
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
    k: int = 5
    """How many classes to print per image (at most all)."""
    json: bool = False
    """Print one JSON document and nothing else: a list with one line per image,
    {"image": PATH, "predictions": [{"label", "score"}, ...]};
    "predictions" is null if the image cannot be decoded."""
    sheet: Annotated[Path | None, cli.shown("FILE.png")] = None
    """Draw the first images with their labels, too."""
    batch_size: int = 32
    """Images per batch."""
    workers: cli.Count = None
    """Processes that decode images (default: 0 on a CPU; on a GPU one per core, up to 8)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..., or mps (not tested)."""


def main(options: Options) -> int:
    """Print and draw predictions; return 0, or DataError's exit code if an image is undecodable."""
    cli.check_numbers(options, {"k": (1, 10**6), "batch_size": (1, 10**5), "workers": (0, 256)})
    if options.sheet:
        cli.check_file("--sheet", options.sheet, ".png")
    with doing("loading the network"):
        # Not at the top: importing torch takes seconds, and --help does not need it.
        from experiments.classifier import CORES, find_images, open_classifier, predictions

        paths = find_images(options.inputs if options.model else options.inputs[1:])
        model, opened = open_classifier(options)
    if not options.json:
        print(opened)
    # On a CPU the network itself uses every core.
    usual = CORES if model.device.type == "cuda" else 0
    workers = usual if options.workers is None else options.workers
    answers = predictions(model, paths, options.k, options.batch_size, workers)
    with doing("decoding and classifying"):
        good, first = show(answers, len(paths), options.json)
    if options.sheet and good:
        with doing("drawing the sheet"):
            draw_predictions(options, options.sheet, model, good, first)
    return 0 if good == len(paths) else cli.EXIT_CODES[DataError]


def show(
    answers: Iterable[tuple[Path, list[dict] | DataError]], images: int, as_json: bool
) -> tuple[int, dict[Path, list[dict]]]:
    """Print each answer as it arrives; return the number of decoded images and the first answers.

    Only the first SHOWN answers are kept: all classes of many images would fill the memory.
    """
    good, first = 0, {}
    for number, (path, answer) in enumerate(answers, 1):
        guesses = None if isinstance(answer, DataError) else answer
        if guesses is None:
            say(str(answer), sys.stderr)
        elif (good := good + 1) <= SHOWN:
            first[path] = guesses
        if as_json:
            # In ASCII if the output or the path's bytes are not UTF-8.
            utf8 = (sys.stdout.encoding or "ascii").lower() == "utf-8" and str(path).isprintable()
            line = json.dumps({"image": str(path), "predictions": guesses}, ensure_ascii=not utf8)
            say(("[" if number == 1 else " ") + line + ("]" if number == images else ","))
        else:
            words = [f"{guess['label']} {100 * guess['score']:.1f} %" for guess in guesses or ()]
            say(printable(f"{path}  {', '.join(words) or 'cannot be decoded'}"))
    return good, first


def draw_predictions(
    options: Options, sheet: Path, model: Classifier, good: int, first: dict[Path, list[dict]]
) -> None:
    """Draw the first images with their predicted classes."""
    from data.images import load_image
    from experiments.classifier import on_sheet
    from experiments.drawing.sheet import draw_sheet

    images = [on_sheet(load_image(str(p)), p.name, answer) for p, answer in first.items()]
    title = f"{Path(model.source).parent.name} {Path(model.source).name}".strip()
    if good > len(first):
        title += f": the first {len(first)} of {good} images"
    draw_sheet(sheet, images, title)
    print(f"sheet: {sheet}", file=sys.stderr if options.json else sys.stdout)


if __name__ == "__main__":
    cli.run(main, Options, "predict")
