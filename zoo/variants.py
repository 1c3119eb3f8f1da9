"""The blocks that replace BasicBlock in an ablation, by the name that zoo.build takes.

zoo.build("resnet56", variant="half-shortcut"): all blocks are of that kind.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

from zoo.arms import Convolved, DroppedOut, ExclusivelyGated, Gated, Scaled, Stochastic
from zoo.blocks import BasicBlock
from zoo.normfree import Fixup, ReZero, Shift, SkipInit, ZeroGamma
from zoo.orders import NormAfter, Preactivation, ReluBefore, ReluOnly


@runtime_checkable
class SetUp(Protocol):
    """A block that starts in a way of its own."""

    def set_up(self, place: int, blocks: int) -> None:
        """Prepare the block number `place` (1, 2 ...) of `blocks`."""


# In the order of the papers' tables; biases of gates: the best of table 1 of He et al. 2016.
VARIANTS: dict[str, Callable[..., BasicBlock]] = {
    "half-shortcut": Scaled,
    "half-both": partial(Scaled, a=0.5),
    "exclusive-gate": partial(ExclusivelyGated, bias=-6.0),
    "shortcut-gate": Gated,
    "shortcut-gate-6": partial(Gated, bias=-6.0),
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
NORM_FREE = ("skipinit", "fixup", "rezero")  # the stem has no norm, too

__all__ = ["NORM_FREE", "VARIANTS", "SetUp", "Shift"]
