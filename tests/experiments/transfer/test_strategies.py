"""Frozen means frozen, and recipes do what they say."""

from dataclasses import asdict, replace
from functools import partial
from typing import get_args

import pytest
import torch
from conftest import refusal

import zoo
from data.views import RandomView, View
from experiments.plumbing.recipes import RECIPES, Recipe, evaluation_view, training_view
from experiments.train.loop import Settings, lr_at, start, train
from experiments.transfer import options, strategies
from experiments.transfer.options import More, Options
from experiments.transfer.plan import recipe_of, starting_weights
from experiments.transfer.strategies import (
    STRATEGIES,
    Frozen,
    factor_of,
    rarity,
    to_train,
    training_settings,
)
from zoo import WeightsError
from zoo.networks import stages_of


class Noise:
    """Batches whose statistics are far from what fresh norms assume."""

    side = 16

    def __len__(self):
        return 4

    def batch(self, step):
        generator = torch.Generator().manual_seed(step)
        images = 3 + 2 * torch.randn(8, 3, self.side, self.side, generator=generator)
        return images, torch.arange(8) % 3


def changed(
    strategy: str, name: str = "resnet8", unfreeze: str | None = None, **settings
) -> set[str]:
    """The state-dict entries that three steps of training change."""
    torch.manual_seed(0)
    model = zoo.build(name, 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    settings = Settings(steps=3, milestones=(), lr=0.1, **settings)
    network = to_train(strategy, model, unfreeze)
    for _ in train(Noise(), settings, start(network, settings)):
        pass
    return {key for key, value in model.state_dict().items() if not torch.equal(before[key], value)}


@pytest.mark.parametrize("name", ["resnet8", "plain8", "resnet18"])
@pytest.mark.parametrize("opt", ["sgd", "adam", "adamw"])
def test_frozen_means_frozen(name, opt):
    """No parameter and no buffer of the backbone changes, not by a bit, even with weight decay."""
    learning = changed("feature-extraction", name, opt=opt, weight_decay=0.1)
    assert learning == {"head.weight", "head.bias"}


def test_most_notebooks_move_the_running_statistics():
    """The bug of pytorch #86590, planted on purpose: requires_grad is off, yet buffers move."""
    moved = changed("moving-bn")
    assert {"head.weight", "stem.norm.running_mean", "stem.norm.num_batches_tracked"} <= moved
    assert not any(key.endswith(("conv.weight", "conv1.weight", "norm1.weight")) for key in moved)


@pytest.mark.parametrize("strategy", ["finetune", "lp-ft", "scratch"])
def test_the_others_train_everything(strategy):
    assert changed(strategy) == set(zoo.build("resnet8", 3).state_dict())


def test_frozen_networks_keep_eval_mode_and_give_the_heads_gradient():
    model = zoo.build("resnet8", 3)
    frozen = Frozen(model, ["head"])
    training = {name for name, module in frozen.train().model.named_modules() if module.training}
    assert training == {"head"}
    assert frozen.training
    moving = Frozen(zoo.build("resnet8", 3), ["head"], moving=True)
    assert all(module.training for module in moving.train().modules())
    images = torch.randn(4, 3, 16, 16)
    frozen(images).sum().backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learning == {"head.weight", "head.bias"}
    assert torch.equal(frozen(images), model.eval()(images))


@pytest.mark.parametrize(
    ("name", "unfreeze", "learning"),
    [("resnet8", None, ("stages.2.", "head.")), ("plain8", "stages.1,head", ("stages.1.", "head.")),
     ("resnet18", "stages.3.1,head", ("stages.3.1.", "head.")),
     ("resnet8", "stem.norm,head", ("stem.norm.", "head.")),
     ("vit4", None, ("blocks.3.", "norm.", "head.")),
     ("vit2", "blocks.0,head", ("blocks.0.", "head."))],
)  # fmt: skip
@pytest.mark.parametrize("opt", ["sgd", "adamw"])
def test_partial_trains_what_it_names_and_nothing_else(name, unfreeze, learning, opt, monkeypatch):
    """No bit of the rest changes, running statistics included, even with weight decay."""
    monkeypatch.setattr(Noise, "side", 32 if "vit" in name else 16)
    found = changed("partial", name, unfreeze, opt=opt, weight_decay=0.1)
    kinds = {key for key in zoo.build(name, 3).state_dict() if key.startswith(learning)}
    assert found == kinds
    if "norm" not in (unfreeze or "") and "vit" not in name:
        assert any("running_mean" in key for key in found)  # what is trained has moving statistics


def rates_of(name: str, strategy: str, decay: float | None) -> dict[str, float]:
    """The rate of every parameter in a step, read from the optimiser."""
    model = zoo.build(name, 3)
    factor = partial(factor_of, model=model, decay=decay or 1.0)
    network = to_train(strategy, model, None)
    settings = Settings(steps=3, milestones=(), lr=0.1)
    state = start(network, settings, factor_of=factor)
    next(train(Noise(), settings, state))
    assert state.lr == 0.1
    rates = {id(p): g["lr"] for g in state.optimizer.param_groups for p in g["params"]}
    return {key: rates[id(p)] for key, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "plain20", "vit2", "vit6"])
