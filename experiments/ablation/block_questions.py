"""Questions about the block: which part of `relu(x + F(x))` matters, and what replaces batch norm?

Each ablation compares networks, its arms, with a reference: usually "resnet", which has BasicBlocks
with batch norm. All have the same depth, seeds, batches and steps. An arm is a name of
zoo/variants.py, or "plain". `--scale` chooses the preset whose images are used; block_runs.py makes
the runs.

If each arm learns best at another rate, one rate for all would favour some of them. Then each arm
first tries several rates with another seed and with 10 % of the training images held out, and its
runs use the one with the lowest held-out loss.

Papers: He et al. 2016 (arXiv 1603.05027), tables 1 and 2; Li et al. 2018 (arXiv 1712.09913),
table 2, on the rate; Huang et al. 2016 (arXiv 1603.09382); and those named in zoo/normfree.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

REFERENCE = "resnet"
TUNING_SEED = 100  # of the runs that choose a rate; the seeds of the answer are others


@dataclass(frozen=True)
class BlockQuestion:
    """One question about blocks."""

    question: str
    networks: tuple[str, ...]  # in the paper's order
    without_norm: tuple[str, ...] = ()  # networks that are trained without batch norm, too
    reference: str = REFERENCE  # the arm that the others are compared with
    rates: tuple[float, ...] = ()  # to choose from; or with `all_rates`, to train with
    all_rates: bool = False
    common_rate: float | None = None  # besides its own rate, each arm is trained with this one, too
    by_deletion: bool = False  # answered by experiments.anatomy, not by the training loss
    epochs_factor: int = 1
    depths: tuple[int, ...] = (32,)  # on a device that does not compute in bf16
    depths_bf16: tuple[int, ...] = (56,)  # on one that does, in the same time
    paper_depths: tuple[int, ...] = (56,)  # with --scale paper


BLOCK_QUESTIONS = {
    "shortcuts": BlockQuestion(
        "May the shortcut be anything but x itself?",
        ("resnet", "half-shortcut", "half-both", "exclusive-gate", "shortcut-gate",
         "shortcut-gate-open", "conv-shortcut", "dropout-shortcut", "plain"),
        depths_bf16=(32, 56), paper_depths=(110,),
    ),
    "order": BlockQuestion(
        "Where should batch norm and ReLU be?",
        ("resnet", "norm-after", "relu-before", "relu-only", "preactivation"),
        paper_depths=(110,),
    ),
    "rate": BlockQuestion(
        "Do plain networks only need another learning rate?",
        ("resnet", "plain"), rates=(0.1, 0.03, 0.01, 0.003, 0.001), common_rate=0.1,
    ),
    "no-norm": BlockQuestion(
        "Without batch norm, do residual networks learn more if each block starts as the identity?",
        ("resnet", "skipinit", "fixup", "rezero"), without_norm=("plain", "resnet"),
        reference="resnet without norms",
        rates=(0.3, 0.1, 0.03, 0.01),
    ),
    "zero-gamma": BlockQuestion(
        "Does starting as the identity help at high rates?",
        ("resnet", "zero-gamma"), rates=(0.3, 0.1, 0.03), all_rates=True,
    ),
    "stochastic-depth": BlockQuestion(
        "Does training with missing blocks make deletions of blocks cheaper?",
        ("resnet", "stochastic-depth"), by_deletion=True, epochs_factor=4, depths=(20, 32),
        depths_bf16=(20, 56), paper_depths=(20, 56, 110),
    ),
}  # fmt: skip
# Test errors (%) of tables 1 and 2, ResNet-110, medians of 5 runs; "fail": above 20.
TABLES_1_AND_2 = {
    "resnet": "6.61", "half-shortcut": "fail", "half-both": "12.35", "exclusive-gate": "8.70",
    "shortcut-gate": "12.86", "shortcut-gate-open": "6.91", "conv-shortcut": "12.22",
    "dropout-shortcut": "fail", "plain": "fail", "norm-after": "8.17", "relu-before": "7.84",
    "relu-only": "6.71", "preactivation": "6.37",
}  # fmt: skip
TABLES_DEPTH = 110


def is_tuning(row: dict) -> bool:
    """Whether a row is of a run that chooses a rate."""
    return row["seed"] == TUNING_SEED


def best_rates(results: Sequence[dict]) -> dict[tuple[str, str, int], float]:
    """The rate with the lowest held-out loss, by network, norm and depth.

    If all diverged, the lowest rate.
    """
    best: dict[tuple[str, str, int], tuple[float, float]] = {}
    for row in results:
        if is_tuning(row):
            loss = row["test_loss"] if row["status"] == "finished" else inf
            loss = loss if isfinite(loss) else inf  # its last step may have been one too far
            arm, found = (row["network"], row["norm"], row["depth"]), (loss, row["lr"])
            best[arm] = min(best.get(arm, found), found)
    return {arm: lr for arm, (_, lr) in best.items()}
