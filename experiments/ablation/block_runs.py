"""The runs of a question about blocks, and those that first choose a rate for every arm."""

from collections.abc import Sequence
from dataclasses import replace

from experiments.ablation.block_questions import TUNING_SEED, BlockQuestion, best_rates
from experiments.ablation.questions import ABLATIONS, Ablation, rows
from experiments.ablation.runs import Run

SEEDS = (0, 1, 2, 3, 4)
# By scale. On CIFAR-10, the 8 epochs of its preset leave a training error of about 26 %, too much
# to compare: comparison.py.
EPOCHS = {"quick": 4, "cifar10": 12, "paper": None}


def ablation_of(question: BlockQuestion, scale: str, bf16: bool) -> Ablation:
    """The runs of a question at a scale; `bf16`: whether the device computes in it."""
    like = ABLATIONS[scale]
    depths = question.depths_bf16 if bf16 else question.depths
    if scale == "paper":
        depths = question.paper_depths
    factor, epochs = question.epochs_factor, EPOCHS[scale]
    on_gpu = {key: n * factor if key == "epochs" else n for key, n in like.on_gpu.items()}
    return replace(
        like, question=question.question,
        axes={"seed": SEEDS, "depth": depths, "network": question.networks},
        also=tuple({"network": network, "norm": "none"} for network in question.without_norm),
        also_of_every_seed=True, epochs=epochs and epochs * factor, on_gpu=on_gpu,
    )  # fmt: skip


def with_rate(run: Run, lr: float) -> Run:
    """The run with another rate, which is then a part of its name."""
    return replace(run, rates=True, settings=replace(run.settings, lr=lr))


def tuning(question: BlockQuestion, ablation: Ablation) -> list[Run]:
    """The runs that choose rates: every arm at every rate, with a seed and images of their own."""
    if not question.rates or question.all_rates:
        return []
    runs = rows(replace(ablation, axes=ablation.axes | {"seed": (TUNING_SEED,)}))
    held_out = replace(ablation.base.data, holdout=True)
    return [with_rate(replace(run, data=held_out), lr) for run in runs for lr in question.rates]


def runs_of(question: BlockQuestion, ablation: Ablation, results: Sequence[dict]) -> list[Run]:
    """The runs that are compared; `results`: of those that chose the rates."""
    runs = rows(ablation)
    if question.all_rates:
        return [with_rate(run, lr) for run in runs for lr in question.rates]
    if not question.rates:
        return runs
    best = best_rates(results)
    rates = {run: (best[run.network, run.norm, run.depth], question.common_rate) for run in runs}
    return list(dict.fromkeys(with_rate(run, lr) for run in runs for lr in rates[run] if lr))
