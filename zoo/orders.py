"""Where do batch norm and ReLU go? BasicBlock's layers in four other orders.

In BasicBlock, a ReLU follows the addition, and changes x + F(x) wherever it is negative. In the
last three orders, no layer follows the addition: y is the sum itself. `ReluOnly` has a ReLU before
each convolution, `Preactivation` has norm and ReLU before each ("full pre-activation").

In these two, the ends of the network are different. The stem ends with norm and ReLU, so the first
block omits its own. After the last addition, `after` applies them once more, before the head.

Paper: He et al. 2016, "Identity Mappings in Deep Residual Networks" (arXiv 1603.05027), section 4,
figure 4 (a) to (e) and table 2. Here h is the block's shortcut: x itself, or padded or projected.
Dimension key: N batch, C channels, H W height and width of a feature map.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import relu

from zoo.blocks import BasicBlock
from zoo.shortcut_variants import residual_of
from zoo.shortcuts import Norm


class NormAfter(BasicBlock):
    """`y = relu(norm(conv(relu(norm(conv(x)))) + h))`: batch norm after the addition (b)."""

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv2(relu(self.norm1(self.conv1(x))))
        return relu(self.norm2(residual + self.shortcut(x)))


class ReluBefore(BasicBlock):
    """`y = relu(F(x)) + h`: ReLU before the addition (c), so the residual is never negative."""

    def forward(self, x: Tensor) -> Tensor:
        return relu(residual_of(self, x)) + self.shortcut(x)


class ReluOnly(BasicBlock):
    """`y = norm(conv(relu(norm(conv(relu(x)))))) + h`: ReLU-only pre-activation (d)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.after: nn.Module = nn.Identity()

    def set_up(self, index: int, blocks: int) -> None:
        """Add the ReLU after the last of `blocks` blocks; `index` counts from 1."""
        if index == blocks:
            self.after = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        # In the first block x comes from the stem's ReLU, and another one changes nothing.
        return self.after(residual_of(self, relu(x)) + self.shortcut(x))


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

    def set_up(self, index: int, blocks: int) -> None:
        """Change the first and the last of `blocks` blocks; `index` counts from 1."""
        if index == 1:
            self.norm1 = self.before = nn.Identity()
        if index == blocks:
            self.after = nn.Sequential(type(self.norm2)(self.out_channels), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(self.before(self.norm1(x)))
        residual = self.conv2(relu(self.norm2(residual)))
        return self.after(residual + self.shortcut(x))
