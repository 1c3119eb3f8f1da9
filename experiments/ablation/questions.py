"""An ablation is data: a question, one base run, and the fields of the run that vary.

A run is one network, trained once: Run has its network, depth, seed, norm, data and settings. Each
preset of `make ablation` is one entry of ABLATIONS. Its runs are the base run with every
combination of the axes' values, so they differ from each other in these fields and in nothing
else. `also` adds single runs. There is one exception: with the paper's schedule, ResNet-110 gets a
warm-up, as in the paper, and so does plain110 (with_warmup).

Paper: He et al. 2015 (arXiv 1512.03385), sections 4.1 and 4.2, figure 6.
This is the last file of the reading path. Next to it, runs.py defines and trains one run,
campaign.py trains all of them, and verdict.py answers the question.
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
    # Replaces the base's steps (overrides.py computes them); None: the steps stay as they are.
    epochs: int | None = None
    # Each dict is one more run: the base with these fields replaced.
    also: tuple[dict, ...] = ()
    also_of_every_seed: bool = False  # False: with the base's seed only
    also_of_every_depth: bool = False  # False: with its own depth, or else the axes' largest
    # On a GPU, overrides.py replaces these: size, epochs, train_images.
    on_gpu: dict[str, int] = field(default_factory=dict)


# Most runs here last a few epochs: too short for the paper's schedule, which drops the rate at two
# milestones. The triangle has none.
TRIANGLE = Settings(schedule="triangle", milestones=())
NETWORKS = ("plain", "resnet")  # with the depth, a name for zoo.build: "plain56"
SEEDS = (0, 1, 2)  # of weights and batches: both kinds of networks have the same ones
# Layers: 6n + 2 for n = 9, 3, 1.
AXES: dict[str, tuple] = {"seed": SEEDS, "depth": (56, 20, 8), "network": NETWORKS}
# Images of 12x12 pixels and ten classes, drawn by data/synthetic.py: Data's default source.
SMALL = Data(size=12, train_images=4000, test_images=1000)
# The deepest pair without BatchNorm, which rescales every layer: these two runs show in
# gradients.png how gradients shrink or grow from layer to layer.
WITHOUT_NORM = tuple({"network": network, "norm": "none"} for network in NETWORKS)
TRANSFORMER = Run(
    network="vit",
    depth=4,  # blocks
    norm="layer",  # a ViT has no other
    data=replace(SMALL, size=16),
    # Of four rates, one of the two at which the deepest plain network learns most: three seeds
    # cannot tell them apart (LOG.md). Networks with skips would learn more at a higher rate.
    settings=replace(TRIANGLE, batch_size=64, opt="adamw", lr=5e-4, weight_decay=0.05),
)

ABLATIONS = {
    "quick": Ablation(
        question="Do plain networks train worse as they get deeper, and residual ones not?",
        # Of three rates, the one at which the deepest plain network learns most (LOG.md).
        base=Run(data=SMALL, settings=replace(TRIANGLE, batch_size=32, lr=0.03)),
        axes=AXES,
        epochs=4,
        also=WITHOUT_NORM,
    ),
    "cifar10": Ablation(
        question="Does the same hold on CIFAR-10 (on a CPU at 16x16)?",
        base=Run(data=Data("cifar10", size=16), settings=TRIANGLE),
        axes=AXES,
        epochs=8,
        also=WITHOUT_NORM,
        on_gpu={"size": 32, "epochs": 30},
    ),
    # 30 runs of 64,000 steps: for a GPU.
    "paper": Ablation(
        question="Section 4.2 of He et al. 2015 (figure 6, table 6), up to 110 layers.",
        base=Run(data=Data("cifar10", size=32, normalize="pixel-mean"), settings=Settings()),
        axes={"seed": SEEDS, "depth": (110, 56, 44, 32, 20), "network": NETWORKS},
    ),
    # ImageNet's architectures on CIFAR-10's images: at 32x32, the last stage has maps of 1x1.
    "imagenet-nets": Ablation(
        question="Do ImageNet's plain networks train worse with 34 layers than with 18?",
        base=Run(
            data=Data("cifar10", size=32, train_images=16_000),
            # Of three rates, the one at which plain34 learns most (LOG.md).
            settings=replace(TRIANGLE, batch_size=64, lr=0.01),
        ),
        axes={"seed": SEEDS, "depth": (34, 18), "network": NETWORKS},
        epochs=3,
        # plain50 and resnet50 have Bottlenecks: shown, and not compared with 34 and 18.
        also=tuple({"network": network, "depth": 50} for network in NETWORKS),
        on_gpu={"size": 64, "epochs": 10, "train_images": 50_000},
    ),
    "vit": Ablation(
        question="Without skips, do a ViT's tokens become alike, and does it learn less?",
        base=TRANSFORMER,
        axes={"seed": (0, 1, 2, 3, 4), "depth": (4, 2, 1), "network": ("plainvit", "vit")},
        epochs=5,
        # PARTS (runs.py): "attention-skip", "mlp-skip", "no-mlp" and "pure-attention". With the
        # largest depth, they become zoo.build("plainvit4", block="attention-skip") and so on.
        also=tuple({"network": network} for network in PARTS),
        also_of_every_seed=True,
    ),
}

WARMUP_DEPTH, WARMUP_STEPS = 110, 400  # section 4.2: 0.1 is too large to start ResNet-110


def rows(ablation: Ablation) -> list[Run]:
    """All runs of an ablation, before with_warmup: every combination of values, and `also`.

    Seed by seed, so that a first answer comes early. Within a seed, the longest runs come first, so
    that none of them starts last and runs alone.
    """
    # ((0, 56, "plain"), (0, 56, "resnet"), (0, 20, "plain"), ...)
    combinations = itertools.product(*ablation.axes.values())
    changes = [dict(zip(ablation.axes, values, strict=True)) for values in combinations]
    # The runs of `also`: one seed is enough for an illustration, a comparison needs them all.
    seeds = ablation.axes["seed"] if ablation.also_of_every_seed else (ablation.base.seed,)
    all_depths = ablation.axes["depth"]
    depths = all_depths if ablation.also_of_every_depth else (max(all_depths),)
    changes += [
        {"depth": depth, "seed": seed} | change
        for depth in depths for seed in seeds for change in ablation.also
    ]  # fmt: skip
    runs = [replace(ablation.base, **change) for change in changes]
    return sorted(runs, key=lambda run: (run.seed, -run.depth))


def with_warmup(run: Run) -> Run:
    """Section 4.2's exception for ResNet-110, here for plain110, too. campaign.py applies it.

    lr 0.01, or the run's own if it is lower, for the first 400 steps. (The paper: until the
    training error is below 80 %, which takes about 400 steps.)
    """
    if run.depth == WARMUP_DEPTH and run.settings.schedule == "step":
        lr = min(run.settings.warmup_lr, run.settings.lr)
        settings = replace(run.settings, warmup_steps=WARMUP_STEPS, warmup_lr=lr)
        return replace(run, settings=settings)
    return run
