"""The gallery of bugs: wrong networks, and which checks catch them.

Half of the bugs were found in repositories that many people learn from (`seen` names them).
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import nn

import zoo
from data.progress import Progress
from experiments.plumbing.tables import Rows
from experiments.proof import resnet_bugs as resnets
from experiments.proof import vit_bugs as vits
from experiments.proof.checks import CHECKS, NEEDS_WEIGHTS
from experiments.proof.oracles import the_oracle

Verdicts = Mapping[str, str | None]  # by check: the difference; "": none; None: not run


class Bug(NamedTuple):
    """A wrong network, and where the bug was seen ("" if nowhere in particular)."""

    name: str
    build: Callable[[], nn.Module]
    seen: str = ""
    model: str = "resnet18"  # what it claims to be


def resnet_bug(name: str, seen: str = "", **parts: Any) -> Bug:
    """A ResNet-18 in which `parts` are replaced."""
    return Bug(name, partial(resnets.resnet18, **parts), seen)


def vit_bug(name: str, seen: str = "", **parts: Any) -> Bug:
    """A small ViT in which `parts` are replaced."""
    return Bug(name, partial(vits.broken_vit, **parts), seen, vits.SIZE)


def with_copy(build: Callable[[], nn.Module], block: str, place: str) -> nn.Module:
    """A network with a copy of `block` at `place`: only the initial weights are wrong."""
    model = build()
    model.set_submodule(place, copy.deepcopy(model.get_submodule(block)))
    return model


BUGS = (
    Bug("stride 2 in stage 1 only", resnets.stride_only_in_the_first_stage, "labml #83, #205"),
    # The paper's version, under the name of v1.5: it ignores three of four pixels.
    Bug("stride on the 1x1 (v1)", partial(zoo.build, "resnet50", stride_in="conv1"),
        "torchvision #191, dm-haiku #85, flax #3275", "resnet50"),
    resnet_bug("ReLU before the addition only", "kuangliu #4", block=resnets.ReluBeforeAddition),
    resnet_bug("ReLU before and after the addition", "kuangliu #4", block=resnets.SecondRelu),
    resnet_bug("the skip forgotten", block=resnets.SkipForgotten),
    resnet_bug("the skip added twice", block=resnets.SkipAddedTwice),
    resnet_bug("no norm in the block", "fastai course22p2, d2l", block=resnets.NoNormInTheBlock),
    resnet_bug("no norm on the projection", "fb.resnet #191", block=resnets.NoNormOnTheProjection),
    resnet_bug("a bias before each norm", "labml, d2l", block=resnets.BiasBeforeNorm),
    resnet_bug("an extra block", "CNTK #2873", blocks_per_stage=(2, 2, 2, 3)),
    resnet_bug("max-pool without padding", stem=resnets.PoolWithoutPadding),
    Bug("norm with eps 1e-3", partial(resnets.with_norms, eps=1e-3)),
    Bug("norm with momentum 0.01", partial(resnets.with_norms, momentum=0.01)),
    resnet_bug("fan_in for fan_out", network=resnets.FanIn),
    Bug("blocks that start as copies",
        partial(with_copy, resnets.resnet18, "stages.0.0", "stages.0.1"), "equinox's ViT example"),
    vit_bug("no bias on q, k, v", "lucidrains vit-pytorch", block=vits.NoBiasOnQkv),
    vit_bug("norms around the patches", "lucidrains vit-pytorch", stem=vits.NormsAroundThePatches),
    vit_bug("LayerNorm with eps 1e-12", eps=1e-12),
    vit_bug("norm after the addition", block=vits.PostNorm),
    vit_bug("keys for queries", attention=vits.KeysForQueries),
    vit_bug("number and size of heads exchanged", attention=vits.HeadsForK),
    vit_bug("GELU by tanh", mlp=vits.TanhGelu),
    vit_bug("class token at the end", stem=vits.ClassTokenLast, network=vits.ReadsTheLastToken),
    Bug("encoder blocks as copies", partial(with_copy, vits.broken_vit, "blocks.0", "blocks.1"),
        "equinox's ViT example", vits.SIZE),
)  # fmt: skip
CORRECT = (
    Bug("resnet18, correct", lambda: zoo.build("resnet18", 1000), "zoo/"),
    Bug("vit2, correct", lambda: zoo.build("vit2", 1000), "zoo/", "vit2"),
)


def examine(build: Callable[[], nn.Module], model: str) -> Verdicts:
    """Run every check on a network that claims to be `model`."""
    oracle = the_oracle("torchvision", model)
    verdicts: dict[str, str | None] = {}
    for name, check in CHECKS.items():
        if name in NEEDS_WEIGHTS and verdicts["load"]:
            verdicts[name] = None
        else:
            verdicts[name] = check(build, partial(oracle.build, model, 1000), oracle)
    return verdicts


def examine_all(bugs: Iterable[Bug]) -> dict[Bug, Verdicts]:
    """Run every check on every network, with a progress bar."""
    return {bug: examine(bug.build, bug.model) for bug in Progress(bugs, "networks")}


def table(verdicts: Mapping[Bug, Verdicts]) -> Rows:
    """One line per bug, one column per check: "caught", "" for missed, "-" for not run."""
    lines = []
    for bug, found in verdicts.items():
        marks = ["-" if text is None else "caught" if text else "" for text in found.values()]
        lines.append([bug.name, bug.seen, *marks])
    caught = [sum(bool(found[check]) for found in verdicts.values()) for check in CHECKS]
    lines.append([f"caught of {len(verdicts)}", "", *map(str, caught)])
    return Rows(["bug", "seen in", *CHECKS], lines, ("---",))


CAPTION = (
    "Empty: missed. -: not run, because the correct network's weights do not fit. The last nine "
    "are of a small ViT, compared in fp64. `make bugs` says more."
)
