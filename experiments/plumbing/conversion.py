"""Write a file of weights again with another library's names."""

from dataclasses import asdict
from pathlib import Path

import zoo
from experiments.classifier import built_for, default_view, view_from
from experiments.plumbing import onnx_files
from experiments.plumbing.cli import UsageError, doing
from zoo import WeightsError
from zoo.networks import Network
from zoo.vit import ViT
from zoo.weights.configs import RESNET
from zoo.weights.files import Metadata, Weights, write_weights
from zoo.weights.hub import write_folder
from zoo.weights.identify import identify, recognise
from zoo.weights.load import fill, open_weights
from zoo.weights.settings import settings_of


def convert(source: str, output: Path, to: str, requested: str | None) -> None:
    """Write the weights of `source` with the names of the library `to`.

    `requested`: class names as a,b,c. Raises WeightsError for weights that fit no network or
    several, UsageError for class names that do not fit the head.
    """
    if to == "onnx":
        onnx_files.check_installed()
    with doing(f"reading {source}"):
        weights = open_weights(source)
        name, model = network_of(weights)
    classes = class_names(requested, weights.metadata.classes, model.head.out_features)
    if to == "onnx":
        write_as_onnx(output, name, model, classes, weights)
        return
    if not output.suffix:
        write_as_folder(output, name, model, classes, weights)
        return
    metadata, note = Metadata(), ""
    if output.suffix == ".safetensors" or to == "zoo":
        metadata = Metadata(name, settings_of(model), classes, weights.metadata.preprocess)
        note = f" and {len(classes)} class names" if classes else ""
    elif requested:
        why = f"a .pth file with {to}'s names has no place for class names"
        raise UsageError(why, output, "write a .safetensors file, or --to zoo")
    elif classes:
        note = f" (without the {len(classes)} class names, which this format cannot store)"
    tensors = zoo.export(model, to)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_weights(output, tensors, metadata)
    dialects = f"{recognise(weights).name} -> {to}"
    print(f"{name}, {dialects}: {output} holds {len(tensors)} entries{note}")


def write_as_folder(
    folder: Path, name: str, model: Network, classes: tuple[str, ...] | None, weights: Weights
) -> None:
    """Write a folder in the Hugging Face Hub's layout; UsageError for networks it has none for."""
    settings = settings_of(model)
    needed = {"block": "residual"} if isinstance(model, ViT) else RESNET
    if not needed.items() <= settings.items():
        listed = ", ".join(f"{key}={settings[key]}" for key in needed)
        why = f"transformers has no network that computes what this {name} does ({listed})"
        raise UsageError(why, folder, "write a .safetensors or .pth file, with --to zoo")
    classes = classes or tuple(f"LABEL_{place}" for place in range(model.head.out_features))
    view = weights.metadata.preprocess or asdict(default_view(model, recognise(weights)))
    write_folder(folder, name, model, classes, view)
    print(f"{name}: transformers' from_pretrained and pipeline can load {folder}")


def write_as_onnx(
    path: Path, name: str, model: Network, classes: tuple[str, ...] | None, weights: Weights
) -> None:
    """Write an ONNX file, and print what is in it."""
    if stored := weights.metadata.preprocess:
        view, note = view_from(stored, weights.source), ""
    else:
        view, note = default_view(model, recognise(weights)), " (assumed: the input stores none)"
    difference = onnx_files.write_onnx(path, name, model, classes, view)
    count = f"{len(classes)} class names" if classes else "no class names (add them by --classes)"
    print(f"{name}: {path} takes images as float32 (N, 3, {view.input_size}, {view.input_size})")
    print(f"its metadata: {count}; preprocessing{note}: {asdict(view)}")
    print(f"onnxruntime's logits differ from the network's by at most {difference:.1e}")


def network_of(weights: Weights) -> tuple[str, Network]:
    """The name of the network that the weights fit, and the network with these weights.

    Raises WeightsError if they fit no network or several.
    """
    dialect = recognise(weights)
    ours = {dialect.to_zoo(key) or key: tensor for key, tensor in weights.tensors.items()}
    candidates = dict(identify(ours))
    if weights.metadata.model:
        names = [name for name in candidates if name == weights.metadata.model]
    else:  # dialects with requirements belong to other libraries, which have no plain networks
        names = [n for n in candidates if not (dialect.requires and n.startswith("plain"))]
    if len(names) != 1:
        which = " or ".join(names) or "no network of the zoo"
        unknown = [key for key in weights.tensors if dialect.to_zoo(key) is None]
        some = ", ".join((unknown or list(weights.tensors))[:3])
        why = f"these entries fit {which}: {some} ..."
        fix = "load them into the right network in Python and export it: zoo.load, zoo.export"
        raise WeightsError(why, weights.source, fix)
    (name,) = names
    return name, fill(built_for(name, weights, **candidates[name]), weights)


def class_names(
    requested: str | None, in_file: tuple[str, ...] | None, outputs: int
) -> tuple[str, ...] | None:
    """The names on the command line, else those in the file.

    Raises UsageError unless the command line has one name per output, all different.
    """
    if requested is None:
        return in_file
    names = tuple(name.strip() for name in requested.split(","))
    if len(names) != outputs or len(set(names) - {""}) != outputs:
        why = f"the head has {outputs} outputs and needs as many different names"
        fix = "give one name per output, in their order, separated by commas"
        raise UsageError(why, f"--classes {requested}", fix)
    return names
