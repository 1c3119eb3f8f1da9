"""Writes a run as plain PyTorch code: fills in ejected.txt with the run's settings.

A line of ejected.txt that ends in `#? KIND` is only for runs of this kind. `#? KIND` on a line of
its own applies to the lines below, up to the next one. `# %% TITLE` starts a cell of a notebook.
"""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from pprint import pformat
from string import Template
from typing import Any

import torch
from torch import Tensor
from torchvision.models import get_model

from data.collection import ImageDataset, Source, identity, open_dataset
from data.images import load_image
from experiments.plumbing.cli import ResultsError, UsageError
from experiments.plumbing.recipes import DEFAULT
from experiments.plumbing.results import KEEP_IT, UNFIT, read_row
from experiments.transfer.job import NEEDS
from zoo.weights.atomic import write_atomic
from zoo.weights.files import read_entries, read_weights
from zoo.weights.published import published, published_name

TITLES = {"linear-probe": "Linear probing", "feature-extraction": "Feature extraction",
          "finetune": "Fine-tuning"}  # fmt: skip
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
# The settings of a recipe that the code contains; all others must have their defaults.
STATED = ("epochs", "batch_size", "lr", "head_lr", "momentum", "weight_decay", "lr_warmup_epochs",
          "probe_l2", "scale", "size")  # fmt: skip
FIX = ("supported: linear-probe, feature-extraction and finetune of --recipe default, fp32, one "
       "process; torchvision's ResNets, with published weights or a .pth file; a folder of "
       "CLASS/IMAGE.jpg, without options that leave out images")  # fmt: skip


def refusal(why: str, folder: Path) -> UsageError:
    """The error for a run that ejected.txt cannot reproduce."""
    return UsageError(f"this run cannot be ejected: {why}", folder, FIX)


def eject(folder: Path, output: Path, form: str) -> None:
    """Write the finished run in `folder` as code to `output`; `form`: "script" or "notebook".

    Raises UsageError if the code would not end with the run's weights, ResultsError if there is no
    finished run, DataError or WeightsError if images or weights cannot be read any more.
    """
    row = read_row(folder, needs=(*NEEDS, "data", "processes"))
    if row is None:
        fix = "give the folder of one run: it holds row.json and best.safetensors"
        raise ResultsError("there is no finished run here", folder, fix)
    view = read_weights(folder / "best.safetensors").metadata.preprocess or {}
    try:
        if why := unsupported(row, view):
            raise refusal(why, folder)
        code = code_of(row, view, folder, images_of(row, folder))
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ResultsError(UNFIT, folder / "row.json", KEEP_IT) from error
    text = notebook(code) if form == "notebook" else code
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, text.encode(errors="backslashreplace"))  # a path may not be Unicode
    lines = sum(bool(line.strip()) for line in code.splitlines())
    print(f"{output}: {lines} lines of PyTorch, which save ejected.pth where they run")


def unsupported(row: dict, view: dict) -> str:
    """Why a run with these settings cannot be ejected; "" if the settings are supported."""
    run, recipe, usual = row["run"], row["run"]["recipe"], json.loads(json.dumps(asdict(DEFAULT)))
    other = [name for name in usual if name not in STATED and recipe[name] != usual[name]]
    square = view["squash"] or view["crop"] != view["input_size"] or len(view["mean"]) > 3
    reasons = (
        (row["status"] != "finished", f"it {row['status']}"),
        (run["strategy"] not in TITLES, f"its strategy is {run['strategy']}"),
        (run["model"] not in RESNETS, f"its network is {run['model']}"),
        (run["base"]["precision"] != "fp32", f"its precision is {run['base']['precision']}"),
        (row["processes"] != 1, f"{row['processes']} processes trained it"),
        (other, f"its recipe differs from the default in {', '.join(other)}"),
        (square or view["interpolation"] != "bilinear", "its --preprocess is not a centre crop"),
    )
    return next((why for applies, why in reasons if applies), "")


def images_of(row: dict, folder: Path) -> ImageDataset:
    """The images of a run; raise UsageError if the code would read one of them wrongly."""
    data, table = row["data"], folder.absolute().parent / "split.csv"
    dataset = open_dataset(Source(data), 0, 0) if table.exists() else None  # cifar10 has none
    if dataset is None or identity(dataset) != row["run"]["dataset_id"]:
        raise refusal(f"in this folder, {data} does not hold exactly the run's images", folder)
    return dataset


def check_images(load: Callable[[str], Tensor], files: Sequence[str], folder: Path) -> None:
    """Raise UsageError for an image that the code would read in another way than the run did."""
    for file in files:
        image = load_image(file)
        with suppress(OSError, ValueError, SyntaxError):  # what Pillow raises
            # A thin one: data.views.ShorterSide cuts its ends off.
            if torch.equal(image, load(file)) and max(image.shape) <= 90 * min(image.shape[1:]):
                continue
        raise refusal(f"{file} is thin, or Pillow alone reads it in another way", folder)


