"""Apply command-line options to the preset of an ablation."""

from dataclasses import replace
from typing import Any

import torch

import zoo
from data.cifar import is_cifar10
from experiments.ablation.block_questions import BLOCK_QUESTIONS, TUNING_SEED
from experiments.ablation.block_runs import ablation_of
from experiments.ablation.options import Options
from experiments.ablation.questions import ABLATIONS, Ablation
from experiments.ablation.runs import Data, make_batches
from experiments.plumbing import cli
from experiments.plumbing.device import has_bf16
from zoo.variants import VARIANTS

MOST_DRAWN = 100_000  # training images; drawing them takes a minute


def plan(options: Options, device: torch.device, images: int | None = None) -> Ablation:
    """The preset with the command line's options, and its larger settings on a GPU.

    `images`: the number of training images, if they are not to be loaded and counted.
    """
    ablation = preset_of(options, device)
    for depth in options.depths or ablation.axes["depth"]:
        for network in ablation.axes["network"]:
            if network in VARIANTS and "variant" not in zoo.settings_allowed(f"resnet{depth}"):
                what = f"resnet{depth} has no BasicBlocks that {network} could replace"
                fix = "give depths such as 8, 20, 32, 44, 56, 110, 18 or 34"
                raise cli.UsageError(what, f"--depths {depth}", fix)
        sizes = {"image_size": options.size} if options.preset == "vit" and options.size else {}
        zoo.check(f"{ablation.base.network}{depth}", sizes)
    on_gpu = ablation.on_gpu if device.type == "cuda" else {}
    data, base = change_data(ablation.base.data, options, on_gpu), ablation.base
    settings = replace(base.settings, **given(batch_size=options.batch_size, lr=options.lr))
    base = replace(base, data=data, settings=settings)
    epochs = options.epochs or on_gpu.get("epochs", ablation.epochs)
    if epochs:
        if images is None:
            steps = epochs * len(make_batches(base, torch.device("cpu")))
        else:
            steps = epochs * (min(images, data.train_images or images) // settings.batch_size)
        share = steps / settings.steps
        milestones = tuple(round(milestone * share) for milestone in settings.milestones)
        base = replace(base, settings=replace(settings, steps=steps, milestones=milestones))
    depths, seeds = sorted(set(options.depths), reverse=True), range(options.seeds or 0)
    axes = ablation.axes | given(depth=tuple(depths), seed=tuple(seeds))
    also = tuple(row for row in ablation.also if not (options.depths and "depth" in row))
    return replace(ablation, base=base, axes=axes, epochs=epochs, also=also)


def preset_of(options: Options, device: torch.device) -> Ablation:
    """The preset; of questions about blocks, at its scale and at depths that learn in its steps.

    Raises UsageError for a scale of another preset, or a rate of one that has several.
    """
    where = f"{options.preset} --scale {options.scale}"
    if options.preset in ABLATIONS:
        if options.scale != "quick":
            what = f"--scale is for the presets {', '.join(BLOCK_QUESTIONS)}"
            raise cli.UsageError(what, where, f"leave it out, or choose the preset {options.scale}")
        return ABLATIONS[options.preset]
    question = BLOCK_QUESTIONS[options.preset]
    if question.rates and options.lr:
        raise cli.UsageError("this preset compares several rates", where, "leave out --lr")
    if (options.seeds or 0) > TUNING_SEED:
        fix = f"give 1 to {TUNING_SEED}"
        raise cli.UsageError("--seeds is too large here", f"--seeds {options.seeds}", fix)
    if question.rates and not question.all_rates and options.holdout:
        what = "this preset holds out images by itself"
        raise cli.UsageError(what, where, "leave out --holdout")
    return ablation_of(question, options.scale, has_bf16(device), device.type == "cuda")


def change_data(data: Data, options: Options, on_gpu: dict[str, int]) -> Data:
    """The preset's images with the command line's options."""
    if options.data_dir is not None:
        drawn = data.source == "synthetic"
        data = replace(data, source="cifar10", data_dir=str(options.data_dir))
        anything = options.preset in ("imagenet-nets", "vit") and not is_cifar10(options.data_dir)
        if (drawn and options.preset != "vit") or anything:
            data = replace(data, source="folder", size=max(data.size, 32), test_images=None)
    if data.source == "synthetic":
        cli.check_numbers(options, {"train_images": (2, MOST_DRAWN)})
    size = options.size or on_gpu.get("size")
    train_images = options.train_images or on_gpu.get("train_images")
    numbers = given(size=size, train_images=train_images)
    return replace(data, holdout=options.holdout, **numbers)


def given(**values: Any) -> dict[str, Any]:
    """Only the options that are set: neither None nor empty."""
    return {name: value for name, value in values.items() if value}
