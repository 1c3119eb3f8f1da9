"""A ResNet is a stem, stages of blocks, and a head: one table and one builder make all of them.

The stem turns pixels into a feature map. A stage is a row of blocks; each stage after the first has
half the height and width, so a quarter of the pixels, and twice the channels, so four times as many
multiplications per pixel: all blocks cost about the same. At the end the map is averaged, and the
head classifies the result. TABLE has every ResNet by name; resnet() builds it, or its plain twin.

Paper: He et al. 2015 (arXiv 1512.03385), table 1 (ImageNet) and section 4.2 (CIFAR-10).
Dimension key: N batch, H W height and width of the image, C channels after the stem, C' channels
after the last stage.
Read next: zoo/vit.py
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from zoo.blocks import BasicBlock, Bottleneck
from zoo.normfree import Shift
from zoo.plain import without_skips
from zoo.shortcuts import Norm
from zoo.variants import NORM_FREE, VARIANTS, set_up


class ImageNetStem(nn.Module):
    """A 7x7 convolution and max-pooling reduce height and width to a quarter before any block."""

    def __init__(self, channels: int, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.out_channels = channels
        self.conv = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)  # halves H and W
        self.norm = norm(channels)

    def forward(self, images: Tensor) -> Tensor:
        x = relu(self.norm(self.conv(images)))  # (N, 3, H, W) -> (N, C, H/2, W/2)
        return max_pool2d(x, 3, stride=2, padding=1)  # and again -> (N, C, H/4, W/4)


class CifarStem(nn.Module):
    """A 3x3 convolution without stride: small images keep their size."""

    def __init__(self, channels: int, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.out_channels = channels
        self.conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.norm = norm(channels)

    def forward(self, images: Tensor) -> Tensor:
        return relu(self.norm(self.conv(images)))  # (N, 3, H, W) -> (N, C, H, W)


class ResNet(nn.Module):
    """(N, 3, H, W) images -> (N, num_classes) logits.

    `make_block(in_channels, channels, stride)` builds one block: BasicBlock or Bottleneck with its
    other arguments filled in, see resnet() below. `channels` is `width` in the first stage, and
    doubles from stage to stage; a Bottleneck returns four times as many.
    """

    def __init__(
        self,
        stem: ImageNetStem | CifarStem,
        make_block: Callable[[int, int, int], BasicBlock | Bottleneck],
        blocks_per_stage: tuple[int, ...],
        width: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.variant: str | None = None  # resnet() replaces it
        self.stem = stem
        self.stages = nn.Sequential()  # of stages, each a Sequential of blocks
        in_channels = stem.out_channels  # of the map that the next block gets
        for i, blocks in enumerate(blocks_per_stage):
            stage = nn.Sequential()
            for j in range(blocks):
                stride = 2 if i > 0 and j == 0 else 1  # the first block of a stage halves the map
                block = make_block(in_channels, width * 2**i, stride)
                in_channels = block.out_channels  # channels, or 4 * channels of a Bottleneck
                stage.append(block)
            self.stages.append(stage)
        # The only layer that depends on the classes: transfer learning replaces it.
        self.head = nn.Linear(in_channels, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """He initialisation of the convolutions (He et al. 2015a, arXiv 1502.01852, equation 14).

        Weights are normal with variance 2 / fan_out, where fan_out is out_channels times the
        kernel's area. Then gradients have about the same size in every layer; the 2 makes up for
        ReLU, which sets half of them to 0.

        The order of self.modules() decides which random numbers a layer gets. It is torchvision's
        order, so the same seed gives the same random weights as torchvision's network (tested). The
        head keeps PyTorch's default.
        """
        for module in self.modules():
            # Norms start with weight 1 and bias 0, which is PyTorch's default.
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> Tensor:
        """What the head classifies: (N, 3, H, W) -> (N, C')."""
        x = self.stem(images)  # (N, 3, H, W) -> (N, C, H/4, W/4), or (N, C, H, W) for CIFAR
        x = self.stages(x)  # -> (N, C', H/32, W/32), or (N, C', H/4, W/4)
        return x.mean((2, 3))  # global average pool -> (N, C')

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))  # (N, 3, H, W) -> (N, C') -> (N, num_classes)


