"""Loads any library's state dict into our networks, and exports ours, by name.

Loading is all or nothing: each entry of the file must match a tensor of the model and vice versa,
with the same shape, and settings that a state dict does not show must be those that the weights
were trained with, as far as its names or metadata tell. What is dropped, chosen among several,
rounded or assumed is logged. Only num_batches_tracked, which old files lack, is silently set to 0;
no output depends on it.
"""

import logging
import math
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from zoo.errors import WeightsError
from zoo.networks import Network
from zoo.positions import resize_positions
from zoo.vit import ViT
from zoo.weights.dialects import Dialect
from zoo.weights.download import fetch
from zoo.weights.files import Metadata, Weights, from_loaded, network_in, read_weights
from zoo.weights.hub import PREFIX, from_hub, is_in_hub_folder, read_hub_folder
from zoo.weights.identify import Tensors, by_name, in_our_names, is_shaped, likely_cause
from zoo.weights.published import open_published, published_name
from zoo.weights.settings import assumed, check_settings, required_by

log = logging.getLogger("zoo")

STATE_DICT = "the state dict"  # the source of one, in error messages

DROPS = ("shortcut", "head")
SUFFIXES = (".pth", ".pt", ".th", ".safetensors", ".bin", ".ckpt", ".tar", ".t7")


def load(
    model: Network,
    source: str | Path | Mapping[str, object],
    dialect: str | None = None,
    drop: str | None = None,
) -> Network:
    """Load the weights of a file, a URL or a state dict into `model`, and return it.

    `source` may also be "hf:OWNER/NAME" on the Hugging Face Hub, or a folder in that layout. Of
    several state dicts in a file, FILE#NAME takes the one of that name.
    `dialect`: the library whose names the weights have; detected from the names if None.
    For a transformer with another image size, the position embeddings are resized as that library
    does it. `drop="shortcut"` ignores the shortcuts' weights, so that a plain network can load its
    residual twin's; `drop="head"` ignores the head's, and the model keeps its own. Resizing and
    dropping log a warning. If anything does not fit, WeightsError is raised, the model unchanged.
    """
    check_model(model)
    if not isinstance(drop, str | None) or drop not in (None, *DROPS):
        raise WeightsError(f"there is no drop={drop!r}", "zoo.load", f"one of {', '.join(DROPS)}")
    return fill(model, open_weights(source), dialect, (drop,) if drop else ())


def check_model(model: object) -> None:
    """Raise WeightsError unless `model` is a network of the zoo and not on the meta device."""
    if not isinstance(model, Network) or any(v.is_meta for v in model.state_dict().values()):
        why = f"weights are for networks of the zoo in memory, but this is {type(model).__name__}"
        fix = (
            "give what zoo.build returned, without DataParallel or torch.compile around it; one "
            "on the meta device needs model.to_empty(device='cpu') first"
        )
        raise WeightsError(why, "zoo.load(model, ...), zoo.export(model, ...)", fix)


def open_weights(source: object, model: str | None = None) -> Weights:
    """Read the weights of a path, a URL, "hf:OWNER/NAME" or a state dict. Raises WeightsError.

    FILE#NAME and URL#NAME name one of several state dicts. If the network's name, `model`, is
    given, `source` may be the name of published weights.
    """
    if model and published_name(source):
        return open_published(model, source)
    if isinstance(source, Mapping):
        return network_in(from_loaded(dict(source), STATE_DICT), STATE_DICT)
    if not isinstance(source, str | Path):
        why = f"weights are a path, a URL or a state dict, not {type(source).__name__}"
        fix = "give the PATH or URL of a file, what model.state_dict() returns, or 'DEFAULT'"
        raise WeightsError(why, "zoo.load, zoo.build", fix)
    if str(source).startswith(PREFIX):
        return from_hub(str(source))
    path, name = str(source), None
    file, mark, after = path.rpartition("#")
    is_url = path.startswith(("http://", "https://"))
    if mark and not os.path.exists(path) and (is_url or os.path.exists(file)):  # noqa: PTH110  Path's can raise
        path, name = file, after
    if is_url:
        return fetch(path, name)
    if os.path.isdir(path):  # noqa: PTH112
        return read_hub_folder(Path(path))
    if not os.path.exists(path) and (hint := meant_by(path)):  # noqa: PTH110
        raise WeightsError("there is no such file", path, f"did you mean {hint}?")
    weights = read_weights(Path(path), name)
    if weights.metadata == Metadata() and is_in_hub_folder(Path(path)):
        return read_hub_folder(Path(path).parent)  # its config.json belongs to the weights
    return weights


