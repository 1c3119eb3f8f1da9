"""config.json of a folder in the Hub's layout: which network it describes, and its classes.

transformers' files list sizes and settings. timm's name an architecture and store the
preprocessing, too. Some networks share a ResNet's entries but compute something else (timm's
resnetblur18 and resnetaa50), so whatever the zoo does not have is refused by name.

Used by: hub.py.
"""

import logging
import re
from pathlib import Path
from typing import Any

from zoo.blocks import Bottleneck
from zoo.errors import WeightsError
from zoo.networks import Network
from zoo.resnet import TABLE as RESNETS
from zoo.resnet import ImageNetStem
from zoo.vit import TABLE as VITS
from zoo.vit import ViT
from zoo.weights.dialects import VIT_DIALECTS
from zoo.weights.files import Metadata
from zoo.weights.processors import preprocess_of, preprocess_of_timm, read_json
from zoo.weights.published import published
from zoo.weights.settings import settings_of

log = logging.getLogger("zoo")

CONFIG = "config.json"
NETWORKS = {  # by transformers' model_type
    "vit": tuple(VITS),
    "resnet": tuple(name for name, row in RESNETS.items() if row.stem is ImageNetStem),
}
RESNET = {"stem": "imagenet", "shortcut": "projection", "norm": "batch"}  # settings of all of them
TIMM = {name: f"(tv_)?{name}" for name in NETWORKS["resnet"]} | {  # timm's names
    "vit_b_16": "(vit|deit)_base_patch16_(224|384)",
    "vit_b_32": "vit_base_patch32_(224|384)",
    "vit_l_16": "vit_large_patch16_(224|384)",
}
HARMLESS = re.compile(r"num_classes|\w*drop\w*_rate")  # arguments of timm's that change no output


def sizes_of(name: str, width: int = 64) -> dict[str, Any]:
    """What transformers' config.json says of the sizes of a network."""
    if name in VITS:  # the first fields of vit.Row
        keys = "patch_size num_hidden_layers num_attention_heads hidden_size intermediate_size"
        return dict(zip(keys.split(), VITS[name], strict=False))
    row = RESNETS[name]
    kind, times = ("bottleneck", 4) if row.block is Bottleneck else ("basic", 1)
    hidden = [times * width * 2**i for i in range(len(row.blocks_per_stage))]
    return {"layer_type": kind, "depths": list(row.blocks_per_stage), "embedding_size": width,
            "hidden_sizes": hidden}  # fmt: skip


# transformers' defaults, for entries that a file lacks. A value must be of the same type.
FREE = {
    "vit": sizes_of("vit_b_16") | {"image_size": 224, "layer_norm_eps": 1e-12},
    "resnet": sizes_of("resnet50") | {"downsample_in_bottleneck": False},
}
# Entries of which the zoo's networks have the default.
FIXED: dict[str, dict[str, Any]] = {
    "vit": {"hidden_act": "gelu", "qkv_bias": True, "num_channels": 3},
    "resnet": {"hidden_act": "relu", "downsample_in_first_stage": False, "num_channels": 3},
}


def metadata_of(folder: Path) -> Metadata:
    """The network, settings, classes and preprocessing of a folder; WeightsError."""
    path = folder / CONFIG
    config = read_json(path)
    if "architecture" in config:
        return of_timm(config, path)
    kind = config.get("model_type", "")
    if kind not in tuple(NETWORKS):
        raise unknown(path, {"model_type": kind})
    config = FREE[kind] | FIXED[kind] | config
    wrong = {key for key, default in FREE[kind].items() if type(config[key]) is not type(default)}
    wrong |= {key for key, value in FIXED[kind].items() if config[key] != value}
    if config.get("problem_type") not in (None, "single_label_classification"):
        wrong.add("problem_type")
    classes = classes_of(config.get("id2label"), config.get("num_labels", 2))
    if not classes:
        wrong.add("id2label")
    width = 64 if "embedding_size" in wrong else config.get("embedding_size", 64)
    sizes = {name: sizes_of(name, width) for name in NETWORKS[kind]}
    name = next((name for name, own in sizes.items() if own.items() <= config.items()), "")
    if not name:
        wrong |= {*sizes_of(NETWORKS[kind][0])}
    elif kind == "vit" and config["image_size"] not in range(0, 2**16, VITS[name].patch_size)[1:]:
        wrong.add("image_size")
    if wrong:
        raise unknown(path, {key: config.get(key) for key in wrong})
    eps, in_conv1 = config.get("layer_norm_eps"), config.get("downsample_in_bottleneck")
    settings = settings_for(name, eps, VIT_DIALECTS["transformers"].resizing, in_conv1)
    only = config["image_size"] if kind == "vit" else None
    return Metadata(name, settings, classes, preprocess_of(folder, kind, only))


