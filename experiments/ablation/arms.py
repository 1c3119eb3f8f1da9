"""Questions about the block: which part of `relu(x + F(x))` matters, and what replaces batch norm?

Each ablation compares arms with a reference, BasicBlock with batch norm: networks of the same depth
with the same seeds, batches and steps. An arm is a name of zoo/variants.py, or "plain". Images and
steps are those of the preset quick, cifar10 or paper: `--scale`.

Where the right rate differs from arm to arm, one rate for all would judge the rate. Then each arm
first tries several rates with another seed and with 10 % of the training images held out, and its
runs use the one with the lowest held-out loss.

Papers: He et al. 2016 (arXiv 1603.05027), tables 1 and 2; Li et al. 2018 (arXiv 1712.09913),
table 2, on the rate; Huang et al. 2016 (arXiv 1603.09382); and those named in zoo/normfree.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from experiments.ablation.questions import ABLATIONS, Ablation, rows
from experiments.ablation.runs import Run

REFERENCE = "resnet"
SEEDS = (0, 1, 2, 3, 4)
TUNING_SEED = 100  # of the runs that choose a rate; the seeds of the answer are others


@dataclass(frozen=True)
class Arms:
    """One question about blocks."""

    question: str
    networks: tuple[str, ...]  # in the paper's order
    without_norm: tuple[str, ...] = ()  # networks that are trained without batch norm, too
    rates: tuple[float, ...] = ()  # to choose from; or with `all_rates`, to train with
    all_rates: bool = False
    common_rate: float | None = None  # besides its own rate, each arm is trained with this one, too
    longer: int = 1  # times the epochs of EPOCHS
    # By whether the machine has fast bf16: depths that learn within the steps of --scale quick.
    quick_depths: tuple[tuple[int, ...], tuple[int, ...]] = ((32,), (56,))
    depths: tuple[int, ...] = (56,)  # of larger scales, on a GPU or with fast bf16
    paper_depths: tuple[int, ...] = (56,)


ARMS = {
    "shortcuts": Arms(
        "What may happen to x on its way around F(x)?",
        ("resnet", "half-shortcut", "half-both", "exclusive-gate", "shortcut-gate",
         "conv-shortcut", "dropout-shortcut", "plain"),
        depths=(32, 56), paper_depths=(110,),
    ),
    "order": Arms(
        "Where should batch norm and ReLU be?",
        ("resnet", "norm-after", "relu-before", "relu-only", "preactivation"),
        paper_depths=(110,),
    ),
    "rate": Arms(
        "Do plain networks only need another learning rate?",
        ("resnet", "plain"), rates=(0.1, 0.03, 0.01, 0.003, 0.001), common_rate=0.1,
    ),
    "no-norm": Arms(
        "Can residual networks learn without batch norm, if each block starts as the identity?",
        ("resnet", "skipinit", "fixup", "rezero"), without_norm=("plain", "resnet"),
        rates=(0.3, 0.1, 0.03, 0.01),
    ),
    "zero-gamma": Arms(
        "Does starting as the identity help at high rates?",
        ("resnet", "zero-gamma"), rates=(0.3, 0.1, 0.03), all_rates=True,
    ),
    "stochastic-depth": Arms(
        "Does training with missing blocks make networks that can do without them?",
        ("resnet", "stochastic-depth"), longer=4, quick_depths=((20, 32), (20, 56)),
        depths=(20, 56), paper_depths=(20, 56, 110),
    ),
}  # fmt: skip
# Test errors (%) of tables 1 and 2, ResNet-110, medians of 5 runs; "fail": above 20.
PUBLISHED = {
    "resnet": "6.61", "half-shortcut": "fail", "half-both": "12.35", "exclusive-gate": "8.70",
    "shortcut-gate": "12.86", "conv-shortcut": "12.22", "dropout-shortcut": "fail",
    "plain": "fail", "norm-after": "8.17", "relu-before": "7.84", "relu-only": "6.71",
    "preactivation": "6.37",
}  # fmt: skip
PUBLISHED_DEPTH = 110
# By scale. On CIFAR-10, the 8 epochs of its preset leave a training error of about 26 %, too much
# to compare: comparison.py.
EPOCHS = {"quick": 4, "cifar10": 12, "paper": None}


def ablation_of(arms: Arms, scale: str, fast: bool) -> Ablation:
    """The runs of a question with images and steps of a scale; `fast`: with a GPU or fast bf16."""
    like = ABLATIONS[scale]
    depths = arms.quick_depths[fast]
    if scale == "paper":
        depths = arms.paper_depths
    elif scale != "quick" and fast:
        depths = arms.depths
    axes = {"seed": SEEDS, "depth": depths, "network": arms.networks}
    also = tuple({"network": network, "norm": "none"} for network in arms.without_norm)
    epochs = (EPOCHS[scale] or 0) * arms.longer or None
    return replace(
        like, question=arms.question, axes=axes, also=also, also_of_every_seed=True, epochs=epochs
    )


def at(run: Run, lr: float) -> Run:
    """The run with another rate, which is then a part of its name."""
    return replace(run, rates=True, settings=replace(run.settings, lr=lr))


def tuning(arms: Arms, ablation: Ablation) -> list[Run]:
    """The runs that choose rates: every arm at every rate, with a seed and images of their own."""
    if not arms.rates or arms.all_rates:
        return []
    runs = rows(replace(ablation, axes=ablation.axes | {"seed": (TUNING_SEED,)}))
    held_out = replace(ablation.base.data, holdout=True)
    return [at(replace(run, data=held_out), lr) for run in runs for lr in arms.rates]


def runs_of(arms: Arms, ablation: Ablation, results: Sequence[dict]) -> list[Run]:
    """The runs that are compared; `results`: of those that chose the rates."""
    runs = rows(ablation)
    if arms.all_rates:
        return [at(run, lr) for run in runs for lr in arms.rates]
    if not arms.rates:
        return runs
    best = best_rates(results)
    chosen = [(at(run, best[run.network, run.norm, run.depth]), run) for run in runs]
    if arms.common_rate is None:
        return [run for run, _ in chosen]
    return list(dict.fromkeys(at(run, lr) for tuned, run in chosen
                              for lr in (tuned.settings.lr, arms.common_rate)))  # fmt: skip


def best_rates(results: Sequence[dict]) -> dict[tuple[str, str, int], float]:
    """The rate with the lowest held-out loss, by network, norm and depth.

    If all diverged, the lowest rate.
    """
    best: dict[tuple[str, str, int], tuple[float, float]] = {}
    for row in results:
        if row["seed"] == TUNING_SEED:
            loss = row["test_loss"] if row["status"] == "finished" else inf
            arm, found = (row["network"], row["norm"], row["depth"]), (loss, row["lr"])
            best[arm] = min(best.get(arm, found), found)
    return {arm: lr for arm, (_, lr) in best.items()}
