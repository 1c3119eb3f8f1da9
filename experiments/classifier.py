"""A network with everything needed to use it: class names and preprocessing.

    from experiments.classifier import find_images, load_model, predict, predictions

    model = load_model("runs/transfer-my_images/RUN/best.safetensors")
    predict(model, "cat.jpg", k=3)  # [{"label": "cat", "score": 0.98}, ...]
    for path, answer in predictions(model, find_images(["holiday"]), k=3): ...

Class names and preprocessing come from the checkpoint, never from a folder of images.
"""

import glob
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import zoo
from data.batches import enlarge
from data.decoding import decode_all
from data.errors import DataError
from data.images import FORMATS, as_image
from data.listing import Listing
from data.view_batches import normalize_as
from data.views import View
from experiments.plumbing.cli import UsageError
from experiments.train.loop import Settings, forward
from zoo import WeightsError
from zoo.networks import Network
from zoo.plainvit import BLOCKS
from zoo.resnet import CifarStem
from zoo.vit import ViT
from zoo.weights.dialects import IMAGENET_MEAN_STD, Dialect
from zoo.weights.files import Metadata, Weights, write_weights
from zoo.weights.identify import brought_by, recognise
from zoo.weights.load import fill, open_weights
from zoo.weights.published import open_published, published_name
from zoo.weights.settings import settings_of

FP32 = Settings(precision="fp32", channels_last=True)  # for predictions and transfer's results
CORES = min(os.cpu_count() or 1, 8)  # default number of processes that decode images


