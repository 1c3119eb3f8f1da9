"""skipzoo: networks with skip connections, to read, to verify and to ablate.

The reading path begins at blocks.py. resnet.TABLE and vit.TABLE list all models; zoo.build is in
registry.py.
"""

from zoo.errors import ModelError, WeightsError
from zoo.fold import for_inference
from zoo.networks import CHOICES
from zoo.registry import (
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
    "export", "for_inference", "list_models", "load", "published", "settings_allowed", "twin",
]  # fmt: skip
