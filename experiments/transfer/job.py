"""One run: a network, strategy, seed, dataset and recipe; and the files it writes.

history.csv        one row per epoch, written after each epoch
checkpoint.pt      all that resuming needs; deleted when the run is finished
best.safetensors   the epoch with the highest val accuracy (the first, if several are equal)
last.safetensors   the last epoch
row.json           settings and results; written last, so it marks a finished run
"""

import copy
import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data.collection import ImageDataset
from data.view_batches import StepDataset, ViewBatches, every_image
from experiments.classifier import FP32, load_model, pretrained, save_classifier
from experiments.plumbing import signals
from experiments.plumbing.distributed import Group
from experiments.plumbing.precision import to_layout
from experiments.plumbing.recipes import OF_PROBE, Recipe, evaluation_view, training_view
from experiments.plumbing.results import machine, write_csv, write_json
from experiments.plumbing.resume import (
    Clock,
    remove_checkpoint,
    timed,
    train_resumably,
    until_stopped,
)
from experiments.train.loop import Diverged, Settings, State, infer, start
from experiments.transfer.probe import features_of, logistic_regression
from experiments.transfer.strategies import factor_of, rarity, to_train, training_settings

NEEDS = ("name", "status", "accuracy", "seconds")  # the keys that row.json must have


@dataclass(frozen=True)
class Transfer:
    """The settings of one run, which is one row of the comparison."""

    strategy: str
    model: str
    weights: str | None
    seed: int
    recipe: Recipe
    base: Settings  # precision and memory layout
    dataset_id: str = ""  # data.collection.identity of the dataset
    preprocess: str | None = None  # the option --preprocess, for weights that store none

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return f"{self.model}-{self.strategy}-batch{self.recipe.batch_size}-seed{self.seed}"

    @property
    def of_probe(self) -> dict[str, Any]:
        """The settings that a linear probe depends on."""
        recipe, names = asdict(self.recipe), ("model", "weights", "preprocess", "dataset_id")
        own = {name: getattr(self, name) for name in names}
        return own | {name: recipe[name] for name in sorted(OF_PROBE)}

    @property
    def owner(self) -> str:
        """The settings as JSON; a checkpoint with other settings is refused."""
        return json.dumps(asdict(self))


load_pretrained = lru_cache(maxsize=2)(pretrained)


