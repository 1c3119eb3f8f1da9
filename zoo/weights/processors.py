"""Image preprocessing in the Hub's files, read as the fields of a data.views.View and written.

transformers has a class of image processors for each family of networks, with its own defaults and
arithmetic; preprocessor_config.json (or processor_config.json) names the class. timm has one
recipe, and stores it in config.json.

Used by: configs.py and hub.py.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import WeightsError
from zoo.weights.dialects import HALF, IMAGENET_MEAN_STD
from zoo.weights.files import LONGEST_METADATA

IMAGES, PROCESSOR = "preprocessor_config.json", "processor_config.json"
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # PIL's numbers
PIL_NUMBERS = {name: number for number, name in INTERPOLATIONS.items()}
MEAN, STD = IMAGENET_MEAN_STD

# Defaults of transformers' classes, for entries that a file lacks: of all, and of each.
COMMON: dict[str, Any] = {
    "do_resize": True, "do_center_crop": False, "do_pad": False, "do_rescale": True,
    "do_normalize": True, "rescale_factor": 1 / 255, "image_mean": HALF[0], "image_std": HALF[1],
    "resample": 2,
}  # fmt: skip
CLASSES = {"ViT": {}, "ConvNext": {"resample": 3, "size": 384, "crop_pct": 224 / 256}}
CLASS_OF = {"vit": "ViT", "resnet": "ConvNext"}  # by type of network, if a file names none
TIMM: dict[str, Any] = {  # timm's defaults
    "input_size": [3, 224, 224], "crop_pct": 0.875, "crop_mode": "center",
    "interpolation": "bicubic", "mean": MEAN, "std": STD,
}  # fmt: skip
# Which values a View can follow.
ALLOWED: dict[str, tuple[object, ...]] = {
    "image_processor_type": tuple(CLASSES), "do_resize": (True,), "do_rescale": (True,),
    "do_pad": (False, None), "resample": tuple(INTERPOLATIONS),
}  # fmt: skip


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


def preprocess_of(folder: Path, kind: str, image_size: int | None) -> dict[str, Any] | None:
    """The preprocessing of a folder of transformers, for a `kind` of CLASS_OF; None without a file.

    `image_size`: the only one that a ViT takes. Raises WeightsError.
    """
    path = folder / (PROCESSOR if (folder / PROCESSOR).exists() else IMAGES)
    if not path.exists():
        return None
    entries: Any = read_json(path)
    if path.name == PROCESSOR:
        entries = entries.get("image_processor")
    if not isinstance(entries, dict):
        raise WeightsError("it has no image_processor", path, "get it again, or leave it out")
    named = entries.get("image_processor_type") or entries.get("feature_extractor_type")
    name = re.sub("(ImageProcessor(Fast|Pil)?|FeatureExtractor)$", "", str(named or CLASS_OF[kind]))
    config = COMMON | {"size": image_size or 224} | CLASSES.get(name, {}) | entries
    if name == "ConvNext":  # it squashes images to sides of 384 and more
        extra = config["do_center_crop"]
        config |= {"size": None} if extra else cropped(config["size"], config["crop_pct"], 384)
    return view_of(config | {"image_processor_type": name}, entries, path, image_size)


def preprocess_of_timm(entries: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The preprocessing in timm's pretrained_cfg (not that of test_input_size). WeightsError."""
    given = TIMM | {key: value for key, value in entries.items() if key in TIMM and value}
    size, share, mode = given["input_size"], given["crop_pct"], given["crop_mode"]
    is_square = isinstance(size, list) and size == [3, *size[-1:] * 2]
    known = mode == "center" or (mode, share) == ("squash", 1)
    least = 1 if mode == "squash" else 2**16  # larger than any side
    steps = cropped(size[-1] if is_square and known else None, share, least)
    resample = PIL_NUMBERS.get(str(given["interpolation"]))
    how = {"resample": resample, "image_mean": given["mean"], "image_std": given["std"]}
    return view_of(COMMON | {"image_processor_type": "ViT"} | how | steps, entries, path)


def cropped(size: Any, share: Any, squashed_from: int) -> dict[str, Any]:
    """ViTImageProcessor's entries for a crop whose sides are a `share` of the resized image's."""
    match size, share:
        case int(side) | {"shortest_edge": int(side)}, _ if side >= squashed_from:
            return {"size": side}
        case int(side) | {"shortest_edge": int(side)}, int() | float() if 0.01 < share <= 1:
            resize = {"shortest_edge": int(side / share)}
            return {"size": resize, "do_center_crop": True, "crop_size": side}
    return {"size": None}


def view_of(config: Any, entries: Any, path: Path, image_size: int | None = None) -> dict[str, Any]:
    """The fields of a View that does what ViTImageProcessor does with `config`.

    Raises WeightsError, with the file's `entries`, for steps that View does not have.
    """
    wrong = {key for key, values in ALLOWED.items() if config[key] not in values}
    factor = config["rescale_factor"]
    if not isinstance(factor, float) or not abs(255 * factor - 1) < 1e-6:  # true for NaN too
        wrong.add("rescale_factor")
    resize, squash = side_of(config["size"])
    crop = side_of(config.get("crop_size", resize))[0] if config["do_center_crop"] else resize
    is_square = crop == resize if squash else config["do_center_crop"]
    if not (is_square and 0 < crop == (image_size or crop)):
        wrong |= {"size", "do_center_crop", "crop_size"}
    if wrong:
        shown = {key: config.get(key) for key in wrong} | entries
        keys = sorted(wrong | shown.keys() & TIMM)
        listed = ", ".join(f"{key}={shown[key]!r:.60}" for key in keys)
        images = f" for images of {image_size} pixels" if image_size else ""
        fix = "prepare images with the library itself, and use the model from Python: zoo.load"
        raise WeightsError(f"unsupported preprocessing{images}: {listed:.220}", path, fix)
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


def processor_of(preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """preprocessor_config.json for the fields of a View, all of which ViTImageProcessor can do."""
    square = {"height": preprocess["crop"], "width": preprocess["crop"]}
    return {
        "image_processor_type": "ViTImageProcessor", "do_resize": True,
        "size": square if preprocess["squash"] else {"shortest_edge": preprocess["resize"]},
        "resample": PIL_NUMBERS[preprocess["interpolation"]],
        "do_center_crop": not preprocess["squash"], "crop_size": square,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": list(preprocess["mean"]), "image_std": list(preprocess["std"]),
    }  # fmt: skip