def meant_by(path: str) -> str:
    """What somebody may mean by the name of a file that does not exist; "" if unknown."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path) and not path.endswith(SUFFIXES):
        return f"hf:{path}, a model of the Hub"
    is_word = re.fullmatch(r"[\w -]+", path)
    return "a published name: DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2" if is_word else ""


def fill(
    model: Network, weights: Weights, dialect: str | None = None, drop: Collection[str] = ()
) -> Network:
    """Load weights that are in memory; see load(). `drop`: any of DROPS."""
    names = weights.dialect if dialect is None else by_name(dialect, model)
    check_settings(model, required_by(names, weights), names.name, weights.source, drop)
    known, unknown = in_our_names(weights, names)
    # A head that is dropped may have layers that the zoo's has not.
    ignored = [
        key for key in unknown
        if key.startswith(names.ignores) or ("head" in drop and names.is_beside(key))
    ]  # fmt: skip
    unknown = {key: tensor for key, tensor in unknown.items() if key not in ignored}
    tensors = without(drop, known)
    resizing = (weights.metadata.settings or {}).get("resizing") or names.resizing
    if isinstance(model, ViT) and resizing:
        fit_positions(model, tensors, resizing)
    places = without(drop, names.divided(model.state_dict()))
    if problems := misfits(places, tensors, unknown, names):
        more = f", and {len(problems) - 1} more do not fit" if len(problems) > 1 else ""
        where = "; ".join((f"{weights.source}, in {names.name}'s names", *weights.notes))
        fix = likely_cause(model, known, unknown, weights)
        raise WeightsError(f"{problems[0]}{more}", where, fix)
    rounded = 0
    for key, tensor in tensors.items():
        tensors[key], loss = converted(names.from_zoo(key) or key, tensor, places[key], weights)
        rounded += loss
    if weights.source == STATE_DICT:  # its tensors may be the model's own
        tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    with torch.no_grad():
        for key, place in places.items():
            place.copy_(tensors[key]) if key in tensors else place.zero_()
    if isinstance(model, ViT) and resizing:
        model.stem.resizing = resizing
    tell(model, names, weights, len(known) - len(tensors) + len(ignored), rounded, drop)
    return model


def without(drop: Collection[str], tensors: Tensors) -> dict[str, Tensor]:
    """The tensors of all parts but those of the names `drop`."""
    return {key: tensor for key, tensor in tensors.items() if not {*drop} & {*key.split(".")}}


def tell(
    model: Network,
    names: Dialect,
    weights: Weights,
    dropped: int,
    rounded: int,
    drop: Collection[str],
) -> None:
    """Log what was chosen, left out, rounded or assumed."""
    for note in weights.notes:
        log.warning("%s: %s", weights.source, note)
    if dropped:
        words = " and ".join(sorted(drop)) or "pooler"
        text = "dropped %d entries of a %s: the model keeps its own, or has none"
        log.warning(text, dropped, words)
    elif "shortcut" in drop:
        log.warning("the weights have no entries of a shortcut: none are dropped")
    elif drop:
        log.warning("the weights have no head: the model keeps its own (random if not trained)")
    if rounded:
        log.warning("rounded %d entries of higher precision to the model's", rounded)
    if weights.source != STATE_DICT and (unknown := assumed(model, names, weights)):
        log.warning("%s: assumed, as a state dict does not show it: %s", weights.source, unknown)


def fit_positions(model: ViT, tensors: dict[str, Tensor], resizing: str) -> None:
    """Resize the position embeddings in `tensors`, if of a square grid, to the model's grid."""
    theirs, place = tensors.get("stem.position"), model.stem.position
    if theirs is None or theirs.dim() != 3 or theirs.shape == place.shape:
        return
    new, old = (math.isqrt(length - 1) for length in (place.shape[1], max(theirs.shape[1], 2)))
    resizable = theirs.shape[1] == old**2 + 1 and theirs.is_floating_point()
    if resizable and theirs.shape[::2] == place.shape[::2]:
        resized = resize_positions(theirs.to(place.dtype), new, new, resizing)
        tensors["stem.position"] = resized.detach()
        text = "resized the position embeddings from %dx%d to %dx%d patches (%s)"
        log.warning(text, old, old, new, new, resizing)


