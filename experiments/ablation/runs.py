"""One run of an ablation: a network, a seed, images and settings; and the files that it writes.

history.csv        one row per epoch, written after each
checkpoint.pt      everything needed to resume; exists while the run is not finished
final.safetensors  the weights after the last step
row.json           settings and results; exists only when the run is finished
"""

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import zoo
from data.batches import (
    Normalize,
    TensorBatches,
    channel_normalize,
    pixel_mean_normalize,
    whole_images,
)
from data.cifar import cifar10
from data.dataset import Dataset, read_folder
from data.synthetic import SIZE, synthetic
from data.views import View
from experiments.plumbing.device import make_deterministic
from experiments.plumbing.precision import compile_training, to_layout
from experiments.plumbing.results import machine, write_csv, write_json
from experiments.plumbing.resume import (
    Clock,
    remove_checkpoint,
    train_resumably,
    until_stopped,
)
from experiments.train.loop import Batch, Diverged, Settings, State, evaluate, start
from zoo.networks import Network
from zoo.resnet import ResNet
from zoo.variants import NORM_FREE, VARIANTS, set_up
from zoo.weights.files import Metadata, write_weights
from zoo.weights.settings import settings_of

TEST_BATCH = 500
PARTS = ("attention-skip", "mlp-skip", "no-mlp", "pure-attention")  # ViT blocks without some parts
HISTORY_FIELDS = ("epoch", "step", "lr", "train_loss", "train_error", "test_loss", "test_error")


@dataclass(frozen=True)
class Data:
    """Which images a run uses, and their preprocessing."""

    source: str = "synthetic"  # from data/synthetic.py; or "cifar10" or "folder"
    data_dir: str | None = None  # path of "folder"; for "cifar10", None downloads it
    size: int = 32  # side of the network's input, in pixels
    train_images: int | None = None  # at most; None: all ("synthetic": 4,000)
    test_images: int | None = None  # at most; None: all ("synthetic": 1,000)
    normalize: str = "channel"  # mean and std per channel; or "pixel-mean", as in section 4.2
    augment: bool = True  # random crops and flips in training
    holdout: bool = False  # test on 10 % of the training images, for tuning (45k/5k)


def in_words(source: str, size: int) -> str:
    """A Data's images, for a caption."""
    names = {"synthetic": "synthetic images", "cifar10": "CIFAR-10"}
    return f"{names.get(source, 'a folder')} at {size}x{size}"


@dataclass(frozen=True)
class Run:
    """One row of an ablation."""

    # "resnet", "plain" or one of zoo.variants; transformers: "vit", "plainvit", or one of PARTS
    network: str = "resnet"
    depth: int = 20  # layers; transformers: blocks
    seed: int = 0
    norm: str = "batch"  # or "none"; transformers: "layer"
    data: Data = field(default_factory=Data)
    settings: Settings = field(default_factory=Settings)
    rates: bool = False  # whether runs of the ablation differ in their rate: then it is in the name

    @property
    def model(self) -> str:
        """The model's name for zoo.build."""
        family = "plainvit" if self.network in PARTS else self.network
        return f"{'resnet' if family in VARIANTS else family}{self.depth}"

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        suffix = "-nonorm" if self.norm == "none" else ""
        rate = f"-lr{self.settings.lr:g}" if self.rates else ""
        return f"{self.network}{self.depth}{suffix}{rate}-seed{self.seed}"

    @property
    def builder(self) -> dict[str, Any]:
        """Keyword arguments for zoo.build."""
        if self.norm != "layer":
            variant = {"variant": self.network} if self.network in VARIANTS else {}
            return variant if self.network in NORM_FREE else {"norm": self.norm, **variant}
        block = {"block": self.network} if self.network in PARTS else {}
        return {"image_size": self.data.size, **block}

    @property
    def reference(self) -> "Run":
        """The residual network that gives all arms of this depth and seed their initial weights."""
        if self.norm == "layer":
            return replace(self, network="vit")
        return replace(self, network="resnet", norm="batch")


@functools.lru_cache(maxsize=1)
def load_data(data: Data) -> Dataset:
    """The dataset, stored no larger than training needs."""
    if data.source == "folder":
        dataset = read_folder(Path(data.data_dir or "."), data.size)
    elif data.source == "cifar10":
        dataset = cifar10(Path(data.data_dir) if data.data_dir else None)
    else:
        dataset = synthetic(data.train_images or 4000, data.test_images or 1000)
    if data.holdout:
        dataset = dataset.holding_out()
    if data.train_images or data.test_images:
        dataset = dataset.limited(data.train_images, data.test_images)
    # Images smaller than SIZE are stored small, and enlarged batch by batch.
    return dataset.resized(data.size) if data.size < SIZE else dataset


@functools.lru_cache(maxsize=1)
def normalize_of(data: Data) -> Normalize:
    """The normalisation, fitted to the training images."""
    fit = {"channel": channel_normalize, "pixel-mean": pixel_mean_normalize}[data.normalize]
    return fit(load_data(data).train_images)


