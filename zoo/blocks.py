"""A residual block learns a correction F(x) and adds it to its input: y = x + F(x).

A deeper network should train at least as well as a shallow one: its additional layers could copy
their input. In practice it trains worse ("degradation"), and He et al. suspect that a stack of
layers finds it hard to learn to change nothing. Suppose that the best mapping of a few layers is
H(x): a residual block learns the difference F(x) = H(x) - x, and computes H(x) = F(x) + x. To
change nothing, it only has to push F to 0.

Words: here `residual` is F(x), and `shortcut` is the other arm; shortcut and addition together are
a skip (connection). Many texts, and other people's code, call x or the whole block "residual".
Paper: He et al. 2015, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385),
section 3, figures 2 and 5.
Dimension key: N batch, C channels, H W height and width of a feature map.
Read next: zoo/shortcuts.py
"""

from torch import Tensor, nn
from torch.nn.functional import relu

from zoo.shortcuts import Norm, make_shortcut  # the other arm: the next file to read


def conv3x3(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    """(N, in_channels, H, W) -> (N, channels, H/stride, W/stride), each pixel from 3x3 pixels."""
    # No bias: BatchNorm would subtract it again. (Networks without norms have no bias either, so
    # that they differ from the others only in their norms.)
    return nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)


def conv1x1(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    """(N, in_channels, H, W) -> (N, channels, H/stride, W/stride), each pixel from one pixel."""
    return nn.Conv2d(in_channels, channels, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, and a shortcut around them: `y = relu(F(x) + shortcut(x))`.

    (N, in_channels, H, W) -> (N, channels, H/stride, W/stride), rounded up. Figure 5, left.

    The shortcut is x itself where x and F(x) have the same shape. Where the shapes differ, because
    of a stride of 2 or an increase in channels, it is what `shortcut` says: "projection" (a 1x1
    convolution), "pad" or "pad-append" (zero channels), see zoo.shortcuts. `norm` is a class that
    is called with the number of channels: nn.BatchNorm2d, or nn.Identity for a network without
    normalisation.
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
        self.out_channels = channels  # what the next block gets (zoo/resnet.py)
        # F(x): the stride is on the first convolution, so that the second one works on a small map.
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.norm1 = norm(channels)
        self.conv2 = conv3x3(channels, channels)
        self.norm2 = norm(channels)  # nn.Identity(channels) ignores its argument
        # The other arm. It has parameters only if it is a projection.
        self.shortcut = make_shortcut(shortcut, in_channels, channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        residual = relu(self.norm1(self.conv1(x)))  # (N, C_in, H, W) -> (N, C, H/stride, W/stride)
        residual = self.norm2(self.conv2(residual))  # no ReLU here: F(x) may be negative
        # The addition. x comes from a ReLU and is not negative: if F(x) is 0 and the shortcut is x,
        # the block returns x.
        return relu(residual + self.shortcut(x))


STRIDES_IN = ("conv2", "conv1")  # which convolution of a Bottleneck has the stride


class Bottleneck(nn.Module):
    """The block of ResNet-50, -101 and -152: F has a 1x1, a 3x3 and a 1x1 convolution.

    `y = relu(F(x) + shortcut(x))`: (N, in_channels, H, W) -> (N, 4 * channels, H/stride, W/stride).
    The first 1x1 convolution reduces x to `channels` channels, the 3x3 one works on these, and the
    last one expands them to 4 * channels. With C = `channels`, a block that keeps the shape has
    4 C^2 + 9 C^2 + 4 C^2 = 17 C^2 weights, about as many as a BasicBlock of C channels (18 C^2);
    but here x and y have 4C channels. Figure 5, right.

    Deviation from the paper: the stride is on the 3x3 convolution, as in torchvision's ResNets
    (known as "v1.5"). A 1x1 convolution with stride 2 ignores three of four pixels.
    `stride_in="conv1"` is the paper's version.
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
        self.conv1 = conv1x1(in_channels, channels, stride if stride_in == "conv1" else 1)  # reduce
        self.norm1 = norm(channels)
        self.conv2 = conv3x3(channels, channels, stride if stride_in == "conv2" else 1)
        self.norm2 = norm(channels)
        self.conv3 = conv1x1(channels, self.out_channels)  # expand
        self.norm3 = norm(self.out_channels)
        self.shortcut = make_shortcut(shortcut, in_channels, self.out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        residual = relu(self.norm1(self.conv1(x)))  # (N, C_in, H, W) -> (N, C, H, W)
        residual = relu(self.norm2(self.conv2(residual)))  # -> (N, C, H/stride, W/stride)
        residual = self.norm3(self.conv3(residual))  # -> (N, 4C, H/stride, W/stride)
        return relu(residual + self.shortcut(x))  # as in BasicBlock
