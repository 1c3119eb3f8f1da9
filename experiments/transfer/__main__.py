"""Ways of using a pretrained network, and training from scratch, compared on your pictures.

    python -m experiments.transfer DIR                          all of them, resnet18, 3 seeds
    python -m experiments.transfer DIR --strategy finetune      one
    torchrun --nproc-per-node 2 -m experiments.transfer DIR     with two processes

DIR: train/CLASS/*.jpg with val/ or test/ or both, or one folder of classes, or `cifar10`.
Then: python -m experiments.predict CHECKPOINT PICTURES
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from tqdm import tqdm

from data.collection import CIFAR10, PictureSet, Source, identity, open_pictures
from experiments.plumbing import cli
from experiments.plumbing.cli import NumericError, ResultsError, UsageError
from experiments.plumbing.device import (
    choose_device,
    choose_precision,
    make_deterministic,
    time_step,
)
from experiments.plumbing.memory import telling_what_fits
from experiments.plumbing.processes import Group, join_group, leave_group
from experiments.plumbing.progress import doing
from experiments.plumbing.results import (
    ELSEWHERE,
    STARTS,
    lock,
    read_object,
    read_row,
    refuse_folder_with,
)
from experiments.train import Settings
from experiments.transfer import report as transfer_report
from experiments.transfer.job import NEEDS, Transfer, Transferring, run_transfer
from experiments.transfer.options import Options, check, plan, recipe_of
from experiments.transfer.strategies import to_train
from zoo.weights.atomic import write_atomic

MOST_WORKERS = 8


def settle(
    options: Options, pictures: PictureSet, device: torch.device, folder: Path, group: Group
) -> dict[str, Settings]:
    """Precision and layout of every model: chosen once for the folder, and remembered there."""
    path, wanted = folder / "transfer.json", {"device": device.type, "asked": options.precision}
    said: Any = {"models": {}} | STARTS | wanted
    refuse_folder_with(folder, "campaign.json")
    if path.exists():
        said = read_object(path, ("models", *STARTS, *wanted))
        found = {key: said[key] for key in wanted}
        try:
            for entry in said["models"].values():
                entry["precision"], entry["channels_last"], entry["reason"]
        except (TypeError, KeyError, AttributeError) as error:
            raise ResultsError(f"its models cannot be read: {error!r}", path, ELSEWHERE) from error
        if found != wanted:
            raise UsageError(
                f"these results were made with --device {found['device']} --precision "
                f"{found['asked']}, and runs are not mixed",
                path, "the same options again, or another --output-dir",
            )  # fmt: skip
    for name in options.model:
        if name in said["models"]:
            continue
        few = min(4, len(pictures.labels("train")))  # ratios are the same
        recipe = replace(recipe_of(options), batch_size=few)
        weights = None if options.weights == "none" else options.weights
        run = Transfer("scratch", name, weights, 0, recipe, Settings())
        job = Transferring(run, pictures, folder, device, Group())
        if options.precision == "auto":
            print_first(group, f"Precision: timing steps of {name} ...")
        chosen, reason = choose_precision(
            options.precision, job.model, job.batches(), Settings(), device
        )
        said["models"][name] = {"precision": chosen.precision, "reason": reason,
                                "channels_last": chosen.channels_last}  # fmt: skip
    said = group.same(said)
    for name in options.model:
        print_first(group, f"Precision of {name} {said['models'][name]['reason']}")
    if group.first:
        write_atomic(path, (json.dumps(said, indent=1) + "\n").encode())
    return {
        name: Settings(precision=entry["precision"], channels_last=entry["channels_last"])
        for name, entry in said["models"].items()
    }


def print_first(group: Group, text: str) -> None:
    if group.first:
        print(text)


def run_all(
    runs: list[Transfer], pictures: PictureSet, folder: Path, device: torch.device, group: Group,
    options: Options,
) -> list[dict]:  # fmt: skip
    """The row of every run; those already in `folder` are not made again."""
    rows = []
    for i, run in enumerate(runs):
        row = read_row(folder / run.name, run, NEEDS)
        if row is None:
            title = f"run {i + 1} of {len(runs)}: {run.strategy}"
            row = one(run, pictures, folder, device, group, options, title)
            print_first(group, describe(run, row))
        rows.append(row)
    return rows


def steps_of(run: Transfer, pictures: PictureSet) -> int:
    if run.strategy == "linear-probe":
        return 1
    return run.recipe.epochs * (len(pictures.labels("train")) // run.recipe.batch_size)


def one(
    run: Transfer, pictures: PictureSet, folder: Path, device: torch.device, group: Group,
    options: Options, title: str,
) -> dict:  # fmt: skip
    """A run with a bar, that says which batch size fits if memory runs out."""
    size = run.recipe.batch_size
    bar = tqdm(
        desc=title, total=steps_of(run, pictures) * size, unit=" images", unit_scale=True,
        leave=False, disable=None if group.first else True,
    )  # fmt: skip

    if bar.disable:  # a log file: no bar, but what is under way
        print_first(group, f"{title} ...")

    def progress(step: int) -> None:
        bar.update(step * size - bar.n)

    def take_step(batch_size: int) -> None:
        smaller = replace(run, recipe=replace(run.recipe, batch_size=batch_size))
        job = Transferring(smaller, pictures, folder, device, group)
        time_step(to_train(run.strategy, job.model), job.batches(), run.base)

    def action() -> dict:
        with board(folder / run.name, options.tensorboard and group.first) as on_epoch:
            return run_transfer(
                run, pictures, folder / run.name, device, group,
                progress=progress, on_epoch=on_epoch,
            )  # fmt: skip

    what = f"{run.model}, {run.strategy}"
    with bar:
        return telling_what_fits(what, size, device, take_step, action)


@contextmanager
def board(folder: Path, wanted: bool) -> Iterator[Callable[[dict], None]]:
    """What gets every row of the history, and writes it for TensorBoard if that is wanted."""
    if not wanted:
        yield lambda row: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            f"TensorBoard is not here: {error}", "--tensorboard", "pip install tensorboard"
        ) from error
    with SummaryWriter(str(folder)) as writer:

        def on_epoch(row: dict) -> None:
            for name in row.keys() - {"epoch", "step"}:
                writer.add_scalar(name, row[name], int(row["epoch"]))
            writer.flush()

        yield on_epoch


def describe(run: Transfer, row: dict) -> str:
    if row["status"] != "finished":
        return f"{run.name}: {row['status']}"
    return (
        f"{run.name}: {100 * row['accuracy']:.1f} % on {row['tested_on']} (epoch "
        f"{row['best_epoch']}), {row['seconds']:.1f} s, {transfer_report.bound_by(row)}"
    )


def main(options: Options) -> None:
    check(options)
    device, why = choose_device(options.device)
    group = join_group()
    try:
        compare(options, device, why, group)
    except RuntimeError as error:
        if group.size == 1 or not is_lost(error):
            raise
        raise ResultsError(
            f"another process of this job is gone: {str(error).splitlines()[0]}",
            f"process {group.rank} of {group.size}",
            "the same torchrun command goes on from the last checkpoint",
        ) from error
    finally:
        leave_group(group)


def compare(options: Options, device: torch.device, why: str, group: Group) -> None:
    make_deterministic(device, threads=None)
    cores = min(os.cpu_count() or 1, MOST_WORKERS)
    loaders = cores if device.type == "cuda" else 0
    source = Source(options.data, options.train_images, options.test_images, options.skip_bad,
                    options.cache_gb)  # fmt: skip
    print_first(group, f"Device {why}" + f", {group.size} processes" * (group.size > 1))
    with doing(f"looking at the pictures in {options.data}"):
        pictures = open_pictures(
            source, cores, loaders if options.workers is None else options.workers
        )
    say_what(options, pictures, group)
    name = "cifar10" if options.data == CIFAR10 else Path(options.data).resolve().name
    folder = options.output_dir or Path("runs") / f"transfer-{name}"
    if options.resume and not (folder / "transfer.json").exists():
        raise UsageError(
            "there is nothing to go on with", folder, "leave --resume out, or correct --output-dir"
        )
    with lock(folder) if group.first else nullcontext():
        with doing("preparing the images, one process at a time"):
            base = settle(options, pictures, device, folder, group)
        say_notes(pictures, group)  # decoding may have left some out
        runs = plan(options, base, identity(pictures))
        for run in runs:
            read_row(folder / run.name, run, NEEDS)  # refuses other settings before any work
        if pictures.table and group.first:
            write_atomic(folder / "split.csv", pictures.table.encode("utf-8", "replace"))
        rows = run_all(runs, pictures, folder, device, group, options)
        say_notes(pictures, group)
        if group.first:
            conclude(rows, folder)


def say_what(options: Options, pictures: PictureSet, group: Group) -> None:
    counts = ", ".join(f"{len(part.labels):,} {name}" for name, part in pictures.splits.items())
    print_first(group, f"Data {pictures.name}: {counts} pictures, {len(pictures.classes)} classes")
    say_notes(pictures, group)
    settings = asdict(recipe_of(options))
    if options.batch_size:
        settings["batch_size"] = " and ".join(map(str, options.batch_size))
    recipe = ", ".join(f"{key} {value}" for key, value in settings.items())
    print_first(group, f"Recipe {options.recipe}: {recipe}")


def say_notes(pictures: PictureSet, group: Group) -> None:
    """What is odd about the pictures and has not been said yet."""
    for note in pictures.notes:
        print_first(group, f"  {note}")
    pictures.notes.clear()


def conclude(rows: list[dict], folder: Path) -> None:
    if not any(row["status"] == "finished" for row in rows):
        raise NumericError("every run diverged", folder, "a lower --lr in a new --output-dir")
    with doing("drawing the figures"):
        figures = transfer_report.write_all(rows, folder)
    transfer_report.print_report(rows, Console())
    for path in figures:
        print(f"figure: {path}")
    print(f"rows, histories and checkpoints: {folder}")
    _, arm = transfer_report.choose(rows)
    if arm:
        best = max(arm.rows, key=lambda row: row["best_val_accuracy"])  # not by test, here either
        checkpoint = folder / best["name"] / "best.safetensors"
        print(f"use it: python -m experiments.predict {checkpoint} PICTURES")


def is_lost(error: RuntimeError) -> bool:
    """Whether the error is what gloo or NCCL say of a process that is gone."""
    words = ("closed by peer", "reset by peer", "timed out", "gloo", "nccl", "broken pipe")
    return any(word in str(error).lower() for word in words)


if __name__ == "__main__":
    cli.run(main, Options, "transfer", resumes=True)