def of_timm(config: dict[str, Any], path: Path) -> Metadata:
    """The same from timm's config.json; in old files, pretrained_cfg is not an entry of its own."""
    data, arguments = config.get("pretrained_cfg", config), config.get("model_args") or {}
    architecture = str(config["architecture"]).partition(".")[0]
    name = next((ours for ours, theirs in TIMM.items() if re.fullmatch(theirs, architecture)), "")
    if not name or not isinstance(data, dict) or not isinstance(arguments, dict):
        raise unknown(path, {"architecture": config["architecture"], "model_args": arguments})
    preprocess = preprocess_of_timm(data, path)
    side, pool = preprocess["crop"], "token" if name in VITS else "avg"
    allowed = {"global_pool": (None, pool), "in_chans": (3,), "img_size": (side, [side, side])}
    given = {"global_pool": config.get("global_pool")} | arguments
    given = {key: value for key, value in given.items() if not HARMLESS.fullmatch(key)}
    wrong = {key: value for key, value in given.items() if value not in allowed.get(key, ())}
    count = config.get("num_classes", data.get("num_classes", 1000))
    names = config.get("label_names") or data.get("label_names")
    if isinstance(names, list):
        names = {str(place): label for place, label in enumerate(names)}
    classes = classes_of(names or None, count)
    if not names and count == 1000 and str(data.get("tag")).endswith("in1k"):
        log.warning("%s names no classes: they are taken to be ImageNet's, as its tag says", path)
        classes = published("resnet50").classes
    if len(classes) != count:  # 0: a network without a head
        wrong |= {"num_classes": count, "label_names": names}
    if wrong:
        raise unknown(path, wrong)
    settings = settings_for(name, 1e-6, VIT_DIALECTS["timm"].resizing)
    return Metadata(name, settings, classes or None, preprocess)


def classes_of(names: Any, count: Any) -> tuple[str, ...]:
    """The names {"0": name, ...} in order, LABEL_0 ... without any; () if they are unusable."""
    if names is None and type(count) is int and count <= 1_000_000:
        names = {str(i): f"LABEL_{i}" for i in range(count)}
    labels = [names.get(str(i)) for i in range(len(names))] if isinstance(names, dict) else []
    named = [label for label in labels if isinstance(label, str) and label]
    return tuple(named) if len(named) == len(labels) > 1 else ()


def settings_for(name: str, eps: Any, resizing: Any, in_conv1: Any = False) -> dict[str, str]:
    """Settings as settings.settings_of has them; only a ViT has `eps` and `resizing`."""
    if name in VITS:
        return {"block": "residual", "heads": str(VITS[name].heads), "eps": f"{eps:g}",
                "resizing": str(resizing)}  # fmt: skip
    strides = {"stride_in": "conv1" if in_conv1 else "conv2"}
    return RESNET | (strides if RESNETS[name].block is Bottleneck else {})


def unknown(path: Path, entries: dict[str, Any]) -> WeightsError:
    """The error about entries that no network of the zoo has."""
    listed = ", ".join(f"{key}={value!r:.60}" for key, value in sorted(entries.items()))
    names = ", ".join(name for names in NETWORKS.values() for name in names)
    why = f"this is not a network of the zoo: it has {listed:.240}"
    fix = f"use its own library; the zoo has {names}, with a name in id2label for each class from 0"
    return WeightsError(why, path, fix)


def config_of(name: str, model: Network, classes: tuple[str, ...]) -> dict[str, Any]:
    """transformers' config.json of a residual ViT, or of a ResNet with RESNET's settings."""
    if isinstance(model, ViT):
        kind, architecture, entries = "vit", "ViTForImageClassification", sizes_of(name)
        entries |= {"layer_norm_eps": model.norm.eps, "image_size": model.stem.image_size}
    else:
        kind, architecture = "resnet", "ResNetForImageClassification"
        in_conv1 = settings_of(model).get("stride_in") == "conv1"
        entries = sizes_of(name, model.stem.out_channels) | {"downsample_in_bottleneck": in_conv1}
    return FIXED[kind] | entries | {
        "architectures": [architecture], "model_type": kind, "id2label": dict(enumerate(classes)),
        "label2id": {label: place for place, label in enumerate(classes)},
    }  # fmt: skip
