"""The blocks that replace BasicBlock in an ablation, by the name that zoo.build takes.

zoo.build("resnet56", variant="half-shortcut"): all blocks are of that kind.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

from torch import nn

from zoo.blocks import BasicBlock
from zoo.normfree import Fixup, ReZero, SkipInit, ZeroGamma
from zoo.orders import NormAfter, Preactivation, ReluBefore, ReluOnly
from zoo.shortcut_variants import (
    Convolved,
    DroppedOut,
    ExclusivelyGated,
    Gated,
    Scaled,
    Stochastic,
)

# In the order of the papers' tables. Biases of gates: in table 1 of He et al. 2016, -6 is the best.
VARIANTS: dict[str, Callable[..., BasicBlock]] = {
    "half-shortcut": Scaled,
    "half-both": partial(Scaled, a=0.5),
    "exclusive-gate": partial(ExclusivelyGated, bias=-6.0),
    "shortcut-gate": Gated,
    "shortcut-gate-open": partial(Gated, bias=-6.0),
    "conv-shortcut": Convolved,
    "dropout-shortcut": DroppedOut,
    "norm-after": NormAfter,
    "relu-before": ReluBefore,
    "relu-only": ReluOnly,
    "preactivation": Preactivation,
    "stochastic-depth": Stochastic,
    "zero-gamma": ZeroGamma,
    "skipinit": SkipInit,
    "fixup": Fixup,
    "rezero": ReZero,
}
NORM_FREE = ("skipinit", "fixup", "rezero")  # their stems have no norm, either


@runtime_checkable
class SetUp(Protocol):
    """A block whose layers or initial weights depend on its position, or are its own."""

    def set_up(self, index: int, blocks: int) -> None:
        """Prepare the block number `index` (1, 2 ...) of `blocks`."""


def set_up(stages: nn.Sequential, head: nn.Linear) -> None:
    """Prepare the blocks and the head of a network after other initial weights were given to it."""
    blocks = [block for stage in stages.children() for block in stage.children()]
    for index, block in enumerate(blocks, 1):
        if isinstance(block, SetUp):
            block.set_up(index, len(blocks))
    if isinstance(blocks[0], Fixup):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
