"""A ViT cuts an image into patches; each block adds attention and an MLP: x = x + F(x), twice.

ViT: vision transformer. As in ResNets, x goes from block to block and each block adds something to
it. F is different: attention mixes the patches, and an MLP works on each patch alone. And no ReLU
follows the addition: between the stem and the last norm, x only changes by additions.

Paper: Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words" (arXiv 2010.11929), section 3.1,
equations 1 to 4, figure 1.
Dimension key: N batch, H W height and width of an image, P side of a patch, L tokens (the patches
and one class token), D width (numbers per token), h heads, K = D/h numbers per token and head.
Deviations from the paper, as in torchvision: no dropout; and the head is one linear layer of zeros
even where all weights are random (in the paper only for fine-tuning, section 3.2).
Read next: zoo/plainvit.py
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from zoo.positions import resize_positions


def count_patches(images: Tensor, side: int) -> tuple[int, int]:
    """Rows and columns of patches of `side` pixels; ValueError unless both are whole numbers."""
    height, width = images.shape[2:]
    # The convolution would ignore a remainder of rows or columns without a word.
    if height % side or width % side:
        raise ValueError(f"images of {height}x{width} pixels are no whole number of patches")
    return height // side, width // side


# torch.fx runs forward() without images to record its calls, so it cannot decide an `if` on sizes.
# It records each of these two functions as one call; their `if` is decided when images come.
torch.fx.wrap("count_patches")
torch.fx.wrap("resize_positions")


class ViTStem(nn.Module):
    """Patches become tokens, and get a class token and positions (equation 1).

    (N, 3, H, W) -> (N, L, D).
    Raises ValueError for images that do not divide into patches. For images of another size than
    `image_size`, the position embeddings are resized: see zoo/positions.py.
    """

    def __init__(self, patch_size: int, width: int, image_size: int, resizing: str) -> None:
        super().__init__()
        self.image_size, self.resizing = image_size, resizing
        # Kernel and stride are one patch: the same linear map of every patch.
        self.conv = nn.Conv2d(3, width, patch_size, stride=patch_size)
        # A learned vector, the same for all images. In the blocks, attention adds to it what it
        # takes from the patches, and at the end the head reads it.
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        length = 1 + (image_size // patch_size) ** 2
        self.position = nn.Parameter(torch.empty(1, length, width).normal_(std=0.02))

    def forward(self, images: Tensor) -> Tensor:
        rows, columns = count_patches(images, self.conv.stride[0])  # H/P, W/P
        x = self.conv(images)  # (N, 3, H, W) -> (N, D, H/P, W/P)
        x = x.flatten(2).transpose(1, 2)  # -> (N, D, L-1) -> (N, L-1, D)
        # Not len(x): torch.jit.trace and torch.export would take it for a constant.
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], 1)  # -> (N, L, D)
        # Attention ignores the order of tokens; this tells it where a patch was.
        return x + resize_positions(self.position, rows, columns, self.resizing)


class Attention(nn.Module):
    """Self-attention: each token becomes a weighted average of values v of all tokens.

    q, k and v are linear maps of x. The D numbers of each are cut into h "heads" of K numbers, and
    each head averages with attention weights of its own: `softmax(q k^T / sqrt(K)) v`. The larger
    the product of token i's query and token j's key, the more token i takes of token j's value. A
    number in q k^T is a sum of K products of random sign, so it grows like sqrt(K). Without the
    division, wide heads would give almost all weight to one token. Softmax is flat there: its
    gradient is almost 0.
    (N, L, D) -> (N, L, D).
    Vaswani et al. 2017 (arXiv 1706.03762), section 3.2.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        # Created before qkv, as in torchvision, so that the same seed gives the same weights.
        self.proj = nn.Linear(width, width)  # mixes the heads
        self.qkv = XavierLinear(width, 3 * width)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        # The formula above in one call: faster, and most versions never store the (L, L) weights.
        # with_weights() below has it written out.
        x = scaled_dot_product_attention(*self.split(x))  # (N, L, D) -> (N, h, L, K)
        return self.proj(x.transpose(1, 2).flatten(2))  # -> (N, L, h, K) -> (N, L, D)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (N, h, L, K)."""
        x = self.qkv(x).unflatten(2, (3, self.heads, -1))  # (N, L, D) -> (N, L, 3, h, K)
        q, k, v = x.permute(2, 0, 3, 1, 4)  # -> (3, N, h, L, K)
        return q, k, v

    def with_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output of forward(), except for rounding, and the attention weights (N, h, L, L).

        Row i of the weights is token i's attention over all tokens; it sums to 1.
        """
        q, k, v = self.split(x)
        weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(3)  # -> (N, h, L, L)
        x = weights @ v  # -> (N, h, L, K)
        return self.proj(x.transpose(1, 2).flatten(2)), weights


class XavierLinear(nn.Linear):
    """q, k and v as one matrix; the bias starts at 0.

    The weights are uniform with variance 2 / (inputs + outputs), as Xavier Glorot and Bengio 2010
    propose: a compromise between outputs and gradients that keep their size from layer to layer.
    nn.Linear.__init__ draws weights by calling reset_parameters(). Overriding it draws them only
    once, as in torchvision; a second draw would shift the random numbers of all later layers.
    """

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)


class MLP(nn.Module):
    """Two linear layers, applied to each token alone. (N, L, D) -> (N, L, D)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        for linear in (self.fc1, self.fc2):  # drawn a second time, as torchvision does here
            nn.init.xavier_uniform_(linear.weight)
            nn.init.normal_(linear.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        # GELU is a smooth ReLU. This is the exact one; some libraries approximate it by tanh.
        return self.fc2(gelu(self.fc1(x)))  # (N, L, D) -> (N, L, hidden) -> (N, L, D)


class EncoderBlock(nn.Module):
    """`x = x + attention(norm(x))`, then `x = x + mlp(norm(x))`. (N, L, D) -> (N, L, D).

    Equations 2 and 3. The norms are inside the branches ("pre-norm"), not on the sum.
    """

    def __init__(self, width: int, heads: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)  # over the D numbers of each token
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))  # information moves between tokens
        return x + self.mlp(self.norm2(x))  # each token alone


