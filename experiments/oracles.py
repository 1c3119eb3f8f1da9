"""The networks of other libraries that ours are compared with, and their names for the blocks."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from torch import Tensor, nn

from experiments.cli import UsageError
from zoo.resnet import BASIC_DEPTHS, BOTTLENECK_DEPTHS
from zoo.weights.dialects import TORCHVISION, TRANSFORMERS, Dialect, Rules, rename

MODELS = tuple(f"resnet{depth}" for depth in (*BASIC_DEPTHS, *BOTTLENECK_DEPTHS))


@dataclass(frozen=True)
class Oracle:
    """A library, how to build a network of it, and which of its modules are our blocks."""

    library: str
    dialect: Dialect
    build: Callable[[str, int], nn.Module]  # from a name and a number of classes
    blocks: Rules  # (their module, ours)

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.library) is not None

    @property
    def title(self) -> str:
        return f"{self.library} {version(self.library)}" if self.installed else self.library

    def blocks_of(self, model: nn.Module) -> dict[str, str]:
        """The blocks of their network, in order: our name -> their name."""
        names = [name for name, _ in model.named_modules()]
        named = [(rename(name, self.blocks), name) for name in names]
        return {ours: theirs for ours, theirs in named if ours is not None}


def logits_of(output: Any) -> Tensor:
    """transformers returns an object with the logits in it."""
    return output if isinstance(output, Tensor) else output.logits


def torchvision_network(name: str, num_classes: int) -> nn.Module:
    models = importlib.import_module("torchvision").models
    return models.get_model(name, num_classes=num_classes)


def timm_network(name: str, num_classes: int) -> nn.Module:
    return importlib.import_module("timm").create_model(name, num_classes=num_classes)


def transformers_network(name: str, num_classes: int) -> nn.Module:
    """From a configuration like that of microsoft/resnet-50: nothing is downloaded."""
    transformers = importlib.import_module("transformers")
    depth = int(name.removeprefix("resnet"))
    basic = depth in BASIC_DEPTHS
    config = transformers.ResNetConfig(
        depths=list(BASIC_DEPTHS[depth] if basic else BOTTLENECK_DEPTHS[depth]),
        hidden_sizes=[64 * 2**i * (1 if basic else 4) for i in range(4)],
        layer_type="basic" if basic else "bottleneck",
        embedding_size=64,
        num_labels=num_classes,
    )
    return transformers.ResNetForImageClassification(config)


TORCHVISION_BLOCKS = (
    ("maxpool", "stem"),
    ("layer{stage+1}.{block}", "stages.{stage}.{block}"),
    ("fc", "head"),
)
TRANSFORMERS_BLOCKS = (
    ("resnet.embedder", "stem"),
    ("resnet.encoder.stages.{stage}.layers.{block}", "stages.{stage}.{block}"),
    ("classifier", "head"),
)
ORACLES = {
    oracle.library: oracle
    for oracle in (
        Oracle("torchvision", TORCHVISION, torchvision_network, TORCHVISION_BLOCKS),
        Oracle("transformers", TRANSFORMERS, transformers_network, TRANSFORMERS_BLOCKS),
        Oracle("timm", TORCHVISION, timm_network, TORCHVISION_BLOCKS),
    )
}


def the_oracle(library: str) -> Oracle:
    """The oracle of that name; UsageError if it is not installed."""
    oracle = ORACLES[library]
    if not oracle.installed:
        raise UsageError(
            f"{library} is not installed here", f"--against {library}", f"pip install {library}"
        )
    return oracle
