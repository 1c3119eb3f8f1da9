"""Stem, stages, head: blocks assembled into the networks of the paper, and their plain twins.

Every stage after the first halves the map and doubles the channels, so that each block costs about
the same. A plain network is assembled as its residual twin; then each block loses its shortcut.

Paper: He et al. 2015 (arXiv 1512.03385), table 1 (ImageNet) and section 4.2 (CIFAR-10).
Dimension key: N batch, C channels, H W height and width of the image.
Read next: zoo/__init__.py, the list of names.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from zoo.blocks import BasicBlock, Bottleneck
from zoo.plain import without_skips


class ImageNetStem(nn.Module):
    """A 7x7 convolution and a max-pool: a quarter of the height and width before any block."""

    def __init__(self, channels: int, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.out_channels = channels
        self.conv = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.norm = norm(channels)

    def forward(self, images: Tensor) -> Tensor:
        x = relu(self.norm(self.conv(images)))  # (N, 3, H, W) -> (N, C, H/2, W/2)
        return max_pool2d(x, 3, stride=2, padding=1)  # -> (N, C, H/4, W/4)


class CifarStem(nn.Module):
    """A 3x3 convolution: small images keep their size."""

    def __init__(self, channels: int, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.out_channels = channels
        self.conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.norm = norm(channels)

    def forward(self, images: Tensor) -> Tensor:
        return relu(self.norm(self.conv(images)))  # (N, 3, H, W) -> (N, C, H, W)


class ResNet(nn.Module):
    """(N, 3, H, W) images -> (N, num_classes) logits.

    `make_block(in_channels, channels, stride)` builds one block; `depths` says how many blocks
    each stage has; the stages' `channels` are `width` times 1, 2, 4 and so on.
    """

    def __init__(
        self,
        stem: ImageNetStem | CifarStem,
        make_block: Callable[[int, int, int], BasicBlock | Bottleneck],
        depths: tuple[int, ...],
        width: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential()
        in_channels = stem.out_channels
        for i, depth in enumerate(depths):
            stage = nn.Sequential()
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                block = make_block(in_channels, width * 2**i, stride)
                in_channels = block.out_channels
                stage.append(block)
            self.stages.append(stage)
        self.head = nn.Linear(in_channels, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """He initialisation of the convolutions (He et al. 2015a, arXiv 1502.01852, equation 14).

        In the order of self.modules(): seeded alike, a network starts as torchvision's does.
        The head keeps PyTorch's default.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> Tensor:
        x = self.stem(images)  # (N, 3, H, W) -> (N, C, H/4, W/4), or (N, C, H, W) for CIFAR
        x = self.stages(x)  # -> (N, C', H/32, W/32), or (N, C', H/4, W/4)
        return x.mean((2, 3))  # global average pool -> (N, C')

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))  # (N, 3, H, W) -> (N, C') -> (N, num_classes)


NORMS = {"batch": nn.BatchNorm2d, "none": nn.Identity}

BASIC_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # table 1
BOTTLENECK_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # table 1
CIFAR_DEPTHS = {6 * n + 2: (n, n, n) for n in (1, 3, 5, 7, 9, 18)}  # section 4.2: 20 ... 110, and 8


def basic_resnet(
    depth: int,
    num_classes: int = 1000,
    *,
    shortcut: str = "projection",
    norm: str = "batch",
    width: int = 64,
) -> ResNet:
    """ResNet-18 or 34 of table 1."""
    make_block = partial(BasicBlock, shortcut=shortcut, norm=NORMS[norm])
    stem = ImageNetStem(width, NORMS[norm])
    return ResNet(stem, make_block, BASIC_DEPTHS[depth], width, num_classes)


def basic_plain(
    depth: int, num_classes: int = 1000, *, norm: str = "batch", width: int = 64
) -> ResNet:
    """The plain twin of ResNet-18 or 34: table 2 of the paper has both."""
    return plain_twin(basic_resnet(depth, num_classes, norm=norm, width=width))


def bottleneck_resnet(
    depth: int,
    num_classes: int = 1000,
    *,
    shortcut: str = "projection",
    stride_in: str = "conv2",
    norm: str = "batch",
    width: int = 64,
) -> ResNet:
    """ResNet-50, 101 or 152 of table 1, strided as in torchvision (`stride_in`: see Bottleneck)."""
    make_block = partial(Bottleneck, shortcut=shortcut, norm=NORMS[norm], stride_in=stride_in)
    stem = ImageNetStem(width, NORMS[norm])
    return ResNet(stem, make_block, BOTTLENECK_DEPTHS[depth], width, num_classes)


def bottleneck_plain(
    depth: int,
    num_classes: int = 1000,
    *,
    stride_in: str = "conv2",
    norm: str = "batch",
    width: int = 64,
) -> ResNet:
    """The plain twin of ResNet-50, 101 or 152; the paper has none of these."""
    return plain_twin(
        bottleneck_resnet(depth, num_classes, stride_in=stride_in, norm=norm, width=width)
    )


def cifar_resnet(
    depth: int,
    num_classes: int = 10,
    *,
    shortcut: str = "pad",
    norm: str = "batch",
    width: int = 16,
) -> ResNet:
    """ResNet-20 ... 110 of section 4.2, and 8: 6n+2 layers. Option A; "projection" is option B."""
    make_block = partial(BasicBlock, shortcut=shortcut, norm=NORMS[norm])
    stem = CifarStem(width, NORMS[norm])
    return ResNet(stem, make_block, CIFAR_DEPTHS[depth], width, num_classes)


def cifar_plain(
    depth: int, num_classes: int = 10, *, norm: str = "batch", width: int = 16
) -> ResNet:
    """The plain twin of ResNet-8, 20 ... 110: the same parameters, to the last one."""
    return plain_twin(cifar_resnet(depth, num_classes, norm=norm, width=width))


def plain_twin(model: ResNet) -> ResNet:
    """`model` without its skips; its weights, drawn before, stay as they are."""
    model.stages = without_skips(model.stages)
    return model