class ViT(nn.Module):
    """(N, 3, H, W) images -> (N, num_classes) logits. `make_block()` builds one block."""

    def __init__(
        self,
        stem: ViTStem,
        make_block: Callable[[], nn.Module],
        blocks: int,
        num_classes: int,
        eps: float,
    ) -> None:
        super().__init__()
        width = stem.conv.out_channels  # D
        self.stem = stem
        self.blocks = nn.Sequential(*(make_block() for _ in range(blocks)))
        self.norm = nn.LayerNorm(width, eps)
        self.head = nn.Linear(width, num_classes)
        # After all other layers, as in torchvision: the same seed then gives the same weights.
        # A token's number is a weighted sum of fan_in inputs: with this variance of the weights, it
        # varies about as much as an input. (trunc_normal_ is normal_ here: it redraws only weights
        # above 2 or below -2, and these are far smaller.)
        fan_in = stem.conv.weight[0].numel()  # 3 P P
        nn.init.trunc_normal_(stem.conv.weight, std=math.sqrt(1 / fan_in))
        nn.init.zeros_(self.get_parameter("stem.conv.bias"))  # its type says that it may be None
        # A zero head: at first, all classes are equally likely. Gradients reach the blocks through
        # the head's weights. These are 0 in the first step, so only the head learns in it.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, images: Tensor) -> Tensor:
        """What the head classifies: (N, 3, H, W) -> (N, D)."""
        x = self.blocks(self.stem(images))  # (N, 3, H, W) -> (N, L, D)
        return self.norm(x)[:, 0]  # the class token -> (N, D)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))  # (N, 3, H, W) -> (N, D) -> (N, num_classes)


class Row(NamedTuple):
    """The sizes of a ViT; the last two are defaults of zoo.build."""

    patch_size: int  # pixels a side of a patch
    blocks: int
    heads: int
    width: int  # D, numbers per token
    hidden: int  # width of an MLP's hidden layer
    image_size: int  # pixels a side
    num_classes: int


TABLE = {  # table 1 of the paper, and small ones for CIFAR's images
    "vit_b_16": Row(16, 12, 12, 768, 3072, 224, 1000),
    "vit_b_32": Row(32, 12, 12, 768, 3072, 224, 1000),
    "vit_l_16": Row(16, 24, 16, 1024, 4096, 224, 1000),
    "vit1": Row(4, 1, 4, 64, 256, 32, 10),
    "vit2": Row(4, 2, 4, 64, 256, 32, 10),
    "vit4": Row(4, 4, 4, 64, 256, 32, 10),
    "vit6": Row(4, 6, 4, 64, 256, 32, 10),
    "vit8": Row(4, 8, 4, 64, 256, 32, 10),
    "vit12": Row(4, 12, 4, 64, 256, 32, 10),
}


def vit(
    name: str,
    num_classes: int | None = None,
    *,
    image_size: int | None = None,
    eps: float = 1e-6,
    resizing: str = "align-corners",
    block: type[EncoderBlock] = EncoderBlock,
) -> ViT:
    """The network of a row of TABLE; None takes the row's value.

    `eps` (of the norms) and `resizing` (of the positions: a key of RESIZINGS in zoo/positions.py)
    are torchvision's by default. Weights of other libraries need their own values.
    """
    row = TABLE[name]
    stem = ViTStem(row.patch_size, row.width, image_size or row.image_size, resizing)
    make_block = partial(block, row.width, row.heads, row.hidden, eps)
    return ViT(stem, make_block, row.blocks, num_classes or row.num_classes, eps)
