"""A residual block computes a correction F(x) and adds it to what it was given: y = x + F(x).

A stack of layers that should do nothing finds that hard to learn; a block that should do nothing
need only push F to zero. That is the whole idea, and this file is where it happens.

Paper: He et al. 2015, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385),
section 3, figures 2 and 5.
Dimension key: N batch, C channels, H W height and width of a map.
In this code `residual` is F(x) and `shortcut` the other arm; many texts call the arm residual.
Read with: shortcuts.py (the other arm: x itself, or x brought to the new shape).
Read next: plain.py (the same blocks without the addition), resnet.py (blocks -> stages -> network).
"""

from torch import Tensor, nn
from torch.nn.functional import relu

from zoo.shortcuts import Norm, make_shortcut


def conv3x3(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    # No bias: the normalisation that follows subtracts the mean, and a bias with it.
    return nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)


def conv1x1(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the way around them: `y = relu(F(x) + shortcut(x))`.

    (N, in_channels, H, W) -> (N, channels, H/stride, W/stride), halves rounded up. Figure 5, left.

    `shortcut` is one of zoo.shortcuts.SHORTCUTS and is used only where the shape changes;
    everywhere else the block adds x itself. `norm` is a class called with the number of channels:
    nn.BatchNorm2d, or nn.Identity (which ignores the number) for a network without normalisation.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        shortcut: str = "projection",
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.out_channels = channels
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.norm1 = norm(channels)
        self.conv2 = conv3x3(channels, channels)
        self.norm2 = norm(channels)
        self.shortcut = make_shortcut(shortcut, in_channels, channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        residual = relu(self.norm1(self.conv1(x)))  # (N, C_in, H, W) -> (N, C, H/stride, W/stride)
        residual = self.norm2(self.conv2(residual))
        return relu(residual + self.shortcut(x))


STRIDES_IN = ("conv2", "conv1")  # which convolution of a Bottleneck has the stride


class Bottleneck(nn.Module):
    """New since BasicBlock: 1x1 convolutions narrow the maps for the 3x3 one and widen them again.

    `y = relu(F(x) + shortcut(x))`: (N, in_channels, H, W) -> (N, 4 * channels, H/stride, W/stride).
    The maps have 4 * channels outside and `channels` inside, so F costs about as much as
    BasicBlock's for maps of `channels`. Figure 5, right.

    Deviation from the paper: the stride sits on the 3x3 convolution, as in torchvision ("v1.5"),
    because a strided 1x1 never looks at three pixels of four. `stride_in="conv1"` is the paper's.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        shortcut: str = "projection",
        norm: Norm = nn.BatchNorm2d,
        stride_in: str = "conv2",
    ) -> None:
        super().__init__()
        assert stride_in in STRIDES_IN, f"unknown stride_in {stride_in!r}"
        self.out_channels = 4 * channels
        self.conv1 = conv1x1(in_channels, channels, stride if stride_in == "conv1" else 1)
        self.norm1 = norm(channels)
        self.conv2 = conv3x3(channels, channels, stride if stride_in == "conv2" else 1)
        self.norm2 = norm(channels)
        self.conv3 = conv1x1(channels, self.out_channels)
        self.norm3 = norm(self.out_channels)
        self.shortcut = make_shortcut(shortcut, in_channels, self.out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        residual = relu(self.norm1(self.conv1(x)))  # (N, C_in, H, W) -> (N, C, H, W)
        residual = relu(self.norm2(self.conv2(residual)))  # -> (N, C, H/stride, W/stride)
        residual = self.norm3(self.conv3(residual))  # -> (N, 4C, H/stride, W/stride)
        return relu(residual + self.shortcut(x))
