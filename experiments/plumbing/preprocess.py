"""The preprocessing of images: as --preprocess says, as the file says, or assumed and printed."""

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import zoo
from data.progress import say
from data.views import View
from experiments.plumbing.cli import UsageError
from experiments.plumbing.recipes import CIFAR10_MEAN, CIFAR10_STD, RECIPES, evaluation_view
from zoo import WeightsError
from zoo.networks import Network
from zoo.resnet import CifarStem
from zoo.vit import ViT
from zoo.weights.dialects import HALF, IMAGENET_MEAN_STD, RESNET_DIALECTS, Dialect
from zoo.weights.files import Weights

NORMALIZATIONS = {
    "ImageNet mean and std": IMAGENET_MEAN_STD,
    "CIFAR-10 mean and std": (CIFAR10_MEAN, CIFAR10_STD),
    "mean = std = 0.5": HALF,
    "no normalisation": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
FORMS = (
    f"give a recipe ({', '.join(RECIPES)}), the name of published weights (such as "
    "resnet50/IMAGENET1K_V2), or numbers: resize=256,crop=224 or squash=224, then mean=0.5,std=0.5 "
    "(or 3 each: R,G,B), and interpolation=bicubic if it is not bilinear"
)


def view_for(weights: Weights, name: str, model: Network, requested: str | None) -> View:
    """The preprocessing for `model`, the network `name`, with the weights of a file.

    It is what --preprocess requests, else what the file stores, else what is usual in the library
    whose names the file has. What is requested or assumed is printed. Raises UsageError or
    WeightsError.
    """
    stored, dialect = weights.metadata.preprocess, weights.dialect
    if requested is None and stored is not None:
        return view_from(stored, weights.source)
    view = default_view(model, dialect)
    if requested is None:
        why = f"assumed, as usual for the naming scheme {dialect.name}: the file does not say\n"
        why += "  to change it: --preprocess; to find it out with labelled images: "
        why += f"python -m experiments.diagnose {shlex.quote(str(weights.source))} FOLDER"
    else:
        view = view_named(requested, name, view)
        why = f"by --preprocess {requested}" + ", not what the file says" * (stored is not None)
    say(f"preprocessing: {in_words(view)}; {why}", sys.stderr)
    return view


def view_named(text: str, name: str, usual: View) -> View:
    """The View that a recipe, published weights or numbers describe, for the network `name`.

    `usual`: what a recipe does not change. Raises UsageError or ModelError.
    """
    try:
        if text in RECIPES:
            view = evaluation_view(RECIPES[text], usual)
        elif "=" in text:
            view = view_of_numbers(text)
        else:
            model, _, weights = text.rpartition("/")
            view = View(**zoo.published(model or zoo.twin(name), weights).preprocess)
    except ValueError as error:
        why, flag = str(error).splitlines()[0], f"--preprocess {text:.150}"
        raise UsageError(f"no such preprocessing: {why:.200}", flag, FORMS) from error
    if "image_size" in zoo.settings_allowed(name):  # a ViT's images have to divide into patches
        zoo.check(name, {"image_size": view.input_size})
    return view


def view_of_numbers(text: str) -> View:
    """A View from numbers such as squash=224,mean=0.5,std=0.2,0.3,0.2; else ValueError."""
    parts = [part.partition("=") for part in re.split(r",(?=[a-z])", text.replace(" ", ""))]
    values = {name: number for name, _, number in parts}
    needed = {"squash"} if "squash" in values else {"resize", "crop"}
    needed |= {"mean", "std"}
    if values.keys() - {"interpolation"} != needed or len(values) < len(parts):
        raise ValueError(f"numbers need {', '.join(sorted(needed))}, once each, and no other name")
    crop, resize = (int(values.get(key) or values["squash"]) for key in ("crop", "resize"))
    mean, std = (tuple(map(float, values[key].split(","))) for key in ("mean", "std"))
    mean, std = (numbers * 3 if len(numbers) == 1 else numbers for numbers in (mean, std))
    if max(*mean, *std) > 1:
        raise ValueError("mean and std are of values from 0 to 1: divide them by 255")
    interpolation = values.get("interpolation", "bilinear")
    return checked(View(resize, crop, interpolation, "squash" in values, mean, std, crop))


def view_from(preprocess: Mapping[str, Any], source: object) -> View:
    """The View that a file describes; raises WeightsError for missing or unusable values."""
    try:
        values = {field.name: preprocess[field.name] for field in fields(View)}
        values |= {name: tuple(float(v) for v in preprocess[name]) for name in ("mean", "std")}
        return checked(View(**values))
    except (KeyError, TypeError, ValueError) as error:
        why = f"the file's preprocessing cannot be followed: {error}"
        raise WeightsError(why[:200], source, "get the file again, or give --preprocess") from error


def checked(view: View) -> View:
    """Return `view`; ValueError if it cannot be used."""
    sides = (view.resize, view.crop, view.input_size)
    usable = all(type(n) is int and 1 <= n <= zoo.LARGEST_IMAGE for n in sides)
    usable &= view.interpolation in ("bilinear", "bicubic") and type(view.squash) is bool
    usable &= {len(view.mean), len(view.std)} <= {3, 3 * view.crop**2}
    usable &= all(abs(m) < 1e6 for m in view.mean) and all(0 < s < 1e6 for s in view.std)
    if not usable:
        raise ValueError(f"a size, interpolation, mean or std is unusable in {view}")
    return view


def default_view(model: Network, dialect: Dialect | None = None) -> View:
    """Preprocessing for files that store none: the model's image size, the library's mean, std."""
    mean, std = dialect.normalize if dialect else IMAGENET_MEAN_STD
    if isinstance(model, ViT):
        side = model.stem.image_size
        return View(side, side, squash=True, mean=mean, std=std, input_size=side)
    if isinstance(model.stem, CifarStem):
        return View(resize=32, crop=32, input_size=32)
    is_transformers = dialect is RESNET_DIALECTS["transformers"]
    return View(interpolation="bicubic" if is_transformers else "bilinear")


def in_words(view: View) -> str:
    """A View as text, such as "squash to 224x224, mean = std = 0.5"."""
    square, side = f"{view.crop}x{view.crop}", view.input_size
    words = f"squash to {square}" if view.squash else f"resize to {view.resize}, crop {square}"
    words += f" ({view.interpolation})" * (view.interpolation != "bilinear")
    words += f", enlarged to {side}x{side}" * (side != view.crop)
    numbers = f"mean {view.mean}, std {view.std}" if len(view.mean) == 3 else "a mean per pixel"
    names: dict[Any, str] = {mean_std: name for name, mean_std in NORMALIZATIONS.items()}
    return f"{words}, {names.get((view.mean, view.std), numbers)}"