NORMS = {"batch": nn.BatchNorm2d, "none": nn.Identity}


class Row(NamedTuple):
    """One ResNet. Callers of resnet() can replace the last three fields."""

    block: type[BasicBlock] | type[Bottleneck]
    blocks_per_stage: tuple[int, ...]
    stem: type[ImageNetStem] | type[CifarStem]
    num_classes: int
    width: int  # channels of the stem and of the first stage's blocks
    shortcut: str  # where the shape changes, one of SHORTCUTS


# A network's number counts convolutions and linear layers, without projections. For CIFAR-10
# (section 4.2): 3 stages of n BasicBlocks have 6n convolutions; stem and head make it 6n + 2.
TABLE = {
    "resnet8": Row(BasicBlock, (1, 1, 1), CifarStem, 10, 16, "pad"),  # not in the paper
    "resnet20": Row(BasicBlock, (3, 3, 3), CifarStem, 10, 16, "pad"),
    "resnet32": Row(BasicBlock, (5, 5, 5), CifarStem, 10, 16, "pad"),
    "resnet44": Row(BasicBlock, (7, 7, 7), CifarStem, 10, 16, "pad"),
    "resnet56": Row(BasicBlock, (9, 9, 9), CifarStem, 10, 16, "pad"),
    "resnet110": Row(BasicBlock, (18, 18, 18), CifarStem, 10, 16, "pad"),
    # For ImageNet: table 1.
    "resnet18": Row(BasicBlock, (2, 2, 2, 2), ImageNetStem, 1000, 64, "projection"),
    "resnet34": Row(BasicBlock, (3, 4, 6, 3), ImageNetStem, 1000, 64, "projection"),
    "resnet50": Row(Bottleneck, (3, 4, 6, 3), ImageNetStem, 1000, 64, "projection"),
    "resnet101": Row(Bottleneck, (3, 4, 23, 3), ImageNetStem, 1000, 64, "projection"),
    "resnet152": Row(Bottleneck, (3, 8, 36, 3), ImageNetStem, 1000, 64, "projection"),
}


def resnet(
    name: str,
    num_classes: int | None = None,
    *,
    plain: bool = False,
    shortcut: str | None = None,
    stride_in: str = "conv2",
    norm: str = "batch",
    width: int | None = None,
    variant: str | None = None,
) -> ResNet:
    """The network of a row of TABLE, or its plain twin; None takes the row's value.

    zoo.build("resnet18") calls resnet("resnet18"), and zoo.build("plain18") calls
    resnet("resnet18", plain=True): see zoo/registry.py.
    `shortcut`: see zoo.shortcuts. `stride_in`: see Bottleneck. `norm`: a key of NORMS.
    `variant`: replaces every BasicBlock, for ablations: see zoo.variants.
    """
    row = TABLE[name]
    width = width or row.width
    # A function of (in_channels, channels, stride), all that differs from block to block.
    kind = VARIANTS[variant] if variant else row.block
    norms = Shift if variant in NORM_FREE else NORMS[norm]
    make_block = partial(kind, shortcut=shortcut or row.shortcut, norm=norms)
    if row.block is Bottleneck:  # BasicBlock has no stride_in; zoo.build refuses it for such nets
        make_block = partial(make_block, stride_in=stride_in)
    stem = row.stem(width, norms)
    model = ResNet(stem, make_block, row.blocks_per_stage, width, num_classes or row.num_classes)
    model.variant = variant
    if variant:
        set_up(model.stages, model.head)
    if plain:  # after all weights are drawn: with the same seed, both twins have the same ones
        model.stages = without_skips(model.stages)
    return model
