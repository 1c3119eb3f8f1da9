"""Vision transformers in the layout of the Hugging Face Hub, downloaded or from a folder.

config.json                the network's sizes and settings, and the names of its classes
preprocessor_config.json   the preprocessing of images (or processor_config.json, if there is one)
model.safetensors          the weights; or pytorch_model.bin, a pickle that is checked like others

Downloads go to the Hub's own cache; HF_HOME and HF_HUB_OFFLINE work as usual.
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
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # the first that exists

# config.json's names of the first fields of vit.Row, in their order.
SIZES = ("patch_size", "num_hidden_layers", "num_attention_heads", "hidden_size",
         "intermediate_size")  # fmt: skip
# Defaults of ViTConfig and ViTImageProcessor, for entries that a file lacks.
CONFIG_DEFAULTS: dict[str, Any] = {
    "model_type": "", "patch_size": 16, "num_hidden_layers": 12, "num_attention_heads": 12,
    "hidden_size": 768, "intermediate_size": 3072, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    "qkv_bias": True, "image_size": 224, "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "problem_type": None,
}  # fmt: skip
IMAGE_DEFAULTS: dict[str, Any] = {
    "image_processor_type": None, "do_resize": True, "do_center_crop": False, "do_pad": False,
    "do_rescale": True, "do_normalize": True, "resample": 2, "rescale_factor": 1 / 255,
    "image_mean": TRANSFORMERS_VIT.normalize[0], "image_std": TRANSFORMERS_VIT.normalize[1],
}  # fmt: skip
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # PIL's numbers
# Settings that the zoo's networks and preprocessing support.
ALLOWED: dict[str, tuple[object, ...]] = {
    "model_type": ("vit",), "hidden_act": ("gelu",), "qkv_bias": (True,),
    "problem_type": (None, "single_label_classification"),
}  # fmt: skip
ALLOWED_FOR_IMAGES: dict[str, tuple[object, ...]] = {
    "image_processor_type": (None, "ViTImageProcessor", "ViTImageProcessorFast",
                             "ViTImageProcessorPil", "ViTFeatureExtractor"),
    "do_resize": (True,), "do_rescale": (True,), "do_pad": (False, None),
    "resample": tuple(INTERPOLATIONS),
}  # fmt: skip


def from_hub(source: str) -> Weights:
    """The weights of "hf:OWNER/NAME" or "hf:OWNER/NAME@REVISION", downloaded once; WeightsError."""
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", source)
    if not match:
        fix = "give one like hf:nateraw/vit-base-patch16-224-cifar10"
        raise WeightsError("this is not the name of a model on the Hub", source, fix)
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)  # it logs every retry
    try:
        from huggingface_hub import snapshot_download  # slow to import, so only here

        small = [CONFIG, IMAGES, PROCESSOR]
        folder = Path(snapshot_download(match[1], revision=match[2], allow_patterns=small))
        if not has(folder, IMAGES, PROCESSOR):
            for file in (IMAGES, PROCESSOR):
                make_sure_there_is_no(file, match[1], folder.name)
        for file in WEIGHT_FILES:
            if not has(folder, *WEIGHT_FILES):
                snapshot_download(match[1], revision=folder.name, allow_patterns=[file])
        if not has(folder, *WEIGHT_FILES):
            raise FileNotFoundError(f"there is no {' or '.join(WEIGHT_FILES)}")
    except (ImportError, OSError, ValueError) as error:  # HfHubHTTPError is an OSError
        why = f"cannot get {source}: {str(error)[:300] or type(error).__name__}"
        address = f"https://huggingface.co/{match[1]}/tree/main"
        files = f"{CONFIG}, {IMAGES} and {' or '.join(WEIGHT_FILES)}"
        fix = f"download {files} on a machine with network, into one folder, and pass its PATH"
        raise WeightsError(why, address, fix) from error
    finally:
        log.setLevel(level)
    weights = read_hub_folder(folder)
    return Weights(weights.tensors, weights.metadata, source)


def has(folder: Path, *names: str) -> bool:
    """True if the folder has at least one of the files."""
    return any((folder / name).exists() for name in names)


def make_sure_there_is_no(file: str, repository: str, commit: str) -> None:
    """Download `file` if the repository has it; OSError if the Hub cannot say whether it does."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if try_to_load_from_cache(repository, file, revision=commit) is None:
        try:
            hf_hub_download(repository, file, revision=commit)
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):
                raise