def test_each_stage_learns_slower_than_the_next_one(name, monkeypatch):
    monkeypatch.setattr(Noise, "side", 32)
    rates, model = rates_of(name, "finetune", 0.7), zoo.build(name, 3)
    assert set(rates) == {key for key, _ in model.named_parameters()}
    by_stage = [
        {rates[key] for key in rates if key.startswith(tuple(f"{module}." for module in modules))}
        for modules in stages_of(model)
    ]
    expected = [0.1 * 0.7 ** (len(by_stage) - 1 - i) for i in range(len(by_stage))]
    assert [len(found) for found in by_stage] == [1] * len(by_stage)
    assert [min(found) for found in by_stage] == pytest.approx(expected)
    assert set(rates_of(name, "finetune", None).values()) == {0.1}
    partly = rates_of(name, "partial", 0.5)
    assert sorted(set(partly.values())) == pytest.approx([0.05, 0.1])


def test_stages_are_all_modules_in_their_order():
    for name in ("resnet8", "plain50", "vit1", "vit2", "vit6", "vit_b_16"):
        with torch.device("meta"):
            model = zoo.build(name)
        modules = [module for stage in stages_of(model) for module in stage]
        children = {"stages", "blocks"}
        direct = [
            f"{key}.{i}" for key, child in model.named_children() if key in children
            for i in range(len(child))
        ]  # fmt: skip
        wanted = ["stem", *direct, *(["norm"] if "vit" in name else []), "head"]
        assert modules == wanted
    assert [len(stage) for stage in stages_of(zoo.build("vit6"))] == [1, 1, 2, 1, 3, 1]


def test_rarity_weighs_classes_inversely_and_images_to_1():
    labels = torch.tensor([0, 0, 0, 1])
    assert rarity(labels, 2) == pytest.approx((2 / 3, 2.0))  # all four: 3 * 2 / 3 + 2 = 4
    assert rarity(labels, 3) == pytest.approx((2 / 3, 2.0, 0.0))


def executed_rates(recipe: Recipe, strategy: str, steps_per_epoch: int = 4) -> list[float]:
    """The rate of each step, read from the optimiser: a correct schedule might not be used."""
    model = zoo.build("resnet8", 3, width=1)
    settings = training_settings(recipe, strategy, steps_per_epoch, None, Settings())
    state = start(to_train(strategy, model, None), settings)
    return [state.lr for state in train(Noise(), settings, state)]


