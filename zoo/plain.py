"""A plain block is the same block without the addition. ResNets are compared with plain networks.

A plain block takes the layers of its residual twin and drops the shortcut. So the twins have the
same layers under the same names. Built with the same seed, they also start from the same weights.
Whatever differs after the same training is due to the skips, including any projections in them.

ResNets with option-A shortcuts (those for CIFAR-10) have exactly as many parameters as their plain
twins. resnet18 or resnet50 have more, because their shortcuts contain projections.

Paper: He et al. 2015 (arXiv 1512.03385), section 3.3 "Plain Network" and figure 3, middle.
Dimension key: N batch, C channels, H W height and width of a feature map.
Read next: zoo/resnet.py
"""

from torch import Tensor, nn
from torch.nn.functional import relu

from zoo.blocks import BasicBlock, Bottleneck


class PlainBasicBlock(nn.Module):
    """As BasicBlock without the shortcut: `y = relu(F(x))`. Layers and shapes are the twin's."""

    def __init__(self, twin: BasicBlock) -> None:
        super().__init__()
        self.out_channels = twin.out_channels
        # The twin's own layers, not copies: they already have their initial weights.
        self.conv1, self.norm1 = twin.conv1, twin.norm1
        self.conv2, self.norm2 = twin.conv2, twin.norm2

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.norm1(self.conv1(x)))  # (N, C_in, H, W) -> (N, C, H/stride, W/stride)
        x = self.norm2(self.conv2(x))
        return relu(x)  # BasicBlock: relu(residual + self.shortcut(x))


class PlainBottleneck(nn.Module):
    """As Bottleneck without the shortcut: `y = relu(F(x))`. Layers and shapes are the twin's."""

    def __init__(self, twin: Bottleneck) -> None:
        super().__init__()
        self.out_channels = twin.out_channels
        self.conv1, self.norm1 = twin.conv1, twin.norm1
        self.conv2, self.norm2 = twin.conv2, twin.norm2
        self.conv3, self.norm3 = twin.conv3, twin.norm3

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.norm1(self.conv1(x)))  # (N, C_in, H, W) -> (N, C, H, W)
        x = relu(self.norm2(self.conv2(x)))  # -> (N, C, H/stride, W/stride)
        x = self.norm3(self.conv3(x))  # -> (N, 4C, H/stride, W/stride)
        return relu(x)  # Bottleneck: relu(residual + self.shortcut(x))


def without_skips(stages: nn.Sequential) -> nn.Sequential:
    """The stages of a residual network with each block replaced by its plain twin.

    Initial weights are random numbers from one sequence, so each layer's weights depend on the
    layers before it. To give a plain network the same weights as its twin, resnet() first builds
    the residual network with all its projections; only then does this function drop them.
    """
    twins = {BasicBlock: PlainBasicBlock, Bottleneck: PlainBottleneck}  # class -> class
    plain = nn.Sequential()
    for stage in stages.children():
        plain.append(nn.Sequential(*(twins[type(block)](block) for block in stage.children())))
    return plain
