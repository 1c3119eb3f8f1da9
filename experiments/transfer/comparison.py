"""Run a comparison of strategies: train every run, print progress, return results and advice.

In a notebook, a cell that ends with transfer("my_images", model="resnet50", strategy="finetune")
shows the report. `best` of the results is the checkpoint to use.
"""

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.batches import check_batch_size
from data.collection import CIFAR10, IMAGE_CACHE, ImageDataset, Source, identity, open_dataset
from data.progress import Progress, say
from data.view_batches import ViewBatches
from experiments.classifier import CORES
from experiments.plumbing.cli import NumericError, doing, options_from, python
from experiments.plumbing.device import choose_device, make_deterministic, torch_as_started
from experiments.plumbing.distributed import ALONE, Group, processes
from experiments.plumbing.forecast import forecast_if_long
from experiments.plumbing.precision import SETTINGS_FILES, settle
from experiments.plumbing.results import lock, read_row, say_skipped, to_do, write_json
from experiments.plumbing.tables import Results
from experiments.train.loop import Settings
from experiments.transfer import report, stages
from experiments.transfer.job import NEEDS, Transfer, TransferJob, load_pretrained, run_transfer
from experiments.transfer.options import Options
from experiments.transfer.plan import (
    check_options,
    images_to_time,
    plan,
    recipe_of,
    starting_weights,
    work_of,
)
from experiments.transfer.probe import logistic_regression
from experiments.transfer.strategies import PROBE
from zoo.weights.atomic import write_atomic


def settle_precision(
    options: Options, dataset: ImageDataset, device: torch.device, folder: Path, group: Group
) -> dict[str, Settings]:
    """Precision and memory layout of each model: chosen once per folder, and saved there."""
    runs = plan(options, dict.fromkeys(options.model, Settings()), "")
    runs.sort(key=lambda run: run.strategy != "scratch")  # of a model, the last one is timed
    size = images_to_time(runs[0], device, group.size)
    models = {run.model: partial(to_time, run, size, dataset, folder, device) for run in runs}
    about = {"device": device.type}
    return settle(folder / SETTINGS_FILES[1], about, options.precision, device, models, group)


def to_time(
    run: Transfer, batch_size: int, dataset: ImageDataset, folder: Path, device: torch.device
) -> tuple[nn.Module, ViewBatches]:
    """The network of a run, and batches of so many images, or all there are, to time its steps."""
    size = min(batch_size, len(dataset.labels("train")))
    run = replace(run, recipe=replace(run.recipe, batch_size=size))
    job = TransferJob(run, dataset, folder, device, ALONE)
    return job.model, job.batches()


def say_forecast(
    todo: Sequence[Transfer], dataset: ImageDataset, device: torch.device, folder: Path,
    group: Group,
) -> None:  # fmt: skip
    """Print the forecast of the runs if they will take long."""
    images = {name: len(part.labels) for name, part in dataset.splits.items()}
    on_cpu, runs = device.type == "cpu", {run.model: run for run in todo}
    size = min(images_to_time(todo[0], device, group.size), images["train"])

    def make(name: str) -> tuple[nn.Module, ViewBatches, Settings]:
        return *to_time(runs[name], size, dataset, folder, device), runs[name].base

    with doing("timing steps"):
        work = [work_of(run, images, size * group.size) for run in todo]
        threads = torch.get_num_threads() if on_cpu else 1
        loaders = dataset.loaders if group.size == 1 else 0
        found = forecast_if_long(work, make, device, threads=threads, loaders=loaders)
    if found:
        group.say(f"Forecast for this machine: {found}")


def run_all(
    runs: list[Transfer], dataset: ImageDataset, folder: Path, device: torch.device, group: Group
) -> list[dict]:
    """Return the row of every run; train only those that have no row in `folder`."""
    rows = []
    for number, run in enumerate(runs, 1):
        row = read_row(folder / run.name, run, NEEDS)
        if row is None:
            title = f"run {number} of {len(runs)}: {run.strategy}"
            with bar_of(run, dataset, title, group) as (progress, on_epoch):
                row = run_transfer(
                    run, dataset, folder / run.name, device, group,
                    progress=progress, on_epoch=on_epoch,
                )  # fmt: skip
            group.say(describe(row))
        rows.append(row)
    return rows


