"""Wrong ResNets, which gallery.py lists and examines.

Each differs from zoo/ in a few lines and returns logits of the right shape.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from zoo.blocks import BasicBlock
from zoo.resnet import TABLE, ImageNetStem, ResNet


def resnet18(
    block: Callable[..., BasicBlock] = BasicBlock,
    stem: type[ImageNetStem] = ImageNetStem,
    blocks_per_stage: tuple[int, ...] = TABLE["resnet18"].blocks_per_stage,
    network: type[ResNet] = ResNet,
) -> ResNet:
    """A ResNet-18 in which any part can be replaced."""
    return network(stem(64), block, blocks_per_stage, 64, 1000)


def stride_only_in_the_first_stage() -> ResNet:
    """Later stages keep the large maps: the logits have the same shape, at many times the cost."""
    strides = iter([2])  # and 1 for all later blocks
    return resnet18(lambda inputs, outputs, stride: BasicBlock(inputs, outputs, next(strides, 1)))


class ReluBeforeAddition(BasicBlock):
    """F(x) is never negative, and no ReLU follows the sum: the stream can only grow."""

    def forward(self, x: Tensor) -> Tensor:
        residual = relu(self.norm1(self.conv1(x)))
        residual = relu(self.norm2(self.conv2(residual)))
        return residual + self.shortcut(x)


class SecondRelu(ReluBeforeAddition):
    """The ReLU after the sum is back, but F(x) can still not be negative."""

    def forward(self, x: Tensor) -> Tensor:
        return relu(super().forward(x))


class SkipForgotten(BasicBlock):
    """A plain block that has a shortcut but does not use it."""

    def forward(self, x: Tensor) -> Tensor:
        residual = relu(self.norm1(self.conv1(x)))
        residual = self.norm2(self.conv2(residual))
        return relu(residual)


class SkipAddedTwice(BasicBlock):
    """The stream doubles with every block."""

    def forward(self, x: Tensor) -> Tensor:
        residual = relu(self.norm1(self.conv1(x)))
        residual = self.norm2(self.conv2(residual)) + self.shortcut(x)
        return relu(residual + self.shortcut(x))


class NoNormInTheBlock(BasicBlock):
    """F(x) is not normalised before the addition."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, stride)
        self.norm2 = nn.Identity()


class NoNormOnTheProjection(BasicBlock):
    """The two arms of the addition have different scales."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, stride)
        if stride == 2:
            self.shortcut.norm = nn.Identity()


class BiasBeforeNorm(BasicBlock):
    """Parameters without effect: the norm subtracts the mean, and the bias with it."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, stride)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)


class PoolWithoutPadding(ImageNetStem):
    """The map has 55x55 pixels, not 56x56; rounding in the later strides hides this."""

    def forward(self, images: Tensor) -> Tensor:
        return max_pool2d(relu(self.norm(self.conv(images))), 3, stride=2)


def with_norms(**settings: float) -> ResNet:
    """A ResNet-18 with other settings of its norms, which no shape, count or name shows."""
    model = resnet18()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            vars(module).update(settings)
    return model


class FanIn(ResNet):
    """The initial weights of convolutions that double the channels are too large by sqrt(2)."""

    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
