"""Write a file of weights again with another library's names."""

from dataclasses import asdict
from pathlib import Path

import zoo
from data.views import View
from experiments.classifier import network_of
from experiments.plumbing.class_names import class_names
from experiments.plumbing.cli import UsageError, doing
from experiments.plumbing.preprocess import view_for
from zoo.networks import Network
from zoo.vit import ViT
from zoo.weights.files import Metadata, write_weights
from zoo.weights.hub import write_folder
from zoo.weights.identify import recognise
from zoo.weights.load import open_weights
from zoo.weights.settings import settings_of


def convert(
    source: str, output: Path, to: str, requested: str | None, preprocess: str | None
) -> None:
    """Write the weights of `source` with the names of the library `to`.

    `requested`, `preprocess`: the options --classes and --preprocess. Raises WeightsError for
    weights that fit no network or several, UsageError for class names that do not fit the head.
    """
    with doing(f"reading {source}"):
        weights = open_weights(source)
        name, model = network_of(weights)
    stored = weights.metadata.classes
    classes = class_names(requested, stored, model.head.out_features, weights.source)
    if output.suffix in ("", ".safetensors") or to == "zoo":
        view = view_for(weights, name, model, preprocess)
        if not output.suffix:
            write_as_folder(output, name, model, classes, view)
            return
        metadata = Metadata(name, settings_of(model), classes, asdict(view))
        note = f" and {len(classes)} class names" if classes else ""
    elif requested or preprocess:
        why = f"a .pth file with {to}'s names has no place for class names or preprocessing"
        raise UsageError(why, output, "write a .safetensors file, or --to zoo")
    else:
        metadata, note = Metadata(), ""
        if classes:
            note = f" (without the {len(classes)} class names, which this format cannot store)"
    tensors = zoo.export(model, to)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_weights(output, tensors, metadata)
    dialects = f"{recognise(weights).name} -> {to}"
    print(f"{name}, {dialects}: {output} holds {len(tensors)} entries{note}")


def write_as_folder(
    folder: Path, name: str, model: Network, classes: tuple[str, ...] | None, view: View
) -> None:
    """Write a ViT as a folder in the Hugging Face Hub's layout; UsageError for other networks."""
    if not isinstance(model, ViT) or settings_of(model)["block"] != "residual":
        why = f"only ViTs can be written as folders, and this is {name}"
        raise UsageError(why, folder, "give an output that ends in .safetensors or .pth")
    classes = classes or tuple(f"LABEL_{place}" for place in range(model.head.out_features))
    write_folder(folder, name, model, classes, asdict(view))
    print(f"{name}: transformers' from_pretrained and pipeline can load {folder}")
