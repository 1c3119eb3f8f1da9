"""Other libraries' networks, with which ours are compared, and their names for our blocks."""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from torch import Tensor, nn

from zoo import ModelError
from zoo.blocks import BasicBlock
from zoo.resnet import TABLE as RESNET_TABLE
from zoo.resnet import ImageNetStem
from zoo.vit import TABLE
from zoo.weights.dialects import RESNET_DIALECTS, VIT_DIALECTS, Dialect, Rules, rename

IMAGENET_RESNETS = tuple(name for name, row in RESNET_TABLE.items() if row.stem is ImageNetStem)
COMPARED = (*IMAGENET_RESNETS, *TABLE)
TIMM_NAMES = {
    "vit_b_16": "vit_base_patch16_224", "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
}  # fmt: skip
SMALL_VITS = tuple(TABLE.keys() - TIMM_NAMES)  # libraries build them by class, not by name


@dataclass(frozen=True)
class Oracle:
    """A library's networks of one family: how to build them, and which modules are our blocks.

    `rounding` is the tolerance, in machine epsilons of a tensor's largest value. It is 0 if the
    networks are equal to ours bit for bit, and above 0 if they sum in another order.
    """

    dialect: Dialect
    build: Callable[..., nn.Module]  # (name, number of classes; for ViTs also the image size)
    blocks: Rules  # (their module, our block)
    rounding: int = 0

    @property
    def library(self) -> str:
        """The library's name."""
        return self.dialect.name

    @property
    def installed(self) -> bool:
        """True if the library can be imported."""
        return importlib.util.find_spec(self.library) is not None

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of zoo.build for a network like theirs: a ViT's eps."""
        eps = self.dialect.requires.get("eps")
        return {"eps": float(eps[0])} if eps else {}

    @property
    def title(self) -> str:
        """The library's name and version."""
        return f"{self.library} {version(self.library)}"

    def blocks_of(self, model: nn.Module) -> dict[str, str]:
        """The blocks of their network, in order: our name -> their name."""
        names = [name for name, _ in model.named_modules()]
        named = [(rename(name, self.blocks), name) for name in names]
        return {ours: theirs for ours, theirs in named if ours is not None}

    def in_zoo(self, name: str) -> str:
        """Our name for one of their blocks or entries; `name` itself if we have no such part."""
        return rename(name, self.blocks) or self.dialect.to_zoo(name) or name

    def in_files(self, name: str) -> str:
        """An entry's name in their weight files; transformers' ViT has other names in memory."""
        return self.dialect.from_zoo(self.in_zoo(name)) or name


def logits_of(output: Any) -> Tensor:
    """The logits in a network's output: transformers wraps them in an object."""
    return output if isinstance(output, Tensor) else output.logits


# Built by name where possible, so that the sizes in zoo.vit.TABLE are compared too.


def torchvision_network(name: str, num_classes: int, image_size: int | None = None) -> nn.Module:
    """torchvision's network, with random weights."""
    models = importlib.import_module("torchvision").models
    if name not in SMALL_VITS:
        size = {"image_size": image_size} if image_size else {}
        return models.get_model(name, num_classes=num_classes, **size)
    row = TABLE[name]
    return models.VisionTransformer(
        image_size or row.image_size, row.patch_size, row.blocks, row.heads, row.width,
        row.hidden, num_classes=num_classes,
    )  # fmt: skip


def timm_network(name: str, num_classes: int, image_size: int | None = None) -> nn.Module:
    """timm's network, with random weights."""
    timm = importlib.import_module("timm")
    if name not in SMALL_VITS:
        size = {"img_size": image_size} if image_size else {}
        return timm.create_model(TIMM_NAMES.get(name, name), num_classes=num_classes, **size)
    row = TABLE[name]
    return timm.models.VisionTransformer(
        img_size=image_size or row.image_size, patch_size=row.patch_size, depth=row.blocks,
        num_heads=row.heads, embed_dim=row.width, mlp_ratio=row.hidden / row.width,
        num_classes=num_classes,
    )  # fmt: skip


def transformers_resnet(name: str, num_classes: int) -> nn.Module:
    """transformers' ResNet, from a configuration like microsoft/resnet-50's, without a download."""
    transformers = importlib.import_module("transformers")
    row = RESNET_TABLE[name]
    basic = row.block is BasicBlock
    config = transformers.ResNetConfig(
        depths=list(row.blocks_per_stage), layer_type="basic" if basic else "bottleneck",
        hidden_sizes=[64 * 2**i * (1 if basic else 4) for i in range(4)], num_labels=num_classes,
    )  # fmt: skip
    return transformers.ResNetForImageClassification(config)


def transformers_vit(name: str, num_classes: int, image_size: int | None = None) -> nn.Module:
    """transformers' ViT, from a configuration, with random weights."""
    transformers = importlib.import_module("transformers")
    row = TABLE[name]
    config = transformers.ViTConfig(
        image_size=image_size or row.image_size, patch_size=row.patch_size,
        num_hidden_layers=row.blocks, num_attention_heads=row.heads, hidden_size=row.width,
        intermediate_size=row.hidden, num_labels=num_classes,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def rules(ours: Sequence[str], *theirs: str) -> Rules:
    """Pairs of their names and ours."""
    return tuple(zip(theirs, ours, strict=True))


# fmt: off
RESNET_BLOCKS = ("stem", "stages.{stage}.{block}", "head")
TORCHVISION_BLOCKS = rules(RESNET_BLOCKS, "maxpool", "layer{stage+1}.{block}", "fc")
RESNET_ORACLES = {
    "torchvision": Oracle(
        RESNET_DIALECTS["torchvision"], torchvision_network, TORCHVISION_BLOCKS),
    "transformers": Oracle(RESNET_DIALECTS["transformers"], transformers_resnet, rules(
        RESNET_BLOCKS, "resnet.embedder", "resnet.encoder.stages.{stage}.layers.{block}",
        "classifier")),
    "timm": Oracle(RESNET_DIALECTS["timm"], timm_network, TORCHVISION_BLOCKS),
}
# The stem ends after the positions are added; in two libraries, with a dropout of p = 0.
VIT_BLOCKS = ("stem", "blocks.{block}", "norm", "head")
VIT_ORACLES = {
    "torchvision": Oracle(VIT_DIALECTS["torchvision"], torchvision_network, rules(
        VIT_BLOCKS, "encoder.dropout", "encoder.layers.encoder_layer_{block}", "encoder.ln",
        "heads.head"), rounding=256),  # its attention has (L, N, D) order
    "transformers": Oracle(VIT_DIALECTS["transformers"], transformers_vit, rules(
        VIT_BLOCKS, "vit.embeddings", "vit.layers.{block}", "vit.layernorm",
        "classifier"), rounding=256),  # q, k and v are three matrices
    "timm": Oracle(VIT_DIALECTS["timm"], timm_network, rules(
        VIT_BLOCKS, "pos_drop", "blocks.{block}", "norm", "head")),
}
# fmt: on
LIBRARIES = tuple(RESNET_ORACLES)


def oracles_of(model: str) -> dict[str, Oracle]:
    """The oracles of a model's family, by library."""
    return VIT_ORACLES if model in TABLE else RESNET_ORACLES


def the_oracle(library: str, model: str) -> Oracle:
    """The library's oracle for `model`; zoo.ModelError if it is not installed."""
    oracle = oracles_of(model)[library]
    if not oracle.installed:
        where, fix = f"--against {library}", f"pip install {library}"
        raise ModelError(f"{library} is not installed here\n{where}\n{fix}")
    return oracle
