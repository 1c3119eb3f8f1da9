"""ViT and its plain twins: parameters, equations, other sizes of images, other widths of errors."""

import logging

import pytest
import torch
from torch import nn
from torchvision.models import get_model_weights
from torchvision.models.vision_transformer import interpolate_embeddings

import zoo
from experiments.proof.checks import shake
from experiments.proof.oracles import VIT_ORACLES, logits_of
from zoo.plainvit import BLOCKS
from zoo.positions import RESIZINGS, resize_positions
from zoo.vit import TABLE, Attention

LIBRARY = {"align-corners": "torchvision", "antialias": "timm", "bicubic": "transformers"}


def shaken(name: str, *arguments, **settings) -> nn.Module:
    model = zoo.build(name, *arguments, **settings)
    shake(model)
    return model


def counted(name: str, **settings) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in zoo.build(name, **settings).parameters())


@pytest.mark.parametrize("name", [name for name in TABLE if name.startswith("vit_")])
def test_parameters_are_those_that_torchvision_publishes(name):
    """For every set of weights, those for 384 and 512 pixels too."""
    sizes = set()
    for weights in get_model_weights(name):
        size = weights.transforms().crop_size[0]
        assert counted(name, image_size=size) == weights.meta["num_params"]
        sizes.add(size)
    assert len(sizes) == (1 if name == "vit_b_32" else 2)
    assert counted(f"plain{name}") == counted(name)


def test_a_twin_has_the_same_parameters_and_starts_from_the_same_weights():
    states = []
    for name in ("vit4", "plainvit4"):
        torch.manual_seed(3)
        states.append(zoo.build(name).state_dict())
    residual, plain = states
    assert list(residual) == list(plain)
    assert all(torch.equal(plain[key], value) for key, value in residual.items())
    for block in BLOCKS:
        same = {k: v.shape for k, v in zoo.build("plainvit4", block=block).state_dict().items()}
        without = [key for key in residual if key not in same]
        assert same.items() <= {k: v.shape for k, v in residual.items()}.items()
        gone = [k for k in residual if ".mlp." in k or ".norm2." in k]
        assert without == (gone if block in ("no-mlp", "pure-attention") else [])


ADDITIONS = {  # in front of attention, in front of the MLP; None: there is no MLP
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
    with torch.no_grad():
        wanted = a * x + layer.attention(layer.norm1(x))
        if b is not None:
            wanted = b * wanted + layer.mlp(layer.norm2(wanted))
        assert torch.equal(layer(x), wanted)


@pytest.mark.parametrize("block", [None, *BLOCKS])
def test_a_plain_network_takes_its_twins_weights_and_says_so(block, caplog):
    dialect = "timm" if block in (None, "plain") else "zoo"
    twin = shaken("vit2", 5)
    model = zoo.build("plainvit2", 5, block=block)
    state = zoo.export(twin, dialect)
    if block in ("no-mlp", "pure-attention"):
        with pytest.raises(zoo.WeightsError, match="no place"):
            zoo.load(model, state, drop="shortcut")
        return
    if dialect == "timm":
        with pytest.raises(zoo.WeightsError, match="drop='shortcut'"):
            zoo.load(model, state)
    with caplog.at_level(logging.WARNING, "zoo"):
        zoo.load(model, state, drop="shortcut")
    assert "dropped 0 entries of shortcuts" in caplog.text
    assert all(torch.equal(v, twin.state_dict()[k]) for k, v in model.state_dict().items())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(model(images), twin(images))
    with pytest.raises(zoo.WeightsError, match="for plain networks"):
        zoo.load(twin, state, drop="shortcut")


@pytest.mark.parametrize("heads", [1, 4, 16])
def test_spelled_out_attention_is_the_fused_one(heads):
    attention = Attention(64, heads).double()
    shake(attention)
    x = torch.randn(2, 17, 64, dtype=torch.float64)
    out, weights = attention.spelled_out(x)
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


@pytest.mark.parametrize("size", [(33, 32), (32, 31), (30, 30), (34, 36)])
def test_images_that_do_not_divide_are_refused(size):
    for name in ("vit1", "plainvit1"):
        with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} pixels are no whole number"):
            zoo.build(name)(torch.randn(1, 3, *size))
    with pytest.raises(RuntimeError):
        zoo.build("vit1")(torch.randn(1, 3, 3, 3))  # smaller than a patch


# --- images of another size: every library stretches the positions in its own way ---


def test_torchvisions_way_is_its_interpolate_embeddings():
    for old, new in ((32, 48), (32, 16), (40, 36)):
        theirs = VIT_ORACLES["torchvision"].build("vit1", 10, old)
        shake(theirs)
        state = theirs.state_dict()
        wanted = interpolate_embeddings(new, 4, {k: v.clone() for k, v in state.items()})
        ours = zoo.load(zoo.build("vit1", image_size=new), state)
        assert torch.equal(ours.stem.position, wanted["encoder.pos_embedding"])
        assert ours.stem.resizing == "align-corners"
        resized = VIT_ORACLES["torchvision"].build("vit1", 10, new)
        resized.load_state_dict(wanted)
        # As loaded into the new size, and in a network of the old one that sees larger images.
        stretched = zoo.load(zoo.build("vit1", image_size=old, resizing="bicubic"), state)
        assert_same_logits(resized, ours, (new, new))
        assert_same_logits(resized, stretched, (new, new))


