"""A file of weights, written again in another library's names."""

from dataclasses import asdict
from pathlib import Path

import zoo
from experiments.classifier import built_for, default_view
from experiments.plumbing.cli import UsageError, doing
from zoo import WeightsError
from zoo.networks import Network
from zoo.vit import ViT
from zoo.weights.files import Metadata, Weights, write_weights
from zoo.weights.hub import write_folder
from zoo.weights.identify import identify, recognise
from zoo.weights.load import fill, open_weights
from zoo.weights.settings import settings_of


def convert(source: str, output: Path, to: str, given: str | None) -> None:
    """Write the weights of `source` in the names of `to`; `given`: class names as a,b,c.

    Raises WeightsError for weights that do not fit, UsageError for class names that do not.
    """
    with doing(f"reading {source}"):
        weights = open_weights(source)
        name, model = network_of(weights)
    classes = class_names(given, weights.metadata.classes, model.head.out_features)
    if not output.suffix:
        write_as_folder(output, name, model, classes, weights)
        return
    metadata, note = Metadata(), ""
    if output.suffix == ".safetensors" or to == "zoo":
        metadata = Metadata(name, settings_of(model), classes, weights.metadata.preprocess)
        note = f" and {len(classes)} class names" if classes else ""
    elif given:
        why = f"a .pth file in {to}'s names has no place for class names"
        raise UsageError(why, output, "write a .safetensors file, or --to zoo")
    elif classes:
        note = f" (without the {len(classes)} class names, for which this file has no place)"
    tensors = zoo.export(model, to)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_weights(output, tensors, metadata)
    dialects = f"{recognise(weights).name} -> {to}"
    print(f"{name}, {dialects}: {output} holds {len(tensors)} entries{note}")


def write_as_folder(
    folder: Path, name: str, model: Network, classes: tuple[str, ...] | None, weights: Weights
) -> None:
    if not isinstance(model, ViT) or settings_of(model)["block"] != "residual":
        why = f"folders are written of transformers, and this is {name}"
        raise UsageError(why, folder, "name the output .safetensors or .pth")
    classes = classes or tuple(f"LABEL_{place}" for place in range(model.head.out_features))
    view = weights.metadata.preprocess or asdict(default_view(model, recognise(weights)))
    write_folder(folder, name, model, classes, view)
    print(f"{name}: {folder} is what transformers' from_pretrained and pipeline take")


def network_of(weights: Weights) -> tuple[str, Network]:
    """The name and network that the weights are of, filled with them."""
    dialect = recognise(weights)
    ours = {dialect.to_zoo(key) or key: tensor for key, tensor in weights.tensors.items()}
    found = dict(identify(ours))
    if weights.metadata.model:
        names = [name for name in found if name == weights.metadata.model]
    else:  # other libraries, whose networks have requirements, have no plain ones
        names = [n for n in found if not (dialect.requires and n.startswith("plain"))]
    if len(names) != 1:
        which = " or ".join(names) or "no network of the zoo"
        unknown = [key for key in weights.tensors if dialect.to_zoo(key) is None]
        some = ", ".join((unknown or list(weights.tensors))[:3])
        why = f"these entries are of {which}: {some} ..."
        fix = "load them into the right network in Python, and export that: zoo.load, zoo.export"
        raise WeightsError(why, weights.source, fix)
    (name,) = names
    return name, fill(built_for(name, weights, **found[name]), weights)


def class_names(
    given: str | None, in_file: tuple[str, ...] | None, outputs: int
) -> tuple[str, ...] | None:
    """The names on the command line, or else those in the file: one for each output."""
    if given is None:
        return in_file
    names = tuple(name.strip() for name in given.split(","))
    if len(names) != outputs or len(set(names) - {""}) != outputs:
        why = f"the head has {outputs} outputs, which need as many different names"
        fix = "give one name for each output, in their order, with commas between"
        raise UsageError(why, f"--classes {given}", fix)
    return names