def read_hub_folder(folder: Path) -> Weights:
    """Read weights and metadata from a folder in the Hub's layout. Raises WeightsError."""
    file = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if file is None or not (folder / CONFIG).is_file():
        why = f"this is a folder without {CONFIG}, or without {' or '.join(WEIGHT_FILES)}"
        fix = f"give a .pth or .safetensors file, or a folder with {CONFIG} and {WEIGHT_FILES[0]}"
        if inside := sorted(folder.rglob("*.safetensors")):
            fix = f"give a file of weights, such as {inside[0]}"
        raise WeightsError(why, folder, fix)
    config = CONFIG_DEFAULTS | read_json(folder / CONFIG)
    name = name_of(config, folder / CONFIG)
    labels = config["id2label"]
    settings = {"block": "residual", "heads": str(config["num_attention_heads"]),
                "eps": f"{config['layer_norm_eps']:g}",
                "resizing": str(TRANSFORMERS_VIT.resizing)}  # fmt: skip
    classes = tuple(labels[str(place)] for place in range(len(labels)))
    metadata = Metadata(name, settings, classes, preprocess_of(folder, config["image_size"]))
    return Weights(read_weights(file).tensors, metadata, str(folder))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of at most LONGEST_METADATA bytes. Raises WeightsError."""
    try:
        if path.stat().st_size > LONGEST_METADATA:
            raise ValueError(f"it has more than {LONGEST_METADATA:,} bytes")
        return dict(json.loads(path.read_text(encoding="utf-8")).items())
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        why = getattr(error, "strerror", None) or str(error)[:200]
        fix = "get it again, or make it readable"
        raise WeightsError(f"cannot read {path.name}: {why}", path, fix) from error


def name_of(config: Mapping[str, Any], path: Path) -> str:
    """The zoo's name of the network that a config.json describes; WeightsError if it has none."""
    unusual = {key for key, values in ALLOWED.items() if config[key] not in values}
    sizes = tuple(config[size] for size in SIZES)
    name = next((name for name, row in TABLE.items() if row[: len(SIZES)] == sizes), "")
    if not name:
        unusual |= {*SIZES}
    side, labels = config["image_size"], config["id2label"]
    if type(side) is not int or side < 1 or (name and side % TABLE[name].patch_size):
        unusual.add("image_size")
    if type(config["layer_norm_eps"]) is not float:
        unusual.add("layer_norm_eps")
    names = [labels.get(str(i)) for i in range(len(labels))] if isinstance(labels, dict) else []
    if len(names) < 2 or not all(isinstance(label, str) and label for label in names):
        unusual.add("id2label")
    if unusual:
        listed = ", ".join(f"{key}={config[key]!r:.60}" for key in sorted(unusual))
        fix = f"the zoo has {', '.join(TABLE)}, with a name in id2label for each class from 0"
        raise WeightsError(f"this is not a transformer of the zoo: it has {listed}", path, fix)
    return name


def preprocess_of(folder: Path, image_size: int) -> dict[str, Any]:
    """The fields of a data.views.View; without a file, ViTImageProcessor's defaults."""
    path = folder / (PROCESSOR if (folder / PROCESSOR).exists() else IMAGES)
    entries: Any = read_json(path) if path.exists() else {}
    if path.name == PROCESSOR:
        entries = entries.get("image_processor")
    if not isinstance(entries, dict):
        raise WeightsError("it has no image_processor", path, "get it again, or leave it out")
    old_name = {"image_processor_type": entries.get("feature_extractor_type")}
    config = IMAGE_DEFAULTS | {"size": image_size} | old_name | entries
    unusual = {k for k, values in ALLOWED_FOR_IMAGES.items() if config[k] not in values}
    factor = config["rescale_factor"]
    if not isinstance(factor, float) or not abs(255 * factor - 1) < 1e-6:  # true for NaN too
        unusual.add("rescale_factor")
    resize, squash = side_of(config["size"])
    crop = side_of(config.get("crop_size", resize))[0] if config["do_center_crop"] else resize
    is_square = crop == resize if squash else config["do_center_crop"]
    if crop != image_size or not is_square:
        unusual |= {"size", "do_center_crop", "crop_size"}
    if unusual:
        listed = ", ".join(f"{key}={config.get(key)!r:.60}" for key in sorted(unusual))
        why = f"unsupported preprocessing for images of {image_size} pixels: {listed}"
        fix = "prepare images with transformers, and use the model from Python: zoo.load"
        raise WeightsError(why, path, fix)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if config["do_normalize"]:
        mean, std = config["image_mean"], config["image_std"]
    return {
        "resize": resize, "crop": crop, "interpolation": INTERPOLATIONS[config["resample"]],
        "squash": squash, "mean": mean, "std": std, "input_size": crop,
    }  # fmt: skip


def side_of(size: Any) -> tuple[int, bool]:
    """The target size in pixels, and whether it applies to both sides; (0, True) if malformed."""
    match size:
        case int():
            return size, True
        case {"height": int(side), "width": width} if side == width and len(size) == 2:
            return side, True
        case {"shortest_edge": int(side)} if len(size) == 1:
            return side, False
    return 0, True


def write_folder(
    folder: Path, name: str, model: ViT, classes: tuple[str, ...], preprocess: Mapping[str, Any]
) -> None:
    """Write a folder for from_pretrained(folder) or pipeline("image-classification", folder).

    `preprocess` has the fields of a data.views.View. The weights are written last, so an incomplete
    folder has none. Raises WeightsError for images of another size than the network's.
    """
    side, native = preprocess["crop"], model.stem.image_size
    if side != native:
        why = f"images are prepared with {side} pixels a side, and the network is for {native}"
        fix = "transformers would refuse such images: write a .safetensors file instead"
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
    write_weights(folder / WEIGHT_FILES[0], named, Metadata())
