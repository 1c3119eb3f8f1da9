"""skipzoo: networks with skip connections, to be read, proven and ablated.

The reading path begins at blocks.py. Every name is in resnet.TABLE or vit.TABLE; zoo.build is in
registry.py.
"""

from zoo.errors import ModelError, WeightsError
from zoo.registry import (
    CHOICES,
    LARGEST_IMAGE,
    MODELS,
    build,
    check,
    list_models,
    settings_allowed,
    twin,
)
from zoo.weights.load import export, load
from zoo.weights.published import published

__all__ = [
    "CHOICES", "LARGEST_IMAGE", "MODELS", "ModelError", "WeightsError", "build", "check",
    "export", "list_models", "load", "published", "settings_allowed", "twin",
]  # fmt: skip
