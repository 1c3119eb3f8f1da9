"""Wrong vision transformers, which gallery.py lists and examines.

All have the size of vit2, at which each bug shows within a second; none depends on the size.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, unfold

from zoo.vit import MLP, TABLE, Attention, EncoderBlock, ViT, ViTStem

SIZE = "vit2"


def broken_vit(
    block: type[EncoderBlock] = EncoderBlock,
    stem: type[ViTStem] = ViTStem,
    network: type[ViT] = ViT,
    attention: type[Attention] = Attention,
    mlp: type[MLP] = MLP,
    eps: float = 1e-6,
) -> ViT:
    """A ViT of the size of vit2 in which any part can be replaced."""
    row = TABLE[SIZE]
    patches = stem(row.patch_size, row.width, row.image_size, "align-corners")
    make_block = partial(block, row.width, row.heads, row.hidden, eps)
    model = network(patches, make_block, row.blocks, 1000, eps)
    for layer in model.blocks:  # same initial parameters, another forward()
        layer.get_submodule("attention").__class__ = attention
        layer.get_submodule("mlp").__class__ = mlp
    return model


class NoBiasOnQkv(EncoderBlock):
    """Biases that every published file has are missing."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float) -> None:
        super().__init__(width, heads, hidden, eps)
        self.attention.qkv.register_parameter("bias", None)


class NormsAroundThePatches(ViTStem):
    """The first norm removes the differences in brightness and contrast between patches."""

    def __init__(self, patch_size: int, width: int, image_size: int, resizing: str) -> None:
        super().__init__(patch_size, width, image_size, resizing)
        self.norm1 = nn.LayerNorm(3 * patch_size**2)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        side = self.conv.kernel_size
        x = self.norm1(unfold(images, side, stride=side).transpose(1, 2))
        x = self.norm2(linear(x, self.conv.weight.flatten(1), self.conv.bias))
        return torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.position


class PostNorm(EncoderBlock):
    """Norms on the sum, as in Vaswani et al. 2017: every block changes the stream itself."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


class KeysForQueries(Attention):
    """q, k, v are read as k, q, v: the attention matrix is transposed before the softmax."""

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, q, v = super().split(x)
        return q, k, v


class HeadsForK(Attention):
    """K heads of h numbers each, instead of h heads of K."""

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.qkv(x).unflatten(2, (3, -1, self.heads))
        q, k, v = x.permute(2, 0, 3, 1, 4)
        return q, k, v


class TanhGelu(MLP):
    """The approximation that GPT-2 uses, correct to three digits."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x), approximate="tanh"))


class ClassTokenLast(ViTStem):
    """Each patch gets the position embedding of its neighbour."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images).flatten(2).transpose(1, 2)
        return torch.cat([x, self.class_token.expand(len(x), -1, -1)], 1) + self.position


class ReadsTheLastToken(ViT):
    """The head reads the last token: for ClassTokenLast."""

    def features(self, images: Tensor) -> Tensor:
        return self.norm(self.blocks(self.stem(images)))[:, -1]
