"""The networks of other libraries that ours are compared with, and their names for the blocks."""

import importlib
import importlib.util
from collections.abc import Callable
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

RESNETS = tuple(name for name, row in RESNET_TABLE.items() if row.stem is ImageNetStem)
TIMM_NAMES = {
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
}
MODELS = (*RESNETS, *TABLE)  # no library has the small ViTs, but their classes build them


@dataclass(frozen=True)
class Oracle:
    """A library, how to build networks of one family, and which of its modules are our blocks.

    `rounding` is 0 where its networks are ours to the last bit. Where they do the same arithmetic
    in another order, so many machine epsilons of a tensor's largest value may be between the two.
    `same_start`: seeded alike, its networks start from our weights. Others initialise differently.
    """

    library: str
    dialect: Dialect
    build: Callable[..., nn.Module]  # from a name, a number of classes, a ViT's size of image
    blocks: Rules  # (their module, ours)
    rounding: int = 0
    same_start: bool = False

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.library) is not None

    @property
    def settings(self) -> dict[str, Any]:
        """What zoo.build needs for a network of theirs: a ViT's eps."""
        eps = self.dialect.requires.get("eps")
        return {"eps": float(eps[0])} if eps else {}

    @property
    def title(self) -> str:
        return f"{self.library} {version(self.library)}" if self.installed else self.library

    def blocks_of(self, model: nn.Module) -> dict[str, str]:
        """The blocks of their network, in order: our name -> their name."""
        names = [name for name, _ in model.named_modules()]
        named = [(rename(name, self.blocks), name) for name in names]
        return {ours: theirs for ours, theirs in named if ours is not None}

    def in_files(self, name: str) -> str:
        """The name in their files of an entry; transformers' ViT has other names in memory."""
        return self.dialect.from_zoo(self.dialect.to_zoo(name) or "") or name


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
    row = RESNET_TABLE[name]
    basic = row.block is BasicBlock
    config = transformers.ResNetConfig(
        depths=list(row.blocks_per_stage),
        hidden_sizes=[64 * 2**i * (1 if basic else 4) for i in range(4)],
        layer_type="basic" if basic else "bottleneck",
        embedding_size=64,
        num_labels=num_classes,
    )
    return transformers.ResNetForImageClassification(config)


def torchvision_vit(name: str, num_classes: int, image_size: int | None = None) -> nn.Module:
    models = importlib.import_module("torchvision").models
    row = TABLE[name]
    size = image_size or row.image_size
    if name in TIMM_NAMES:
        return models.get_model(name, image_size=size, num_classes=num_classes)
    return models.VisionTransformer(
        size, row.patch_size, row.blocks, row.heads, row.width, row.hidden, num_classes=num_classes
    )


def timm_vit(name: str, num_classes: int, image_size: int | None = None) -> nn.Module:
    timm = importlib.import_module("timm")
    row = TABLE[name]
    size = image_size or row.image_size
    if name in TIMM_NAMES:
        return timm.create_model(TIMM_NAMES[name], img_size=size, num_classes=num_classes)
    return timm.models.VisionTransformer(
        img_size=size, patch_size=row.patch_size, depth=row.blocks, num_heads=row.heads,
        embed_dim=row.width, mlp_ratio=row.hidden / row.width, num_classes=num_classes,
    )  # fmt: skip


def transformers_vit(name: str, num_classes: int, image_size: int | None = None) -> nn.Module:
    transformers = importlib.import_module("transformers")
    row = TABLE[name]
    config = transformers.ViTConfig(
        image_size=image_size or row.image_size, patch_size=row.patch_size,
        num_hidden_layers=row.blocks, num_attention_heads=row.heads, hidden_size=row.width,
        intermediate_size=row.hidden, num_labels=num_classes,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


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
# The stem is what adds the positions; two libraries have a dropout there, of probability 0.
TORCHVISION_VIT_BLOCKS = (
    ("encoder.dropout", "stem"),
    ("encoder.layers.encoder_layer_{block}", "blocks.{block}"),
    ("encoder.ln", "norm"),
    ("heads.head", "head"),
)
TRANSFORMERS_VIT_BLOCKS = (
    ("vit.embeddings", "stem"),
    ("vit.layers.{block}", "blocks.{block}"),
    ("vit.layernorm", "norm"),
    ("classifier", "head"),
)
TIMM_VIT_BLOCKS = (
    ("pos_drop", "stem"),
    ("blocks.{block}", "blocks.{block}"),
    ("norm", "norm"),
    ("head", "head"),
)
RESNET_ORACLES = {
    name: Oracle(name, RESNET_DIALECTS[name], build, blocks, same_start=name == "torchvision")
    for name, build, blocks in (
        ("torchvision", torchvision_network, TORCHVISION_BLOCKS),
        ("transformers", transformers_network, TRANSFORMERS_BLOCKS),
        ("timm", timm_network, TORCHVISION_BLOCKS),
    )
}
VIT_ORACLES = {
    name: Oracle(name, VIT_DIALECTS[name], build, blocks, rounding, name == "torchvision")
    for name, build, blocks, rounding in (
        # It attends in (L, N, D) order.
        ("torchvision", torchvision_vit, TORCHVISION_VIT_BLOCKS, 256),
        # It has three matrices for q, k and v.
        ("transformers", transformers_vit, TRANSFORMERS_VIT_BLOCKS, 256),
        ("timm", timm_vit, TIMM_VIT_BLOCKS, 0),
    )
}
LIBRARIES = tuple(RESNET_ORACLES)


def oracles_of(model: str) -> dict[str, Oracle]:
    """By library, those of the model's family."""
    return VIT_ORACLES if model in TABLE else RESNET_ORACLES


def the_oracle(library: str, model: str) -> Oracle:
    """The library's oracle for `model`; zoo.ModelError if it is not installed."""
    oracle = oracles_of(model)[library]
    if not oracle.installed:
        raise ModelError(
            f"{library} is not installed here\n--against {library}\npip install {library}"
        )
    return oracle
