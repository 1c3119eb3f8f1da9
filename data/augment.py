"""Random crop and flip of a whole batch in one gather, on whatever device the images are.

Equal to torchvision's RandomCrop(size, padding) and RandomHorizontalFlip, picture by picture, once
the offsets are drawn (a test compares all 162 outcomes at padding 4).
Dimension key: N batch, C channels, H W height and width.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad


def crop_flip(images: Tensor, tops: Tensor, lefts: Tensor, flips: Tensor, padding: int) -> Tensor:
    """Pad with zeros, cut (H, W) out at row `tops[i]` and column `lefts[i]`, mirror if `flips[i]`.

    images (N, C, H, W) of any dtype; tops, lefts int64 (N,) in [0, 2 * padding]; flips bool (N,).
    Returns (N, C, H, W), channels last in memory.
    """
    n, _, height, width = images.shape
    device = images.device
    # Channels last, so that one index (picture, row, column) fetches all channels of a pixel.
    padded = pad(images, (padding,) * 4).permute(0, 2, 3, 1).contiguous()  # (N, H+2p, W+2p, C)
    rows = tops[:, None] + torch.arange(height, device=device)  # (N, H)
    columns = torch.arange(width, device=device)
    columns = torch.where(flips[:, None], width - 1 - columns, columns) + lefts[:, None]  # (N, W)
    picture = torch.arange(n, device=device)[:, None, None]
    return padded[picture, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