def view_of(data: Data) -> View:
    """The same preprocessing, for the commands that use the trained network."""
    normalize, side = normalize_of(data), load_data(data).train_images.shape[-1]
    mean, std = (tuple(values.flatten().tolist()) for values in (normalize.mean, normalize.std))
    return View(side, side, mean=mean, std=std * (3 if len(std) == 1 else 1), input_size=data.size)


def make_batches(run: Run, device: torch.device) -> TensorBatches:
    """The training batches of a run: random crops and flips, unless excluded; normalised."""
    dataset = load_data(run.data)
    augment, side = run.data.augment, dataset.train_images.shape[-1]
    padding = side // 8 if augment else 0  # 4 pixels of 32, as in section 4.2
    return TensorBatches(
        dataset, normalize_of(run.data), run.settings.batch_size, run.seed, device,
        input_size=run.data.size, padding=padding, flip=augment,
    )  # fmt: skip


def evaluation_batches(data: Data, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """Batches of the test images, in order, uncropped and normalised."""
    images, labels = load_data(data).test_images, load_data(data).test_labels
    return whole_images(images, labels, normalize_of(data), batch_size, device, data.size)


def build_model(run: Run) -> nn.Module:
    """The network of a run with the initial weights of its seed, on the CPU.

    Weights that it shares with the reference network start equal, so that arms differ in one thing
    only; then those that a variant prescribes.
    """
    classes = len(load_data(run.data).classes)
    model, reference = seeded(run, classes), seeded(run.reference, classes)
    mine, theirs = model.state_dict(), reference.state_dict()
    shared = {key for key in mine.keys() & theirs.keys() if mine[key].shape == theirs[key].shape}
    model.load_state_dict({key: theirs[key] for key in shared}, strict=False)
    if isinstance(model, ResNet) and model.variant:
        set_up(model.stages, model.head)
    return to_layout(model, run.settings)


def seeded(run: Run, classes: int) -> nn.Module:
    """The network of a run with random weights of its own."""
    torch.manual_seed(run.seed)
    return zoo.build(run.model, classes, **run.builder)


def run_one(
    run: Run, folder: Path, device: torch.device, *,
    progress: Callable[[int], None] = lambda step: None,
    should_stop: Callable[[], bool] = lambda: False, save_every: float = 10,
) -> bool:  # fmt: skip
    """Train `run` to its end and return True; or save and return False once should_stop() is True.

    An interrupted run resumes from its checkpoint in `folder` and ends with the same bits.
    `save_every`: minimum seconds between checkpoints.
    """
    folder.mkdir(parents=True, exist_ok=True)
    make_deterministic(device)
    model = build_model(run).to(device)
    compute = compile_training(model) if run.settings.compiled else None
    state, clock = start(model, run.settings, compute, seed=run.seed), Clock()

    def end_epoch() -> None:
        test = until_stopped(evaluation_batches(run.data, TEST_BATCH, device), should_stop)
        tested = evaluate(state.model, test, run.settings)
        trained = float(state.loss_sum) / state.seen, int(state.wrong) / state.seen
        values = (len(state.history) + 1, state.step, state.lr, *trained, *tested)
        state.history.append(dict(zip(HISTORY_FIELDS, values, strict=True)))
        write_csv(folder / "history.csv", state.history, HISTORY_FIELDS)

    status, owner = "finished", json.dumps(asdict(run))
    try:
        finished = train_resumably(
            state, make_batches(run, device), run.settings, folder / "checkpoint.pt", owner, clock,
            end_epoch=end_epoch, progress=progress, should_stop=should_stop, save_every=save_every,
        )  # fmt: skip
        if not finished:
            return False
    except Diverged as error:
        status = str(error)
    finish(run, folder, state, status, clock.total, device)
    return True


def finish(
    run: Run, folder: Path, state: State, status: str, seconds: float, device: torch.device
) -> None:
    """Write weights, history, and row.json last: its presence marks a complete run.

    The results are those of the last epoch, never of the best one.
    """
    dataset = load_data(run.data)
    last = state.history[-1] if status == "finished" else {}
    row = {
        "run": asdict(run), "status": status,
        "images": [len(dataset.train_labels), len(dataset.test_labels)],
        "classes": len(dataset.classes),
        "parameters": sum(p.numel() for p in state.model.parameters()),
        **{name: last.get(name) for name in HISTORY_FIELDS[3:]},
        "skipped_steps": state.skipped_steps, "seconds": round(seconds, 1), **machine(device),
    }  # fmt: skip
    assert isinstance(state.model, Network)
    view = asdict(view_of(run.data))
    metadata = Metadata(run.model, settings_of(state.model), dataset.classes, view)
    weights = state.model.state_dict()
    if all(values.isfinite().all() for values in weights.values()):
        write_weights(folder / "final.safetensors", weights, metadata)
    write_csv(folder / "history.csv", state.history, HISTORY_FIELDS)
    write_json(folder / "row.json", row)
    remove_checkpoint(folder / "checkpoint.pt")
