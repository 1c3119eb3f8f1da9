"""The one way a picture becomes pixels."""

import warnings
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from data.errors import DataError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # nothing that starts a program


def load_image(file: str | IO[bytes], name: str) -> Tensor:
    """Decode a picture fully, turned as its EXIF says: uint8 (3, H, W). DataError names `name`."""
    try:
        with warnings.catch_warnings(), Image.open(file, formats=FORMATS) as picture:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            upright = ImageOps.exif_transpose(picture)
            pixels = np.array(upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError,
            Image.DecompressionBombWarning) as error:  # fmt: skip
        raise DataError(
            f"cannot decode a picture: {str(error).splitlines()[0] if str(error) else error!r}",
            name,
            "replace or delete the file",
        ) from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def fit_square(image: Tensor, size: int) -> Tensor:
    """uint8 (3, H, W) -> (3, size, size): the short side scaled to `size`, the middle kept."""
    if image.shape[1:] == (size, size):
        return image
    from torchvision.transforms.v2 import functional as transforms  # slow to import, so only here

    return transforms.center_crop(transforms.resize(image, [size], antialias=True), [size, size])
