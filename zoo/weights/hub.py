"""Vision transformers in the layout of the Hugging Face Hub, from there or from a folder.

config.json                what the network is, and the names of its classes
preprocessor_config.json   how pictures are shown to it (processor_config.json, where there is one)
model.safetensors          its weights, or pytorch_model.bin, a pickle that is read like any other

Downloads lie in the Hub's own cache: HF_HOME and HF_HUB_OFFLINE mean what they mean there.
"""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from zoo.errors import WeightsError
from zoo.vit import TABLE, ViT
from zoo.weights.atomic import write_atomic
from zoo.weights.dialects import TRANSFORMERS_VIT
from zoo.weights.files import MOST_SAID, Metadata, Weights, read_weights, write_weights

PREFIX = "hf:"
CONFIG, PICTURES, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
FILES = ("model.safetensors", "pytorch_model.bin")  # the first that is there

# ViTConfig's and ViTImageProcessor's own, for files that leave something out.
CONFIG_DEFAULTS: dict[str, Any] = {
    "model_type": "", "patch_size": 16, "num_hidden_layers": 12, "num_attention_heads": 12,
    "hidden_size": 768, "intermediate_size": 3072, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    "qkv_bias": True, "image_size": 224, "num_channels": 3,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
}  # fmt: skip
# Whose preprocessing is resize, crop, divide, normalise, with the defaults that preprocess_of has.
PROCESSORS = (None, "ViTImageProcessor", "ViTImageProcessorFast", "ViTImageProcessorPil",
              "ViTFeatureExtractor")  # fmt: skip
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # PIL's numbers


def from_hub(name: str) -> Weights:
    """The weights of "hf:OWNER/NAME" or "hf:OWNER/NAME@REVISION", downloaded once."""
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name)
    if not match:
        raise WeightsError(
            "this is not the name of a model on the Hub",
            name,
            "give one like hf:nateraw/vit-base-patch16-224-cifar10",
        )
    repository, revision = match[1], match[2]
    try:
        from huggingface_hub import (  # slow to import, so only here
            _CACHED_NO_EXIST,
            errors,
            hf_hub_download,
            try_to_load_from_cache,
        )
    except ImportError as error:
        raise WeightsError(
            f"huggingface_hub, which downloads from the Hub, cannot be imported: {error}",
            name,
            f"pip install huggingface_hub; or {by_hand(repository)}",
        ) from error

    def get(file: str) -> Path | None:
        known = try_to_load_from_cache(repository, file, revision=revision)
        if file != CONFIG and known is _CACHED_NO_EXIST:
            return None  # in the commit that CONFIG is of; offline it could not be asked again
        try:
            return Path(hf_hub_download(repository, file, revision=revision))
        except errors.LocalEntryNotFoundError:
            raise  # it cannot be asked; a kind of EntryNotFoundError
        except errors.EntryNotFoundError:
            return None

    said = logging.getLogger("huggingface_hub")
    level = said.level
    said.setLevel(logging.ERROR)  # it tries six times, and says so each time
    try:
        with tqdm(desc=f"asking {address(repository)}", bar_format="{desc}", leave=False,
                  disable=None):  # fmt: skip
            config = get(CONFIG)
        get(PICTURES)
        get(PROCESSOR)
        found = any(get(file) for file in FILES)
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise WeightsError(f"cannot get {name}: {why}", address(repository), by_hand(repository)) \
            from error  # fmt: skip
    finally:
        said.setLevel(level)
    if config is None or not found:
        raise WeightsError(
            f"the repository has no {CONFIG if config is None else ' or '.join(FILES)}",
            address(repository),
            "choose a repository of a ViTForImageClassification",
        )
    weights = read_folder(config.parent)
    return Weights(weights.tensors, weights.metadata, name)


def address(repository: str) -> str:
    return f"https://huggingface.co/{repository}"


def by_hand(repository: str) -> str:
    return (
        f"fetch {CONFIG}, {PICTURES} and {' or '.join(FILES)} from {address(repository)}/tree/main "
        "where there is a network, put them into one folder, and pass its PATH"
    )


