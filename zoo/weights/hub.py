"""Vision transformers in the layout of the Hugging Face Hub, from there or from a folder.

config.json                what the network is, and the names of its classes
preprocessor_config.json   how images are prepared (processor_config.json, where there is one)
model.safetensors          its weights, or pytorch_model.bin, a pickle that is read like any other

Downloads are kept in the Hub's own cache; HF_HOME and HF_HUB_OFFLINE mean what they mean there.
"""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import WeightsError
from zoo.vit import TABLE, ViT
from zoo.weights.atomic import write_atomic
from zoo.weights.dialects import TRANSFORMERS_VIT
from zoo.weights.files import LONGEST_METADATA, Metadata, Weights, read_weights, write_weights

PREFIX = "hf:"
CONFIG, IMAGES, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
FILES = ("model.safetensors", "pytorch_model.bin")  # the first that is there

# config.json's names of the first fields of vit.Row, in their order.
SIZES = ("patch_size", "num_hidden_layers", "num_attention_heads", "hidden_size",
         "intermediate_size")  # fmt: skip
# ViTConfig's and ViTImageProcessor's defaults, for files that leave something out.
CONFIG_DEFAULTS: dict[str, Any] = {
    "model_type": "", "patch_size": 16, "num_hidden_layers": 12, "num_attention_heads": 12,
    "hidden_size": 768, "intermediate_size": 3072, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    "qkv_bias": True, "image_size": 224, "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
}  # fmt: skip
IMAGE_DEFAULTS: dict[str, Any] = {
    "do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 2,
    "rescale_factor": 1 / 255, "image_mean": TRANSFORMERS_VIT.normalize[0],
    "image_std": TRANSFORMERS_VIT.normalize[1],
}  # fmt: skip
# Processors that resize, crop, divide and normalise, with these defaults.
PROCESSORS = (None, "ViTImageProcessor", "ViTImageProcessorFast", "ViTImageProcessorPil",
              "ViTFeatureExtractor")  # fmt: skip
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # PIL's numbers


def from_hub(source: str) -> Weights:
    """The weights of "hf:OWNER/NAME" or "hf:OWNER/NAME@REVISION", downloaded once."""
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", source)
    if not match:
        fix = "give one like hf:nateraw/vit-base-patch16-224-cifar10"
        raise WeightsError("this is not the name of a model on the Hub", source, fix)
    address = f"https://huggingface.co/{match[1]}"
    by_hand = (
        f"fetch {CONFIG}, {IMAGES} and {' or '.join(FILES)} from {address}/tree/main where there "
        "is a network, put them into one folder, and pass its PATH"
    )
    try:
        from huggingface_hub import errors, snapshot_download  # slow to import, so only here
    except ImportError as error:
        why = f"huggingface_hub, which downloads from the Hub, cannot be imported: {error}"
        raise WeightsError(why, source, f"pip install huggingface_hub; or {by_hand}") from error
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)  # it tries several times, and logs each
    try:
        # First what is small: so where there are weights, no download of it was interrupted.
        small = [CONFIG, IMAGES, PROCESSOR]
        folder = Path(snapshot_download(match[1], revision=match[2], allow_patterns=small))
        for file in FILES:
            if not any((folder / name).exists() for name in FILES):
                snapshot_download(match[1], revision=folder.name, allow_patterns=[file])
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise WeightsError(f"cannot get {source}: {why}", address, by_hand) from error
    finally:
        log.setLevel(level)
    weights = read_folder(folder)
    return Weights(weights.tensors, weights.metadata, source)


def read_folder(folder: Path) -> Weights:
    """A folder in the Hub's layout: the weights, and what goes with them."""
    if not (folder / CONFIG).is_file():
        why = f"this is a folder, and not of the Hub's layout: it has no {CONFIG}"
        fix = f"give a .pth or .safetensors file, or a folder with {CONFIG} and {FILES[0]}"
        raise WeightsError(why, folder, fix)
    config = CONFIG_DEFAULTS | read_json(folder / CONFIG)
    file = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if file is None:
        why = "the folder has no weights in one file"
        raise WeightsError(why, folder, f"put {' or '.join(FILES)} there")
    name = name_of(config, folder)
    settings = {"block": "residual", "heads": str(config["num_attention_heads"]),
                "eps": f"{config['layer_norm_eps']:g}",
                "resizing": str(TRANSFORMERS_VIT.resizing)}  # fmt: skip
    preprocess = preprocess_of(folder, config["image_size"])
    metadata = Metadata(name, settings, labels_of(config, folder), preprocess)
    return Weights(read_weights(file).tensors, metadata, str(folder))


def read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LONGEST_METADATA:
            raise ValueError(f"it has more than {LONGEST_METADATA:,} bytes")
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, dict):
            raise ValueError("it holds no entries")
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or str(error)[:200]
        fix = "get it again, or make it readable"
        raise WeightsError(f"cannot read {path.name}: {why}", path, fix) from error
    return entries


def name_of(config: Mapping[str, Any], folder: Path) -> str:
    """The network of the zoo that a config.json describes."""
    sizes = {size: config[size] for size in SIZES}
    names = [name for name, row in TABLE.items() if row[: len(SIZES)] == tuple(sizes.values())]
    eps, image_size = config["layer_norm_eps"], config["image_size"]
    problem = ""
    if config["model_type"] != "vit":
        problem = f"model_type {config['model_type']!r} is not 'vit'"
    elif config["hidden_act"] != "gelu" or config["qkv_bias"] is not True:
        problem = f"hidden_act={config['hidden_act']!r}, qkv_bias={config['qkv_bias']!r}"
    elif not names:
        problem = ", ".join(f"{size} {value!r}" for size, value in sizes.items())
    elif type(eps) is not float or type(image_size) is not int:
        problem = "its layer_norm_eps or image_size is no such number"
    elif image_size % sizes["patch_size"]:
        problem = f"images of {image_size} pixels are no whole number of patches"
    elif config.get("problem_type") not in (None, "single_label_classification"):
        problem = f"problem_type {config['problem_type']!r} is not one class of several"
    if problem:
        why = f"this is no transformer of the zoo: {problem}"[:300]
        raise WeightsError(why, folder / CONFIG, f"the zoo has {', '.join(TABLE)}")
    return names[0]


