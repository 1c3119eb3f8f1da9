"""An ablation is data: a question, one base run, and the fields of the run that vary.

Each preset of `make ablation` is one entry of ABLATIONS. Its runs are the base run with every
combination of the axes' values, so they differ from each other in these fields and in nothing
else. `also` adds single rows. The paper's one exception is ours: networks of 110 layers get a
warm-up (with_warmup).

Paper: He et al. 2015 (arXiv 1512.03385), sections 4.1 and 4.2, figure 6.
This is the last file of the reading path. From here, campaign.py trains the runs, runs.py is one
of them, and verdict.py answers the question.
"""

import itertools
from dataclasses import dataclass, field, replace

from experiments.ablation.runs import PARTS, Data, Run
from experiments.train.loop import Settings


@dataclass(frozen=True)
class Ablation:
    """One question, and the runs that answer it."""

    question: str
    base: Run
    axes: dict[str, tuple]  # a field of Run -> its values
    epochs: int | None = None  # None: the steps of the base's settings
    also: tuple[dict, ...] = ()  # fields of more rows, which have the largest depth by default
    also_of_every_seed: bool = False  # False: of the base's seed only
    on_gpu: dict[str, int] = field(default_factory=dict)  # larger settings on a GPU


# Most budgets here are a few epochs: too short for the paper's two drops of the rate.
TRIANGLE = Settings(schedule="triangle", milestones=())
NETWORKS = ("plain", "resnet")
SEEDS = (0, 1, 2)
# Layers 6n + 2 for n = 9, 3, 1; the deepest first, since its runs take longest.
AXES: dict[str, tuple] = {"seed": SEEDS, "depth": (56, 20, 8), "network": NETWORKS}
SMALL = Data(size=12, train_images=4000, test_images=1000)
# For the figure of gradient norms: the deepest pair without batch normalisation.
WITHOUT_NORM = tuple({"network": network, "norm": "none"} for network in NETWORKS)
TRANSFORMER = Run(
    network="vit", depth=4, norm="layer", data=replace(SMALL, size=16),
    # At higher rates residual networks learn more, and the deepest plain one learns less (LOG.md).
    settings=replace(TRIANGLE, batch_size=64, opt="adamw", lr=5e-4, weight_decay=0.05),
)  # fmt: skip

ABLATIONS = {
    "quick": Ablation(
        question="Do plain networks train worse as they get deeper, and residual ones not?",
        # The rate at which the deepest plain network learns most, of three (LOG.md).
        base=Run(data=SMALL, settings=replace(TRIANGLE, batch_size=32, lr=0.03)),
        axes=AXES,
        epochs=4,
        also=WITHOUT_NORM,
    ),
    "cifar10": Ablation(
        question="The same on CIFAR-10, its 50,000 and 10,000 pictures, on a CPU reduced to 16x16.",
        base=Run(data=Data("cifar10", size=16), settings=TRIANGLE),
        axes=AXES,
        epochs=8,
        also=WITHOUT_NORM,
        on_gpu={"size": 32, "epochs": 30},
    ),
    "paper": Ablation(
        question="Section 4.2 to the letter: figure 6 and table 6 of He et al. 2015.",
        base=Run(data=Data("cifar10", size=32, normalize="pixel-mean"), settings=Settings()),
        axes={"seed": SEEDS, "depth": (110, 56, 44, 32, 20), "network": NETWORKS},
    ),
    "imagenet-nets": Ablation(
        question="Do ImageNet's plain networks train worse with 34 layers than with 18?",
        base=Run(
            data=Data("cifar10", size=32, train_images=16_000),
            # The rate at which plain34 learns most, of three (LOG.md).
            settings=replace(TRIANGLE, batch_size=64, lr=0.01),
        ),
        axes={"seed": SEEDS, "depth": (34, 18), "network": NETWORKS},
        epochs=3,
        # One pair of Bottlenecks. The verdict compares depths of one kind of block only.
        also=tuple({"network": network, "depth": 50} for network in NETWORKS),
        on_gpu={"size": 64, "epochs": 10, "train_images": 50_000},
    ),
    "vit": Ablation(
        question="Do transformers without additions lose the difference of their tokens, and "
        "stall?",
        base=TRANSFORMER,
        axes={"seed": (0, 1, 2, 3, 4), "depth": (4, 2, 1), "network": ("plainvit", "vit")},
        epochs=5,
        # With one of the two additions; and without MLPs, with the addition or without.
        also=tuple({"network": network} for network in PARTS),
        also_of_every_seed=True,
    ),
}

WARMUP_DEPTH, WARMUP_STEPS = 110, 400  # section 4.2: 0.1 is too large to start ResNet-110


def rows(ablation: Ablation) -> list[Run]:
    """All runs of an ablation: every combination of the axes' values, and `also`.

    Seed by seed, so that a first answer comes early; within a seed, the longest runs come first.
    """
    combinations = itertools.product(*ablation.axes.values())
    changes = [dict(zip(ablation.axes, values, strict=True)) for values in combinations]
    seeds = ablation.axes["seed"] if ablation.also_of_every_seed else (ablation.base.seed,)
    deepest = {"depth": max(ablation.axes["depth"])}
    changes += [deepest | {"seed": seed} | change for seed in seeds for change in ablation.also]
    runs = [replace(ablation.base, **change) for change in changes]
    return sorted(runs, key=lambda run: (run.seed, -run.depth))


def with_warmup(run: Run) -> Run:
    """The one exception of section 4.2, in both arms: lr 0.01 for the first 400 steps."""
    if run.depth == WARMUP_DEPTH and run.settings.schedule == "step":
        return replace(run, settings=replace(run.settings, warmup_steps=WARMUP_STEPS))
    return run
