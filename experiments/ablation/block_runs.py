"""The runs of a question about blocks, and those that first choose a rate for every arm."""

from collections.abc import Sequence
from dataclasses import replace

from experiments.ablation.block_questions import TUNING_SEED, BlockQuestion, best_rates
from experiments.ablation.questions import ABLATIONS, Ablation, rows
from experiments.ablation.runs import Run

SEEDS = (0, 1, 2, 3, 4)


def ablation_of(question: BlockQuestion, scale: str, bf16: bool, gpu: bool = False) -> Ablation:
    """The runs of a question at a scale.

    `bf16`: whether the device computes in it. On a CPU, the steps of "cifar10" are too few to learn
    50,000 images well enough for a comparison (comparison.py): then they are fewer, in smaller
    batches, and not augmented, which makes them easier to learn.
    """
    like = ABLATIONS[scale]
    if scale == "cifar10" and not gpu:
        data = replace(like.base.data, train_images=8_000, augment=False)
        settings = replace(
            like.base.settings, batch_size=32, lr=ABLATIONS["quick"].base.settings.lr
        )
        like = replace(like, base=replace(like.base, data=data, settings=settings))
    depths = question.depths_bf16 if bf16 else question.depths
    if scale == "paper":
        depths = question.paper_depths
    factor, epochs = question.epochs_factor, like.epochs
    on_gpu = {key: n * factor if key == "epochs" else n for key, n in like.on_gpu.items()}
    return replace(
        like, question=question.question,
        axes={"seed": SEEDS, "depth": depths, "network": question.networks},
        also=tuple({"network": network, "norm": "none"} for network in question.without_norm),
        also_of_every_seed=True, also_of_every_depth=True,
        epochs=epochs and epochs * factor, on_gpu=on_gpu,
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