def labels_of(config: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """The class names, in the order of the head's outputs."""
    labels = config["id2label"] if isinstance(config["id2label"], dict) else {}
    names = tuple(labels.get(str(place), "") for place in range(len(labels)))
    if len(names) < 2 or not all(isinstance(name, str) and name for name in names):
        why = "the names of two classes or more are not there, or not numbered from 0"
        fix = 'its id2label is like {"0": "airplane", "1": "automobile"}'
        raise WeightsError(why, folder / CONFIG, fix)
    return names


def preprocess_of(folder: Path, image_size: int) -> dict[str, Any]:
    """The fields of a data.views.View; without a file, ViTImageProcessor's defaults."""
    path = folder / (PROCESSOR if (folder / PROCESSOR).exists() else IMAGES)
    entries: Any = read_json(path) if path.exists() else {}
    if path.name == PROCESSOR:
        entries = entries.get("image_processor")
    if not isinstance(entries, dict):
        raise WeightsError("it has no image_processor", path, "get it again, or leave it out")
    config = IMAGE_DEFAULTS | {"size": image_size} | entries
    kind = config.get("image_processor_type", config.get("feature_extractor_type"))
    steps = config["do_resize"] and config["do_rescale"] and not config.get("do_pad")
    resample, factor = config["resample"], config["rescale_factor"]
    numbers = {type(resample), type(factor)} <= {int, float}
    usual = kind in PROCESSORS and steps and numbers and resample in INTERPOLATIONS
    resize, square = side_of(config["size"], path)
    cropped = bool(config.get("do_center_crop"))
    crop = side_of(config.get("crop_size", config["size"]), path)[0] if cropped else resize
    problem = ""
    if not usual or not abs(255 * factor - 1) < 1e-6:  # which NaN is not either
        problem = "other steps than resize (bilinear or bicubic), crop, divide by 255, normalise"
    elif square and crop != resize:
        problem = f"images squeezed to {resize} pixels and then cut to {crop}"
    elif not square and not cropped:
        problem = f"images of {resize} pixels on the shorter side, and not cut to a square"
    elif crop != image_size:
        problem = f"images of {crop} pixels a side, and the network is for {image_size}"
    if problem:
        fix = "prepare images with transformers, and use the model from Python: zoo.load"
        raise WeightsError(f"preprocessing that is not done here: {problem}", path, fix)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if config["do_normalize"]:
        mean, std = config["image_mean"], config["image_std"]
    return {
        "resize": resize, "crop": crop, "interpolation": INTERPOLATIONS[resample],
        "squash": square, "mean": mean, "std": std, "input_size": crop,
    }  # fmt: skip


def side_of(size: Any, path: Path) -> tuple[int, bool]:
    """The target size in pixels, and whether it applies to both sides."""
    if type(size) is int:
        return size, True
    if isinstance(size, dict) and set(size) in ({"height", "width"}, {"shortest_edge"}):
        sides = list(size.values())
        if type(sides[0]) is int and sides[0] == sides[-1]:
            return sides[0], "height" in size
    why = f"this size of images is not understood: {str(size)[:80]}"
    fix = 'it is a number, {"height": 224, "width": 224} or {"shortest_edge": 224}'
    raise WeightsError(why, path, fix)


def write_folder(
    folder: Path, name: str, model: ViT, classes: tuple[str, ...], preprocess: Mapping[str, Any]
) -> None:
    """What transformers opens: from_pretrained(folder), pipeline("image-classification", folder).

    `preprocess` is a data.views.View's fields. The weights are written last, so that an incomplete
    folder has none.
    """
    side, native = preprocess["crop"], model.stem.image_size
    if side != native:
        why = f"images are shown with {side} pixels a side, and the network is for {native}"
        fix = "transformers would refuse them: write a .safetensors file instead"
        raise WeightsError(why, folder, fix)
    square = {"height": side, "width": side}
    resample = {name: number for number, name in INTERPOLATIONS.items()}
    config = dict(zip(SIZES, TABLE[name], strict=False)) | {
        "architectures": ["ViTForImageClassification"], "model_type": "vit",
        "hidden_act": "gelu", "layer_norm_eps": model.norm.eps, "qkv_bias": True,
        "image_size": side, "num_channels": 3,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        "id2label": dict(enumerate(classes)),
        "label2id": {label: place for place, label in enumerate(classes)},
    }  # fmt: skip
    images = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True,
        "size": square if preprocess["squash"] else {"shortest_edge": preprocess["resize"]},
        "resample": resample[preprocess["interpolation"]],
        "do_center_crop": not preprocess["squash"], "crop_size": square,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": list(preprocess["mean"]), "image_std": list(preprocess["std"]),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for path, entries in ((folder / CONFIG, config), (folder / IMAGES, images)):
        write_atomic(path, (json.dumps(entries, indent=2, ensure_ascii=False) + "\n").encode())
    tensors = TRANSFORMERS_VIT.divided(model.state_dict())
    named = {TRANSFORMERS_VIT.from_zoo(key) or key: tensor for key, tensor in tensors.items()}
    write_weights(folder / FILES[0], named, Metadata())
