"""One run: a network, a seed, pictures, settings; and the files it leaves.

history.csv        a row an epoch, written after each
checkpoint.pt      everything needed to go on, while the run is not finished
final.safetensors  the weights after the last step
row.json           settings and results; there only when the run is finished
"""

import functools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import zoo
from data.batches import Batches, Normalize, channel_normalize, in_order, pixel_mean_normalize
from data.cifar import cifar10
from data.dataset import Dataset, read_folder
from data.synthetic import SIZE, synthetic
from experiments.plumbing.device import make_deterministic
from experiments.plumbing.precision import to_layout
from experiments.plumbing.provenance import machine
from experiments.plumbing.results import read_row, write_csv, write_json
from experiments.plumbing.resume import Clock, train_resumably, until_stopped
from experiments.train import Diverged, Settings, State, evaluate, start
from zoo.networks import Network
from zoo.plainvit import BLOCKS
from zoo.weights.files import Metadata, write_weights
from zoo.weights.settings import settings_of

TEST_BATCH = 500


@dataclass(frozen=True)
class Data:
    """Which pictures, and how they reach the network."""

    source: str = "embedded"  # drawn by data/synthetic.py; or "cifar10" or "folder"
    data_dir: str | None = None  # where "folder" is; for "cifar10": None downloads
    size: int = 32  # of the network's input, in pixels a side
    train_images: int | None = None  # at most; None: all there are ("embedded": 4,000)
    test_images: int | None = None  # the same ("embedded": 1,000)
    normalize: str = "channel"  # mean and std of channels, or "pixel-mean" as in section 4.2
    choose: bool = False  # test on a held-out tenth of the training pictures (45k/5k)


@dataclass(frozen=True)
class Run:
    """One row of an ablation."""

    network: str = "resnet"  # or "plain"
    depth: int = 20
    seed: int = 0
    norm: str = "batch"  # or "none"
    data: Data = field(default_factory=Data)
    settings: Settings = field(default_factory=Settings)

    @property
    def model(self) -> str:
        return f"{self.network}{self.depth}"

    @property
    def name(self) -> str:
        return f"{self.model}{'' if self.norm == 'batch' else '-nonorm'}-seed{self.seed}"

    @property
    def builder(self) -> dict[str, Any]:
        """What zoo.build is told besides the model's name."""
        return {"norm": self.norm}

    @property
    def reference(self) -> "Run":
        """The residual network that every arm of this depth and seed has its first weights from."""
        return type(self)(depth=self.depth, seed=self.seed, data=self.data)


@dataclass(frozen=True)
class VitRun(Run):
    """One row of the transformers' ablation; `depth` counts blocks."""

    network: str = "vit"  # or "plainvit", or a key of zoo.plainvit.BLOCKS
    depth: int = 4
    norm: str = "layer"

    @property
    def model(self) -> str:
        return f"{'vit' if self.network == 'vit' else 'plainvit'}{self.depth}"

    @property
    def name(self) -> str:
        return f"{self.network}{self.depth}-seed{self.seed}"

    @property
    def builder(self) -> dict[str, Any]:
        size = {"image_size": self.data.size}
        return size | ({"block": self.network} if self.network in BLOCKS else {})


@functools.lru_cache(maxsize=1)
def load_data(data: Data) -> Dataset:
    """The data set, stored no larger than training needs."""
    if data.source == "folder":
        dataset = read_folder(Path(data.data_dir or "."), data.size)
    elif data.source == "cifar10":
        dataset = cifar10(Path(data.data_dir) if data.data_dir else None)
    else:
        dataset = synthetic(data.train_images or 4000, data.test_images or 1000)
    if data.choose:
        dataset = dataset.holding_out()
    if data.train_images or data.test_images:
        dataset = dataset.limited(data.train_images, data.test_images)
    # Small pictures are stored small, and enlarged batch by batch.
    return dataset.resized(data.size) if data.size < SIZE else dataset


def normalize_of(dataset: Dataset, data: Data) -> Normalize:
    fit = {"channel": channel_normalize, "pixel-mean": pixel_mean_normalize}[data.normalize]
    return fit(dataset.train_images)


def make_batches(run: Run, device: torch.device) -> Batches:
    dataset = load_data(run.data)
    padding = dataset.train_images.shape[-1] // 8  # 4 pixels of 32, as in section 4.2
    return Batches(
        dataset, normalize_of(dataset, run.data), run.settings.batch_size, run.seed, device,
        input_size=run.data.size, padding=padding,
    )  # fmt: skip


