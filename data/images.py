"""The one way a picture file becomes pixels: training, evaluation and prediction read with it."""

import io
import logging
import math
import stat
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.errors import DataError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # nothing that starts a program
# So a picture takes at most 512 MiB more than torch and torchvision, whatever the file (a test
# measures).
MAX_BYTES = 80_000_000  # of a file; 24 million pixels at three bytes are 72 MB
MAX_PIXELS = 25_000_000  # a camera's 6000 x 4000 is 24 million
MAX_WEBP_PIXELS = 12_500_000  # a phone's 4032 x 3024; each takes Pillow 25 bytes, else 7 to 14
MAX_METADATA = 8_000_000  # bytes before the pixels; in a table Pillow makes up to 40 of one
MAX_EXIF = 1_000_000  # bytes; longer ones are ignored
STRIP = 1_000_000  # pixels that are converted at a time
REPLACE = "copy the file again, convert it to PNG or JPEG, or move it elsewhere"

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its errors go to stderr twice


def load_image(file: str | Path | IO[bytes], name: str | None = None) -> Tensor:
    """Decode a picture fully: uint8 (3, H, W), sRGB, turned upright as its EXIF says.

    In memory a pixel's three colours lie together, as decoders leave them: resizing is faster so.

    What it is goes by its content (FORMATS), never by its name. Of several frames or pages the
    first is taken. See-through pixels are laid over white: `convert("RGB")`, as in many notebooks,
    drops alpha and so shows the colours that were hidden, often black. 16-bit grey is scaled to 8
    bits, where `convert("RGB")` would cut nearly all of it to white. ICC profiles are ignored:
    every picture is taken to be sRGB.

    A DataError names the picture (`name`, or else its path) if it cannot be read, is not whole, is
    not one of FORMATS or is too large. Damage that leaves a picture decodable cannot be seen.
    """
    if name is None:
        name = str(getattr(file, "name", "a picture") if hasattr(file, "read") else file)
    name = printable(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is checked below
            pixels, orientation = decode(read_bytes(file, name), name)
    except (DataError, ImportError):
        raise
    except Image.UnidentifiedImageError as error:
        raise DataError(
            f"cannot decode a picture: none of {', '.join(FORMATS)}, or damaged at its start",
            name,
            "convert it to PNG or JPEG, or copy the file again",
        ) from error
    except Image.DecompressionBombError:  # Pillow's own limit, above ours
        too_large(f"far more than {MAX_PIXELS:,} pixels", name)
    except Exception as error:  # decoders raise whatever a damaged byte leads them to
        line = (str(error).splitlines() or [repr(error)])[0]
        line = line.split(".cpp:")[-1].lstrip("0123456789, ")  # torchvision begins with its source
        raise DataError(f"cannot decode a picture: {printable(line)}", name, REPLACE) from error
    # By numpy: torch shares so small a copy out to threads, which can take 20 times as long.
    return torch.from_numpy(np.ascontiguousarray(turn(pixels, orientation))).permute(2, 0, 1)


def printable(text: str) -> str:
    """A path need not be text that can be shown, nor even encoded; an error quotes file content."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def read_bytes(file: str | Path | IO[bytes], name: str) -> bytes:
    try:
        if not isinstance(file, str | Path):
            data = file.read(MAX_BYTES + 1)
        else:
            # Asked before it is opened: opening a pipe would wait for someone to write.
            found = Path(file).stat()
            if not stat.S_ISREG(found.st_mode):
                raise DataError("not a file, so not a picture", name, "name a picture file")
            with Path(file).open("rb") as opened:
                # No more than there is: a buffer of MAX_BYTES costs a tenth of the decoding.
                data = opened.read(min(found.st_size, MAX_BYTES) + 1)
    except DataError:
        raise
    # A path can hold a zero byte (ValueError), and a file in a zip be damaged.
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"cannot read the file: {text}", name, "check the path, or copy the file again"
        ) from error
    if not data:
        raise DataError("the file is empty", name, REPLACE)
    if len(data) > MAX_BYTES:
        too_large(f"more than {MAX_BYTES:,} bytes", name)
    return data


class Metered(io.BytesIO):
    """A file from which only so many more bytes can be read."""

    left: float = math.inf

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.left -= len(data)
        if self.left < 0:
            raise ValueError(f"more than {MAX_METADATA:,} bytes of metadata")
        return data


def decode(data: bytes, name: str) -> tuple[np.ndarray, int]:
    """The pixels as they are stored, uint8 (H, W, 3), and how they lie (1 to 8, as in EXIF)."""
    # A meter costs time, and a WEBP (RIFF) Pillow reads at once.
    metered = len(data) > MAX_METADATA and not data.startswith(b"RIFF")
    file = Metered(data) if metered else io.BytesIO(data)
    if isinstance(file, Metered):
        file.left = MAX_METADATA
    with Image.open(file, formats=FORMATS) as picture:
        check_size(picture, name)
        if picture.format == "TIFF":
            exif = picture.getexif()
            for table in (0x8769, 0x8825, 0xA005):  # Exif, GPS: load() would unpack them all
                exif.pop(table, None)
        if isinstance(file, Metered):
            file.left = math.inf
        # Only the kind decides who decodes, so the same file always ends the same.
        if picture.format not in ("JPEG", "MPO") or picture.mode not in ("L", "RGB"):
            picture.load()  # turns a TIFF, whose own tag it is, and reads what follows the pixels
            return to_rgb(picture), read_orientation(picture)
        orientation = read_orientation(picture)
    # The same pixels as Pillow's, 1.4 times as fast.
    from torchvision.io import ImageReadMode, decode_jpeg  # slow to import, so only here

    pixels = decode_jpeg(torch.frombuffer(data, dtype=torch.uint8), ImageReadMode.RGB)
    return pixels.permute(1, 2, 0).numpy(), orientation


def check_size(picture: Image.Image, name: str) -> None:
    sizes = [picture.size]
    if picture.format == "TIFF":  # whose tiles can be larger than the picture
        tags = picture.tag_v2  # type: ignore[attr-defined]
        sizes.append((tags.get(322, 1), tags.get(323, 1)))
    for width, height in sizes:
        if width < 1 or height < 1:
            raise ValueError(f"it has {width} x {height} pixels")
        if width * height > (MAX_WEBP_PIXELS if picture.format == "WEBP" else MAX_PIXELS):
            too_large(f"{width:,} x {height:,} pixels", name)


def too_large(size: str, name: str) -> NoReturn:
    raise DataError(
        f"a picture is too large: {size}; up to {MAX_PIXELS:,} pixels "
        f"({MAX_WEBP_PIXELS:,} in a WEBP) and {MAX_BYTES:,} bytes are read",
        name,
        "scale the picture down, or cut a part out",
    )


def read_orientation(picture: Image.Image) -> int:
    """How the picture lies by its EXIF (1 to 8); 1, upright, where that cannot be read."""
    if len(picture.info.get("exif", b"")) > MAX_EXIF:
        return 1
    try:
        return int(picture.getexif().get(0x0112, 1))
    except Exception:  # as from any decoder, but EXIF is beside the pixels, and often broken
        return 1


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, 3) as stored -> upright, (W, H, 3) if that is a quarter turn; a view."""
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    return np.flip(pixels, flips)


def to_rgb(picture: Image.Image) -> np.ndarray:
    """A loaded picture of any mode -> uint8 (H, W, 3), some rows at a time to save memory."""
    width, height = picture.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        strip = picture.crop((0, top, width, min(top + rows, height)))
        if picture.mode.startswith("I"):
            grey = grey_to_8_bits(strip, getattr(picture, "tag_v2", {}))
            pixels[top : top + rows] = grey[:, :, None]
        else:
            pixels[top : top + rows] = over_white(strip)
    return pixels


def over_white(strip: Image.Image) -> np.ndarray:
    """Any mode of 8 bits -> uint8 (h, W, 3), what is transparent laid over white."""
    if strip.mode == "F":
        raise ValueError("its pixels are floats, whose black and white nobody knows")
    if not strip.has_transparency_data:
        return np.asarray(strip.convert("RGB"))
    if strip.mode == "La":  # grey already multiplied by alpha, which converts to nothing else
        strip = strip.convert("LA")
    rgba = np.asarray(strip.convert("RGBA")).astype(np.uint16)
    color, alpha = rgba[..., :3], rgba[..., 3:]
    return ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def grey_to_8_bits(strip: Image.Image, tags: Mapping[int, Any]) -> np.ndarray:
    """16-bit grey, or 12-bit and inverted grey by a TIFF's `tags` -> uint8 (h, W)."""
    grey = np.asarray(strip).astype(np.int64)
    white = 4095 if tags.get(258) == (12,) else 65535
    if grey.min() < 0 or grey.max() > white:
        raise ValueError(f"its grey values leave 0 to {white}: {grey.min()} to {grey.max()}")
    scaled = (grey * 255 + white // 2) // white
    if tags.get(262) == 0:  # "white is zero", which Pillow sees to in 8 bits only
        scaled = 255 - scaled
    scaled[grey == strip.info.get("transparency", -1)] = 255  # the one see-through grey of a PNG
    return scaled.astype(np.uint8)


def fit_square(image: Tensor, size: int) -> Tensor:
    """uint8 (3, H, W) -> (3, size, size): the short side scaled to `size`, the middle kept."""
    if image.shape[1:] == (size, size):
        return image
    from torchvision.transforms.v2 import functional as transforms  # slow to import, so only here

    return transforms.center_crop(transforms.resize(image, [size], antialias=True), [size, size])
