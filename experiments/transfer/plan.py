"""From the command line to a recipe and a list of runs, with checks of the options; their work."""

from collections.abc import Mapping
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path

import torch

import zoo
from data import near_duplicates
from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError
from experiments.plumbing.forecast import FORWARD, Work
from experiments.plumbing.recipes import RECIPES, Recipe
from experiments.train.loop import Settings
from experiments.transfer.job import Transfer
from experiments.transfer.options import LIMITS, MORE_LIMITS, Options
from experiments.transfer.strategies import DECAYING, HEAD_ONLY, PROBE, STRATEGIES
from zoo.networks import Network, stages_of
from zoo.registry import owner
from zoo.weights.published import published_name

FEW = 4  # images


def images_to_time(run: Transfer, device: torch.device, processes: int) -> int:
    """How many images of a batch are timed in each process, to choose or forecast.

    A CPU takes as long for an image in a small batch; a GPU computes a whole batch at once.
    """
    return FEW if device.type == "cpu" else run.recipe.batch_size // processes


def work_of(run: Transfer, images: Mapping[str, int], size: int) -> Work:
    """A run's work, in timed batches of `size` images; `images`: how many each split has."""
    train, tested = images["train"], sum(images.values()) - images["train"]
    epochs = 1 if run.strategy == PROBE else run.recipe.epochs
    share = FORWARD if run.strategy in HEAD_ONLY else 1
    # Each epoch is evaluated on val; the saved files (two at most) on val and test.
    forwards = epochs * images["val"] + 2 * tested + train * (run.strategy == "lp-ft")
    return run.model, (share * epochs * train + FORWARD * forwards) / size


def recipe_of(options: Options) -> Recipe:
    """The named recipe, with the settings that options of the same names override."""
    recipe, values = RECIPES[options.recipe], vars(options.more) | vars(options)
    names = [setting.name for setting in fields(Recipe) if setting.name != "batch_size"]
    named = {name: values.get(name) for name in names}
    changes = {k: v for k, v in named.items() if v is not None and v is not False}
    if options.lr:
        changes["head_lr"] = options.lr * (recipe.head_lr / recipe.lr)
    if options.size:
        changes["input_size"] = None
    return replace(recipe, **changes)


def starting_weights(options: Options, model: str) -> str | None:
    """The weights to start from: None, a file, or the published name that DEFAULT stands for."""
    if options.weights == "none":
        return None
    if published_name(options.weights):
        return zoo.published(owner(model, options.weights), options.weights).name
    return options.weights


def plan(options: Options, base: dict[str, Settings], dataset_id: str) -> list[Transfer]:
    """One run per model, batch size, strategy and seed; those of the first seed come first."""
    strategies = STRATEGIES if "all" in options.strategy else options.strategy
    recipe = recipe_of(options)
    weights = {model: starting_weights(options, model) for model in options.model}
    return [
        Transfer(
            strategy, model, weights[model], seed, used_by(strategy, recipe, size), base[model],
            dataset_id, options.preprocess,
        )
        for seed in range(options.seeds)
        for model in dict.fromkeys(options.model)
        for size in dict.fromkeys(options.batch_size or (recipe.batch_size,))
        for strategy in dict.fromkeys(strategies)
        if strategy != "moving-bn" or "vit" not in model  # ViTs have no batch norms
    ]  # fmt: skip


def used_by(strategy: str, recipe: Recipe, batch_size: int) -> Recipe:
    """The recipe of a run, without the options that have no effect on its strategy."""
    unfreeze = recipe.unfreeze if strategy == "partial" else None
    lr_decay = recipe.lr_decay if strategy in DECAYING else None
    return replace(recipe, batch_size=batch_size, unfreeze=unfreeze, lr_decay=lr_decay)


def check_options(options: Options) -> None:
    """Raise UsageError or zoo.ModelError for wrong options, before any work."""
    cli.check_numbers(options, LIMITS)
    cli.check_numbers(options.more, MORE_LIMITS)
    for name in ("model", "strategy"):
        if not getattr(options, name):
            raise UsageError(f"--{name} needs a name", f"--{name}", "give a name, or leave it out")
    for name in options.model:
        zoo.check(name, {"image_size": options.size} if "vit" in name and options.size else {})
        if "vit" in name and set(options.strategy) == {"moving-bn"}:
            why = f"{name} has no batch norms, so no statistics that could move"
            fix = "choose a ResNet, or feature-extraction"
            raise UsageError(why, "--strategy moving-bn", fix)
    check_parts(options)
    if options.skip_near_duplicates and not near_duplicates.installed():
        why = "near-duplicates cannot be found without the package imagehash"
        fix = "pip install imagehash 'numpy>=2'; or leave the option out"
        raise UsageError(why, "--skip-near-duplicates", fix)
    cli.check_folder(options.output_dir or Path("runs"))


def check_parts(options: Options) -> None:
    """Raise UsageError if --unfreeze or --lr-decay is wrong for a network, or without effect."""
    asked: set[str] = set(options.strategy)
    unfreeze, decay = options.more.unfreeze, options.more.lr_decay
    asked |= set(STRATEGIES if "all" in asked else ())
    if decay is not None and asked.isdisjoint(DECAYING):
        what = f"--lr-decay is only for {', '.join(DECAYING)}"
        raise UsageError(what, f"--strategy {' '.join(options.strategy)}", "leave it out")
    if options.more.augment and asked == {PROBE}:
        what = "--augment does nothing in linear-probe, which computes each image's features once"
        raise UsageError(what, f"--augment {options.more.augment}", "leave it out")
    if unfreeze is None:
        return
    where, parts = f"--unfreeze {unfreeze}", unfreeze.split(",")
    if "partial" not in asked:
        raise UsageError("--unfreeze is only for --strategy partial", where, "--strategy partial")
    for name in options.model:
        with torch.device("meta"):
            model = zoo.build(name)
        known = {module for module, _ in model.named_modules()} - {""}
        for part in parts:
            if part not in known:
                stages = ", ".join(chain.from_iterable(stages_of(model)))
                fix = f"its parts are {stages}, and modules in them, such as {parts_in(model)}"
                raise UsageError(f"{name} has no part {part!r}", where, fix)
    if "head" not in parts:
        what = "the head is new, so it has to be trained"
        raise UsageError(what, where, f"add it: --unfreeze {unfreeze},head")


def parts_in(model: Network) -> str:
    """The name of a module inside a stage."""
    last = stages_of(model)[-2][0]
    return next(name for name, _ in model.named_modules() if name.startswith(f"{last}."))
