"""A plain ViT has a ViT's blocks without the additions; variants keep one, or drop the MLP.

Without the skip, attention replaces each token by an average over all tokens. After a few blocks
all tokens are nearly the same ("rank collapse": as a matrix, L equal rows have rank 1). These
networks have the same initial weights as their residual twins, and the same number of parameters
unless the MLPs are removed.

Paper: Dong et al. 2021, "Attention is Not All You Need: Pure Attention Loses Rank Doubly
Exponentially with Depth" (arXiv 2103.03404), sections 2 and 3.
Dimension key: N batch, L tokens, D width; x is (N, L, D) everywhere.
Read next: data/batches.py
"""

from torch import Tensor

from zoo.vit import EncoderBlock, ViT, vit

# Compare each forward() with EncoderBlock's: one or both "x +" are missing, or the MLP.


class PlainEncoderBlock(EncoderBlock):
    """As EncoderBlock without both additions: `y = mlp(norm(attention(norm(x))))`."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(self.norm1(x))  # EncoderBlock: x = x + ...
        return self.mlp(self.norm2(x))  # EncoderBlock: return x + ...


class AttentionSkipOnly(EncoderBlock):
    """As EncoderBlock without the addition around the MLP."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return self.mlp(self.norm2(x))  # no addition here


class MlpSkipOnly(EncoderBlock):
    """As EncoderBlock without the addition around attention."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(self.norm1(x))  # no addition here
        return x + self.mlp(self.norm2(x))


class AttentionBlock(EncoderBlock):
    """As EncoderBlock without the MLP: `y = x + attention(norm(x))`."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float) -> None:
        super().__init__(width, heads, hidden, eps)
        del self.norm2, self.mlp  # drawn and dropped, so that what stays starts as in the twin

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(self.norm1(x))  # the first half of EncoderBlock


class PlainAttentionBlock(AttentionBlock):
    """As AttentionBlock without its addition: "pure attention" in Dong et al., section 2."""

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.norm1(x))


# By the names that zoo.build's `block` takes. `make ablation-vit` compares all of them.
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
    """As vit(), with blocks of another kind: `block` is a key of BLOCKS.

    `name` is one of zoo.vit.TABLE: zoo.build("plainvit4") calls plainvit("vit4").
    """
    kind = BLOCKS[block]
    return vit(name, num_classes, image_size=image_size, eps=eps, resizing=resizing, block=kind)
