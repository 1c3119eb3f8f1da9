"""Images of another size: every library stretches the position embeddings in its own way."""

import logging

import pytest
import torch
from conftest import held, shaken, vit_pair
from torchvision.models.vision_transformer import interpolate_embeddings

import zoo
from experiments.proof.checks import shake
from experiments.proof.oracles import VIT_ORACLES, logits_of
from zoo.positions import RESIZINGS, resize_positions

LIBRARY = {"align-corners": "torchvision", "antialias": "timm", "bicubic": "transformers"}


def by_torchvision(state: dict, resized: torch.nn.Module, side: int) -> dict:
    return interpolate_embeddings(side, 4, {key: v.clone() for key, v in state.items()})


def by_timm(state: dict, resized: torch.nn.Module, side: int) -> dict:
    filtered = pytest.importorskip("timm.models.vision_transformer").checkpoint_filter_fn
    return filtered(state, resized)


@pytest.mark.parametrize(("old", "new"), [(32, 48), (32, 16), (40, 36)])
@pytest.mark.parametrize(
    ("way", "resize", "entry"),
    [("align-corners", by_torchvision, "encoder.pos_embedding"),
     ("antialias", by_timm, "pos_embed")],
)  # fmt: skip
def test_positions_are_stretched_as_their_library_does(way, resize, entry, old, new):
    """Both if loaded into the new size, and if a network of the old size gets such images."""
    stretched, theirs = vit_pair("vit1", LIBRARY[way], 10, old)
    state = theirs.state_dict()
    ours = zoo.load(zoo.build("vit1", image_size=new, resizing="bicubic"), state)
    resized = VIT_ORACLES[LIBRARY[way]].build("vit1", 10, new)
    wanted = resize(state, resized, new)
    assert torch.equal(ours.stem.position, wanted[entry])
    assert ours.stem.resizing == way
    resized.load_state_dict(wanted)
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
    ours, theirs = vit_pair("vit1", "transformers", 10)
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
                continue  # antialiasing does nothing if no side gets smaller
            assert (first - second).abs().max() > 0.1


@pytest.mark.parametrize("way", RESIZINGS)
def test_positions_that_fit_are_left_alone(way):
    position = torch.randn(1, 65, 16)
    assert resize_positions(position, 8, 8, way) is position
    with_another_shape = resize_positions(position, 16, 4, way)  # the same number of patches
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
    for way, library in LIBRARY.items():
        eps = 1e-12 if library == "transformers" else 1e-6
        model = shaken("vit1", 5, image_size=48, eps=eps)
        path = tmp_path / f"{library}.pth"
        torch.save(zoo.export(model, library), path)
        back = zoo.build("vit1", 5, weights=path)
        assert back.stem.position.shape == (1, 145, 64)
        assert (back.norm.eps, back.stem.resizing) == (eps, way)
        assert held(model.state_dict(), back.state_dict())
        fresh = zoo.build("vit1", 3, weights=path)
        assert fresh.head.out_features == 3
        assert torch.equal(fresh.blocks[0].mlp.fc1.weight, model.blocks[0].mlp.fc1.weight)