def export(model: Network, dialect: str = "torchvision") -> dict[str, Tensor]:
    """The model's state dict under the names of another library's files.

    It loads there with strict=True; transformers 5 renames a ViT's entries in from_pretrained.
    The tensors are the model's own, as in model.state_dict(). Raises WeightsError if the library
    has no such network.
    """
    check_model(model)
    names, where = by_name(dialect, model), f"zoo.export(model, {dialect!r})"
    fix = "no network of theirs computes this; the dialect 'zoo' exports any model"
    check_settings(model, names.requires, names.name, where, fix=fix)
    exported = {}
    for key, tensor in names.divided(model.state_dict()).items():
        name = names.from_zoo(key)
        if name is None:
            why = f"{key} has no name in {dialect}"
            raise WeightsError(why, where, "give what zoo.build returned, with its own parts")
        exported[name] = tensor
    return exported


def misfits(places: Tensors, tensors: Tensors, unknown: Tensors, dialect: Dialect) -> list[str]:
    """Messages about each name or shape that differs between the file and the model.

    A missing num_batches_tracked is allowed: files from before PyTorch 0.4.1 lack it.
    """
    problems = [f"{key} is {shape_in(unknown, key)} in the file and unknown" for key in unknown]
    for key in {**tensors, **places}:
        theirs, ours = shape_in(tensors, key), shape_in(places, key)
        if theirs != ours and (key in tensors or is_shaped(key)):
            name = dialect.from_zoo(key) or key
            problems.append(f"{name} is {theirs} in the file and {ours} in the model")
    return problems


def shape_in(state: Tensors, key: str) -> str:
    """The shape of an entry, or "missing"."""
    return str(tuple(state[key].shape)) if key in state else "missing"


FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
WHOLE = {torch.int32, torch.int64}


def converted(key: str, tensor: Tensor, place: Tensor, weights: Weights) -> tuple[Tensor, bool]:
    """The tensor in the dtype of its place, and whether that rounded it.

    Raises WeightsError for values that would load and then compute nonsense.
    """
    new = tensor.detach().to(place.dtype)
    if tensor.dtype in FLOATS and place.dtype in FLOATS:
        problem = nonsense_in(key, new)
        if problem and not nonsense_in(key, tensor):
            problem = f"has values that {place.dtype} cannot hold"
        if not problem:
            precise = torch.promote_types(tensor.dtype, place.dtype) == place.dtype
            return new, not precise and not torch.equal(new.to(tensor.dtype), tensor)
    # Averaging scripts turn num_batches_tracked into a float; only whole numbers are kept.
    elif tensor.dtype in FLOATS | WHOLE and place.dtype in WHOLE and (new == tensor).all():
        return new, False
    else:
        problem = f"has dtype {tensor.dtype}, which {place.dtype} cannot hold"
    fix = "get the weights again, or train at a lower rate; integers are not weights"
    raise WeightsError(f"{key} {problem}", weights.source, fix)


def nonsense_in(key: str, tensor: Tensor) -> str:
    """What is wrong with the values, in words; "" if nothing."""
    if tensor.dtype not in FLOATS:
        return ""
    is_variance, total = key.endswith("running_var"), tensor.sum()
    # With a NaN or an infinity, the sum is not finite; a sum may also overflow, so check again.
    if not total.isfinite() and not tensor.isfinite().all():
        return "is not finite"
    if is_variance and (tensor < 0).any():
        return "has negative variances"
    # A download that was cut off may be padded with zeros.
    zeros = not total and (tensor.dim() == 4 or is_variance) and not tensor.any()
    return "is nothing but zeros" if zeros else ""
