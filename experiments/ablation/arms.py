"""Questions about the block: which part of `relu(x + F(x))` matters?

Each ablation compares arms with a reference, BasicBlock: networks of the same depth with the same
seeds, batches and steps. An arm is a name of zoo/variants.py, or "plain". Images and steps are
those of the preset quick, cifar10 or paper: `--scale`.

Papers: He et al. 2016 (arXiv 1603.05027), tables 1 and 2; Li et al. 2018 (arXiv 1712.09913),
table 2, on the rate; and those named in zoo/normfree.py.
"""

from dataclasses import replace

from experiments.ablation.questions import ABLATIONS, Ablation

REFERENCE = "resnet"
SEEDS = (0, 1, 2, 3, 4)
SHORTCUTS = (
    "resnet", "half-shortcut", "half-both", "exclusive-gate", "shortcut-gate", "conv-shortcut",
    "dropout-shortcut", "plain",
)  # fmt: skip
ORDERS = ("resnet", "norm-after", "relu-before", "relu-only", "preactivation")
# The deepest network that learns within the steps of a scale: without fast bf16, and with it.
DEPTHS = {"quick": ((32,), (56,)), "cifar10": ((32,), (32, 56)), "paper": ((110,), (110,))}


def arms_ablation(question: str, arms: tuple[str, ...]) -> Ablation:
    """Compare arms at one depth; `--scale` replaces base and epochs."""
    quick = ABLATIONS["quick"]
    axes = {"seed": SEEDS, "depth": DEPTHS["quick"][0], "network": arms}
    return replace(quick, question=question, axes=axes, also=())


ARMS = {
    "shortcuts": arms_ablation("What may happen to x on its way around F(x)?", SHORTCUTS),
    "order": arms_ablation("Where should batch norm and ReLU be?", ORDERS),
}
# Test errors (%) of table 1 and 2, ResNet-110, medians of 5 runs; "fail": above 20.
PUBLISHED = {
    "resnet": "6.61", "half-shortcut": "fail", "half-both": "12.35", "exclusive-gate": "8.70",
    "shortcut-gate": "12.86", "conv-shortcut": "12.22", "dropout-shortcut": "fail",
    "plain": "fail", "norm-after": "8.17", "relu-before": "7.84", "relu-only": "6.71",
    "preactivation": "6.37",
}  # fmt: skip
