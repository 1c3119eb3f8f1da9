"""What may the shortcut do to x? Blocks that change the shortcut of BasicBlock, some also F(x).

He et al. ask why the shortcut should be x itself. They scale it, gate it, convolve it and drop it
out; with 110 layers, each of these trains worse. Their explanation, without the final ReLUs: with
y = x + F(x), one part of the gradient passes through all shortcuts unchanged; with
y = 0.5 x + F(x), that part is multiplied by 0.5 in each block, so by 0.5^L in L blocks.

Each class has BasicBlock's layers and states its equation. h is the block's shortcut: x itself, or
padded or projected where the shape changes. Stochastic depth changes F(x) only: it leaves it out.

Paper: He et al. 2016, "Identity Mappings in Deep Residual Networks" (arXiv 1603.05027), section 3,
figure 2 and table 1. Stochastic depth: Huang et al. 2016 (arXiv 1603.09382), section 3.
Dimension key: N batch, C channels, H W height and width of a feature map.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from zoo.blocks import BasicBlock
from zoo.shortcuts import Norm, Projection


def residual_of(block: BasicBlock, x: Tensor) -> Tensor:
    """F(x) of a BasicBlock: (N, C_in, H, W) -> (N, C, H/stride, W/stride)."""
    return block.norm2(block.conv2(relu(block.norm1(block.conv1(x)))))


class Scaled(BasicBlock):
    """`y = relu(a F(x) + b h)`: constant factors."""

    def __init__(self, *args: Any, a: float = 1.0, b: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.a, self.b = a, b

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.a * residual_of(self, x) + self.b * self.shortcut(x))


class Gated(BasicBlock):
    """`y = relu(F(x) + (1 - g) h)` with `g = sigmoid(conv1x1(x) + bias)`: shortcut-only gating.

    With bias 0, on average half of h passes at the start; with a very negative one, almost all.
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
        return relu(residual_of(self, x) + (1 - gate) * self.shortcut(x))


class ExclusivelyGated(Gated):
    """`y = relu(g F(x) + (1 - g) h)`: what F(x) gains, the shortcut loses.

    As in highway networks (Srivastava et al. 2015, arXiv 1505.00387).
    """

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x).sigmoid()
        return relu(gate * residual_of(self, x) + (1 - gate) * self.shortcut(x))


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
    """`y = relu(F(x) + dropout(h))`: in training, each entry of h is 0 with probability `drop`.

    PyTorch's dropout multiplies the other entries by 1 / (1 - drop), so the mean of h is unchanged.
    The paper describes dropout without this factor: there, h is halved on average.
    """

    def __init__(self, *args: Any, drop: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dropout = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return relu(residual_of(self, x) + self.dropout(self.shortcut(x)))


class Stochastic(BasicBlock):
    """`y = relu(keep F(x) + h)`: for a whole batch, keep is 1 with probability `keep_probability`.

    Otherwise it is 0. The probability falls linearly with depth, from almost 1 to 0.5 in the last
    block. In evaluation, F(x) is multiplied by the probability.
    """

    keep_probability = 1.0  # set_up() replaces it

    def set_up(self, index: int, blocks: int) -> None:
        """Set the probability of the block number `index` (1, 2 ...) of `blocks`."""
        self.keep_probability = 1 - index / blocks * 0.5

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return relu(self.keep_probability * residual_of(self, x) + self.shortcut(x))
        if torch.rand(()) < self.keep_probability:
            return relu(residual_of(self, x) + self.shortcut(x))
        return relu(self.shortcut(x))
