"""Position embeddings: a table for one image size, resized for others.

The table is learned for a square grid of patches. For another grid, each library resizes it in its
own way: all bicubic, yet differing by more than 1 on unit-variance noise. So weights must be
resized as their own library does.

Paper: Dosovitskiy et al. 2020 (arXiv 2010.11929), section 3.2 "Fine-tuning and higher resolution".
Dimension key: N batch, L tokens, D width, S side of the square grid.
Used by: vit.py, which adds them to the tokens.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

RESIZINGS: dict[str, dict[str, bool]] = {
    "align-corners": {"align_corners": True},  # torchvision
    "antialias": {"antialias": True},  # timm
    "bicubic": {},  # transformers
}


def resize_positions(position: Tensor, rows: int, columns: int, resizing: str) -> Tensor:
    """(1, 1 + S*S, D) -> (1, 1 + rows*columns, D); the class token's embedding is unchanged.

    `resizing` is a key of RESIZINGS. A grid of the right size is returned as it is.
    """
    side = math.isqrt(position.shape[1] - 1)
    if (rows, columns) == (side, side):
        return position
    grid = position[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)  # -> (1, D, S, S)
    # On a CPU, float16 cannot be resized with antialiasing.
    grid = grid.to(torch.promote_types(grid.dtype, torch.float32))
    grid = interpolate(grid, (rows, columns), mode="bicubic", **RESIZINGS[resizing])
    grid = grid.to(position.dtype)
    return torch.cat([position[:, :1], grid.flatten(2).transpose(1, 2)], 1)
