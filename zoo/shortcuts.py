"""The shortcut carries the input around F(x): as it is, projected, or padded with zeros.

A block can add x to F(x) only if both have the same shape. Most blocks keep the shape, and their
shortcut is x. A few blocks of a network have a smaller map or more channels at their end than at
their beginning; there the shortcut has to change the shape of x, too. This file has one small class
for each way.

Paper: He et al. 2015, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385),
section 3.2, equations 1 and 2, and the options A and B of section 4.1.
Dimension key: N batch, C channels, H W height and width of a feature map.
Read next: zoo/plain.py
"""

from torch import Tensor, nn
from torch.nn.functional import pad

Norm = type[nn.Module]  # nn.BatchNorm2d, or nn.Identity for none


class Identity(nn.Module):
    """`y = x`, of the same shape: no parameters, and gradients pass unchanged (equation 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Projection(nn.Module):
    """`y = norm(conv(x))`: a 1x1 convolution changes the shape (option B, equation 2).

    (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride), rounded up.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, norm: Norm = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.kind = "projection"  # zoo/weights refuses weights that need another kind
        # With stride 2 it ignores three of four pixels. (F does not, unless stride_in="conv1".)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.norm = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))  # (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)


class ZeroPad(nn.Module):
    """`y = [0, x, 0]`: every stride-th pixel of x, with channels of zeros added (option A).

    No parameters: a network with it has as many parameters as the same network without shortcuts.
    The paper does not say where the zeros go: half before and half after x's channels ("pad"), or
    all of them after ("pad-append"). Weights trained with one are wrong with the other. The
    CIFAR-10 networks have "pad", as akamaster's published weights do (docs/weights.md).

    (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride), rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, kind: str = "pad") -> None:
        super().__init__()
        zeros = out_channels - in_channels  # channels to add
        self.kind = kind
        self.before = zeros // 2 if kind == "pad" else 0
        self.after = zeros - self.before  # all channels that are not before
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]  # (N, C, H, W) -> (N, C, H/stride, W/stride)
        # pad() counts from the last dimension: nothing in W, nothing in H, then the channels.
        return pad(x, (0, 0, 0, 0, self.before, self.after))  # -> (N, out_channels, ...)

    def extra_repr(self) -> str:
        return f"before={self.before}, after={self.after}, stride={self.stride}"


SHORTCUTS = ("projection", "pad", "pad-append")


def make_shortcut(
    kind: str, in_channels: int, out_channels: int, stride: int, norm: Norm = nn.BatchNorm2d
) -> nn.Module:
    """The shortcut of one block: Identity if it keeps the shape, otherwise `kind`, of SHORTCUTS."""
    assert kind in SHORTCUTS, f"unknown shortcut {kind!r}"
    if stride == 1 and in_channels == out_channels:
        return Identity()  # for 5 of ResNet-18's 8 blocks
    if kind == "projection":
        return Projection(in_channels, out_channels, stride, norm)
    return ZeroPad(in_channels, out_channels, stride, kind)
