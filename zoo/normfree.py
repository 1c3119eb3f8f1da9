"""Is it batch norm? Blocks that start as the identity, with batch norm (zero-gamma) and without.

Without norms, F(x) is as large as x at the start. Each block doubles the variance, and a network of
27 blocks multiplies it by 2^27. These blocks begin with F(x) = 0 instead, so the network starts
shallow and learns how deep it has to be; then it trains without batch norm.

Papers: zero-gamma: Goyal et al. 2017 (arXiv 1706.02677), section 5.1. SkipInit: De and Smith 2020
(arXiv 2002.10444), section 3. Fixup: Zhang et al. 2019 (arXiv 1901.09321), section 3. ReZero:
Bachlechner et al. 2020 (arXiv 2003.04887), section 3. Here h is the block's shortcut.
Dimension key: N batch, C channels, H W height and width of a feature map.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from zoo.arms import branch
from zoo.blocks import BasicBlock


class Shift(nn.Module):
    """`y = x + bias`, one bias per channel: what is left of a norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class ZeroGamma(BasicBlock):
    """`y = relu(F(x) + h)`, where the last norm of F starts with weight 0."""

    def set_up(self, place: int, blocks: int) -> None:
        """For any block."""
        assert isinstance(self.norm2, nn.BatchNorm2d)
        nn.init.zeros_(self.norm2.weight)


class SkipInit(BasicBlock):
    """`y = relu(a F(x) + h)` without norms; the factor a is learned, and starts at 0."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # norm=Shift
        self.factor = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.factor * branch(self, x) + self.shortcut(x))


class ReZero(SkipInit):
    """`y = a relu(F(x)) + h`: as SkipInit, but nothing follows the addition."""

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * relu(branch(self, x)) + self.shortcut(x)


class Fixup(BasicBlock):
    """`y = relu(a conv2(relu(conv1(x + b1) + b2) + b3) + b4 + h)`, all of b one number each.

    conv2 starts at 0 and a at 1. conv1 starts smaller by the root of the number of blocks: in an
    SGD step all blocks move together, and the network's output should move as far as with one.
    The head starts at 0, too (zoo/resnet.py).
    """

    def __init__(self, *args: Any, norm: object = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"norm": nn.Identity})
        self.factor = nn.Parameter(torch.ones(()))
        self.biases = nn.Parameter(torch.zeros(4))

    def set_up(self, place: int, blocks: int) -> None:
        """For any of `blocks` blocks."""
        with torch.no_grad():
            self.conv1.weight /= blocks**0.5
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        b1, b2, b3, b4 = self.biases
        residual = self.factor * self.conv2(relu(self.conv1(x + b1) + b2) + b3) + b4
        return relu(residual + self.shortcut(x))
