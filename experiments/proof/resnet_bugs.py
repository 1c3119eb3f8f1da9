"""Networks that look like ResNets and are not, the whole gallery, and who notices.

Each is a few lines away from zoo/ and returns logits of the right shape; half were found in
repositories that many people learn from (`seen` names them). The ViTs are in vit_bugs.py.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu
from tqdm import tqdm

import zoo
from experiments.proof import vit_bugs
from experiments.proof.checks import CHECKS, NEEDS_WEIGHTS
from experiments.proof.oracles import the_oracle
from zoo.blocks import BasicBlock
from zoo.resnet import TABLE, ImageNetStem, ResNet, resnet


def resnet18(
    block: Callable[..., BasicBlock] = BasicBlock,
    stem: type[ImageNetStem] = ImageNetStem,
    blocks_per_stage: tuple[int, ...] = TABLE["resnet18"].blocks_per_stage,
) -> ResNet:
    return ResNet(stem(64), block, blocks_per_stage, 64, 1000)


def stride_only_in_the_first_stage() -> ResNet:
    """Every later stage keeps the large maps: the same logits' shape, many times the work."""
    strides = iter([2])  # then 1 for every block
    return resnet18(lambda inputs, outputs, stride: BasicBlock(inputs, outputs, next(strides, 1)))


def stride_on_the_1x1() -> ResNet:
    """The paper's own v1, in the name of v1.5: three of four pixels are never looked at."""
    return resnet("resnet50", stride_in="conv1")


class ReluBeforeAddition(BasicBlock):
    """Nothing negative is ever added, and nothing cuts the sum: the stream can only grow."""

    def forward(self, x: Tensor) -> Tensor:
        residual = relu(self.norm1(self.conv1(x)))
        residual = relu(self.norm2(self.conv2(residual)))
        return residual + self.shortcut(x)


class SecondRelu(BasicBlock):
    """The correction F(x) can no longer be negative."""

    def forward(self, x: Tensor) -> Tensor:
        residual = relu(self.norm1(self.conv1(x)))
        residual = relu(self.norm2(self.conv2(residual)))
        return relu(residual + self.shortcut(x))


class SkipForgotten(BasicBlock):
    """A plain block that still owns a shortcut."""

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
    """The branch is no longer scaled before the addition."""

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


def an_extra_block() -> ResNet:
    """Another network: 20 layers."""
    return resnet18(blocks_per_stage=(2, 2, 2, 3))


class PoolWithoutPadding(ImageNetStem):
    """Maps of 55 instead of 56 pixels a side; later strides round the difference away."""

    def forward(self, images: Tensor) -> Tensor:
        return max_pool2d(relu(self.norm(self.conv(images))), 3, stride=2)


def with_norms(**settings: float) -> ResNet:
    """Another library's defaults: no shape, count or name shows them."""
    model = resnet18()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            vars(module).update(settings)
    return model


class FanIn(ResNet):
    """Where a convolution doubles the channels, weights start too large by sqrt(2)."""

    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")


def fan_in() -> ResNet:
    return FanIn(ImageNetStem(64), BasicBlock, (2, 2, 2, 2), 64, 1000)


def blocks_that_start_as_copies() -> ResNet:
    """A block built once and copied: equal weights, and only the start shows it."""
    model = resnet18()
    stage: Any = model.stages[0]
    stage[1] = copy.deepcopy(stage[0])
    return model


@dataclass(frozen=True)
class Bug:
    """A wrong network and where it was seen ("": no place is named)."""

    name: str
    build: Callable[[], nn.Module]
    seen: str
    model: str = "resnet18"  # what it claims to be


def vit_bug(name: str, build: Callable[..., nn.Module], seen: str = "", **parts: Any) -> Bug:
    return Bug(name, partial(build, **parts), seen, vit_bugs.SIZE)


