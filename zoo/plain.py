"""The same networks with the addition removed: what ResNets are compared with.

A plain block is its residual twin with one term gone from the last line. The twins share names,
so a plain network's parameters are its twin's minus those of the shortcuts. Only networks with
option-A shortcuts (the CIFAR ones) have exactly as many as their plain twins; taking the skips out
of resnet18 or resnet50 also takes the projections, and their parameters.

Paper: He et al. 2015 (arXiv 1512.03385), section 3.3 "Plain Network" and figure 3, middle.
Read next: resnet.py, which assembles these blocks too.
"""

from torch import Tensor, nn
from torch.nn.functional import relu

from zoo.blocks import BasicBlock, Bottleneck


class PlainBasicBlock(BasicBlock):
    """New since BasicBlock: no shortcut, so `y = relu(F(x))`. The shapes are BasicBlock's."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        norm: type[nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__(in_channels, channels, stride, norm=norm)
        del self.shortcut

    def forward(self, x: Tensor) -> Tensor:
        residual = relu(self.norm1(self.conv1(x)))
        residual = self.norm2(self.conv2(residual))
        return relu(residual)


class PlainBottleneck(Bottleneck):
    """New since Bottleneck: no shortcut, so `y = relu(F(x))`. The shapes are Bottleneck's."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        norm: type[nn.Module] = nn.BatchNorm2d,
        stride_in: str = "conv2",
    ) -> None:
        super().__init__(in_channels, channels, stride, norm=norm, stride_in=stride_in)
        del self.shortcut

    def forward(self, x: Tensor) -> Tensor:
        residual = relu(self.norm1(self.conv1(x)))
        residual = relu(self.norm2(self.conv2(residual)))
        residual = self.norm3(self.conv3(residual))
        return relu(residual)
