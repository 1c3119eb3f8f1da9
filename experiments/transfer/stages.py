"""What each stage of a network knows about your images, and what more images would add.

A linear probe (probe.py) reads the classes out of the features after each stage (Alain and Bengio
2016, arXiv 1610.01644). The probe of the last stage is also fitted to a half, a quarter ... of the
images: see learning_curve.py.
Dimension key: N images, C channels.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from data.progress import Progress
from experiments.classifier import FP32
from experiments.plumbing.cli import ResultsError
from experiments.plumbing.precision import to_layout
from experiments.plumbing.results import KEEP_IT, UNFIT, other_settings, parsed
from experiments.plumbing.stats import Interval, wilson
from experiments.plumbing.tables import Part, Rows
from experiments.train.loop import Settings, infer
from experiments.transfer.learning_curve import (
    DRAWS,
    bits,
    more_images,
    sizes_of,
    stratified_keys,
)
from zoo.networks import Network, stages_of
from zoo.resnet import ResNet

FILE = "stages.json"  # in transfer's folder of results
# What it stores of each network.
NEEDS = {"stages", "unfreeze", "curve", "images", "tested_on", "settings"}
Batches = Iterable[tuple[Tensor, Tensor]]


# --- probes ---


def probed_stages(model: Network) -> dict[str, list[str]]:
    """The stages with a probe: name -> modules.

    A ViT's stem has none: its class token knows nothing of the image before the first block.
    """
    stem, *others, _ = stages_of(model)
    if isinstance(model, ResNet):
        return {names[0]: names for names in (stem, *others)}
    named = {}
    for names in others:
        blocks = [name.removeprefix("blocks.") for name in names if name != "norm"]
        named["-".join(["blocks." + blocks[0], *blocks[1:][-1:]])] = names
    named[next(iter(named))].insert(0, *stem)
    return named


def features_by_stage(
    model: Network, batches: Batches, settings: Settings
) -> tuple[list[Tensor], Tensor]:
    """Float32 features (N, C) after each stage, and labels (N,), on the CPU.

    The features of a map are its means; those of tokens are the class token.
    """
    channels: list[int] = []
    stages = probed_stages(model).values()

    def all_features(x: Tensor) -> Tensor:
        outputs = []
        for names in stages:
            for name in names:
                x = model.get_submodule(name)(x)
            outputs.append(x.mean((2, 3)) if x.dim() == 4 else x[:, 0])
        channels[:] = [output.shape[1] for output in outputs]
        return torch.cat(outputs, 1)

    to_layout(model, settings).eval()
    features, labels = infer(all_features, batches, settings)
    return list(features.split(channels, 1)), labels


def probe_stages(
    model: Network,
    train: Batches,
    tested: Batches,
    fit: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    settings: Settings,
) -> dict[str, Any]:
    """Fit all probes, and return which tested images each of them classifies correctly.

    "stages": name -> "0110..."; "unfreeze": name -> all modules after the stage, with commas;
    "curve": number of training images -> one "0110..." per sample. `fit(features, labels)`: weight
    and bias of a head; `settings`: precision of the training features; tested ones are fp32, as in
    linear-probe.
    """
    stages, modules = list(probed_stages(model)), stages_of(model)
    features, labels = features_by_stage(model, train, settings)
    others, truth = features_by_stage(model, tested, FP32)

    def right(stage: int, chosen: Any) -> str:
        weight, bias = fit(features[stage][chosen], labels[chosen])
        answers = (others[stage] @ weight.T + bias).argmax(1)
        return "".join(map(str, (answers == truth).int().tolist()))

    todo: list[tuple[int, Any]] = [(stage, slice(None)) for stage in range(len(stages))]
    *smaller, size = sizes_of(len(labels), len(labels.unique())) or [0]
    keys = [stratified_keys(labels.numpy(), draw) for draw in range(DRAWS)]
    todo += [(-1, np.argsort(key)[:some]) for some in smaller for key in keys]
    with threadpool_limits(1, "blas"):  # for small matrices, threads cost more than they save
        found = [right(*item) for item in Progress(todo, "fitting probes", delay=1)]
    samples = found[len(stages) :]
    curve = {some: samples[DRAWS * i :][:DRAWS] for i, some in enumerate(smaller)}
    after = [modules[i + len(modules) - len(stages) :] for i in range(len(stages))]
    return {
        "stages": dict(zip(stages, found, strict=False)),
        "unfreeze": {
            name: ",".join(chain.from_iterable(names))
            for name, names in zip(stages, after, strict=True)
        },
        "curve": curve | ({size: [found[len(stages) - 1]]} if size else {}),
    }


# --- how far to unfreeze ---


def accuracy(text: str) -> Interval:
    """The share of correct answers in percent, with Wilson's interval."""
    right = int(bits(text).sum())
    low, high = wilson(right, len(text))
    return Interval(100 * right / len(text), 100 * low, 100 * high, len(text), "images")


def lead(one: str, other: str) -> tuple[str, float]:
    """How much more accurate one probe is than another, in words, and a p-value. Paired by image.

    The exact test of McNemar: of the images that exactly one probe classifies correctly, has each
    half?
    """
    from scipy.stats import binomtest  # slow to import, so only here

    ours, theirs = ((bits(a) > bits(b)).sum() for a, b in ((one, other), (other, one)))
    p = binomtest(int(ours), int(ours + theirs)).pvalue if ours + theirs else 1.0
    points = 100 * (ours - theirs) / len(one)
    return f"{points:+.1f} points, p = {p:.2g}", float(p)