def build_model(run: Run) -> nn.Module:
    """The network of a run with the weights that its seed gives it, on the CPU.

    What it shares with the reference network starts equal, so that arms differ in one thing only.
    """
    classes = len(load_data(run.data).classes)
    model, reference = seeded(run, classes), seeded(run.reference, classes)
    mine, theirs = model.state_dict(), reference.state_dict()
    shared = {key for key in mine.keys() & theirs.keys() if mine[key].shape == theirs[key].shape}
    model.load_state_dict({key: theirs[key] for key in shared}, strict=False)
    return to_layout(model, run.settings)


def seeded(run: Run, classes: int) -> nn.Module:
    torch.manual_seed(run.seed)
    return zoo.build(run.model, classes, **run.builder)


def run_one(
    run: Run, folder: Path, device: torch.device, *,
    progress: Callable[[int], None] = lambda step: None,
    should_stop: Callable[[], bool] = lambda: False, save_every: float = 10,
) -> dict | None:  # fmt: skip
    """Train `run` to its end, or until should_stop(); returns its row, or None if stopped.

    A finished run returns the row it left in `folder`; an interrupted one goes on from its
    checkpoint and ends with the same bits. `save_every`: seconds between checkpoints, at least.
    """
    row = read_row(folder, run)
    if row is not None:
        return row
    folder.mkdir(parents=True, exist_ok=True)
    make_deterministic(device)
    dataset, batches = load_data(run.data), make_batches(run, device)
    state, clock = start(build_model(run).to(device), run.settings), Clock()

    def end_epoch() -> None:
        add_history(state, run, dataset, batches, device, should_stop)
        write_csv(folder / "history.csv", state.history, HISTORY_FIELDS)

    status, owner = "finished", json.dumps(asdict(run))
    try:
        finished = train_resumably(
            state, batches, run.settings, folder / "checkpoint.pt", owner, clock,
            end_epoch=end_epoch, progress=progress, should_stop=should_stop, save_every=save_every,
        )  # fmt: skip
        if not finished:
            return None
    except Diverged as error:
        status = str(error)
        write_csv(folder / "history.csv", state.history, HISTORY_FIELDS)

    row = make_row(run, state, status, clock.total, device)
    finish(folder, run, state, row)
    return row


def finish(folder: Path, run: Run, state: State, row: dict) -> None:
    """The weights first and the row last: where there is a row, everything is there."""
    assert isinstance(state.model, Network)
    metadata = Metadata(run.model, settings_of(state.model), load_data(run.data).classes)
    write_weights(folder / "final.safetensors", state.model.state_dict(), metadata)
    write_json(folder / "row.json", row)
    (folder / "checkpoint.pt").unlink(missing_ok=True)


def add_history(
    state: State, run: Run, dataset: Dataset, batches: Batches, device: torch.device,
    should_stop: Callable[[], bool],
) -> None:  # fmt: skip
    test = in_order(
        dataset.test_images, dataset.test_labels, batches.normalize, TEST_BATCH, device,
        run.data.size,
    )  # fmt: skip
    test_loss, test_error = evaluate(state.model, until_stopped(test, should_stop), run.settings)
    state.history.append(
        {
            "epoch": len(state.history) + 1,
            "step": state.step,
            "lr": state.lr,
            "train_loss": state.loss_sum / state.seen,
            "train_error": state.wrong / state.seen,
            "test_loss": test_loss,
            "test_error": test_error,
        }
    )


HISTORY_FIELDS = ("epoch", "step", "lr", "train_loss", "train_error", "test_loss", "test_error")


def make_row(run: Run, state: State, status: str, seconds: float, device: torch.device) -> dict:
    """The results are those of the last epoch, never of the best one."""
    dataset = load_data(run.data)
    last = state.history[-1] if status == "finished" else {}
    return {
        "run": json.loads(json.dumps(asdict(run))),
        "status": status,
        "images": [len(dataset.train_labels), len(dataset.test_labels)],
        "parameters": sum(p.numel() for p in state.model.parameters()),
        **{name: last.get(name) for name in HISTORY_FIELDS[3:]},
        "seconds": round(seconds, 1),
        **machine(device),
    }
