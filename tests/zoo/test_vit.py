"""Our ViTs equal timm's to the last bit, and torchvision's and transformers' up to rounding.

The latter two compute the same sums in another order. So they are compared in fp64 too, where
rounding is at most 1e-13 of a value, far below the effect of any bug in the gallery.
"""

from functools import partial

import pytest
import torch
from conftest import held, shaken, vit_pair
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.models import get_model_weights

import zoo
from experiments.proof.checks import compare_blocks, seeded_init, shake
from experiments.proof.oracles import LIBRARIES, VIT_ORACLES
from zoo.plainvit import BLOCKS
from zoo.positions import RESIZINGS
from zoo.vit import TABLE, Attention, EncoderBlock

TORCHVISION = VIT_ORACLES["torchvision"]

DTYPES = (torch.float32, torch.float64)

ROUNDS = [library for library in LIBRARIES if VIT_ORACLES[library].rounding]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["vit1", "vit2", "vit12"])
def test_every_block_is_theirs(name, library):
    """Activations in eval and train mode, gradients, and the key map both ways."""
    ours, theirs = vit_pair(name, library)
    oracle = VIT_ORACLES[library]
    exported = zoo.export(ours, library)
    wanted = {oracle.in_files(key): value for key, value in theirs.state_dict().items()}
    assert exported.keys() == wanted.keys()
    assert held(wanted, exported)
    for dtype in DTYPES:
        blocks = compare_blocks(ours, theirs, oracle, dtype)
        assert [block.ours for block in blocks if not block.overall.equal] == []
        assert len(blocks) == int(name[3:]) + 3  # stem, norm and head
        largest = max(block.overall.largest for block in blocks)
        assert largest == 0 if library == "timm" else dtype == DTYPES[0] or largest < 1e-13


@pytest.mark.torchvision_order
@pytest.mark.parametrize("name", ["vit1", "vit2", "vit12", "vit_b_16"])
def test_seeded_alike_training_starts_from_torchvisions_weights(name):
    ours, theirs = partial(zoo.build, name, 1000), partial(TORCHVISION.build, name, 1000)
    assert seeded_init(ours, theirs, TORCHVISION) == ""


def test_training_with_adamw_gives_timms_weights():
    ours, theirs = vit_pair("vit2", "timm")
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([3, 999, 0, 7])
    for model in (ours, theirs):
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
        for _ in range(2):
            optimizer.zero_grad()
            cross_entropy(model.train()(images), labels).backward()
            optimizer.step()
    assert held(theirs.state_dict(), zoo.export(ours, "timm"))


def test_torchvisions_fused_attention_differs_by_rounding_alone():
    """torchvision uses it in eval mode without gradients, so the checks never run in that mode."""
    ours, theirs = (model.double().eval() for model in vit_pair("vit2", "torchvision"))
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-11, atol=1e-13)


# --- would differences be noticed? ---


def other_eps(model):
    model.norm.eps = 1e-6 if model.norm.eps == 1e-12 else 1e-12


def one_weight(model):
    model.blocks[0].attention.qkv.weight.data[7, 5] += 1e-6


def one_position(model):
    model.stem.position.data[0, 9, 3] += 1e-6


def no_gradient(model):
    model.blocks[1].attention.register_forward_hook(lambda module, inputs, out: out.detach())


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("spoil", "first"),
    [(other_eps, "norm"), (one_weight, "blocks.0"), (one_position, "stem"), (no_gradient, None)],
)
def test_differences_are_noticed_and_where_they_start(spoil, first, library):
    ours, theirs = vit_pair("vit2", library)
    spoil(ours)
    blocks = compare_blocks(ours, theirs, VIT_ORACLES[library])
    different = [block.ours for block in blocks if not block.evaluation.equal]
    assert (different[0] if different else None) == first
    assert any(not block.gradients.equal for block in blocks)


@pytest.mark.parametrize("library", ROUNDS)
def test_in_fp64_alone_no_eps_hides_in_the_rounding(library):
    """Why the checks use fp64: in fp32 no forward pass shows the last norm's other eps."""
    for dtype in DTYPES:
        ours, theirs = vit_pair("vit2", library)
        other_eps(ours)
        blocks = compare_blocks(ours, theirs, VIT_ORACLES[library], dtype)
        hides = all(block.evaluation.equal for block in blocks)
        assert hides == (dtype == torch.float32)


# --- parts ---


def counted(name: str, **settings) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in zoo.build(name, **settings).parameters())


@pytest.mark.parametrize("name", [name for name in TABLE if name.startswith("vit_")])
def test_parameters_are_those_that_torchvision_publishes(name):
    """For every set of weights, including those for 384 and 512 pixels."""
    sizes = set()
    for weights in get_model_weights(name):
        size = weights.transforms().crop_size[0]
        assert counted(name, image_size=size) == weights.meta["num_params"]
        sizes.add(size)
    assert len(sizes) == (1 if name == "vit_b_32" else 2)
    assert counted(f"plain{name}") == counted(name)


