"""A network with everything needed to use it: class names and preprocessing.

    from experiments.classifier import find_images, load_model, predict, predictions

    model = load_model("runs/transfer-my_images/RUN/best.safetensors")
    predict(model, "cat.jpg", k=3)  # [{"label": "cat", "score": 0.98}, ...]
    for path, answer in predictions(model, find_images(["holiday"]), k=3): ...

A notebook displays a classifier, and the predictions of an image. Class names and preprocessing
come from the file, or from the options --classes and --preprocess; what is assumed is printed.
"""

import glob
import io
import math
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import zoo
from data.batches import enlarge
from data.decoding import DecodedOnUse, decode_all
from data.errors import DataError
from data.images import FORMATS, as_image
from data.listing import Listing
from data.processes import usable_cores
from data.view_batches import normalize_as
from data.views import View
from experiments.plumbing.class_names import class_names
from experiments.plumbing.cli import UsageError, check_counts
from experiments.plumbing.device import choose_device, torch_as_started
from experiments.plumbing.inference import for_many
from experiments.plumbing.preprocess import default_view, in_words, view_for, view_named
from experiments.plumbing.tables import Rows, html
from experiments.train.loop import Settings, forward
from zoo import WeightsError
from zoo.networks import Network
from zoo.registry import owner
from zoo.weights.files import Metadata, Weights, write_weights
from zoo.weights.identify import brought_by, has_head_of, is_plain, names_for
from zoo.weights.load import fill, open_weights
from zoo.weights.settings import settings_of

if TYPE_CHECKING:
    from experiments.drawing.sheet import LabelledImage

FP32 = Settings(precision="fp32", channels_last=True)  # for predictions and transfer's results
CORES = min(usable_cores(), 8)  # default number of processes that decode images