class TransferJob:
    """A run in progress: its images, views, network and clock."""

    def __init__(
        self, run: Transfer, dataset: ImageDataset, folder: Path, device: torch.device, group: Group
    ) -> None:
        self.run, self.set, self.folder, self.device = run, dataset, folder, device
        self.group, self.clock = group, Clock()
        self.should_stop: Callable[[], bool] = lambda: False  # True: an evaluation raises Stopped
        # Only random weights depend on the seed.
        seed = 0 if run.weights else run.seed
        network, expected = load_pretrained(run.model, run.weights, seed, run.preprocess)
        if run.strategy == "scratch" and run.weights:
            network, _ = load_pretrained(run.model, None, run.seed)  # with the same view
        self.view = evaluation_view(run.recipe, expected)
        self.random_view = training_view(run.recipe, self.view)
        # Decode all splits now, to report undecodable images before the first epoch.
        self.train_images = dataset.images("train", self.random_view)
        for split in dataset.splits:
            if split != "train":
                dataset.images(split, self.view)
        self.labels = dataset.labels("train")
        weighted = run.recipe.class_weights
        self.class_weights = rarity(self.labels, len(dataset.classes)) if weighted else None
        self.model = copy.deepcopy(network)
        torch.manual_seed(run.seed)
        self.model.head = nn.Linear(network.head.in_features, len(dataset.classes))
        self.model = to_layout(self.model, run.base).to(device)

    def batches(self, loaders: int = 0) -> ViewBatches:
        """This process's share of the training batches, from `loaders` worker processes."""
        views = StepDataset(
            self.train_images, self.labels, self.random_view, self.run.recipe.batch_size,
            self.run.seed, self.group.part,
        )  # fmt: skip
        return ViewBatches(views, self.device, loaders, spawn=self.group.size > 1)

    def evaluation_batches(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The evaluation batches of a split; of several processes, each has its own part."""
        images, labels = self.set.images(split, self.view), self.set.labels(split)
        # A process group has threads, and forking a process with threads can hang.
        loaders, part = self.set.loaders if self.group.size == 1 else 0, self.group.part
        return every_image(images, labels, self.view, 64, self.device, loaders, part)

    def answers(self, model: nn.Module, split: str, settings: Settings) -> tuple[float, list[int]]:
        """Mean loss of a split, and for each image 1 if it is classified correctly, else 0."""
        # The memory layout affects rounding: in that of FP32 the results equal predict's.
        model = to_layout(model, settings).eval()
        batches = until_stopped(self.evaluation_batches(split), self.should_stop)
        outputs = infer(model, batches, settings)
        logits, labels = (self.group.together(tensor) for tensor in outputs)
        loss = nn.functional.cross_entropy(logits, labels).item()
        return loss, (logits.argmax(1) == labels).int().tolist()

    def probe(self) -> tuple[float, float]:
        """Fit the head to the features; return loss and accuracy (0 to 1) on the training set."""
        import sklearn.linear_model  # noqa: F401  before the clock starts

        recipe, classes = self.run.recipe, len(self.set.classes)
        batches = timed(self.evaluation_batches("train"), self.clock)
        begin = time.perf_counter()
        computed = features_of(self.model, batches, self.run.base)
        features, labels = map(self.group.together, computed)
        weights = torch.tensor(self.class_weights) if self.class_weights else None
        weight, bias = logistic_regression(features, labels, classes, recipe.probe_l2, weights)
        head = self.model.head
        head.load_state_dict({"weight": weight, "bias": bias})
        self.clock.training += time.perf_counter() - begin
        with torch.no_grad():
            logits = head(features.to(self.device)).cpu()
            loss = nn.functional.cross_entropy(logits, labels).item()
            return loss, float((logits.argmax(1) == labels).float().mean())

    def add_row(self, state: State, train_loss: float, train_accuracy: float) -> tuple[dict, bool]:
        """After an epoch: evaluate on val, save the best epoch, write the history.

        Returns the epoch's row, and whether it is the best so far.
        """
        self.group.agree(state.model)
        val_loss, right = self.answers(state.model, "val", self.run.base)
        row = {
            "epoch": len(state.history) + 1, "step": state.step, "lr": state.lr,
            "train_loss": train_loss, "train_accuracy": train_accuracy,
            "val_loss": val_loss, "val_accuracy": sum(right) / len(right),
        }  # fmt: skip
        is_best = all(row["val_accuracy"] > other["val_accuracy"] for other in state.history)
        state.history.append(row)
        if is_best:
            self.save("best", {"epoch": row["epoch"]})
        if self.group.first:
            write_csv(self.folder / "history.csv", state.history, row)
        return row, is_best

    def finish(self, state: State, status: str) -> dict:
        """Evaluate the saved files in fp32; then write row.json, which marks the run complete."""
        results: dict[str, Any] = {}
        if status == "finished":
            self.save("last", {"epoch": len(state.history)})
            self.group.same(None)  # wait until the first process has written the files
            scores: dict[str, Any] = {}
            for name, chosen_by in (("best", "val accuracy"), ("last", "nothing")):
                loaded = load_model(self.folder / f"{name}.safetensors")
                self.model.load_state_dict(loaded.model.state_dict())
                if scores.get("epoch") != loaded.metrics["epoch"]:  # else last is best
                    scores = {"epoch": loaded.metrics["epoch"]}
                    for split in [split for split in self.set.splits if split != "train"]:
                        loss, right = self.answers(self.model, split, FP32)
                        accuracy = sum(right) / len(right)
                        scores |= {f"{split}_loss": loss, f"{split}_accuracy": accuracy}
                        if (name, split) == ("best", self.set.tested_on):
                            results["right"] = "".join(map(str, right))
                self.save(name, scores | {"chosen_by": chosen_by, "seen": self.set.seen})
                results |= {f"{name}_{key}": value for key, value in scores.items()}
        row = self.row(state, status, results)
        if self.group.first:
            write_json(self.folder / "row.json", row)
            remove_checkpoint(self.folder / "checkpoint.pt")
        return row

    def row(self, state: State, status: str, results: dict) -> dict:
        """The content of row.json."""
        clock, tested_on = self.clock, self.set.tested_on
        seen = state.step * self.run.recipe.batch_size or len(self.labels)
        return {
            "name": self.run.name, "run": json.loads(self.run.owner), "status": status,
            "data": self.set.source.data,
            "images": {name: len(part.labels) for name, part in self.set.splits.items()},
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "trainable": sum(p.numel() for p in state.model.parameters() if p.requires_grad),
            "tested_on": tested_on, "accuracy": results.get(f"best_{tested_on}_accuracy"),
            **results, "skipped_steps": state.skipped_steps, "seconds": round(clock.total, 2),
            "training_seconds": round(clock.training, 2),
            "waiting_seconds": round(clock.waiting, 2),
            "images_per_second": round(seen / clock.training, 1) if clock.training else None,
            "processes": self.group.size, **machine(self.device),
        }  # fmt: skip

    def save(self, name: str, metrics: dict) -> None:
        """Write the network with its metrics to NAME.safetensors, in the first process."""
        if self.group.first:
            save_classifier(
                self.folder / f"{name}.safetensors", self.run.model, self.model, self.set.classes,
                self.view, metrics,
            )  # fmt: skip


def run_transfer(
    run: Transfer,
    dataset: ImageDataset,
    folder: Path,
    device: torch.device,
    group: Group,
    *,
    progress: Callable[[int], None] = lambda step: None,
    on_epoch: Callable[[dict, bool], None] = lambda row, is_best: None,
    save_every: float = 10,
) -> dict:
    """Train `run` to its end and return its row.

    Ctrl-C and SIGTERM save after the current step and raise. The run then continues from its
    checkpoint and ends with the same bits; a linear probe has none and starts again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint.pt"
    job = TransferJob(run, dataset, folder, device, group)
    steps = len(job.labels) // run.recipe.batch_size  # per epoch
    settings = training_settings(run.recipe, run.strategy, steps, job.class_weights, run.base)
    if run.strategy in ("linear-probe", "lp-ft") and not path.exists():
        train_scores = job.probe()
        job.clock.total += job.clock.training
    network = to_train(run.strategy, job.model, run.recipe.unfreeze)
    scale = partial(factor_of, model=job.model, decay=run.recipe.lr_decay or 1.0)
    state = start(network, settings, group.wrap(network), factor_of=scale)
    if run.strategy == "linear-probe":
        job.add_row(state, *train_scores)
        return job.finish(state, "finished")

    def end_epoch() -> None:
        loss_sum, wrong, seen = group.sum(float(state.loss_sum), int(state.wrong), state.seen)
        row, is_best = job.add_row(state, loss_sum / seen, 1 - wrong / seen)
        if group.first:
            on_epoch(row, is_best)

    batches, status = job.batches(dataset.loaders), "finished"
    # Several processes would stop at different steps, so they save only between epochs.
    stoppable = signals.deferred() if group.size == 1 else nullcontext(lambda: False)
    with stoppable as job.should_stop:
        try:
            train_resumably(
                state, batches, settings, path, run.owner, job.clock, end_epoch=end_epoch,
                progress=progress, should_stop=job.should_stop, save_every=save_every, group=group,
            )  # fmt: skip
        except Diverged as error:
            status = str(error)
    job.should_stop = lambda: False
    if not all(values.isfinite().all() for values in job.model.state_dict().values()):
        # The last loss was computed before the last update, so it may still have been finite.
        status = str(Diverged(state.step))
    return job.finish(state, status)
