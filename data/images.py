"""Decodes image files to pixels: training, evaluation and prediction all read images here."""

import contextlib
import io
import logging
import os
import re
import threading
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from data.errors import DataError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # none starts a program
# With these limits, decoding takes at most 512 MiB on top of torch and torchvision (tested).
MAX_BYTES = 80_000_000  # of a file; 24 million pixels at three bytes are 72 MB
MAX_PIXELS = 25_000_000  # a camera's 6000 x 4000 is 24 million
MAX_WEBP_PIXELS = 12_500_000  # a phone's 4032 x 3024; Pillow takes 25 bytes a pixel, not 7-14
MAX_EXIF = 1_000_000  # bytes; longer ones are ignored
MAX_TEXT = 32_000_000  # bytes of a PNG's text or profile, unpacked; photo editors write over 1 MB
FIX = "check the path, shrink a large image, copy the file again, or convert it to PNG or JPEG"

ONE_THREAD = threading.Lock()  # see silence

# How files of FORMATS start. TIFF stands apart: camera raw files start like it.
STARTS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM.{4}\0{4}|RIFF.{4}WEBP|P[1-6]\s+(#|\d+\s+\d+\s)",
    re.DOTALL,
)
TIFF = re.compile(rb"II[*+]\0|MM\0[*+]")
KINDS = tomllib.loads(Path(__file__).with_name("kinds.toml").read_text(encoding="utf-8"))
# Other kinds of files that are found among images: how they start, their kind, and what to do.
OTHERS = [(start.encode(), kind, fix) for start, kind, fix in KINDS["files"]]

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else Pillow's errors are printed twice
PngImagePlugin.MAX_TEXT_CHUNK = MAX_TEXT  # its own 1 MB would refuse the whole image


def as_image(given: object) -> Tensor:
    """An image in any form -> uint8 (3, H, W), with the pixels that load_image gives for its file.

    `given`: a path, bytes, an open binary file, a PIL image, a uint8 array (H, W, 3) or (H, W), or
    a uint8 tensor (3, H, W). Raises DataError for anything else.
    """
    if isinstance(given, np.ndarray | Tensor):
        pixels = array_pixels(given)
        return tensor_of(pixels if pixels.flags.writeable else pixels.copy())
    if isinstance(given, str | os.PathLike):
        return load_image(Path(os.fsdecode(given)), os.fsdecode(given))
    if isinstance(given, bytes | bytearray | memoryview):
        return load_image(io.BytesIO(given), f"{len(given):,} bytes")
    if isinstance(given, Image.Image) and given.format is None and given.mode[0] in "IF":
        what = f"not an image: PIL's mode {given.mode} does not tell which value is white"
        fix = "give (255 / white * numpy.asarray(x)).round().astype('uint8'); white: 1, 255, 65535"
        raise DataError(what, "the argument of predict", fix)
    if isinstance(given, Image.Image) or hasattr(given, "read"):
        return load_image(given)  # type: ignore[arg-type]  # a file
    raise DataError(
        f"not an image: {type(given).__name__}",
        "the argument of predict",
        "give one path, bytes, open binary file, PIL image, uint8 array (H, W, 3) or uint8 tensor "
        "(3, H, W); several: [predict(model, x) for x in images]",
    )