BUGS = (
    Bug("stride 2 in stage 1 only", stride_only_in_the_first_stage, "labml #83, #205"),
    Bug("stride on the 1x1 (v1)", stride_on_the_1x1,
        "torchvision #191, dm-haiku #85, flax #3275", "resnet50"),
    Bug("ReLU before the addition", partial(resnet18, ReluBeforeAddition), "kuangliu #4"),
    Bug("a second ReLU before it", partial(resnet18, SecondRelu), "kuangliu #4"),
    Bug("the skip forgotten", partial(resnet18, SkipForgotten), ""),
    Bug("the skip added twice", partial(resnet18, SkipAddedTwice), ""),
    Bug("no norm in the block", partial(resnet18, NoNormInTheBlock), "fastai course22p2, d2l"),
    Bug("no norm on the projection", partial(resnet18, NoNormOnTheProjection), "fb.resnet #191"),
    Bug("a bias before each norm", partial(resnet18, BiasBeforeNorm), "labml, d2l"),
    Bug("an extra block", an_extra_block, "CNTK #2873"),
    Bug("max-pool without padding", partial(resnet18, stem=PoolWithoutPadding), ""),
    Bug("norm with eps 1e-3", partial(with_norms, eps=1e-3), ""),
    Bug("norm with momentum 0.01", partial(with_norms, momentum=0.01), ""),
    Bug("fan_in for fan_out", fan_in, ""),
    Bug("blocks that start as copies", blocks_that_start_as_copies, "equinox's ViT example"),
    vit_bug("no bias on q, k, v", vit_bugs.vit, "lucidrains vit-pytorch",
            block=vit_bugs.NoBiasOnQkv),
    vit_bug("norms around the patches", vit_bugs.vit, "lucidrains vit-pytorch",
            stem=vit_bugs.NormsAroundThePatches),
    vit_bug("LayerNorm with eps 1e-12", vit_bugs.vit, eps=1e-12),
    vit_bug("norm after the addition", vit_bugs.vit, block=vit_bugs.PostNorm),
    vit_bug("keys for queries", vit_bugs.with_forward_of,
            kind=vit_bugs.KeysForQueries, part="attention"),
    vit_bug("heads and K exchanged", vit_bugs.with_forward_of,
            kind=vit_bugs.HeadsForK, part="attention"),
    vit_bug("GELU by tanh", vit_bugs.with_forward_of, kind=vit_bugs.TanhGelu, part="mlp"),
    vit_bug("class token at the end", vit_bugs.vit,
            stem=vit_bugs.ClassTokenLast, network=vit_bugs.ReadsTheLastToken),
    vit_bug("encoder blocks as copies", vit_bugs.blocks_that_start_as_copies,
            "equinox's ViT example"),
)  # fmt: skip


def correct(name: str) -> nn.Module:
    return zoo.build(name, 1000)


CORRECT = tuple(
    Bug(f"{name}, correct", partial(correct, name), "zoo/", name)
    for name in ("resnet18", vit_bugs.SIZE)
)


def examine(build: Callable[[], nn.Module], model: str) -> dict[str, str | None]:
    """What each check says of a network that claims to be `model`: "" equal, None cannot run."""
    oracle = the_oracle("torchvision", model)
    said: dict[str, str | None] = {}
    for name, check in CHECKS.items():
        if name in NEEDS_WEIGHTS and said["load"]:
            said[name] = None
        else:
            said[name] = check(build, partial(oracle.build, model, 1000), oracle)
    return said


def examine_all() -> dict[Bug, dict[str, str | None]]:
    """The correct networks first, then every bug."""
    bar = tqdm((*CORRECT, *BUGS), "networks", leave=False)
    return {bug: examine(bug.build, bug.model) for bug in bar}


def table(said: dict[Bug, dict[str, str | None]]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: a bug a line, a check a column."""
    lines = [[bug.name, bug.seen, *marks(said[bug])] for bug in BUGS]
    counts = (str(sum(bool(said[bug][check]) for bug in BUGS)) for check in CHECKS)
    lines.append([f"caught of {len(BUGS)}", "", *counts])
    return ["bug", "seen in", *CHECKS], lines


CAPTION = (
    "Empty: missed. -: cannot run, because their weights do not load. The last nine are of a small "
    "ViT, compared in fp64. `make bugs` says more."
)


def marks(said: dict[str, str | None]) -> list[str]:
    return ["-" if text is None else "caught" if text else "" for text in said.values()]
