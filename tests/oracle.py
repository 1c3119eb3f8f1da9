"""What parity tests share: torchvision's names for our parts, and a good shake."""

import re

import torch
from torch import nn

RULES = (  # torchvision's name -> ours
    (r"^conv1\.", "stem.conv."),
    (r"^bn1\.", "stem.norm."),
    (r"^layer(\d)", lambda match: f"stages.{int(match[1]) - 1}"),
    (r"\.downsample\.0\.", ".shortcut.conv."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"\.bn(\d)\.", r".norm\1."),
    (r"^fc\.", "head."),
)


def our_name(name: str) -> str:
    for pattern, ours in RULES:
        name = re.sub(pattern, ours, name)
    return name


def renamed(entries) -> dict:
    """A dict, or pairs, with torchvision's names -> a dict with ours."""
    return {our_name(name): value for name, value in dict(entries).items()}


def shake(model: nn.Module, seed: int = 0) -> None:
    """Move every parameter and buffer away from its initial value.

    Fresh norms are 1, 0, 0, 1, and a swapped or forgotten one would not show.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("num_batches_tracked"):
                value += 7
            elif value.dim() == 1:
                value += 0.2 * torch.rand(value.shape, generator=generator).to(value)
            else:
                scale = max(0.1 * value.std().item(), 1e-3)
                value += scale * torch.randn(value.shape, generator=generator).to(value)
