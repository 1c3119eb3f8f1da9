"""The same networks with the addition removed: what ResNets are compared with.

A plain block is its residual twin with one term gone from the last line. It takes over the twin's
layers and leaves the shortcut out. So the twins share names, and seeded alike they start from the
same weights: whatever differs after training is due to the skips.

Only ResNets with option-A shortcuts (the CIFAR ones) have exactly as many parameters as their
plain twins. Taking the skips out of resnet18 or resnet50 also takes their projections.

Paper: He et al. 2015 (arXiv 1512.03385), section 3.3 "Plain Network" and figure 3, middle.
Read next: resnet.py, which assembles the blocks.
"""

from torch import Tensor, nn
from torch.nn.functional import relu

from zoo.blocks import BasicBlock, Bottleneck


class PlainBasicBlock(nn.Module):
    """New since BasicBlock: no shortcut, so `y = relu(F(x))`. Layers and shapes are the twin's."""

    def __init__(self, twin: BasicBlock) -> None:
        super().__init__()
        self.out_channels = twin.out_channels
        self.conv1, self.norm1 = twin.conv1, twin.norm1
        self.conv2, self.norm2 = twin.conv2, twin.norm2

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.norm1(self.conv1(x)))  # (N, C_in, H, W) -> (N, C, H/stride, W/stride)
        x = self.norm2(self.conv2(x))
        return relu(x)


class PlainBottleneck(nn.Module):
    """New since Bottleneck: no shortcut, so `y = relu(F(x))`. Layers and shapes are the twin's."""

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
        return relu(x)


def without_skips(stages: nn.Sequential) -> nn.Sequential:
    """The stages of a residual network with each block replaced by its plain twin."""
    twins = {BasicBlock: PlainBasicBlock, Bottleneck: PlainBottleneck}
    plain = nn.Sequential()
    for stage in stages.children():
        plain.append(nn.Sequential(*(twins[type(block)](block) for block in stage.children())))
    return plain
