"""ResNets and ViTs in the layout of the Hugging Face Hub, downloaded or from a folder.

config.json                the network and the names of its classes (configs.py)
preprocessor_config.json   the preprocessing of images (processors.py); timm's folders have none
model.safetensors          the weights; or pytorch_model.bin, a pickle that is checked like others
*.index.json               instead of one of these: the names of the files (shards) that hold them

Downloads go to the Hub's own cache; HF_HOME and HF_HUB_OFFLINE work as usual.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.errors import WeightsError
from zoo.networks import Network
from zoo.vit import ViT
from zoo.weights.atomic import write_atomic
from zoo.weights.configs import CONFIG, config_of, metadata_of
from zoo.weights.dialects import RESNET_DIALECTS, VIT_DIALECTS
from zoo.weights.files import Metadata, Weights, network_in, read_entries, write_weights
from zoo.weights.processors import IMAGES, PROCESSOR, processor_of, read_json
from zoo.weights.settings import check_settings

PREFIX = ("hf:", "hf-hub:", "hf_hub:")  # the last two are timm's
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"  # appended to one of these names
# In transformers' order; the first that exists is read.
SOURCES = [file + ending for file in WEIGHT_FILES for ending in ("", INDEX)]


def from_hub(source: str) -> Weights:
    """The weights of "hf:OWNER/NAME" or "hf:OWNER/NAME@REVISION", downloaded once; WeightsError."""
    match = re.fullmatch(rf"(?:{'|'.join(PREFIX)})([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", source)
    if not match:
        meant = re.match(r"[\w:-]+//(?:models/)?([\w.-]+/[\w.-]+)", source)
        fix = f"did you mean hf:{meant[1]}?" if meant else "give one like hf:microsoft/resnet-50"
        raise WeightsError("this is not the name of a model on the Hub", source, fix)
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)  # it logs every retry
    try:
        from huggingface_hub import snapshot_download  # slow to import, so only here

        get = partial(snapshot_download, match[1])
        small = [CONFIG, IMAGES, PROCESSOR]
        folder = Path(get(revision=match[2], allow_patterns=small))
        if not has(folder, IMAGES, PROCESSOR) and "architecture" not in read_json(folder / CONFIG):
            for file in (IMAGES, PROCESSOR):
                make_sure_there_is_no(file, match[1], folder.name)
        metadata = metadata_of(folder)  # before a download that may be large
        for file in SOURCES:
            if not has(folder, *SOURCES):
                get(revision=folder.name, allow_patterns=[file])
        if not has(folder, *SOURCES):
            raise FileNotFoundError(f"there is no {' or '.join(WEIGHT_FILES)}")
        if shards := shards_in(folder):
            get(revision=folder.name, allow_patterns=[*shards])
    except WeightsError:
        raise
    except (ImportError, OSError, ValueError) as error:  # HfHubHTTPError is an OSError
        why = f"cannot get {source}: {str(error)[:200] or type(error).__name__}"
        address = f"https://huggingface.co/{match[1]}/tree/main"
        files = f"{CONFIG}, {IMAGES} and {' or '.join(WEIGHT_FILES)}"
        fix = f"download {files} on a machine with network, into one folder, and pass its PATH"
        raise WeightsError(why, address, fix) from error
    finally:
        log.setLevel(level)
    return replace(weights_in(folder), metadata=metadata, source=source)


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
    if not has(folder, *SOURCES) or not has(folder, CONFIG):
        why = f"this is a folder without {CONFIG}, or without {' or '.join(WEIGHT_FILES)}"
        fix = f"give a .pth or .safetensors file, or a folder with {CONFIG} and {WEIGHT_FILES[0]}"
        if inside := sorted(folder.rglob("*.safetensors")):
            fix = f"give a file of weights, such as {inside[0]}"
        raise WeightsError(why, folder, fix)
    metadata = metadata_of(folder)
    return replace(weights_in(folder), metadata=metadata, source=str(folder))


def is_in_hub_folder(file: Path) -> bool:
    """True for a file with the name of a folder's weights that has a config.json beside it."""
    return file.name in SOURCES and has(file.parent, CONFIG)


def source_in(folder: Path) -> Path:
    """The file of weights, or the index of several, that a folder has."""
    return next(folder / name for name in SOURCES if has(folder, name))


def weights_in(folder: Path) -> Weights:
    """The tensors of a folder that has some, from one file or from shards. Raises WeightsError."""
    path, shards = source_in(folder), shards_in(folder)
    if not shards:
        return network_in(read_entries(path), str(path))
    tensors: dict[str, Tensor] = {}
    for name in shards:
        tensors |= read_entries(folder / name)[0]
    return network_in((tensors, Metadata()), str(path))


def shards_in(folder: Path) -> set[str]:
    """The names of the files in a folder's index; none without an index. Raises WeightsError."""
    path = source_in(folder)
    if not path.name.endswith(INDEX):
        return set()
    places = read_json(path).get("weight_map")
    shards = set(map(str, places.values())) if isinstance(places, dict) else set()
    odd = [name for name in shards if not re.fullmatch(r"\w[\w.-]*\.(safetensors|bin)", name)]
    if odd or not shards:
        why = f"its weight_map names no file of weights beside it: {(odd or ['no file'])[0]:.100}"
        raise WeightsError(why, path, "get the index again")
    return shards


def write_folder(
    folder: Path, name: str, model: Network, classes: tuple[str, ...], preprocess: Mapping[str, Any]
) -> None:
    """Write a folder for from_pretrained(folder) or pipeline("image-classification", folder).

    `preprocess` has the fields of a data.views.View. The weights are written last, so an incomplete
    folder has none. Raises WeightsError for networks that transformers does not have, and for
    images of a size that it would not give the network.
    """
    dialects = VIT_DIALECTS if isinstance(model, ViT) else RESNET_DIALECTS
    dialect = dialects["transformers"]
    # config.json states the values of the other two settings.
    required = {k: v for k, v in dialect.requires.items() if k not in ("eps", "stride_in")}
    fix = "write a .safetensors or .pth file, with --to zoo"
    check_settings(model, required, dialect.name, str(folder), fix=fix)
    side = preprocess["crop"]
    native = model.stem.image_size if isinstance(model, ViT) else preprocess["input_size"]
    if side != native:
        why = f"images are prepared with {side} pixels a side, and the network is for {native}"
        fix = "transformers would refuse such images: write a .safetensors file instead"
        raise WeightsError(why, folder, fix)
    folder.mkdir(parents=True, exist_ok=True)
    files = {CONFIG: config_of(name, model, classes), IMAGES: processor_of(preprocess)}
    for file, entries in files.items():
        content = json.dumps(entries, indent=2, ensure_ascii=False) + "\n"
        write_atomic(folder / file, content.encode())
    tensors = dialect.divided(model.state_dict())
    named = {dialect.from_zoo(key) or key: tensor for key, tensor in tensors.items()}
    write_weights(folder / WEIGHT_FILES[0], named, Metadata())