def code_of(row: dict, view: dict, folder: Path, dataset: ImageDataset) -> str:
    """The code. It lists the images of the folders; if these have more, it reads split.csv, too."""
    data, wanted = Path(row["data"]).absolute(), {}
    values = values_of(row, view, folder, dataset) | {"data": quoted(data)}
    for name in ("train", "val"):
        part = dataset.splits[name]
        files = [str(Path(file).absolute()) for file in part.files]
        below = Path(files[0]).parents[1].relative_to(data).parts
        values[name] = " / ".join(("DATA", *map(quoted, below)))
        wanted[name] = list(zip(files, part.labels.tolist(), strict=True))
    kinds = {"all", row["run"]["strategy"], "file" if values["outputs"] else "published"}
    probes = "two" if values["halves"] == 2 else "all"
    kinds.add(probes if "linear-probe" in kinds else "trained")
    for kind in ("folders", "listed"):
        for name in wanted:
            test = f', is_valid_file=lambda p: split_of.get(p) == "{name}"'
            values[f"only_{name}"] = test * (kind == "listed")
        code = Template(of_kinds({kind, *kinds})).substitute(values)
        found: dict[str, Any] = {}
        with suppress(OSError, AssertionError):  # a class without images, or other classes
            exec(code.split("# %% Network")[0], found)
            if all(found[name].samples == wanted[name] for name in wanted):
                files = [file for pairs in wanted.values() for file, _ in pairs]
                check_images(found["load"], files, folder)
                return code
    raise refusal("torchvision's ImageFolder lists its images differently", folder)


def values_of(row: dict, view: dict, folder: Path, dataset: ImageDataset) -> dict[str, Any]:
    """The values of the names after $ in ejected.txt, except for the paths of images."""
    run, recipe, classes = row["run"], row["run"]["recipe"], dataset.classes
    names = json.dumps(classes, ensure_ascii=False)
    if len(names) > 80:
        names = pformat(list(classes), width=96, compact=True) + "  # fmt: skip"
    weights, outputs = weights_of(run, folder)
    numbers = recipe | view | {
        "seed": run["seed"], "threads": row["threads"],
        "lr": recipe["lr" if run["strategy"] == "finetune" else "head_lr"],
        "warmup": recipe["lr_warmup_epochs"], "scale": tuple(recipe["scale"]),
        "l2": max(recipe["probe_l2"], 1e-12),
    }  # fmt: skip
    # row.json is data: by repr() and harmless(), nothing in it can become code.
    return {name: repr(value) for name, value in numbers.items()} | {
        "title": TITLES[run["strategy"]], "run": harmless(row["name"]), "model": run["model"],
        "classes": names, "count": len(classes), "halves": 2 if len(classes) == 2 else 1,
        "weights": weights, "outputs": outputs,
        "layout": "channels_last" if run["base"]["channels_last"] else "contiguous_format",
        "split": quoted(folder.absolute().parent / "split.csv"),
        "versions": f"torch {harmless(row['versions']['torch'])}",
    }  # fmt: skip


def weights_of(run: dict, folder: Path) -> tuple[str, int]:
    """As code, the weights that a run started from; if they are a file, its number of classes."""
    if published_name(run["weights"]):
        entry = published(run["model"], run["weights"])  # the meaning of DEFAULT can change
        return quoted(entry.name), 0
    path = Path(run["weights"] or "").expanduser().absolute()
    with suppress(KeyError, TypeError, RuntimeError):  # other names, or no state dict
        if path.is_file() and path.suffix != ".safetensors":
            state = read_entries(path)[0]
            get_model(run["model"], num_classes=len(state["fc.weight"])).load_state_dict(state)
            return quoted(path), len(state["fc.weight"])
    raise refusal(f"torchvision cannot load its weights, {run['weights']}", folder)


def harmless(name: str) -> str:
    """A name that can end neither a comment nor a text."""
    return re.sub(r"[^\w.+-]", "_", name)


def quoted(text: object) -> str:
    """A text as code."""
    return json.dumps(str(text), ensure_ascii=False)


def of_kinds(kinds: set[str]) -> str:
    """The lines of ejected.txt for runs of these kinds."""
    lines, block = [], "all"
    for line in Path(__file__).with_name("ejected.txt").read_text(encoding="utf-8").splitlines():
        code, mark, kind = line.rpartition("#? ")
        if mark and not code:
            block = kind
        elif (kind if mark else block) in kinds:
            lines.append(code.rstrip() if mark else line)
    return "\n".join(lines) + "\n"


def notebook(code: str) -> str:
    """The same code as a notebook, in which cells of text and of code alternate."""
    _, about, rest = code.split('"""', 2)
    cells: list[dict] = []
    for place, text in enumerate((about, *re.split(r"(?m)^# %% (.*)\n", rest))):
        cell: dict[str, Any] = {"cell_type": "markdown", "source": f"## {text.strip()}"}
        if place % 2:
            cell = {"cell_type": "code", "source": text.strip(), "execution_count": None}
            cell["outputs"] = []
        cells.append(cell | {"id": f"cell-{place}", "metadata": {}})
    whole = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, ensure_ascii=False, indent=1)