def load_image(file: str | Path | IO[bytes] | Image.Image, name: str | None = None) -> Tensor:
    """Decode an image fully: uint8 (3, H, W), sRGB, rotated as its EXIF orientation says.

    The three colours of a pixel are adjacent in memory, as decoders leave them: resizing is faster.

    The format is recognised by content (FORMATS), never by name. Only the first frame or page is
    read. Transparent pixels are composited onto white: `convert("RGB")` would drop alpha
    and show the hidden colours, often black. 16-bit grey is scaled to 8 bits, where
    `convert("RGB")` would clip nearly all of it to white. ICC profiles are ignored: every image is
    assumed to be sRGB.

    Raises DataError, with the image's `name` (default: its path), if it cannot be read, is
    truncated, is not one of FORMATS or is too large. Damage that still decodes is not detected.
    """
    if name is None:
        is_path = isinstance(file, str | Path)
        name = str(file if is_path else getattr(file, "name", f"an image ({type(file).__name__})"))
    data = b""
    try:
        with silence():  # limits and damage are checked here
            if isinstance(file, Image.Image):
                pixels = pixels_of(file)
            else:
                data = read_limited(file)
                with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                    pixels = pixels_of(image)
    except Exception as error:  # damaged bytes make decoders raise exceptions of any type
        why, fix = other_kind(data) or (reason(error), FIX)
        if isinstance(error, FileNotFoundError):
            fix = "check the path"
        if re.match(r"https?:/", name):
            fix = "download it first: a file is needed, not an address"
        raise DataError(f"cannot decode an image: {why}", name, fix) from error
    return tensor_of(pixels)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Inside, there are no warnings. One thread at a time: warnings belong to the process."""
    with ONE_THREAD, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def tensor_of(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> (3, H, W)."""
    # NumPy copies if it has to: torch would start threads, up to 20 times as slow for few pixels.
    pixels = np.ascontiguousarray(pixels)
    with silence():  # Pillow's pixels are read-only, and nobody writes to them
        return torch.from_numpy(pixels).permute(2, 0, 1)


def array_pixels(given: np.ndarray | Tensor) -> np.ndarray:
    """An array (H, W, 3) or (H, W), or a tensor (3, H, W), of uint8 -> (H, W, 3). Or DataError."""
    shape, dtype = tuple(given.shape), str(given.dtype).removeprefix("torch.")
    is_tensor = isinstance(given, Tensor)
    cast = ".to(torch.uint8)" if is_tensor else ".astype('uint8')"
    dimensions, colors = ((3,), shape[:1]) if is_tensor else ((2, 3), shape[2:] or (3,))
    fix = ""
    if dtype != "uint8":
        fix = (f"if its values are 0 to 1, give (255 * x).round(){cast}; if they are 0 to 255, "
               f"x.round(){cast}; undo a normalization first")  # fmt: skip
    elif shape[:1] == shape[2:] == (3,):
        fix = "colors may come first or last: give PIL.Image.fromarray(a), where a is (H, W, 3)"
    elif 0 in shape or len(shape) not in dimensions or colors != (3,):
        fix = ("give one image: x[0] of a batch; colors first in a tensor, x.permute(2, 0, 1), "
               "last in an array, x.transpose(1, 2, 0); gray as x.expand(3, -1, -1); with alpha, "
               "PIL.Image.fromarray(a), where a is (H, W, 4)")  # fmt: skip
    if fix:
        what = f"not an image: a {'tensor' if is_tensor else 'NumPy array'} of {dtype} {shape}"
        where = "needed: a uint8 array (H, W, 3) or (H, W), or a uint8 tensor (3, H, W)"
        raise DataError(what, where, fix)
    if isinstance(given, Tensor):
        return given.permute(1, 2, 0).cpu().numpy()
    # asarray: a matrix cannot have three axes.
    return given if given.ndim == 3 else np.repeat(np.asarray(given)[:, :, None], 3, axis=2)


def starts_as_image(start: bytes, name: str) -> bool:
    """True if a file starts as one of FORMATS does; as TIFF does, only if `name` has no dot."""
    maybe_raw = "." in name.rpartition("/")[2]
    return bool(STARTS.match(start) or (not maybe_raw and TIFF.match(start)))


def other_kind(data: bytes) -> tuple[str, str] | None:
    """The kind of a file that is one of OTHERS, and what to do; None if it is none of them."""
    found = (row[1:] for row in OTHERS if re.match(row[0], data[:64], re.DOTALL | re.IGNORECASE))
    return next(found, None)


