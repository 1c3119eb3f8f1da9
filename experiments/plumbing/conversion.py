"""Write a file of weights again with another library's names."""

from dataclasses import asdict
from pathlib import Path

import zoo
from experiments.classifier import network_of
from experiments.plumbing import onnx_files
from experiments.plumbing.class_names import class_names
from experiments.plumbing.cli import UsageError, doing
from experiments.plumbing.preprocess import view_for
from zoo.weights.files import Metadata, write_weights
from zoo.weights.hub import write_folder
from zoo.weights.load import open_weights
from zoo.weights.settings import settings_of


def convert(
    source: str,
    output: Path,
    to: str,
    model: str | None,
    classes: str | None,
    preprocess: str | None,
) -> None:
    """Write the weights of `source` with the names of the library `to`; see convert.Options.

    Raises WeightsError for weights that fit no network or several, UsageError for class names that
    do not fit the head.
    """
    if to == "onnx":
        onnx_files.check_installed()
    with doing(f"reading {source}"):
        weights = open_weights(source)
        name, network = network_of(weights, model)
    outputs = network.head.out_features
    names = class_names(classes, weights.metadata.classes, outputs, weights.source)
    if output.suffix in (".safetensors", ".onnx", "") or to == "zoo":
        # Stored also if it is assumed: with the output's names, another one would be.
        view = view_for(weights, name, network, preprocess)
        metadata = Metadata(name, settings_of(network), names, asdict(view))
        note = f" and {len(names)} class names" if names else ""
    elif classes or preprocess:
        why = f"a .pth file with {to}'s names has no place for class names or preprocessing"
        raise UsageError(why, output, "write a .safetensors file, or --to zoo")
    else:
        metadata, note = Metadata(), ""
        if names:
            note = f" (without the {len(names)} class names, which this format cannot store)"
    if to == "onnx":
        onnx_files.write_onnx(output, name, network, names, view)
    elif not output.suffix:
        names = names or tuple(f"LABEL_{place}" for place in range(outputs))
        write_folder(output, name, network, names, asdict(view))
        print(f"{name}: transformers' from_pretrained and pipeline can load {output}")
    else:
        tensors = zoo.export(network, to)
        output.parent.mkdir(parents=True, exist_ok=True)
        write_weights(output, tensors, metadata)
        dialects = f"{weights.dialect.name} -> {to}"
        print(f"{name}, {dialects}: {output} holds {len(tensors)} entries{note}")
