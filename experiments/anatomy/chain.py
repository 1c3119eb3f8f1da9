"""A ResNet as a chain of blocks, and what remains of a block when one of its arms is removed.

Paper: Veit et al. 2016, "Residual Networks Behave Like Ensembles of Relatively Shallow Networks"
(arXiv 1605.06431), section 4. Deleting a block removes F(x) and keeps the shortcut.
Dimension key: N batch, C channels, H W height and width of a feature map.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from zoo.resnet import ResNet

Block = Any  # BasicBlock, Bottleneck or a plain twin of them: nn.Module has no type for parts
CHUNK = 250  # images computed at once


class ShortcutOnly(nn.Module):
    """A residual block without F(x): `y = relu(shortcut(x))`, which is x if the shape is kept."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.shortcut = block.shortcut

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.shortcut(x))


def blocks_of(model: ResNet) -> dict[str, Block]:
    """Name, such as "stages.0.1", -> block, from the first to the last."""
    return {
        f"stages.{i}.{j}": block
        for i, stage in enumerate(model.stages.children())
        for j, block in enumerate(stage.children())
    }


def last_norm(block: Block) -> Any:
    """The norm at the end of F, whose output is F(x)."""
    return block.norm3 if hasattr(block, "norm3") else block.norm2


def keeps_shape(block: Block) -> bool:
    """Whether x and F(x) have the same shape: not in the first block of a later stage."""
    convolutions = [layer for layer in block.children() if isinstance(layer, nn.Conv2d)]
    same = convolutions[0].in_channels == block.out_channels
    return same and all(layer.stride == (1, 1) for layer in convolutions)


def without(block: Block) -> nn.Module:
    """What is left of a block when F is deleted; of a plain block that keeps the shape: y = x."""
    if hasattr(block, "shortcut"):
        return ShortcutOnly(block)
    assert keeps_shape(block), "a plain block that changes the shape cannot be deleted"
    return nn.Identity()


def can_be_deleted(block: Block) -> bool:
    """All blocks but plain ones that change the shape."""
    return hasattr(block, "shortcut") or keeps_shape(block)


class ReadOut(nn.Module):
    """What follows the last block: (N, C, H, W) -> (N, num_classes) logits."""

    def __init__(self, model: ResNet) -> None:
        super().__init__()
        self.head = model.head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))


@torch.no_grad()
def through(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Pass x (N, ...) through the layers, CHUNK images at a time."""
    chain = nn.Sequential(*layers)
    return torch.cat([chain(part) for part in x.split(CHUNK)])


def error(layers: Iterable[nn.Module], x: Tensor, labels: Tensor) -> float:
    """The error in percent when x (N, ...) passes through the layers, the last one a ReadOut."""
    return 100 * (through(layers, x).argmax(1) != labels).double().mean().item()


@torch.no_grad()
def adapted(layers: Iterable[nn.Module], x: Tensor) -> nn.Sequential:
    """Copies of the layers whose batch norms have the statistics of x (N, ...), without labels.

    Each norm sees x after all layers before it, with their new statistics.
    """
    copies = copy.deepcopy(nn.Sequential(*layers)).eval()
    for module in copies.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train().momentum = 1.0  # the statistics of this batch alone
    copies(x)
    return copies.eval()


def prefixes(layers: Sequence[Block], *inputs: Tensor) -> Iterator[tuple[int, list[Tensor]]]:
    """For each of `layers` but the first, its number and its inputs, from those of the one before.

    So changing each of L blocks costs about L/2 forward passes instead of L.
    """
    streams = list(inputs)
    for k in range(1, len(layers)):
        streams = [through([layers[k - 1]], x) for x in streams]
        yield k, streams
