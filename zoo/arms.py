"""What may happen to x? Blocks that change one arm of BasicBlock, one small class each.

He et al. ask why the shortcut should be x itself. They scale it, gate it, convolve it and drop it
out; with 110 layers each of these trains worse. Of a product of many factors other than 1, little
is left, or too much: with y = x + F(x), a gradient reaches the first block unchanged; with
y = 0.5 x + F(x), it reaches it times 0.5^L after L blocks.

Each class has BasicBlock's layers and F, and says its equation; h is the block's shortcut, x itself
or padded. Stochastic depth changes the other arm: it removes F.

Paper: He et al. 2016, "Identity Mappings in Deep Residual Networks" (arXiv 1603.05027), section 3,
figure 2 and table 1. Stochastic depth: Huang et al. 2016 (arXiv 1603.09382), section 3.
Dimension key: N batch, C channels, H W height and width of a feature map.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, relu

from zoo.blocks import BasicBlock
from zoo.shortcuts import Norm, Projection


def branch(block: BasicBlock, x: Tensor) -> Tensor:
    """F(x) of a BasicBlock: (N, C_in, H, W) -> (N, C, H/stride, W/stride)."""
    return block.norm2(block.conv2(relu(block.norm1(block.conv1(x)))))


class Scaled(BasicBlock):
    """`y = relu(a F(x) + b h)`: constant factors."""

    def __init__(self, *args: Any, a: float = 1.0, b: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.a, self.b = a, b

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.a * branch(self, x) + self.b * self.shortcut(x))


class Gated(BasicBlock):
    """`y = relu(F(x) + (1 - g) h)` with `g = sigmoid(conv1x1(x) + bias)`: shortcut-only gating.

    With bias 0, half of the shortcut passes at the start; with a very negative one, all of it.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, *, bias: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(in_channels, channels, stride, **kwargs)
        self.gate = nn.Conv2d(in_channels, channels, 1, stride)
        assert self.gate.bias is not None
        nn.init.constant_(self.gate.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x).sigmoid()  # (N, C, H/stride, W/stride), between 0 and 1
        return relu(branch(self, x) + (1 - gate) * self.shortcut(x))


class ExclusivelyGated(Gated):
    """`y = relu(g F(x) + (1 - g) h)`: what one arm gains, the other loses.

    As in highway networks (Srivastava et al. 2015, arXiv 1505.00387).
    """

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x).sigmoid()
        return relu(gate * branch(self, x) + (1 - gate) * self.shortcut(x))


class Convolved(BasicBlock):
    """`y = relu(F(x) + norm(conv1x1(x)))`: a projection in every block (option C).

    In 2015, with 34 layers, it was the best option; with 110 layers it is worse than x itself.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, *,
        norm: Norm = nn.BatchNorm2d, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(in_channels, channels, stride, norm=norm, **kwargs)
        self.shortcut = Projection(in_channels, channels, stride, norm)


class DroppedOut(BasicBlock):
    """`y = relu(F(x) + dropout(h))`: in training, each entry of h is 0 with probability `p`.

    PyTorch's dropout multiplies the others by 1 / (1 - p), so that evaluation needs no factor. The
    paper multiplies by 1 - p in evaluation instead: the same up to this factor in training.
    """

    def __init__(self, *args: Any, p: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return relu(branch(self, x) + dropout(self.shortcut(x), self.p, self.training))


class Stochastic(BasicBlock):
    """`y = relu(b F(x) + h)`, where b is 1 with probability p, else 0, for a whole batch.

    p falls linearly with depth, from almost 1 to 0.5 in the last block. In evaluation, b is p.
    """

    p = 1.0  # set_up() replaces it

    def set_up(self, place: int, blocks: int) -> None:
        """For the block number `place` (1, 2 ...) of `blocks`."""
        self.p = 1 - place / blocks * 0.5

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return relu(self.p * branch(self, x) + self.shortcut(x))
        if torch.rand(()) < self.p:
            return relu(branch(self, x) + self.shortcut(x))
        return relu(self.shortcut(x))