def reason(error: Exception) -> str:
    """Why an image cannot be decoded, in one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return f"none of {', '.join(FORMATS)}, or damaged at the start"
    if isinstance(error, MemoryError):
        return "too little memory is free"
    line = str(getattr(error, "strerror", None) or error).partition("\n")[0] or repr(error)
    return line[:200]


def read_limited(file: str | Path | IO[bytes]) -> bytes:
    """All bytes of a file. Raises ValueError if there are none or more than MAX_BYTES."""
    if isinstance(file, str | Path):
        path = Path(file)
        size = path.stat().st_size
        if not path.is_file():  # opening a pipe would wait for a writer
            raise ValueError("it is not a file")
        with path.open("rb") as opened:
            # The file's own size: allocating MAX_BYTES would take a tenth of the decoding time.
            data = opened.read(min(size, MAX_BYTES) + 1)
    elif hasattr(file, "encoding"):
        raise ValueError("it is opened as text: open it with mode 'rb'")
    else:
        data = file.read(MAX_BYTES + 1)
    if not data:
        raise ValueError("the file is empty, or was read to its end before")
    if len(data) > MAX_BYTES:
        raise ValueError(f"it is too large: more than {MAX_BYTES:,} bytes")
    return data


def pixels_of(image: Image.Image) -> np.ndarray:
    """The upright pixels of a Pillow image, uint8 (H, W, 3)."""
    check_size(image)
    image.load()  # rotates a TIFF, and reads the metadata after the pixels
    return upright(to_rgb(image), image)


def check_size(image: Image.Image) -> None:
    """Raise ValueError for no or too many pixels. The only such check, before any is decoded."""
    tags = getattr(image, "tag_v2", {})  # the tiles of a TIFF can be larger than the image
    most = MAX_WEBP_PIXELS if image.format == "WEBP" else MAX_PIXELS
    for width, height in (image.size, (tags.get(322, 1), tags.get(323, 1))):
        if min(width, height) < 1 or width * height > most:
            raise ValueError(
                f"it is too large or empty: {width} x {height} pixels (limit {most:,})"
            )


def upright(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """A view of pixels (H, W, 3), rotated as EXIF says; as stored if EXIF cannot be read.

    Pillow's exif_transpose would copy the image, and change one that is given.
    """
    orientation = 1
    with contextlib.suppress(Exception):  # of any type: broken EXIF does not spoil the pixels
        if len(image.info.get("exif", b"")) <= MAX_EXIF:
            orientation = int(image.getexif().get(0x0112, 1))
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    axes = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return np.flip(pixels, axes)


def to_rgb(image: Image.Image) -> np.ndarray:
    """A loaded image of any mode -> uint8 (H, W, 3), transparent pixels composited onto white."""
    if image.mode.startswith("I"):
        return grey_to_8_bits(image)
    if image.mode == "F":
        raise ValueError("its pixels are floats, whose black and white are unknown")
    if not image.has_transparency_data:
        # convert() would copy an image that is RGB already.
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    if image.mode == "La":  # premultiplied by alpha; Pillow converts it to LA only
        image = image.convert("LA")
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return np.asarray(white)


def grey_to_8_bits(image: Image.Image) -> np.ndarray:
    """16-bit grey, or a TIFF's 12-bit or inverted grey, -> uint8 (H, W, 3)."""
    tags = getattr(image, "tag_v2", {})
    grey = np.asarray(image)
    white = 4095 if tags.get(258) == (12,) else 65535
    if grey.min() < 0 or grey.max() > white:
        raise ValueError(f"its grey values are not in 0 to {white}: {grey.min()} to {grey.max()}")
    scaled = grey.astype(np.uint32)
    scaled *= 255  # in place: a temporary copy of 25 million values takes 100 MB
    scaled += white // 2
    scaled //= white
    if tags.get(262) == 0:  # "white is zero", which Pillow inverts in 8 bits only
        np.subtract(255, scaled, out=scaled)
    scaled[grey == image.info.get("transparency", -1)] = 255  # a PNG's one transparent grey
    return np.repeat(scaled.astype(np.uint8)[:, :, None], 3, axis=2)
