"""Carry out the questions: measure what is missing, draw the figures, and judge."""

from pathlib import Path
from types import ModuleType
from typing import Any

from data.cifar import cifar10
from data.errors import DataError
from experiments.anatomy import (
    contributions,
    explosion,
    loss_surface,
    many_blocks,
    one_block,
    path_lengths,
    shattering,
)
from experiments.anatomy.findings import COLUMNS, answers_in, by_group, report_of
from experiments.anatomy.options import DEFAULT, QUICK, Options
from experiments.anatomy.subjects import (
    INITIAL,
    UNLABELLED,
    Subject,
    named,
    of_campaign,
    published,
)
from experiments.drawing.style import png
from experiments.plumbing.cli import UsageError, doing
from experiments.plumbing.results import FINDINGS, other_settings, parsed, write_csv, write_json
from experiments.plumbing.tables import Results
from zoo import WeightsError

QUESTIONS: dict[str, ModuleType] = {
    "one-block": one_block, "many-blocks": many_blocks, "path-lengths": path_lengths,
    "contributions": contributions, "shattering": shattering, "explosion": explosion,
    "loss-surface": loss_surface,
}  # fmt: skip
WIDTH, HEIGHT = 4.2, 4.4  # inches of a panel


def carry_out(options: Options, folder: Path) -> Results:
    """Answer the questions. What was measured before, in `folder`, is not repeated.

    Answers to other questions that the folder has are kept.
    """
    subjects, notes = networks(options)
    print(*notes, sep="\n", end="\n" * bool(notes))
    order, figures = list(QUESTIONS), []
    asked = list(dict.fromkeys(options.questions or order))
    rows = [row for row in answers_in(folder) if row["question"] not in asked]
    for name in asked:
        question = QUESTIONS[name]
        chosen = question.chosen(subjects)
        if not chosen:
            continue
        found = {subject: measured(name, subject, options, folder) for subject in chosen}
        rows += [{"question": name, **line._asdict()} for line in question.findings(found)]
        figures.append(folder / f"{name}.png")
        panels = question.PANELS or len(by_group(found))
        with png(figures[-1], WIDTH * panels, HEIGHT, mathtext=True) as figure:
            question.draw(figure, found)
    rows.sort(key=lambda row: order.index(row["question"]))
    (folder / FINDINGS).unlink(missing_ok=True)
    if rows:
        write_csv(folder / FINDINGS, rows, COLUMNS)
    notes = [f"measurements: {folder}"]
    return Results(rows, report_of(folder), figures, folder, notes=notes)


def networks(options: Options) -> tuple[list[Subject], list[str]]:
    """The networks to study, and a note on each that cannot be had."""
    if options.campaign:
        if options.data or options.models != DEFAULT:
            what = "--from studies the networks of an ablation on its own images"
            fix = "leave out --models and the folder of CIFAR-10, or leave out --from"
            raise UsageError(what, f"--from {options.campaign}", fix)
        return of_campaign(options.campaign, options.images), []
    # Before the images: a name that nobody published is a mistake. Each network once.
    entries = {(entry.model, entry.name): entry for entry in map(named, options.models)}
    asked = options.questions or list(QUESTIONS)
    if all(QUESTIONS[name].chosen([]) for name in asked):
        return [], []  # only random weights are needed
    subjects, missing = [], []
    try:
        with doing("reading CIFAR-10"):
            dataset = cifar10(options.data, max(options.images, UNLABELLED))
        for entry in entries.values():
            try:
                subjects.append(published(entry, dataset, options.images))
            except WeightsError as error:
                missing.append(f"left out: {entry.model}: {'; '.join(str(error).splitlines())}")
    except DataError as error:
        if options.data:
            raise
        missing = [f"no published network is studied: {'; '.join(str(error).splitlines())}"]
    if not subjects and (QUICK / "results.csv").exists():
        missing.append(f"instead, the networks of {QUICK} are studied")
        return of_campaign(QUICK, options.images), missing
    if not subjects:
        missing.append("only random weights are studied; `make ablation` trains networks to study")
    return subjects, missing


def measured(name: str, subject: Subject, options: Options, folder: Path) -> dict[str, Any]:
    """What a question found in one network: from its file, or measured and written there.

    Raises ResultsError if the file is of other options.
    """
    path = folder / name / f"{subject.name}.json"
    grid = {"grid": options.grid} if name == "loss-surface" else {}
    asked: dict[str, Any] = {**grid}
    if subject is not INITIAL:
        asked |= {"images": options.images, "trained": subject.budget, "error": subject.error}
        asked["identity"] = subject.identity
    if path.exists():
        content = parsed(path.read_bytes(), path, ("asked", "result"))
        if content["asked"] != asked:
            raise other_settings("a result", content["asked"], asked, path, folder)
        return content["result"]
    found = QUESTIONS[name].measure(subject, **grid)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"asked": asked, "result": found})
    return parsed(path.read_bytes(), path, ("result",))["result"]