@contextmanager
def bar_of(
    run: Transfer, dataset: ImageDataset, title: str, group: Group
) -> Iterator[tuple[Callable[[int], None], Callable[[dict, bool], None]]]:
    """Yield progress(step), which moves a bar of images, and say_epoch(), which prints a line."""
    size, epochs, mark = run.recipe.batch_size, run.recipe.epochs, 0.0
    steps = epochs * (len(dataset.labels("train")) // size)
    group.say(f"{title} ...")
    options: dict[str, Any] = {"total": steps * size, "unit": " images", "unit_scale": True}
    with Progress(desc=title, disable=not group.first, **options) as bar:

        def say_epoch(row: dict, is_best: bool) -> None:
            nonlocal mark
            seconds, mark = time.perf_counter() - mark, time.perf_counter()
            train, val = (
                f"{name} loss {row[f'{name}_loss']:.3f} acc {100 * row[f'{name}_accuracy']:.1f} %"
                for name in ("train", "val")
            )
            line = f"epoch {row['epoch']}/{epochs}: {train}, {val}, {seconds:.1f} s"
            say(line + ", best" * is_best)  # fits 80 columns

        def progress(step: int) -> None:
            nonlocal mark
            if not mark:  # training starts, or resumes at a checkpoint's step
                mark, bar.initial, bar.n = time.perf_counter(), step * size, step * size
                bar.start_t = bar.last_print_t = time.time()
                if step and group.first:
                    say(f"resumes at step {step:,} of {steps:,}")
            bar.update(step * size - bar.n)

        yield progress, say_epoch


def describe(row: dict) -> str:
    """A line with the result of a run."""
    if row["status"] != "finished":
        return f"{row['name']}: {row['status']}"
    # After each epoch, the precision is that of training.
    where = f"{100 * row['accuracy']:.1f} % on {row['tested_on']} in fp32"
    bound = report.bound_by(row) + say_skipped(row)
    return f"{row['name']}: {where} (epoch {row['best_epoch']}), {row['seconds']:.1f} s, {bound}"


@torch_as_started()
def transfer(data: str | Path, **options: object) -> Results:
    """Compare strategies, with the options of the command line; for notebooks.

    A script calls it below `if __name__ == "__main__":`, as worker processes import the script.
    """
    results = carry_out(options_from(Options, data, **options))
    assert results is not None, "a notebook is one process"
    return results


def carry_out(options: Options) -> Results | None:
    """Check the options, then run the comparison in every process of the job.

    Returns the results in the first process, and None in all others.
    """
    check_options(options)
    device, why = choose_device(options.device)
    with processes(device) as group:
        return compare_strategies(options, device, why, group)


def compare_strategies(
    options: Options, device: torch.device, why: str, group: Group
) -> Results | None:
    """Open the dataset, choose the precision, train the missing runs and report all of them."""
    make_deterministic(device, threads=None)
    load_pretrained.cache_clear()  # a notebook may have written other weights to the same file
    loaders = CORES if device.type == "cuda" else 0
    more = options.more
    source = Source(options.data, options.train_images, more.test_images, options.skip_bad)
    group.say(f"Device {why}" + f", {group.size} processes" * (group.size > 1))
    with doing(f"listing the images in {options.data}"):
        dataset = open_dataset(source, CORES, loaders if more.workers is None else more.workers)
    with doing("looking for near-duplicates in different splits"):
        dataset.check_near_duplicates(options.skip_near_duplicates)
    options = with_batches_that_fit(options, len(dataset.labels("train")), group)
    say_what(dataset, group)
    say_recipe(options, group)
    if set(options.strategy) != {PROBE}:  # a probe needs no full batch
        for size in options.batch_size or (recipe_of(options).batch_size,):
            check_batch_size(size, len(dataset.labels("train")), group.size)
    folder = folder_of(options, "transfer")
    with lock(folder) if group.first else nullcontext():
        with doing("preparing the images, one process at a time"):
            base = settle_precision(options, dataset, device, folder, group)
        say_notes(dataset, group)  # decoding may have left out images
        runs = plan(options, base, identity(dataset))
        # Before any work: read_row() raises ResultsError for rows with other settings.
        todo = [run for run in runs if read_row(folder / run.name, run, NEEDS) is None]
        group.say(to_do([folder / run.name for run in todo], len(runs)))
        if todo:
            say_forecast(todo, dataset, device, folder, group)
        if dataset.table and group.first:
            write_atomic(folder / "split.csv", dataset.table.encode("utf-8", "replace"))
        rows = run_all(runs, dataset, folder, device, group)
        say_notes(dataset, group)
        if not group.first:
            return None
        return conclude(rows, folder, probe_networks(runs, dataset, folder, device))


def folder_of(options: Any, command: str) -> Path:
    """The folder of the results: --output-dir, or runs/COMMAND-DIR."""
    name = CIFAR10 if options.data == CIFAR10 else Path(options.data).resolve().name
    return options.output_dir or Path("runs") / f"{command}-{name}"


def with_batches_that_fit(options: Options, images: int, group: Group) -> Options:
    """If the images do not fill a batch of the recipe, use a quarter of them per batch."""
    batch = recipe_of(options).batch_size
    if options.batch_size or images >= batch:
        return options
    size = max(2, images // 4 // group.size) * group.size
    group.say(f"Batch size {size}: {images} images do not fill the recipe's batch of {batch}")
    return replace(options, batch_size=(size,))


def say_what(dataset: ImageDataset, group: Group = ALONE) -> None:
    """Print the dataset, and how good it is to guess."""
    counts = ", ".join(f"{len(part.labels):,} {name}" for name, part in dataset.splits.items())
    group.say(f"Data {dataset.name}: {counts} images, {len(dataset.classes)} classes")
    for name, part in dataset.splits.items():
        if name != "train":
            guess = f"always answering {dataset.classes[part.labels.bincount().argmax()]!r}"
            group.say(f"  {guess} is right for {stages.largest_share(part.labels):.1f} % of {name}")
    say_notes(dataset, group)


def say_recipe(options: Options, group: Group) -> None:
    """Print the recipe."""
    settings = recipe_of(options).in_use(set(options.strategy) == {PROBE})
    if options.batch_size:
        settings["batch-size"] = " and ".join(map(str, options.batch_size))
    recipe = ", ".join(f"{key} {value}" for key, value in settings.items())
    group.say(f"Recipe {options.recipe}: {recipe}")
    say_weights(options, group)


def say_weights(options: Options, group: Group = ALONE) -> None:
    """Say that random weights have nothing to transfer; and what else makes networks unlike."""
    if options.weights == "none" and set(options.strategy) != {"scratch"}:
        group.say("Weights none: random ones, so nothing is transferred")
    if note := report.about_weights({m: starting_weights(options, m) for m in options.model}):
        group.say(note)


def say_notes(dataset: ImageDataset, group: Group) -> None:
    """Print each of the dataset's notes once."""
    for note in dataset.notes:
        group.say(f"  {note}")
    dataset.notes.clear()


def probe_networks(
    runs: Sequence[Transfer], dataset: ImageDataset, folder: Path, device: torch.device
) -> dict[str, dict]:
    """The probes of stages.py for every network with a linear probe; each is computed once.

    Raises ResultsError if the folder has probes of other images or settings.
    """
    found: dict[str, dict] = {}
    probes = [run for run in runs if run.strategy == PROBE]
    for model in dict.fromkeys(run.model for run in probes):
        run = next(run for run in probes if run.model == model)
        settings, stored = run.of_probe, stages.read(folder)
        stages.check_settings(stored, settings, folder)
        if model in stored:
            say(f"{model}: every stage was probed before, so it is not probed again")
            found[model] = stored[model]
            continue
        with doing(f"probing every stage of {model}"):
            job = TransferJob(run, dataset, folder, device, ALONE)
            fit = partial(
                logistic_regression, classes=len(dataset.classes), l2=run.recipe.probe_l2,
                weights=torch.tensor(job.class_weights) if job.class_weights else None,
            )  # fmt: skip
            train, tested = map(job.evaluation_batches, ("train", dataset.tested_on))
            one = stages.probe_stages(job.model, train, tested, fit, run.base)
        truth = dataset.labels(dataset.tested_on)
        about = {
            "images": len(job.labels), "tested_on": dataset.tested_on,
            "precision": run.base.precision, "guessing": stages.largest_share(truth),
        }  # fmt: skip
        found[model] = about | one | {"settings": settings}
        write_json(folder / stages.FILE, stored | found)
    return found


def conclude(rows: list[dict], folder: Path, probes: dict[str, dict]) -> Results:
    """Write the results and return them; raise NumericError if every run diverged."""
    if not any(row["status"] == "finished" for row in rows):
        raise NumericError("every run diverged", folder, "use a lower --lr and a new --output-dir")
    with doing("drawing the figures"):
        figures = report.write_all(rows, folder, probes)
    notes, checkpoint = [f"rows, histories and checkpoints: {folder}"], None
    notes += report.about_others(rows, folder)
    if IMAGE_CACHE.exists():
        notes.append(f"decoded images for the next run: {IMAGE_CACHE} (may be deleted)")
    _, arm = report.choose(rows)
    if arm:
        best = max(arm.rows, key=lambda row: row["best_val_accuracy"])  # never chosen on test
        checkpoint = folder / best["name"] / "best.safetensors"
        minutes, seconds = divmod(round(sum(row["seconds"] for row in rows)), 60)
        runs = f"all {len(rows)} runs" if len(rows) > 1 else "the run"
        accuracy, epoch = 100 * best["best_val_accuracy"], best["best_epoch"]
        notes += [
            f"best on val of {arm.label}: {accuracy:.1f} % in epoch {epoch} of {best['name']}",
            f"{runs} took {minutes}:{seconds:02} minutes",
            f"use it: {python()} -m experiments.predict {shlex.quote(str(checkpoint))} IMAGES",
        ]
    parts = report.report(rows) + stages.report_of_stages(probes)
    return Results(rows, parts, figures, folder, checkpoint, notes)
