"""Random crop and flip of a whole batch in one gather, on the device of the images.

Given the same offsets, each image equals the result of torchvision's RandomCrop(size, padding) and
RandomHorizontalFlip (a test compares all 162 outcomes at padding 4).
Dimension key: N batch, C channels, H W height and width.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad


def crop_flip(images: Tensor, tops: Tensor, lefts: Tensor, flips: Tensor, padding: int) -> Tensor:
    """Pad with zeros, crop (H, W) at row `tops[i]` and column `lefts[i]`, mirror if `flips[i]`.

    images (N, C, H, W) of any dtype; tops, lefts int64 (N,) in [0, 2 * padding]; flips bool (N,).
    """
    n, channels, height, width = images.shape
    device = images.device
    padded = pad(images, (padding,) * 4)  # (N, C, H+2p, W+2p)
    rows = tops[:, None] + torch.arange(height, device=device)  # (N, H)
    columns = torch.arange(width, device=device)
    columns = torch.where(flips[:, None], width - 1 - columns, columns) + lefts[:, None]  # (N, W)
    places = rows[:, :, None] * padded.shape[3] + columns[:, None, :]  # (N, H, W), flat index
    places = places.view(n, 1, height * width).expand(-1, channels, -1)  # the same in every channel
    return padded.flatten(2).gather(2, places).view(images.shape)
