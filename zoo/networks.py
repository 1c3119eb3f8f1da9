"""What zoo.build returns, and what everything that loads, trains or compares networks takes.

Both families read alike from outside: `stem`, `features(images)` -> (N, C), `head`.
"""

from zoo.resnet import ResNet
from zoo.vit import ViT

Network = ResNet | ViT