def test_timms_way_is_its_resample_abs_pos_embed():
    layers = pytest.importorskip("timm.layers")
    filtered = pytest.importorskip("timm.models.vision_transformer").checkpoint_filter_fn
    for old, new in ((32, 48), (32, 16), (40, 36)):
        theirs = VIT_ORACLES["timm"].build("vit1", 10, old)
        shake(theirs)
        state = theirs.state_dict()
        ours = zoo.load(zoo.build("vit1", image_size=new), state)
        wanted = layers.resample_abs_pos_embed(state["pos_embed"], [new // 4, new // 4])
        assert torch.equal(ours.stem.position, wanted)
        assert ours.stem.resizing == "antialias"
        resized = VIT_ORACLES["timm"].build("vit1", 10, new)
        resized.load_state_dict(filtered(state, resized))
        stretched = zoo.load(zoo.build("vit1", image_size=old), state)
        assert_same_logits(resized, ours, (new, new))
        assert_same_logits(resized, stretched, (new, new))


def test_timms_dynamic_images_are_stretched_alike():
    models = pytest.importorskip("timm.models")
    theirs = models.VisionTransformer(
        img_size=32, patch_size=4, depth=1, num_heads=4, embed_dim=64, num_classes=10,
        dynamic_img_size=True,
    )  # fmt: skip
    shake(theirs)
    ours = zoo.load(zoo.build("vit1"), theirs.state_dict())
    for size in ((32, 32), (48, 48), (24, 40), (64, 16)):
        assert_same_logits(theirs, ours, size)


def test_transformers_way_is_interpolate_pos_encoding():
    pytest.importorskip("transformers")
    theirs = VIT_ORACLES["transformers"].build("vit1", 10)
    shake(theirs)
    ours = zoo.load(zoo.build("vit1", eps=1e-12), theirs.state_dict())
    assert ours.stem.resizing == "bicubic"
    for size in ((32, 32), (48, 48), (24, 40), (64, 16), (16, 16)):
        assert_same_logits(theirs, ours, size, interpolate_pos_encoding=True)
        if size[0] == size[1]:
            other = zoo.build("vit1", eps=1e-12, image_size=size[0])
            zoo.load(other, theirs.state_dict())
            assert_same_logits(theirs, other, size, interpolate_pos_encoding=True)


def assert_same_logits(theirs, ours, size, **options) -> None:
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        wanted = logits_of(theirs.eval()(images, **options))
        torch.testing.assert_close(ours.eval()(images), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(12, 12), (4, 4), (8, 6)])
def test_the_three_ways_really_differ(rows, columns):
    position = torch.randn(1, 65, 16)
    results = [resize_positions(position, rows, columns, way) for way in RESIZINGS]
    assert set(RESIZINGS) == set(LIBRARY)
    for a, first in enumerate(results):
        assert first.shape == (1, 1 + rows * columns, 16)
        assert torch.equal(first[:, 0], position[:, 0])
        for second in results[:a]:
            if (rows, columns) == (12, 12) and a == 2:
                continue  # antialiasing does nothing where nothing is made smaller
            assert (first - second).abs().max() > 0.1


@pytest.mark.parametrize("way", RESIZINGS)
def test_positions_that_fit_are_left_alone(way):
    position = torch.randn(1, 65, 16)
    assert resize_positions(position, 8, 8, way) is position
    with_another_shape = resize_positions(position, 16, 4, way)  # as many patches
    assert with_another_shape.shape == position.shape
    assert not torch.equal(with_another_shape, position)


def test_loading_into_another_size_says_so(caplog):
    state = zoo.export(shaken("vit1"), "timm")
    with caplog.at_level(logging.WARNING, "zoo"):
        zoo.load(zoo.build("vit1"), state)
        assert not caplog.text
        zoo.load(zoo.build("vit1", image_size=48), state)
    assert "resized the position embeddings from 8x8 to 12x12 patches (antialias)" in caplog.text


def test_positions_of_no_square_grid_are_refused():
    state = zoo.export(shaken("vit1"), "timm")
    for bad in (torch.ones(1, 64, 64), torch.ones(1, 101, 32), torch.ones(2, 101, 64)):
        with pytest.raises(zoo.WeightsError, match="pos_embed is"):
            zoo.load(zoo.build("vit1"), {**state, "pos_embed": bad})


def test_build_takes_the_size_eps_and_way_of_the_weights(tmp_path):
    for library, eps in (("torchvision", 1e-6), ("transformers", 1e-12), ("timm", 1e-6)):
        way = next(way for way in LIBRARY if LIBRARY[way] == library)
        model = shaken("vit1", 5, image_size=48, eps=eps)
        path = tmp_path / f"{library}.pth"
        torch.save(zoo.export(model, library), path)
        back = zoo.build("vit1", 5, weights=path)
        assert back.stem.position.shape == (1, 145, 64)
        assert (back.norm.eps, back.stem.resizing) == (eps, way)
        assert all(torch.equal(v, back.state_dict()[k]) for k, v in model.state_dict().items())
        fresh = zoo.build("vit1", 3, weights=path)
        assert fresh.head.out_features == 3
        assert torch.equal(fresh.blocks[0].mlp.fc1.weight, model.blocks[0].mlp.fc1.weight)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"image_size": 33}, "give a multiple of 4"), ({"eps": 0.0}, "between 0 and 1"),
     ({"eps": 1}, "between 0 and 1"), ({"resizing": "nearest"}, "antialias"),
     ({"width": 8}, "no setting 'width'"), ({"block": "plain"}, "no setting 'block'"),
     ({"shortcut": "pad"}, "no setting 'shortcut'"), ({"image_size": 0}, "whole number")],
)  # fmt: skip
def test_settings_that_do_not_exist_are_refused_in_three_lines(settings, words):
    with pytest.raises(zoo.ModelError, match=words) as error:
        zoo.build("vit2", **settings)
    assert len(str(error.value).splitlines()) == 3
    with pytest.raises(zoo.ModelError, match="there are plain, attention-skip"):
        zoo.build("plainvit2", block="residual")
