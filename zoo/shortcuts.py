"""The arm beside F(x): what carries the input around a block, one small class for each way.

Paper: He et al. 2015, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385),
section 3.2, equations 1 and 2, and the options A and B of section 4.1.
Dimension key: N batch, C channels, H W height and width of a map.
Read with: blocks.py, whose blocks add these to F(x). Read next: plain.py.
"""

from torch import Tensor, nn
from torch.nn.functional import pad

Norm = type[nn.Module]  # nn.BatchNorm2d, or nn.Identity for none


class Identity(nn.Module):
    """`y = x`: the case that matters. Nothing to learn, nothing in the way (equation 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Projection(nn.Module):
    """`y = norm(W x)`: a 1x1 convolution where the shapes differ (option B, equation 2).

    (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride), halves rounded up.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, norm: Norm = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.kind = "projection"
        self.conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.norm = norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class ZeroPad(nn.Module):
    """`y = [0, x, 0]`: every stride-th pixel of x, with channels of zeros added (option A).

    No parameters, so a residual network with it has exactly as many as its plain twin.
    The paper does not say where the zeros go, and the parameter count does not show it.
    "pad" puts half of them before and half after x's channels, as most published CIFAR-10
    checkpoints do, and is the default for that reason; "pad-append" puts all of them after.

    (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride), halves rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, kind: str = "pad") -> None:
        super().__init__()
        zeros = out_channels - in_channels
        self.kind = kind
        self.before = zeros // 2 if kind == "pad" else 0
        self.after = zeros - self.before
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]  # (N, C, H, W) -> (N, C, H/stride, W/stride)
        return pad(x, (0, 0, 0, 0, self.before, self.after))  # C -> out_channels

    def extra_repr(self) -> str:
        return f"before={self.before}, after={self.after}, stride={self.stride}"


SHORTCUTS = ("projection", "pad", "pad-append")


def make_shortcut(
    kind: str, in_channels: int, out_channels: int, stride: int, norm: Norm = nn.BatchNorm2d
) -> nn.Module:
    """The shortcut of one block: identity where the shapes fit, otherwise `kind`, of SHORTCUTS."""
    assert kind in SHORTCUTS, f"unknown shortcut {kind!r}"
    if stride == 1 and in_channels == out_channels:
        return Identity()
    if kind == "projection":
        return Projection(in_channels, out_channels, stride, norm)
    return ZeroPad(in_channels, out_channels, stride, kind)
