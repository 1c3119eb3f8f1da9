"""From the command line to a recipe and a list of runs, with checks of the options."""

from dataclasses import fields, replace
from pathlib import Path

import zoo
from data import near_duplicates
from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError
from experiments.plumbing.recipes import RECIPES, Recipe
from experiments.train.loop import Settings
from experiments.transfer.job import Transfer
from experiments.transfer.options import LIMITS, MORE_LIMITS, Options
from experiments.transfer.strategies import STRATEGIES
from zoo.registry import owner
from zoo.weights.published import published_name


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
            strategy, model, weights[model], seed, replace(recipe, batch_size=size), base[model],
            dataset_id, options.preprocess,
        )
        for seed in range(options.seeds)
        for model in dict.fromkeys(options.model)
        for size in dict.fromkeys(options.batch_size or (recipe.batch_size,))
        for strategy in dict.fromkeys(strategies)
        if strategy != "moving-bn" or "vit" not in model  # ViTs have no batch norms
    ]  # fmt: skip


def check_options(options: Options) -> None:
    """Raise UsageError or zoo.ModelError for wrong options, before any work."""
    cli.check_numbers(options, LIMITS)
    cli.check_numbers(options.more, MORE_LIMITS)
    low, high = options.more.scale or (0, 1)
    if low > high:
        fix = "give the lower number first"
        raise UsageError("--scale is not a range", f"--scale {low} {high}", fix)
    for name in ("model", "strategy"):
        if not getattr(options, name):
            raise UsageError(f"--{name} needs a name", f"--{name}", "give a name, or leave it out")
    for name in options.model:
        zoo.check(name, {"image_size": options.size} if "vit" in name and options.size else {})
        if "vit" in name and set(options.strategy) == {"moving-bn"}:
            why = f"{name} has no batch norms, so no statistics that could move"
            fix = "choose a ResNet, or feature-extraction"
            raise UsageError(why, "--strategy moving-bn", fix)
    if options.skip_near_duplicates and not near_duplicates.installed():
        why = "near-duplicates cannot be found without the package imagehash"
        fix = "pip install imagehash 'numpy>=2'; or leave the option out"
        raise UsageError(why, "--skip-near-duplicates", fix)
    cli.check_folder(options.output_dir or Path("runs"))