ADDITIONS = {  # a (of attention) and b (of the MLP) in the formula below; None: there is no MLP
    "residual": (1, 1), "plain": (0, 0), "attention-skip": (1, 0), "mlp-skip": (0, 1),
    "no-mlp": (1, None), "pure-attention": (0, None),
}  # fmt: skip


@pytest.mark.parametrize("block", ADDITIONS)
def test_a_block_is_its_formula(block):
    """`x = a*x + attention(norm(x))`, then `b*x + mlp(norm(x))`, with a and b zero or one."""
    name, settings = ("vit2", {}) if block == "residual" else ("plainvit2", {"block": block})
    model = shaken(name, **settings)
    x = torch.randn(2, 65, 64)
    layer = model.blocks[1]
    a, b = ADDITIONS[block]
    parts = ["norm1", "attention", "norm2", "mlp"]
    assert [name for name, _ in layer.named_children()] == parts[: 2 if b is None else 4]
    with torch.no_grad():
        wanted = a * x + layer.attention(layer.norm1(x))
        if b is not None:
            wanted = b * wanted + layer.mlp(layer.norm2(wanted))
        assert torch.equal(layer(x), wanted)


@pytest.mark.parametrize("heads", [1, 4, 16])
def test_attention_written_out_is_the_fused_one(heads):
    attention = Attention(64, heads).double()
    shake(attention)
    x = torch.randn(2, 17, 64, dtype=torch.float64)
    out, weights = attention.with_weights(x)
    torch.testing.assert_close(out, attention(x), rtol=1e-12, atol=1e-14)
    assert weights.shape == (2, heads, 17, 17)
    torch.testing.assert_close(weights.sum(3), torch.ones_like(weights[..., 0]))


def test_the_head_starts_at_zero_and_the_class_token_too():
    model = zoo.build("vit2")
    assert not model.head.weight.any()
    assert not model.stem.class_token.any()
    assert not model(torch.randn(1, 3, 32, 32)).any()
    assert model.stem.position.std().item() == pytest.approx(0.02, rel=0.05)


def test_tokens_are_the_class_and_then_the_patches_row_by_row():
    stem = shaken("vit2").stem
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = stem(images)
        assert tokens.shape == (2, 65, 64)
        assert torch.equal(tokens[1, 0], stem.class_token[0, 0] + stem.position[0, 0])
        patch = stem.conv(images[:, :, 8:12, 20:24])[1, :, 0, 0]  # the third row, sixth column
        torch.testing.assert_close(tokens[1, 1 + 2 * 8 + 5], patch + stem.position[0, 22])


@pytest.mark.parametrize("size", [(33, 32), (32, 31), (30, 30), (34, 36), (3, 3)])
def test_images_that_do_not_divide_are_refused(size):
    for name in ("vit1", "plainvit1"):
        with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} pixels are no whole number"):
            zoo.build(name)(torch.randn(1, 3, *size))


@given(
    depth=st.sampled_from([1, 2, 4]), batch=st.integers(1, 3), rows=st.integers(1, 9),
    columns=st.integers(1, 9), classes=st.integers(1, 12), resizing=st.sampled_from([*RESIZINGS]),
    plain=st.booleans(),
)  # fmt: skip
def test_shapes_of_transformers(depth, batch, rows, columns, classes, resizing, plain):
    """For images of any size that the patch size divides."""
    name = f"{'plain' * plain}vit{depth}"
    model = zoo.build(name, classes, resizing=resizing, image_size=20).eval()
    images = torch.randn(batch, 3, 4 * rows, 4 * columns)
    x = model.stem(images)
    assert x.shape == (batch, 1 + rows * columns, 64)
    assert model.blocks(x).shape == x.shape
    assert model.features(images).shape == (batch, 64)
    assert model(images).shape == (batch, classes)


@given(seed=st.integers(0, 99), heads=st.sampled_from([1, 2, 8]), train=st.booleans())
def test_a_transformer_block_without_f_is_the_identity_and_so_is_its_gradient(seed, heads, train):
    """Nothing is applied to the sum."""
    torch.manual_seed(seed)
    block = EncoderBlock(16, heads, 32, 1e-6).train(train)
    for linear in (block.attention.proj, block.mlp.fc2):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    x = torch.randn(2, 5, 16, requires_grad=True)
    upstream = torch.randn(2, 5, 16)
    out = block(x)
    assert torch.equal(out, x)
    out.backward(upstream)
    assert torch.equal(x.grad, upstream)


@given(seed=st.integers(0, 99), block=st.sampled_from(["residual", *BLOCKS]))
def test_without_positions_the_order_of_the_patches_does_not_matter(seed, block):
    torch.manual_seed(seed)
    make = ({"residual": EncoderBlock} | BLOCKS)[block]
    layer = make(16, 4, 32, 1e-6).double()
    shake(layer, seed)
    x, order = torch.randn(2, 7, 16, dtype=torch.float64), torch.randperm(7)
    torch.testing.assert_close(layer(x)[:, order], layer(x[:, order]))