def advice(found: Mapping[str, Any]) -> str:
    """A sentence on how far to unfreeze the network, or that the probes cannot tell."""
    *earlier, last = found["stages"]
    if found["settings"].get("weights", "") is None:
        return "random weights know nothing yet, so the probes give no advice"
    if not earlier:
        return "nothing to compare: the network has one stage"
    right = {name: bits(text).sum() for name, text in found["stages"].items()}
    leads = {name: lead(found["stages"][name], found["stages"][last]) for name in earlier}
    # Each of several comparisons has to be clearer than one alone (Bonferroni).
    clear = [name for name in earlier if leads[name][1] < 0.05 / len(earlier)]
    better = [name for name in clear if right[name] > right[last]]
    unclear = [name for name in earlier if name not in clear]
    best = max(better or unclear or earlier, key=lambda name: right[name])
    value = leads[best][0]
    if better:
        return (
            f"{best} knows more than the last stage ({value}), so it may help to train what comes "
            f"after it: --strategy partial --unfreeze {found['unfreeze'][best]}"
        )
    if unclear:
        clear_from = f"below {0.05 / len(earlier):.2g} would be clear"
        return f"cannot tell: {best} minus the last stage, {value} ({clear_from})"
    return (
        f"the last stage knows more than all before it ({best}: {value}), so the probes give no "
        "reason to train another one: begin with the head alone, --strategy linear-probe"
    )


# --- report ---


def read(folder: Path) -> dict[str, dict]:
    """The probes in a folder of results, by network; {} if there are none. Or ResultsError."""
    path = folder / FILE
    if not path.exists():
        return {}
    found = parsed(path.read_bytes(), path, ())
    if not all(is_whole(one) for one in found.values()):
        raise ResultsError(UNFIT, path, KEEP_IT)
    return found


def check_settings(stored: Mapping[str, dict], asked: Mapping[str, Any], folder: Path) -> None:
    """Raise ResultsError if probes in the folder are of other images or settings."""
    for model, one in stored.items():
        own = () if model == asked["model"] else ("model", "weights", "preprocess")
        here, wanted = ({k: v for k, v in settings.items() if k not in own}
                        for settings in (one["settings"], asked))  # fmt: skip
        if here != wanted:
            raise other_settings(f"a probe of {model}", here, wanted, folder / FILE, folder)


def is_whole(one: Any) -> bool:
    """Whether this is what probe_stages returns, with what probe_networks adds."""
    if not isinstance(one, dict) or not one.keys() >= NEEDS:
        return False
    stages, curve = one["stages"], one["curve"]
    if not (isinstance(stages, dict) and stages and isinstance(curve, dict)):
        return False
    if not all(isinstance(texts, list) for texts in curve.values()):
        return False
    samples = [*stages.values(), *chain.from_iterable(curve.values())]
    if not all(isinstance(text, str) and re.fullmatch("[01]+", text) for text in samples):
        return False
    return (
        len({len(text) for text in samples}) == 1
        and isinstance(one["unfreeze"], dict)
        and one["unfreeze"].keys() == stages.keys()
        and type(one["images"]) is int
        and isinstance(one["settings"], dict)
        and all(size.isdecimal() for size in curve)
        and {len(texts) for texts in curve.values()} <= {1, DRAWS}
    )


def report_of_stages(found: Mapping[str, dict]) -> list[Part]:
    """A table of the probes of each network, and what follows from them; [] without any."""
    if not found:
        return []
    first = next(iter(found.values()))
    names = dict.fromkeys(name for one in found.values() for name in one["stages"])
    lines = [[name, *(cell(one["stages"].get(name)) for one in found.values())] for name in names]
    tested = len(next(iter(first["stages"].values())))
    caption = (
        f"What each stage knows: accuracy (%) on {first['tested_on']} of a linear probe, with its "
        f"95 % interval (n = {tested:,} images); {first['images']:,} training images; "
        f"{', '.join(map(weights_of, found, found.values()))}."
    )
    if "guessing" in first:
        caption += f" Always answering the largest class is right for {first['guessing']:.1f} %."
    said = []
    for name, one in found.items():
        if one.get("guessing") == 100:
            said.append(f"- {name}: nothing can be said, as all tested images are of one class.")
            continue
        said.append(f"- How far to unfreeze {name}? {advice(one)}.")
        said.append(f"- What would more images add to {name}? {more_images(one)}.")
    return [Rows(("probe after", *found), lines), caption, "\n".join(said)]


def largest_share(labels: Tensor) -> float:
    """The share of the largest class in percent: what always answering it is right for."""
    return 100 * int(labels.bincount().max()) / len(labels)


def weights_of(name: str, one: Mapping[str, Any]) -> str:
    """A network, its weights and the precision of its features, as text."""
    weights = one["settings"].get("weights") or "random weights"
    precision = f" ({one['precision']})" if "precision" in one else ""
    return f"{name} from {Path(weights).name}{precision}"


def cell(answers: str | None) -> str:
    """An accuracy with its interval; "-" for a stage that the network lacks."""
    if answers is None:
        return "-"
    share = accuracy(answers)
    return f"{share.value:.1f} ({share.low:.1f} to {share.high:.1f})"
