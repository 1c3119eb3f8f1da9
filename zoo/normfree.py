"""Can blocks that start as the identity replace batch norm?

Without norms, each block about doubles the mean square of x at the start, and 27 blocks multiply it
by about 2^27. Each block here starts as the identity instead (where the shape is kept), so x keeps
its size. ZeroGamma keeps batch norm; the others have none.

Papers: zero-gamma: Goyal et al. 2017 (arXiv 1706.02677), section 5.1. SkipInit: De and Smith 2020
(arXiv 2002.10444), section 3. Fixup: Zhang et al. 2019 (arXiv 1901.09321), section 3. ReZero:
Bachlechner et al. 2020 (arXiv 2003.04887), section 3. Here h is the block's shortcut.
Dimension key: N batch, C channels, H W height and width of a feature map.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from zoo.blocks import BasicBlock
from zoo.shortcut_variants import residual_of


class Shift(nn.Module):
    """`y = x + bias`, one bias per channel: a norm's bias, without the normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class ZeroGamma(BasicBlock):
    """`y = relu(F(x) + h)`, where the last norm of F starts with weight 0."""

    def set_up(self, index: int, blocks: int) -> None:
        """Set the initial weights; they are the same in every block."""
        assert isinstance(self.norm2, nn.BatchNorm2d)
        nn.init.zeros_(self.norm2.weight)


class SkipInit(BasicBlock):
    """`y = relu(a F(x) + h)` without norms; the factor a is learned, and starts at 0."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"norm": Shift})
        self.factor = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.factor * residual_of(self, x) + self.shortcut(x))


class ReZero(SkipInit):
    """`y = a relu(F(x)) + h`: as SkipInit, but no layer follows the addition.

    The authors' ResNets have norms in F, too.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * relu(residual_of(self, x)) + self.shortcut(x)


class Fixup(BasicBlock):
    """`y = relu(a conv2(relu(conv1(x + b1) + b2) + b3) + b4 + h)`; a and b1 to b4 are scalars.

    a starts at 1, the biases, conv2 and the network's head (variants.py) at 0. The initial weights
    of conv1 are divided by the square root of the number of blocks: one step of SGD changes all
    blocks, and this keeps the change of the network's output independent of their number.

    Unlike the authors' code, the stem has a bias per channel, the head's input has none, and b1 is
    not added to the shortcut where the shape changes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"norm": nn.Identity})
        self.factor = nn.Parameter(torch.ones(()))
        self.biases = nn.Parameter(torch.zeros(4))

    def set_up(self, index: int, blocks: int) -> None:
        """Set the initial weights; `blocks` is the number of all blocks."""
        with torch.no_grad():
            self.conv1.weight /= blocks**0.5
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        b1, b2, b3, b4 = self.biases
        residual = self.factor * self.conv2(relu(self.conv1(x + b1) + b2) + b3) + b4
        return relu(residual + self.shortcut(x))
