"""The transformer with its additions removed, both or one: what the skips of ViT are compared with.

Without them every block replaces each token by a mixture of all, and block by block the tokens
become the same. The networks start with the weights of their residual twins, and have as many,
except where the MLPs are gone.

Paper: Dong et al. 2021, "Attention is Not All You Need: Pure Attention Loses Rank Doubly
Exponentially with Depth" (arXiv 2103.03404), sections 2 and 3.
Dimension key: N batch, L tokens, D width.
Read next: registry.py (zoo.build).
"""

from torch import Tensor

from zoo.vit import EncoderBlock, ViT, vit


class PlainEncoderBlock(EncoderBlock):
    """New since EncoderBlock: neither addition, so `y = mlp(norm(attention(norm(x))))`."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(self.norm1(x))
        return self.mlp(self.norm2(x))


class AttentionSkipOnly(EncoderBlock):
    """New since EncoderBlock: the MLP's addition is gone."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return self.mlp(self.norm2(x))


class MlpSkipOnly(EncoderBlock):
    """New since EncoderBlock: attention's addition is gone."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class AttentionBlock(EncoderBlock):
    """New since EncoderBlock: no MLP, so `y = x + attention(norm(x))`."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float) -> None:
        super().__init__(width, heads, hidden, eps)
        del self.norm2, self.mlp

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(self.norm1(x))


class PlainAttentionBlock(AttentionBlock):
    """New since AttentionBlock: no addition either. Dong et al.'s "pure attention"."""

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.norm1(x))


BLOCKS: dict[str, type[EncoderBlock]] = {
    "plain": PlainEncoderBlock,
    "attention-skip": AttentionSkipOnly,
    "mlp-skip": MlpSkipOnly,
    "no-mlp": AttentionBlock,
    "pure-attention": PlainAttentionBlock,
}


def plainvit(
    name: str,
    num_classes: int | None = None,
    *,
    block: str = "plain",
    image_size: int | None = None,
    eps: float = 1e-6,
    resizing: str = "align-corners",
) -> ViT:
    """vit(), with other blocks: `block` is a key of BLOCKS."""
    kind = BLOCKS[block]
    return vit(name, num_classes, image_size=image_size, eps=eps, resizing=resizing, block=kind)