@dataclass(frozen=True)
class Classifier:
    """A network with class names and preprocessing: load_model returns it, predict takes it."""

    model: Network
    classes: tuple[str, ...]  # in the order of the head's outputs
    view: View
    metrics: Mapping[str, Any]  # scores at the time of saving
    source: str  # the file, or the name of published weights

    def logits(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, crop, crop) from `view` -> float32 (N, K), computed in eval mode."""
        device = next(self.model.parameters()).device
        normalized = normalize_as(self.view).to(device)(images.to(device))
        with torch.no_grad():
            return forward(self.model.eval(), enlarge(normalized, self.view.input_size), FP32)


def predict(model: Classifier, image: object, k: int = 5) -> list[dict[str, str | float]]:
    """The k most probable classes (all if there are fewer), best first, with probabilities.

    `image`: a path, bytes, an open binary file, a PIL image, a uint8 array (H, W, 3) or (H, W), or
    a uint8 tensor (3, H, W). Raises data.errors.DataError for anything else, such as floats, whose
    scale is unknown; UsageError for k below 1.
    """
    if k < 1:
        raise UsageError(f"k is too small: {k}", "predict(..., k=...)", "give 1 or more")
    return top_k(model, model.logits(model.view(as_image(image))[None]), k)[0]


def predictions(
    model: Classifier, paths: Sequence[Path], k: int = 5, batch_size: int = 32, workers: int = 0
) -> Iterator[tuple[Path, list[dict] | DataError]]:
    """Yield each path, in order, with its result of predict, or with why it cannot be decoded.

    Decodes, classifies and discards `batch_size` images at a time. `workers` processes decode while
    the network computes; with 0, this process decodes. Neither changes results beyond rounding.
    Raises DataError if a worker is killed.
    """
    arriving = decode_all(list(map(str, paths)), model.view, workers, "classifying")
    with closing(arriving):
        for first in range(0, len(paths), batch_size):
            chunk = paths[first : first + batch_size]
            arrived = islice(arriving, len(chunk))
            # Copies: each tensor from a worker keeps a file open, and open files are limited.
            images = [x.clone() if isinstance(x, Tensor) else x for x in arrived]
            good = [image for image in images if isinstance(image, Tensor)]
            answers = iter(top_k(model, model.logits(torch.stack(good)), k) if good else ())
            for path, image in zip(chunk, images, strict=True):
                yield path, image if isinstance(image, DataError) else next(answers)


def find_images(inputs: Sequence[str]) -> list[Path]:
    """The files that paths, folders and patterns name: each once, in the order given.

    Raises DataError for a folder without images or a pattern without matches.
    """
    if not inputs:
        raise UsageError("no images are named", "the command line", "add files or folders")
    paths: dict[Path, None] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            listing = Listing(path)
            files = [path / name for name in listing.images("")]
            if not files:
                what = "; ".join(("there are no images in this folder", *listing.sentences()))
                fix = f"give files that contain {', '.join(FORMATS)}, whatever their names are"
                raise DataError(textwrap.shorten(what, 290, placeholder=" ..."), path, fix)
            print(*listing.sentences(), sep="\n", end="\n" * bool(listing.notes), file=sys.stderr)
            paths |= dict.fromkeys(files)
        elif path.exists() or not glob.has_magic(text):
            paths[path] = None  # if it does not exist, decoding reports that
        else:
            matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207  also absolute ones
            files = [Path(match) for match in matches if Path(match).is_file()]
            if not files:
                raise DataError("no file matches this pattern", text, "check its folder and its *")
            paths |= dict.fromkeys(files)
    return list(paths)


def top_k(model: Classifier, logits: Tensor, k: int) -> list[list[dict[str, str | float]]]:
    """For each row of logits (N, K), the k most probable classes with their probabilities."""
    scores, places = logits.cpu().double().softmax(1).topk(min(k, len(model.classes)))
    return [
        [
            {"label": model.classes[place], "score": score}
            for place, score in zip(*pair, strict=True)
        ]
        for pair in zip(places.tolist(), scores.tolist(), strict=True)
    ]


def about(model: Classifier) -> str:
    """One line: source, number of classes, and the epoch if it is known."""
    epoch, chosen = model.metrics.get("epoch"), model.metrics.get("chosen_by")
    which = f", epoch {epoch}, chosen by {chosen}" if epoch else ""
    return f"{model.source}: {len(model.classes)} classes{which}"


def load_model(path: str | Path, name: str | None = None) -> Classifier:
    """Load a file of save_classifier, a folder in the Hugging Face Hub's layout, or hf:OWNER/NAME.

    Raises WeightsError if information is missing, or if the weights are not of the network `name`.
    """
    weights = open_weights(path)
    metadata = weights.metadata
    if metadata.model is None or metadata.classes is None or metadata.preprocess is None:
        why = "the file lacks the name of its network, its classes or its preprocessing"
        fix = "give a file of experiments.transfer, or --model and --weights for published weights"
        raise WeightsError(why, path, fix)
    if name not in (None, metadata.model):
        why, fix = f"these are {metadata.model}'s weights", f"--model {metadata.model}"
        raise WeightsError(why, path, fix)
    model = fill(built_for(metadata.model, weights), weights)
    if len(metadata.classes) != (outputs := model.head.out_features):
        why = f"the file names {len(metadata.classes)} classes and its head has {outputs} outputs"
        raise WeightsError(why, path, "get the file again")
    model.to(memory_format=torch.channels_last)
    view = view_from(metadata.preprocess, weights.source)
    return Classifier(model.eval(), metadata.classes, view, metadata.metrics or {}, weights.source)


def built_for(name: str, weights: Weights, **implied: Any) -> Network:
    """Build the network `name` with a file's settings and number of classes.

    `implied`: settings that the weights' shapes imply; settings stored in the file override them.
    """
    return zoo.build(name, **implied | brought_by(weights, zoo.settings_allowed(name)))


def view_from(preprocess: Mapping[str, Any], source: object) -> View:
    """The View that a file describes; raises WeightsError for missing or unusable values."""
    try:
        values = {field.name: preprocess[field.name] for field in fields(View)}
        values |= {name: tuple(float(v) for v in preprocess[name]) for name in ("mean", "std")}
        view = View(**values)
        sides = view.resize, view.crop, view.input_size
        usable = {
            "sides": all(type(n) is int and 1 <= n <= zoo.LARGEST_IMAGE for n in sides),
            "interpolation": view.interpolation in ("bilinear", "bicubic"),
            "squash": type(view.squash) is bool,
            "mean": len(view.mean) == 3 and all(abs(m) < 1e6 for m in view.mean),
            "std": len(view.std) == 3 and all(0 < s < 1e6 for s in view.std),
        }
        if not all(usable.values()):
            raise ValueError(f"{min(usable, key=usable.__getitem__)} in {view}")
    except (KeyError, TypeError, ValueError) as error:
        why = f"the file's preprocessing cannot be followed: {error}"
        raise WeightsError(why, source, "get the file again") from error
    return view


def save_classifier(
    path: Path, name: str, model: Network, classes: tuple[str, ...], view: View, metrics: dict
) -> None:
    """Write everything that load_model needs, atomically and with a SHA-256."""
    versions = {package: version(package) for package in ("torch", "torchvision", "pillow")}
    metadata = Metadata(name, settings_of(model), classes, asdict(view), metrics, versions)
    write_weights(path, model.state_dict(), metadata)


def open_classifier(checkpoint: str, name: str | None, weights: str) -> Classifier:
    """The model `name` with `weights` if a name is given, else the classifier in `checkpoint`."""
    if name:
        zoo.check(name, {})
    elif weights != "DEFAULT":
        why, fix = "--weights needs --model, and none is named", "add --model, or omit --weights"
        raise UsageError(why, f"--weights {weights}", fix)
    if not name or not published_name(weights):
        return load_model(weights if name else checkpoint, name)
    model, view = pretrained(name, weights, 0)
    entry = zoo.published(zoo.twin(name), weights)
    source, metrics = f"{name} {entry.name}", {"top1": entry.top1}
    return Classifier(model.eval(), entry.preprocess.classes, view, metrics, source)


def pretrained(name: str, weights: str | None, seed: int) -> tuple[Network, View]:
    """A network with weights, and the preprocessing that they need.

    `weights`: anything that zoo.load takes, a published name, or None for random ones of `seed`. A
    plain network gets its residual twin's weights, and prints which are dropped. Files of other
    libraries do not store their preprocessing. It is then that of ImageNet's V1 weights, 32x32 for
    the CIFAR networks, and the whole image for ViTs.
    """
    torch.manual_seed(seed)
    if weights is None:
        model = zoo.build(name)
        return model, default_view(model)
    view = None
    if published_name(weights):
        stated = zoo.published(zoo.twin(name), weights).preprocess
        loaded = open_published(zoo.twin(name), weights)
        view = View(stated.resize, stated.crop, stated.interpolation, False, stated.mean,
                    stated.std, stated.crop)  # fmt: skip
    else:
        loaded = open_weights(weights)
    stored = loaded.metadata.settings or {}
    plain_already = stored.get("shortcut") == "none" or stored.get("block") in BLOCKS
    drop = {"shortcut"} if name != zoo.twin(name) and not plain_already else set()
    model = built_for(name, loaded)
    head = recognise(loaded).part(loaded.tensors, "head.weight")
    if head is None or head.shape != model.head.weight.shape:  # none, or of several layers
        drop |= {"head"}
    fill(model, loaded, drop=drop)
    if view is None and loaded.metadata.preprocess:
        view = view_from(loaded.metadata.preprocess, loaded.source)
    view = view or default_view(model, recognise(loaded))
    return model.to(memory_format=torch.channels_last), view


def default_view(model: Network, dialect: Dialect | None = None) -> View:
    """Preprocessing for files that store none: the model's image size, the library's mean, std."""
    mean, std = dialect.normalize if dialect else IMAGENET_MEAN_STD
    if isinstance(model, ViT):
        side = model.stem.image_size
        return View(side, side, squash=True, mean=mean, std=std, input_size=side)
    if isinstance(model.stem, CifarStem):
        return View(resize=32, crop=32, input_size=32)
    return View()