def test_the_tutorials_rate_falls_by_ten_every_seven_epochs():
    rates = executed_rates(RECIPES["tutorial"], "finetune")
    assert len(rates) == 25 * 4
    for epoch in range(25):
        assert rates[4 * epoch] == pytest.approx(1e-3 / 10 ** (epoch // 7))


def test_the_cosine_rises_for_an_epoch_and_falls_to_nothing():
    rates = executed_rates(RECIPES["default"], "finetune")
    assert rates[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 1e-4
    middle = Settings(steps=100, lr=1.0, schedule="cosine")
    assert lr_at(50, middle) == pytest.approx(0.5)


def test_heads_learn_at_their_own_rate_and_a_probed_network_at_a_low_one():
    recipe = replace(RECIPES["default"], epochs=3)
    tops = {"feature-extraction": 0.1, "moving-bn": 0.1, "lp-ft": 0.001, "scratch": 0.01}
    assert {name: max(executed_rates(recipe, name)) for name in tops} == pytest.approx(tops)
    course = replace(RECIPES["bootcamp"], epochs=2)
    assert set(executed_rates(course, "finetune")) == {1e-3}


def test_options_replace_settings_of_the_recipe_also_by_zero():
    more = More(weight_decay=0.0, class_weights=True)
    wanted = {"lr": 0.02, "head_lr": 0.02, "weight_decay": 0.0, "class_weights": True}
    recipe = recipe_of(Options("x", lr=0.02, recipe="imagenet", more=more))
    assert recipe == replace(RECIPES["imagenet"], **wanted)
    assert recipe_of(Options("x", recipe="cifar10")) == RECIPES["cifar10"]


def test_only_settings_that_change_something_are_printed():
    default, tutorial = RECIPES["default"].in_use(), RECIPES["tutorial"].in_use()
    assert default["scale"] == "0.35 to 1"
    assert {"momentum", "lr-warmup-epochs", "head-lr"} <= default.keys()
    assert not {"lr-step-size", "squash", "size"} & default.keys()
    assert (tutorial["lr-step-size"], tutorial["batch-size"]) == ("7", "4")
    assert not {"momentum", "scale", "weight-decay"} & RECIPES["bootcamp"].in_use().keys()
    assert RECIPES["small"].in_use(probe_alone=True) == {
        "probe-l2": "0.001", "size": "32", "squash": "True", "mean-std": "weights"
    }  # fmt: skip


def test_recipes_are_what_their_sources_say():
    """The numbers that the sources give; the other settings are our own."""
    facts = {
        "bootcamp": {"opt": "adam", "lr": 1e-3, "batch_size": 32, "epochs": 10, "squash": True},
        "two-strategies": {"opt": "sgd", "lr": 1e-3, "momentum": 0.9, "batch_size": 32,
                           "epochs": 25},
        "tutorial": {"batch_size": 4, "lr": 1e-3, "momentum": 0.9, "lr_scheduler": "step",
                     "lr_step_size": 7, "epochs": 25},
        "cifar10": {"batch_size": 256, "lr": 5e-4, "lr_step_size": 5,
                    "augment": "shift", "size": 32, "input_size": 224,
                    "mean_std": "cifar10"},
        "small": {"size": 32, "opt": "adam", "lr": 1e-3},
        "imagenet": {"batch_size": 256, "epochs": 90, "lr": 0.1, "momentum": 0.9,
                     "weight_decay": 1e-4, "lr_step_size": 30, "scale": (0.08, 1.0)},
    }  # fmt: skip
    assert set(facts) | {"default"} == set(RECIPES)
    for name, wanted in facts.items():
        recipe = asdict(RECIPES[name])
        assert {key: recipe[key] for key in wanted} == wanted, name


def test_views_are_what_the_weights_ask_unless_the_recipe_says_otherwise():
    asked = View(232, 224, "bilinear")
    assert evaluation_view(RECIPES["default"], asked) == asked
    smaller = evaluation_view(replace(RECIPES["default"], size=112), asked)
    assert (smaller.resize, smaller.crop, smaller.input_size) == (116, 112, 112)
    squashed = evaluation_view(RECIPES["bootcamp"], asked)
    assert (squashed.squash, squashed.crop) == (True, 224)
    # A checkpoint trained on small images enlarged to 224 keeps its view if it is transferred.
    enlarged = View(32, 32, squash=True, input_size=224)
    assert evaluation_view(RECIPES["default"], enlarged) == enlarged
    assert evaluation_view(replace(RECIPES["default"], size=96), enlarged).input_size == 96
    cifar = evaluation_view(RECIPES["cifar10"], asked)
    assert (cifar.crop, cifar.input_size, cifar.squash) == (32, 224, True)
    assert cifar.mean == (0.4914, 0.4822, 0.4465)
    assert training_view(RECIPES["cifar10"], cifar) == RandomView("shift", cifar, (0.08, 1.0))


def test_there_is_a_word_on_every_strategy():
    assert all(f"\n{name}" in strategies.__doc__ for name in STRATEGIES)


def test_the_command_line_offers_every_strategy_and_recipe():
    assert get_args(options.StrategyName) == ("all", *STRATEGIES)
    assert get_args(options.RecipeName) == tuple(RECIPES)


def test_default_weights_are_named_in_the_run():
    def of(model: str, weights: str = "DEFAULT") -> str | None:
        return starting_weights(Options("folder", model=(model,), weights=weights), model)

    assert of("resnet50") == "IMAGENET1K_V2"  # torchvision's default
    assert of("plain18") == of("resnet18", "imagenet1k_v1") == "IMAGENET1K_V1"
    assert of("resnet32") == "CIFAR10_AKAMASTER"
    assert of("plain56") == of("plain56", "CIFAR10_LI") == "CIFAR10_LI"  # its own
    assert of("resnet32", "w.pth") == "w.pth"
    assert of("resnet32", "none") is None
    with refusal(WeightsError):
        of("resnet8")
