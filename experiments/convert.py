"""Weights from one library's names into another's, with the class names that go with them.

    python -m experiments.convert resnet50_model.pth animals.safetensors --to zoo --classes cat,dog
    python -m experiments.convert best.safetensors FOLDER --to transformers

A transformer for transformers can become a folder, as the Hugging Face Hub has them: its files say
what a state dict does not, the norms' eps, the class names and how pictures are shown.
Whose names the file has, and of which network it is, is recognised from its entries. The weights
are loaded into that network and exported again, so everything that zoo.load refuses is refused.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

import zoo
from experiments.classifier import built_for, default_view
from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError, doing
from zoo import WeightsError
from zoo.networks import Network
from zoo.vit import ViT
from zoo.weights.files import Metadata, Weights, write_weights
from zoo.weights.hub import write_folder
from zoo.weights.identify import identify, recognise
from zoo.weights.load import fill, open_weights
from zoo.weights.settings import settings_of

SUFFIXES = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class Options:
    """Convert a file of weights from one library's names into another's."""

    input: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IN")]
    """A .pth or .safetensors file, the URL of one, hf:OWNER/NAME or a folder in its layout."""
    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Where to write: .safetensors or .pth; or a folder, for a ViT of transformers."""
    to: Literal["torchvision", "transformers", "timm", "cifar", "zoo"]
    """Whose names the output has."""
    classes: str | None = None
    """Class names in the order of the head's outputs: a,b,c."""


def main(options: Options) -> None:
    suffix, as_folder = options.output.suffix, options.to == "transformers"
    if options.output.exists() or (suffix not in SUFFIXES and (suffix or not as_folder)):
        why = "only new .safetensors and .pth files are written, and new folders for transformers"
        raise UsageError(why, options.output, "choose another name")
    cli.check_folder(options.output.parent)
    with doing(f"reading {options.input}"):
        weights = open_weights(options.input)
        name, model = network_of(weights)
    classes = class_names(options.classes, weights.metadata.classes, model.head.out_features)
    if not suffix:
        write_as_folder(options.output, name, model, classes, weights)
        return
    metadata, note = Metadata(), ""
    if suffix == ".safetensors" or options.to == "zoo":
        metadata = Metadata(name, settings_of(model), classes, weights.metadata.preprocess)
        note = f" and {len(classes)} class names" if classes else ""
    elif options.classes:
        why = f"a .pth file in {options.to}'s names has no place for class names"
        raise UsageError(why, options.output, "write a .safetensors file, or --to zoo")
    elif classes:
        note = f" (without the {len(classes)} class names, for which this file has no place)"
    tensors = zoo.export(model, options.to)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_weights(options.output, tensors, metadata)
    dialects = f"{recognise(weights).name} -> {options.to}"
    print(f"{name}, {dialects}: {options.output} holds {len(tensors)} entries{note}")


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


if __name__ == "__main__":
    cli.run(main, Options, "convert")
