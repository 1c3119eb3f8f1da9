"""Run an ablation: train its networks, draw its figures and return its results.

In a notebook: ablate("quick", seeds=3) in the last line of a cell shows the report.
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

import zoo
from data.batches import TensorBatches, check_batch_size
from experiments.ablation import collapse
from experiments.ablation.block_questions import BLOCK_QUESTIONS, is_tuning
from experiments.ablation.block_runs import runs_of, tuning
from experiments.ablation.options import Options
from experiments.ablation.overrides import plan
from experiments.ablation.pool import default_jobs, run_campaign
from experiments.ablation.questions import ABLATIONS, NETWORKS, Ablation, rows, with_warmup
from experiments.ablation.report import FIELDS, describe, flatten, report
from experiments.ablation.runs import (
    PARTS,
    Data,
    Run,
    build_model,
    load_data,
    make_batches,
    normalize_of,
    seeded,
)
from experiments.plumbing.cli import NumericError, UsageError, doing, options_from
from experiments.plumbing.device import choose_device, make_deterministic, torch_as_started
from experiments.plumbing.distributed import ALONE
from experiments.plumbing.forecast import FORWARD, Make, Work, forecast_if_long
from experiments.plumbing.precision import ALL, SETTINGS_FILES, settle, to_layout
from experiments.plumbing.results import (
    completed,
    lock,
    other_settings,
    parsed,
    read_row,
    say_skipped,
    write_csv,
    write_json,
)
from experiments.plumbing.tables import Results, print_report
from experiments.train.loop import BatchSource, Settings

PATIENCE = 600  # seconds to wait for another process, which chooses the precision


def settle_precision(
    options: Options, ablation: Ablation, device: torch.device, output_dir: Path
) -> Ablation:
    """Choose precision, layout and compilation of all runs, timed on the deepest ResNet."""
    make_deterministic(device)
    base = ablation.base
    deepest = replace(base, depth=max(ablation.axes["depth"]))

    def make() -> tuple[nn.Module, TensorBatches]:
        return build_model(deepest).to(device), make_batches(deepest, device)

    path = output_dir / SETTINGS_FILES[0]
    about = {"preset": options.preset, "device": device.type}
    steps = base.settings.steps if options.compile == "auto" else 0
    chosen = settle(path, about, options.precision, device, {ALL: make}, ALONE, steps)[ALL]
    settings = replace(
        base.settings, precision=chosen.precision, channels_last=chosen.channels_last,
        compiled=chosen.compiled,
    )  # fmt: skip
    return replace(ablation, base=replace(base, settings=settings))


def check_settings(base: Run, path: Path) -> None:
    """Store what all runs of the folder share; raise ResultsError if others are stored there.

    Without this, processes with different options would leave runs that do not fit together.
    """
    stored = parsed(path.read_bytes(), path, ())
    mine = json.loads(json.dumps({"data": asdict(base.data), "settings": asdict(base.settings)}))
    if "base" not in stored:
        write_json(path, stored | {"base": mine})
    elif (here := completed(stored["base"])) != mine:
        raise other_settings("an ablation", here, mine, path, path.parent)


def explain_parameters(depths: Collection[int]) -> None:
    """Print one line for each plain network that has fewer parameters than its residual twin."""
    for depth in sorted(depths):
        networks = [zoo.build(f"{network}{depth}") for network in NETWORKS]
        plain, residual = (sum(p.numel() for p in each.parameters()) for each in networks)
        if plain != residual:
            lost = f"without its skips, plain{depth} also lost {residual - plain:,} parameters"
            print(f"{lost} in their projections")


def work_of(
    runs: Sequence[Run], images: tuple[int, int], classes: int, device: torch.device,
    batches_of: Callable[[Run], BatchSource],
) -> tuple[list[Work], Make]:  # fmt: skip
    """What a forecast needs: the work of every run, and a function that builds what is timed.

    `images`: numbers of training and test images. Plain networks are not timed: their steps take as
    long as those of their residual twins.
    """
    timed: dict[str, Run] = {}
    work: list[Work] = []
    for run in runs:
        twin = run if run.network in PARTS else run.reference
        name, steps, size = (
            f"{twin.network}{run.depth}",
            run.settings.steps,
            run.settings.batch_size,
        )
        timed[name] = twin
        check_batch_size(size, images[0])  # of the runs that choose a rate, some are held out
        epochs = steps / (images[0] // size)
        work.append((name, steps + FORWARD * epochs * images[1] / size))

    def make(name: str) -> tuple[nn.Module, BatchSource, Settings]:
        run = timed[name]
        model = to_layout(seeded(run, classes), run.settings).to(device)
        return model, batches_of(run), run.settings

    return work, make


def say_forecast(runs: Sequence[Run], output_dir: Path, device: torch.device, jobs: int) -> None:
    """Print how long the unfinished runs will take, if it is long."""
    todo = [run for run in runs if read_row(output_dir / run.name, run) is None]
    dataset = load_data(runs[0].data)
    images, classes = (len(dataset.train_labels), len(dataset.test_labels)), len(dataset.classes)
    with doing("timing steps"):
        timed = work_of(todo, images, classes, device, lambda run: make_batches(run, device))
        found = forecast_if_long(*timed, device, jobs=jobs)
    if found:
        print(f"Forecast for this machine: {found}")


Shard = tuple[int, int]  # (I, N): every N-th run, beginning with the I-th
WHOLE: Shard = (1, 1)


def shard_of(text: str | None) -> Shard:
    """The option --shard; raises UsageError unless it is I/N with I from 1 to N."""
    if text is None:
        return WHOLE
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count) <= 10_000):
        what, fix = "a shard is I/N, with I from 1 to N", "for three jobs: 1/3, 2/3 and 3/3"
        raise UsageError(what, f"--shard {text}", fix)
    return int(first), int(count)


def train_preset(
    preset: str, ablation: Ablation, output_dir: Path, device: torch.device, jobs: int,
    shard: Shard = WHOLE,
) -> tuple[list[Run], list[dict]]:  # fmt: skip
    """Train every run of the ablation, or of a shard; return all runs and the results.

    If each arm has its own rate, every shard first trains all runs that choose the rates.
    """
    if not (question := BLOCK_QUESTIONS.get(preset)):
        return train_all(rows(ablation), output_dir, device, jobs, shard=shard)
    results: list[dict] = []
    if first := tuning(question, ablation):
        print(f"First, {len(first)} runs on held-out images choose the rate of every arm.")
        _, results = train_all(first, output_dir, device, jobs)
    runs = runs_of(question, ablation, results)
    return train_all(runs, output_dir, device, jobs, results, shard)


def train_all(
    runs: Sequence[Run], output_dir: Path, device: torch.device, jobs: int,
    before: Sequence[dict] = (), shard: Shard = WHOLE,
) -> tuple[list[Run], list[dict]]:  # fmt: skip
    """Train `runs`, or a shard of them; return all runs, and `before` with the finished results.

    Writes results.csv if all are finished, but not after runs that choose rates.
    Raises NumericError if every run with normalisation diverged.
    """
    runs = [with_warmup(run) for run in runs]
    first, count = shard
    mine = runs[first - 1 :: count]
    if mine:
        say_forecast(mine, output_dir, device, jobs)

    def after_run(run: Run) -> None:
        row = read_row(output_dir / run.name)
        if row is None:  # stopped before its end, or another process trains it
            return
        print(describe(run.name, flatten(row)) + say_skipped(row))
        whole = whole_seeds(runs, output_dir)
        if whole and whole[-1].seed == run.seed and len(whole) < len(runs):
            show_so_far(whole, output_dir, before)

    trained = run_campaign(mine, output_dir, device, jobs, after_run)
    if count > 1:  # other shards may have trained the others
        trained = [row for run in runs if (row := read_row(output_dir / run.name, run))]
    results = [*before, *map(flatten, trained)]
    if len(trained) < len(runs):  # of a shard
        return runs, results
    if not all(is_tuning(row) for row in results):
        write_csv(output_dir / "results.csv", results, FIELDS)
    if not any(r["status"] == "finished" for r in results if r["norm"] != "none"):
        fix = "use a lower --lr, and a new --output-dir"
        raise NumericError("every run diverged", output_dir, fix)
    return runs, results


def whole_seeds(runs: Sequence[Run], output_dir: Path) -> list[Run]:
    """The runs of those seeds whose runs are all finished."""
    missing = {run.seed for run in runs if not (output_dir / run.name / "row.json").exists()}
    return [run for run in runs if run.seed not in missing]


def show_so_far(runs: Sequence[Run], output_dir: Path, before: Sequence[dict]) -> None:
    """Print the report and draw the curves of the finished seeds, before the others are done."""
    from experiments.ablation import figures  # imports matplotlib, which workers do not need

    rows = filter(None, (read_row(output_dir / run.name) for run in runs))
    results = [*before, *map(flatten, rows)]
    print_report(report(results, []))
    print(f"figure so far: {figures.draw_all_curves(runs, results, output_dir)}")


def describe_data(data: Data) -> str:
    """Name, counts and size of the images, and notes on the dataset, as text."""
    dataset = load_data(data)
    train, test = len(dataset.train_labels), len(dataset.test_labels)
    counts = f"{train:,} training and {test:,} test images, {len(dataset.classes)} classes"
    return "\n  ".join((f"Data {dataset.name}: {counts}, {data.size}x{data.size}", *dataset.notes))


@torch_as_started()
def ablate(preset: str = "quick", **options: object) -> Results:
    """Run an ablation, with the options of the command line; for notebooks.

    A script calls it below `if __name__ == "__main__":`, as worker processes import the script.
    """
    return carry_out(options_from(Options, preset, **options))


def carry_out(options: Options) -> Results:
    """Run the ablation that the options ask for, and draw its figures."""
    shard = shard_of(options.shard)
    load_data.cache_clear()  # a notebook may have written other images to the same folder
    normalize_of.cache_clear()
    device, why = choose_device(options.device)
    print((ABLATIONS | BLOCK_QUESTIONS)[options.preset].question)
    print(f"Device {why}")
    with doing("loading the images"):
        ablation = plan(options, device)
        print(describe_data(ablation.base.data))
    of_transformers = options.preset == "vit"
    if not of_transformers and options.preset not in BLOCK_QUESTIONS:
        explain_parameters({run.depth for run in rows(ablation)})
    name = ("ablation-" if of_transformers else "") + options.preset
    name += f"-{options.scale}" if options.scale != "quick" else ""
    name += f"-{options.data_dir.stem}" if options.data_dir else ""
    output_dir = options.output_dir or Path("runs") / name
    with lock(output_dir, PATIENCE):  # of several processes, the first one chooses for all
        ablation = settle_precision(options, ablation, device, output_dir)
        check_settings(ablation.base, output_dir / SETTINGS_FILES[0])
    jobs = options.jobs or default_jobs(device)
    runs, results = train_preset(options.preset, ablation, output_dir, device, jobs, shard)
    if sum(not is_tuning(row) for row in results) < len(runs):
        done = "{} of {}: these runs are finished; once all shards are, repeat the command without"
        return Results(results, [], [], output_dir, notes=[f"shard {done.format(*shard)} --shard"])
    residuals = []
    if of_transformers:
        with doing("measuring the collapse of the tokens"):
            residuals = collapse.measure(runs, output_dir)
    with doing("drawing the figures"):
        from experiments.ablation import figures  # imports matplotlib, which workers do not need

        paths = figures.draw_all(runs, results, residuals, output_dir, device)
    notes = [f"rows and histories: {output_dir}"]
    if options.preset == "stochastic-depth":
        images = min(1000, results[0]["test_images"])
        lesions = f"--from {output_dir} --questions one-block --images {images}"
        notes.append(f"next, leave out single blocks: python -m experiments.anatomy {lesions}")
    return Results(results, report(results, residuals), paths, output_dir, notes=notes)
