"""The questions that are asked, as data: each is a base and what is changed in it.

An ablation is a question in plain words, a base, and axes. Its rows differ from the base in the
axes' fields, and those of `also` in the fields that they name. The paper's one exception is ours
too: with_warmup gives networks of 110 layers a warm-up.
Paper: He et al. 2015 (arXiv 1512.03385), sections 4.1 and 4.2, figure 6.
"""

import itertools
from dataclasses import dataclass, field, replace

from experiments.ablation.runs import PARTS, Data, Run
from experiments.train.loop import Settings


@dataclass(frozen=True)
class Ablation:
    question: str
    base: Run
    axes: dict[str, tuple]  # a field of Run -> the values that it takes
    epochs: int | None = None  # None: the base's steps
    also: tuple[dict, ...] = ()  # more rows, at the largest depth unless they name another
    also_of_every_seed: bool = False
    on_gpu: dict[str, int] = field(default_factory=dict)  # better settings where there is a GPU


ONE_CYCLE = Settings(schedule="one-cycle", milestones=())
NETWORKS = ("plain", "resnet")
SEEDS = (0, 1, 2)
AXES: dict[str, tuple] = {"seed": SEEDS, "depth": (56, 20, 8), "network": NETWORKS}
SMALL = Data(size=12, train_images=4000, test_images=1000)
# For the figure of gradient norms: the deepest pair without batch normalisation.
WITHOUT_NORM = tuple({"network": network, "norm": "none"} for network in NETWORKS)
TRANSFORMER = Run(
    network="vit", depth=4, norm="layer", data=replace(SMALL, size=16),
    # At higher rates residual networks learn more, and the deepest plain one less (LOG.md).
    settings=replace(ONE_CYCLE, batch_size=64, opt="adamw", lr=5e-4, weight_decay=0.05),
)  # fmt: skip

ABLATIONS = {
    "quick": Ablation(
        question="Do plain networks train worse as they get deeper, and residual ones not?",
        # The deepest plain network learns most at this rate of the three in LOG.md.
        base=Run(data=SMALL, settings=replace(ONE_CYCLE, batch_size=32, lr=0.03)),
        axes=AXES,
        epochs=4,
        also=WITHOUT_NORM,
    ),
    "cifar10": Ablation(
        question="The same on CIFAR-10, its 50,000 and 10,000 pictures, on a CPU reduced to 16x16.",
        base=Run(data=Data("cifar10", size=16), settings=ONE_CYCLE),
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
            # Of three rates the one at which plain34 begins to learn (LOG.md).
            settings=replace(ONE_CYCLE, batch_size=64, lr=0.01),
        ),
        axes={"seed": SEEDS, "depth": (34, 18), "network": NETWORKS},
        epochs=3,
        # One pair with Bottlenecks, which is not part of the verdict.
        also=tuple({"network": network, "depth": 50} for network in NETWORKS),
        on_gpu={"size": 64, "epochs": 10, "train_images": 50_000},
    ),
    "vit": Ablation(
        question="Do transformers without additions lose the difference of their tokens, and "
        "stall?",
        base=TRANSFORMER,
        axes={"seed": (0, 1, 2, 3, 4), "depth": (4, 2, 1), "network": ("plainvit", "vit")},
        epochs=5,
        # One addition of the two, and both or none without MLPs.
        also=tuple({"network": network} for network in PARTS),
        also_of_every_seed=True,
    ),
}

WARMUP_DEPTH, WARMUP_STEPS = 110, 400  # section 4.2: 0.1 is too large to start ResNet-110 with


def rows(ablation: Ablation) -> list[Run]:
    """The base with every combination of the axes' values: seed by seed, the deepest first."""
    combinations = itertools.product(*ablation.axes.values())
    changes = [dict(zip(ablation.axes, values, strict=True)) for values in combinations]
    seeds = ablation.axes["seed"] if ablation.also_of_every_seed else (ablation.base.seed,)
    deepest = {"depth": max(ablation.axes["depth"])}
    changes += [deepest | {"seed": seed} | change for seed in seeds for change in ablation.also]
    runs = [replace(ablation.base, **change) for change in changes]
    return sorted(runs, key=lambda run: (run.seed, -run.depth))


def with_warmup(run: Run) -> Run:
    """The one exception of section 4.2, in both arms: lr 0.01 for the first 400 steps."""
    if run.depth == WARMUP_DEPTH and run.settings.schedule == "steps":
        return replace(run, settings=replace(run.settings, warmup_steps=WARMUP_STEPS))
    return run
