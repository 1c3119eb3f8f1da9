"""Images of another size: every library stretches the position embeddings in its own way."""

import logging

import pytest
import torch
from torch import nn
from torchvision.models.vision_transformer import interpolate_embeddings

import zoo
from experiments.proof.checks import shake
from experiments.proof.oracles import VIT_ORACLES, logits_of
from zoo.positions import RESIZINGS, resize_positions

LIBRARY = {"align-corners": "torchvision", "antialias": "timm", "bicubic": "transformers"}


def shaken(name: str, *arguments, **settings) -> nn.Module:
    model = zoo.build(name, *arguments, **settings)
    shake(model)
    return model


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
