"""Decodes image files to pixels: training, evaluation and prediction all read images here."""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.errors import DataError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # none starts a program
# With these limits, decoding takes at most 512 MiB on top of torch and torchvision (tested).
MAX_BYTES = 80_000_000  # of a file; 24 million pixels at three bytes are 72 MB
MAX_PIXELS = 25_000_000  # a camera's 6000 x 4000 is 24 million
MAX_WEBP_PIXELS = 12_500_000  # a phone's 4032 x 3024; Pillow takes 25 bytes a pixel, not 7-14
MAX_EXIF = 1_000_000  # bytes; longer ones are ignored
FIX = "check the path, shrink a large image, copy the file again, or convert it to PNG or JPEG"

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else Pillow's errors are printed twice


def load_image(file: str | Path | IO[bytes], name: str | None = None) -> Tensor:
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
        name = str(getattr(file, "name", "an image") if hasattr(file, "read") else file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # limits and damage are checked here
            pixels = decode(read_limited(file))
    except ImportError:
        raise
    except Exception as error:  # damaged bytes make decoders raise exceptions of any type
        raise DataError(f"cannot decode an image: {reason(error)}", name, FIX) from error
    # NumPy copies: torch would start threads, which takes up to 20 times as long for few pixels.
    return torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)


def reason(error: Exception) -> str:
    """Why an image cannot be decoded, in one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return f"none of {', '.join(FORMATS)}, or damaged at the start"
    line = str(getattr(error, "strerror", None) or error).partition("\n")[0] or repr(error)
    return line.split(".cpp:")[-1].lstrip("0123456789, ")  # drop torchvision's source file and line


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
    else:
        data = file.read(MAX_BYTES + 1)
    if not data:
        raise ValueError("the file is empty")
    if len(data) > MAX_BYTES:
        raise ValueError(f"it is too large: more than {MAX_BYTES:,} bytes")
    return data


def decode(data: bytes) -> np.ndarray:
    """Decode the bytes of a file to upright pixels, uint8 (H, W, 3)."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_size(image)
        # Format and mode alone choose the decoder, so the same file always gives the same result.
        if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
            # The same pixels as Pillow's, 1.4 times as fast.
            from torchvision.io import ImageReadMode, decode_jpeg  # slow to import

            encoded = torch.frombuffer(data, dtype=torch.uint8)
            pixels = decode_jpeg(encoded, ImageReadMode.RGB).permute(1, 2, 0).numpy()
        else:
            image.load()  # rotates a TIFF, and reads the metadata after the pixels
            pixels = to_rgb(image)
        return upright(pixels, image)


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

    torchvision's apply_exif_orientation misses EXIF that follows XMP, as photo editors write it.
    Pillow's exif_transpose needs the pixels in a Pillow image.
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
