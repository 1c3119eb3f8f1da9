"""Find out how a network's images must be prepared, by trying it on labelled images.

    python -m experiments.diagnose resnet50_model.pth my_images

A file of weights rarely says how its training images were prepared, and a wrong preprocessing only
lowers the accuracy. This command recognises the network and compares sizes, crops, normalisations,
RGB with BGR, batch norm's modes, and orders of the classes (plumbing/diagnosis.py).
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import tyro

from data.errors import DataError, printable
from experiments.plumbing import cli
from experiments.plumbing.cli import doing

if TYPE_CHECKING:
    from experiments.plumbing.diagnosis import Trial

SHOWN = 12  # rows of the table


@dataclass(frozen=True)
class Options:
    """Find the preprocessing of a file of weights, and write a file that predict accepts."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A .pth or .safetensors file."""
    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER")]
    """Labelled images: one folder per class; or with test/ or val/, which is then used."""
    images: int = 400
    """How many images to try, with balanced classes."""
    output: cli.Folder = None
    """The .safetensors file to write, with class names and the preprocessing found."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..., or mps (not tested)."""


def main(options: Options) -> None:
    """Print the table and the verdict, and write the file."""
    cli.check_numbers(options, {"images": (20, 10**6)})
    if options.output:
        cli.check_file("--output", options.output, ".safetensors")
    with doing(f"reading {options.model}"):
        # Not at the top: importing torch takes seconds, and --help does not need it.
        from experiments.classifier import network_of, save_classifier
        from experiments.plumbing import diagnosis
        from experiments.plumbing.device import choose_device
        from zoo.weights.load import open_weights

        device, why = choose_device(options.device)
        weights = open_weights(options.model)
        name, model = network_of(weights)
        outputs = model.to(device).head.out_features
    with doing(f"listing the images in {options.folder}"):
        stored = weights.metadata.classes
        dataset, classes = diagnosis.labelled(options.folder, options.images, stored, outputs)
    count = len(dataset.labels(diagnosis.TRIED))
    print(f"{name} with {outputs} outputs, {count} labelled images; device {why}")
    found = diagnosis.trials(model, dataset, device)
    for note in dataset.notes:
        print(f"  {note}")
    if (order := diagnosis.class_order(found, outputs)) is not None:
        found = [replace(trial, labels=order[trial.labels]) for trial in found]
        classes = tuple(classes[label] for label in order.argsort())
        print(f"the classes are in another order: {printable(', '.join(classes))}")
    chosen = show(found)
    if chosen is None:
        if options.output:
            fix = (
                "see the verdict above; or choose one: python -m experiments.convert, --preprocess"
            )
            raise DataError("nothing is written: the verdict names none", options.folder, fix)
    elif options.output:
        path = options.output.with_suffix(".safetensors")
        view = diagnosis.as_rgb(model, chosen.view) if chosen.bgr else chosen.view
        metrics = {"accuracy": float(chosen.right.double().mean()), "images": len(chosen.labels)}
        save_classifier(path, name, model, classes, view, metrics)
        print(f"network, class names and preprocessing: {path}")
        print(f"use it: python -m experiments.predict {shlex.quote(str(path))} IMAGES")
    else:
        print("to use it: repeat with --output FILE.safetensors, then predict with this file")


def show(found: list[Trial]) -> Trial | None:
    """Print the table and the verdict; return the trial to use, if one can tell."""
    from experiments.plumbing import diagnosis
    from experiments.plumbing.tables import Rows, print_report

    found = sorted(found, key=lambda trial: (-int(trial.right.sum()), trial.loss))
    header = "images prepared by", "accuracy", "95 % interval", "loss"
    text, chosen = diagnosis.verdict(found)
    rows = Rows(header, [trial.row for trial in found[:SHOWN]])
    print_report([rows, f"The best of {len(found)} trials. {text}"])
    return chosen


if __name__ == "__main__":
    cli.run(main, Options, "diagnose")
