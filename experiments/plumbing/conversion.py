"""Write a file of weights again with another library's names."""

from dataclasses import asdict
from pathlib import Path

import zoo
from data.views import View
from experiments.classifier import network_of
from experiments.plumbing import onnx_files
from experiments.plumbing.class_names import class_names
from experiments.plumbing.cli import UsageError, doing
from experiments.plumbing.preprocess import view_for
from zoo.networks import Network
from zoo.vit import ViT
from zoo.weights.configs import RESNET
from zoo.weights.files import Metadata, write_weights
from zoo.weights.hub import write_folder
from zoo.weights.identify import recognise
from zoo.weights.load import open_weights
from zoo.weights.settings import settings_of


def convert(
    source: str,
    output: Path,
    to: str,
    model_name: str | None,
    requested: str | None,
    preprocess: str | None,
) -> None:
    """Write the weights of `source` with the names of the library `to`.

    `model_name`, `requested`, `preprocess`: the options --model, --classes and --preprocess. Raises
    WeightsError for weights that fit no network or several, UsageError for class names that do not
    fit the head.
    """
    if to == "onnx":
        onnx_files.check_installed()
    with doing(f"reading {source}"):
        weights = open_weights(source)
        name, model = network_of(weights, model_name)
    stored = weights.metadata.classes
    classes = class_names(requested, stored, model.head.out_features, weights.source)
    if to == "onnx" or not output.suffix:
        write = write_as_onnx if to == "onnx" else write_as_folder
        write(output, name, model, classes, view_for(weights, name, model, preprocess))
        return
    if output.suffix == ".safetensors" or to == "zoo":
        known = preprocess or weights.metadata.preprocess  # what is assumed is not written down
        view = asdict(view_for(weights, name, model, preprocess)) if known else None
        metadata = Metadata(name, settings_of(model), classes, view)
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
    """Write a folder in the Hub's layout; UsageError if transformers lacks the network."""
    settings = settings_of(model)
    needed = {"block": "residual"} if isinstance(model, ViT) else RESNET
    if not needed.items() <= settings.items():
        listed = ", ".join(f"{key}={settings[key]}" for key in needed)
        why = f"transformers has no network that computes what this {name} does ({listed})"
        raise UsageError(why, folder, "write a .safetensors or .pth file, with --to zoo")
    classes = classes or tuple(f"LABEL_{place}" for place in range(model.head.out_features))
    write_folder(folder, name, model, classes, asdict(view))
    print(f"{name}: transformers' from_pretrained and pipeline can load {folder}")


def write_as_onnx(
    path: Path, name: str, model: Network, classes: tuple[str, ...] | None, view: View
) -> None:
    """Write an ONNX file, and print what is in it."""
    difference = onnx_files.write_onnx(path, name, model, classes, view)
    count = f"{len(classes)} class names" if classes else "no class names (add them by --classes)"
    print(f"{name}: {path} takes images as float32 (N, 3, {view.input_size}, {view.input_size})")
    print(f"its metadata: {count}; preprocessing: {asdict(view)}")
    print(f"onnxruntime's logits differ from the network's by at most {difference:.1e}")
