"""Where do batch norm and ReLU go? BasicBlock's layers in four other orders.

In BasicBlock, a ReLU follows the addition, so even the way of the shortcuts alone is not the
identity from the first block to the last. In the last two orders, nothing follows the addition:
norm and ReLU come before each convolution ("pre-activation"), and y = x + F(x) exactly.

Then the first block finds that the stem has already applied norm and ReLU, so it begins with its
convolution; and the last block's sum, which the head reads, still needs them: `after`.

Paper: He et al. 2016, "Identity Mappings in Deep Residual Networks" (arXiv 1603.05027), section 4,
figure 4 (a) to (e) and table 2. Here h is the block's shortcut, x itself or padded.
Dimension key: N batch, C channels, H W height and width of a feature map.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import relu

from zoo.arms import branch
from zoo.blocks import BasicBlock
from zoo.shortcuts import Norm


class NormAfter(BasicBlock):
    """`y = relu(norm(conv(relu(norm(conv(x)))) + h))`: batch norm after the addition (b)."""

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv2(relu(self.norm1(self.conv1(x))))
        return relu(self.norm2(residual + self.shortcut(x)))


class ReluBefore(BasicBlock):
    """`y = relu(F(x)) + h`: ReLU before the addition (c), so a block can only add."""

    def forward(self, x: Tensor) -> Tensor:
        return relu(branch(self, x)) + self.shortcut(x)


class ReluOnly(BasicBlock):
    """`y = norm(conv(relu(norm(conv(relu(x)))))) + h`: ReLU-only pre-activation (d)."""

    after: nn.Module = nn.Identity()

    def set_up(self, place: int, blocks: int) -> None:
        """For the block number `place` (1, 2 ...) of `blocks`."""
        self.after = nn.ReLU() if place == blocks else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        # In the first block x comes from the stem's ReLU, and another one changes nothing.
        return self.after(branch(self, relu(x)) + self.shortcut(x))


class Preactivation(BasicBlock):
    """`y = conv(relu(norm(conv(relu(norm(x)))))) + h`: full pre-activation (e)."""

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, *,
        norm: Norm = nn.BatchNorm2d, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(in_channels, channels, stride, norm=norm, **kwargs)
        self.norm1 = norm(in_channels)  # before conv1, not after it
        self.before: nn.Module = nn.ReLU()
        self.after: nn.Module = nn.Identity()

    def set_up(self, place: int, blocks: int) -> None:
        """For the block number `place` (1, 2 ...) of `blocks`."""
        if place == 1:
            self.norm1 = self.before = nn.Identity()
        if place == blocks:
            norm = type(self.norm2)(self.out_channels)
            self.after = nn.Sequential(norm, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(self.before(self.norm1(x)))
        residual = self.conv2(relu(self.norm2(residual)))
        return self.after(residual + self.shortcut(x))