@dataclass(frozen=True)
class Classifier:
    """A network with class names and preprocessing: load_model returns it, predict takes it."""

    model: Network
    classes: tuple[str, ...]  # in the order of the head's outputs
    view: View
    metrics: Mapping[str, Any]  # scores at the time of saving
    source: str  # the file, or the name of published weights

    def _repr_html_(self) -> str:
        names = ", ".join(self.classes[:10]) + ", ..." * (len(self.classes) > 10)
        lines = [
            ("weights", self.source),
            ("network", f"{sum(p.numel() for p in self.model.parameters()):,} parameters"),
            (f"{len(self.classes)} classes", names),
            ("preprocessing", in_words(self.view)),
            *((k, f"{v:.3f}") for k, v in self.metrics.items() if isinstance(v, float)),
        ]
        return html([Rows(("classifier", ""), lines, ("---",))])

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    def inputs(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, crop, crop) from `view` -> float32 (N, 3, I, I), the network's input."""
        normalized = normalize_as(self.view).to(self.device)(images.to(self.device))
        return enlarge(normalized, self.view.input_size)

    def logits(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, crop, crop) from `view` -> float32 (N, K), computed in eval mode."""
        with torch.no_grad():
            return forward(self.model.eval(), self.inputs(images), FP32)


class Predictions(list):
    """The most probable classes of one image, best first. A notebook shows them with the image."""

    def __init__(self, answers: Iterable[dict[str, str | float]], image: Tensor) -> None:
        super().__init__(answers)
        self.image = image  # uint8 (3, H, W)

    def _repr_png_(self) -> bytes:
        from experiments.drawing.sheet import draw_sheet  # matplotlib is slow

        draw_sheet(buffer := io.BytesIO(), [on_sheet(self.image, "", self)], in_percent(self[0]))
        return buffer.getvalue()


def on_sheet(
    image: Tensor, name: str, answers: Sequence[dict], truth: str | None = None
) -> "LabelledImage":
    """An image of a sheet, uint8 (3, H, W), with the answers of predict."""
    from experiments.drawing.sheet import LabelledImage, thumbnail

    labels, scores = (tuple(answer[key] for answer in answers) for key in ("label", "score"))
    return LabelledImage(thumbnail(image), name, labels, scores, truth)  # photos are large


def in_percent(answer: Mapping[str, Any]) -> str:
    """A class and its probability as text."""
    return f"{answer['label']}, {100 * answer['score']:.1f} %"


def predict(model: Classifier, image: object, k: int = 5) -> Predictions:
    """The k most probable classes (all if there are fewer), best first, with probabilities.

    `image`: a path, bytes, an open binary file, a PIL image, a uint8 array (H, W, 3) or (H, W), or
    a uint8 tensor (3, H, W). Raises data.errors.DataError for anything else, such as floats, whose
    scale is unknown, and UsageError for k below 1.
    """
    check_counts(k=k)
    image = as_image(image)
    return Predictions(top_k(model, model.logits(model.view(image)[None]), k)[0], image)


def predictions(
    model: Classifier, paths: Sequence[Path], k: int = 5, batch_size: int = 32, workers: int = 0
) -> Iterator[tuple[Path, list[dict] | DataError]]:
    """Yield each path, in order, with its predictions, or the error if it cannot be decoded.

    Decodes, classifies and discards `batch_size` images at a time. `workers` processes decode (0:
    this one does). Neither changes results beyond rounding.
    """
    check_counts(k=k, batch_size=batch_size)
    if isinstance(paths, str | Path):
        paths = find_images(paths)
    arriving = decode_all(DecodedOnUse(tuple(map(str, paths)), model.view), workers, "classifying")
    faster: nn.Module | None = None
    with closing(arriving):
        for first in range(0, len(paths), batch_size):
            chunk = paths[first : first + batch_size]
            arrived = islice(arriving, len(chunk))
            # Copies: each tensor from a worker keeps a file open, and open files are limited.
            images = [x.clone() if isinstance(x, Tensor) else x for x in arrived]
            good = [image for image in images if isinstance(image, Tensor)]
            answers: Iterator[list[dict]] = iter(())
            if good:
                inputs, left = model.inputs(torch.stack(good)), len(paths) - first
                faster = faster or for_many(model.model, inputs, math.ceil(left / batch_size))
                with torch.no_grad():
                    answers = iter(top_k(model, forward(faster, inputs, FP32), k))
            for path, image in zip(chunk, images, strict=True):
                yield path, image if isinstance(image, DataError) else next(answers)


def find_images(inputs: str | Path | Sequence[str]) -> list[Path]:
    """The files that paths, folders and patterns name: each once, in the order given.

    Raises DataError for a folder without images or a pattern without matches.
    """
    paths: list[Path] = []
    for text in [str(inputs)] if isinstance(inputs, str | Path) else inputs:
        path = Path(text)
        if path.is_dir():
            listing = Listing(path)
            files = [path / name for name in listing.images("")]
            if not files:
                what = "; ".join(("there are no images in this folder", *listing.sentences()))
                fix = f"give files that contain {', '.join(FORMATS)}, whatever their names are"
                raise DataError(what, path, listing.advice(fix))
            print(*listing.sentences(), sep="\n", end="\n" * bool(listing.notes), file=sys.stderr)
        elif path.exists() or not glob.has_magic(text):
            files = [path]  # if it does not exist, decoding reports that
        else:
            matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207  also absolute ones
            files = [Path(match) for match in matches if Path(match).is_file()]
            if not files:
                raise DataError("no file matches this pattern", text, "check its folder and its *")
        paths += files
    if not paths:
        fix = "give a checkpoint, then images; or predict --model resnet50 and only images"
        raise UsageError("no images are named", "the command line", fix)
    return list(dict.fromkeys(paths))


def top_k(model: Classifier, logits: Tensor, k: int) -> list[list[dict[str, str | float]]]:
    """For each row of logits (N, K), the k most probable classes with their probabilities."""
    scores, places = logits.cpu().double().softmax(1).topk(min(k, len(model.classes)))
    rows = zip(places.tolist(), scores.tolist(), strict=True)
    answers = (zip(*row, strict=True) for row in rows)
    return [[{"label": model.classes[i], "score": score} for i, score in row] for row in answers]


def about(model: Classifier) -> str:
    """One line: source, number of classes, and the epoch if it is known."""
    epoch = model.metrics.get("epoch")
    which = f", epoch {epoch}, chosen by {model.metrics.get('chosen_by')}" if epoch else ""
    return f"{model.source}: {len(model.classes)} classes{which}"


@torch_as_started()
def load_model(
    path: str | Path,
    name: str | None = None,
    classes: str | Sequence[str] | None = None,
    preprocess: str | None = None,
) -> Classifier:
    """Load a file of weights, the folder of a run of transfer, a Hub folder, or hf:OWNER/NAME.

    `name`: the network, if it is known; then `path` may be a published name: "IMAGENET1K_V2".
    `classes` and `preprocess`: as the options --classes and --preprocess, for files that lack them.
    Raises WeightsError if the class names are unknown, or the weights do not fit this network.
    """
    if (Path(path) / "transfer.json").is_file():
        fix = f"name one of them, as transfer's last line does: {path}/RUN"
        raise WeightsError("these are several runs, each with a network", path, fix)
    best = Path(path) / "best.safetensors"  # in the folder of a run
    where = best if best.is_file() else path
    weights = open_weights(where, name and owner(name, path))
    stored = weights.metadata
    if name and stored.model not in (None, name):
        why, fix = f"these are {stored.model}'s weights", f"--model {stored.model}"
        raise WeightsError(why, path, fix)
    name, model = network_of(weights, name)
    names = class_names(classes, stored.classes, model.head.out_features, weights.source)
    if names is None:
        unsaid = not (preprocess or stored.preprocess)
        why = f"the file lacks the names of its classes{' and its preprocessing' * unsaid}"
        fix = f"add --classes{' and --preprocess' * unsaid} (see --help), or find them with images:"
        fix += f" python -m experiments.diagnose {shlex.quote(str(path))} FOLDER"
        raise WeightsError(why, path, fix)
    view = view_for(weights, name, model, preprocess)
    model.to(memory_format=torch.channels_last)
    return Classifier(model.eval(), names, view, stored.metrics or {}, weights.source)


def network_of(
    weights: Weights, name: str | None = None, new_head: bool = False
) -> tuple[str, Network]:
    """The name of the network that weights are for, and the network with these weights.

    `name`: the network, if it is known. A plain one takes its residual twin's weights; dropped ones
    are logged. `new_head`: the head will be replaced, so the file needs none. Raises WeightsError
    if the weights fit no network, several networks, or another network.
    """
    name = name or weights.metadata.model
    if name is None:
        names = names_for(weights)
        if len(names) != 1:
            which = " or ".join(names) or "no network of the zoo"
            dialect, keys = weights.dialect, weights.tensors
            unknown = [k for k in keys if dialect.to_zoo(k) is None and not dialect.is_beside(k)]
            why = f"these entries fit {which}: {', '.join((unknown or [*keys])[:3])} ..."
            fix = "the zoo has ResNets and ViTs of the usual sizes: zoo.list_models()"
            if names:
                fix = "name it by --model, or load it in Python: zoo.load(zoo.build(NAME), PATH)"
            raise WeightsError(why, source_of(weights), fix)
        (name,) = names
    zoo.check(name, {})
    drop = {"shortcut"} if name != zoo.twin(name) and not is_plain(weights) else set()
    model = zoo.build(name, **brought_by(weights, zoo.settings_allowed(name)))
    has_head = has_head_of(model, weights)
    fill(model, weights, drop=drop if has_head else drop | {"head"})
    if not has_head and not new_head:
        why = f"there is no head of one layer for {name}, so it cannot name classes"
        fix = f"train one: python -m experiments.transfer FOLDER --model {name} --weights PATH"
        raise WeightsError(why, source_of(weights), fix)
    return name, model


def source_of(weights: Weights) -> str:
    """The source of weights, and what was left out of it."""
    return "; ".join((str(weights.source), *weights.notes))


def save_classifier(
    path: Path, name: str, model: Network, classes: tuple[str, ...], view: View, metrics: dict
) -> None:
    """Write everything that load_model needs, atomically and with a SHA-256."""
    versions = {package: version(package) for package in ("torch", "torchvision", "pillow")}
    metadata = Metadata(name, settings_of(model), classes, asdict(view), metrics, versions)
    write_weights(path, model.state_dict(), metadata)


def open_classifier(options: Any) -> tuple[Classifier, str]:
    """The classifier that the options of predict or evaluate name, and a line that says which.

    With --model, it is that network with --weights; without it, the first of the inputs.
    """
    if options.model:
        zoo.check(options.model, {})
    elif options.weights != "DEFAULT":
        why, fix = "--weights needs --model, and none is named", "add --model, or omit --weights"
        raise UsageError(why, f"--weights {options.weights}", fix)
    device, why = choose_device(options.device)
    path = options.weights if options.model else options.inputs[0]
    model = load_model(path, options.model, options.classes, options.preprocess)
    model.model.to(device)
    return model, f"{about(model)}; device {why}"


def pretrained(
    name: str, weights: str | None, seed: int, preprocess: str | None = None
) -> tuple[Network, View]:
    """A network with weights, and the preprocessing that they need.

    `weights`: anything that zoo.load takes, a published name, or None for random ones of `seed`.
    `preprocess`: see load_model.
    """
    torch.manual_seed(seed)
    if weights is None:
        model = zoo.build(name)
        usual = default_view(model)
        return model, view_named(preprocess, name, usual) if preprocess else usual
    loaded = open_weights(weights, owner(name, weights))
    _, model = network_of(loaded, name, new_head=True)
    view = view_for(loaded, name, model, preprocess)
    return model.to(memory_format=torch.channels_last), view