def read_folder(folder: Path) -> Weights:
    """A folder in the Hub's layout: the weights, and what goes with them."""
    if not (folder / CONFIG).is_file():
        raise WeightsError(
            f"this is a folder, and not of the Hub's layout: it has no {CONFIG}",
            folder,
            f"give a .pth or .safetensors file, or a folder with {CONFIG} and {FILES[0]}",
        )
    config = CONFIG_DEFAULTS | read_json(folder / CONFIG)
    file = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if file is None:
        raise WeightsError(
            "the folder has no weights in one file", folder, f"put {' or '.join(FILES)} there"
        )
    metadata = Metadata(
        name_of(config, folder),
        {"block": "residual", "heads": str(config["num_attention_heads"]),
         "eps": f"{config['layer_norm_eps']:g}", "resizing": str(TRANSFORMERS_VIT.resizing)},
        labels_of(config, folder),
        preprocess_of(folder, config["image_size"]),
    )  # fmt: skip
    return Weights(read_weights(file).tensors, metadata, str(folder))


def read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_SAID:
            raise ValueError(f"it has more than {MOST_SAID:,} bytes")
        said = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(said, dict):
            raise ValueError("it holds no entries")
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or str(error)[:200]
        raise WeightsError(
            f"cannot read {path.name}: {why}",
            path,
            "get it again, or make it readable",
        ) from error
    return said


def name_of(config: Mapping[str, Any], folder: Path) -> str:
    """The network of the zoo that a config.json describes."""
    sizes = ("patch_size", "num_hidden_layers", "num_attention_heads", "hidden_size",
             "intermediate_size")  # fmt: skip
    row = tuple(config[size] for size in sizes)
    problem = ""
    if config["model_type"] != "vit":
        problem = f"model_type {config['model_type']!r} is not 'vit'"
    elif config["hidden_act"] != "gelu" or config["qkv_bias"] is not True:
        problem = f"hidden_act={config['hidden_act']!r}, qkv_bias={config['qkv_bias']!r}"
    elif row not in TABLE.values():
        problem = ", ".join(f"{size} {value!r}" for size, value in zip(sizes, row, strict=True))
    elif type(config["layer_norm_eps"]) is not float or type(config["image_size"]) is not int:
        problem = "its layer_norm_eps or image_size is no such number"
    elif config["image_size"] % config["patch_size"]:
        problem = f"images of {config['image_size']} pixels are no whole number of patches"
    elif config.get("problem_type") not in (None, "single_label_classification"):
        problem = f"problem_type {config['problem_type']!r} asks for no one class of several"
    if problem:
        raise WeightsError(
            f"this is no transformer of the zoo: {problem}"[:300],
            folder / CONFIG,
            f"the zoo has {', '.join(TABLE)}",
        )
    return next(name for name, mine in TABLE.items() if mine == row)


def labels_of(config: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """The class names, in the order of the head's outputs."""
    labels = config["id2label"]
    labels = labels if isinstance(labels, dict) else {}
    names = tuple(labels.get(str(place), "") for place in range(len(labels)))
    if len(names) < 2 or not all(isinstance(name, str) and name for name in names):
        raise WeightsError(
            "the names of two classes or more are not there, or not numbered from 0",
            folder / CONFIG,
            'its id2label is like {"0": "airplane", "1": "automobile"}',
        )
    return names


def preprocess_of(folder: Path, image_size: int) -> dict[str, Any]:
    """How pictures are shown, as data.views.View has it; without a file, as ViTImageProcessor."""
    path: Path = folder / PICTURES
    said: Any = {}
    if (folder / PROCESSOR).exists():
        path = folder / PROCESSOR
        said = read_json(path).get("image_processor")
    elif path.exists():
        said = read_json(path)
    if not isinstance(said, dict):
        raise WeightsError("it has no image_processor", path, "get it again, or leave it out")
    kind = said.get("image_processor_type", said.get("feature_extractor_type"))
    size = said.get("size", image_size)
    crop = said.get("crop_size", size) if said.get("do_center_crop") else size
    mean, std = TRANSFORMERS_VIT.normalize
    if said.get("do_normalize", True):
        mean, std = said.get("image_mean", mean), said.get("image_std", std)
    else:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    resample, factor = said.get("resample", 2), said.get("rescale_factor", 1 / 255)
    interpolation = INTERPOLATIONS.get(resample) if is_number(resample) else None
    usual = kind in PROCESSORS and not said.get("do_pad")
    usual &= bool(said.get("do_resize", True) and said.get("do_rescale", True))
    usual &= is_number(factor) and abs(255 * factor - 1) < 1e-6
    if not usual or interpolation is None:
        raise WeightsError(
            "the preprocessing is not ViT's, or has other steps than resize (bilinear or bicubic), "
            "crop, divide by 255, normalise",
            path,
            "prepare pictures with transformers, and use the model from Python: zoo.load",
        )
    resize, square = side_of(size, path)
    crop, _ = side_of(crop, path)
    problem = ""
    if square and crop != resize:
        problem = f"squeezed to {resize} pixels and then cut to {crop}"
    elif not square and not said.get("do_center_crop"):
        problem = f"{resize} pixels on the shorter side, and not cut to a square"
    elif crop != image_size:
        problem = f"{crop} pixels a side, and the network is for {image_size}"
    if problem:
        raise WeightsError(
            f"pictures are {problem}: not done here",
            path,
            "prepare pictures with transformers, and use the model from Python: zoo.load",
        )
    return {
        "resize": resize, "crop": crop, "interpolation": interpolation,
        "squash": square, "mean": mean, "std": std, "input_size": crop,
    }  # fmt: skip


def is_number(value: object) -> bool:
    return type(value) in (int, float)


def side_of(size: Any, path: Path) -> tuple[int, bool]:
    """Pixels of the side that is named, and whether both sides become that long."""
    if type(size) is int:
        return size, True
    if isinstance(size, dict) and set(size) in ({"height", "width"}, {"shortest_edge"}):
        sides = list(size.values())
        if type(sides[0]) is int and sides[0] == sides[-1]:
            return sides[0], "height" in size
    raise WeightsError(
        f"this size of pictures is not understood: {str(size)[:80]}",
        path,
        'it is a number, {"height": 224, "width": 224} or {"shortest_edge": 224}',
    )


def write_folder(
    folder: Path, name: str, model: ViT, classes: tuple[str, ...], preprocess: Mapping[str, Any]
) -> None:
    """What transformers opens: from_pretrained(folder), pipeline("image-classification", folder).

    `preprocess` is a data.views.View's fields. The weights come last, so that half a folder has
    none.
    """
    patch_size, depth, heads, width, hidden = TABLE[name]
    labels = dict(enumerate(classes))
    side = preprocess["crop"]
    if side != model.stem.image_size:
        raise WeightsError(
            f"pictures are shown with {side} pixels a side, and the network is for "
            f"{model.stem.image_size}",
            folder,
            "transformers would refuse them: write a .safetensors file instead",
        )
    size = {"height": side, "width": side} if preprocess["squash"] else {
        "shortest_edge": preprocess["resize"]}  # fmt: skip
    config = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit", "patch_size": patch_size, "num_hidden_layers": depth,
        "num_attention_heads": heads, "hidden_size": width, "intermediate_size": hidden,
        "hidden_act": "gelu", "layer_norm_eps": model.norm.eps, "qkv_bias": True,
        "image_size": side,
        "num_channels": 3, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        "id2label": labels, "label2id": {label: place for place, label in labels.items()},
    }  # fmt: skip
    pictures = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": size,
        "resample": {name: number for number, name in INTERPOLATIONS.items()}[
            preprocess["interpolation"]],
        "do_center_crop": not preprocess["squash"], "crop_size": {"height": side, "width": side},
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": list(preprocess["mean"]), "image_std": list(preprocess["std"]),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for path, said in ((folder / CONFIG, config), (folder / PICTURES, pictures)):
        write_atomic(path, (json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode())
    tensors = TRANSFORMERS_VIT.divided(model.state_dict())
    named = {TRANSFORMERS_VIT.from_zoo(key) or key: tensor for key, tensor in tensors.items()}
    write_weights(folder / FILES[0], named, Metadata())
