"""The figures of saliency: maps, their highest values, in the right places."""

import pytest
import torch
from figures import NASTY, drawn, readable, words

from experiments.drawing.heatmap import draw_cam, draw_rollout

pytestmark = pytest.mark.filterwarnings("error")


VERDICT = (
    "Random weights give other maps, so this one depends on the weights (rank correlations "
    "-0.10 to +0.23, their mean size 0.11, n = 5 networks)."
)


def drawing(maps, title="a.png: cat", adds=True):
    """All arguments of draw_rollout except the path."""
    image, rolled = torch.zeros(3, 32, 32, dtype=torch.uint8), maps[0].double()
    return image, title, rolled, rolled.flip(0), VERDICT, maps, "blocks.11, the last", adds


@pytest.mark.parametrize("side", [1, 7, 24])
@pytest.mark.parametrize("name", NASTY[:4])
def test_grad_cam_is_readable(side, name, tmp_path):
    image, cam = torch.zeros(3, 32, 32, dtype=torch.uint8), torch.rand(side, side)
    figure = readable(
        draw_cam, tmp_path / "a.png", image, f"{name}: cat", cam, cam.flip(0), VERDICT
    )
    heats = [axes.images[-1].get_array() for axes in figure.axes[1:3]]
    assert torch.allclose(torch.tensor(heats[0]), cam / cam.max())
    assert torch.allclose(torch.tensor(heats[1]), cam.flip(0) / cam.max())


@pytest.mark.parametrize(("heads", "side"), [(1, 1), (2, 3), (3, 14), (4, 8), (12, 14), (16, 14)])
def test_attention_is_readable_for_any_number_of_heads(heads, side, tmp_path):
    for i, adds in enumerate((True, False)):
        title = f"{NASTY[heads % 10]}: {NASTY[i]}"
        what = drawing(torch.rand(heads, side, side), title, adds)
        figure = readable(draw_rollout, tmp_path / "deep" / "a.png", *what)
        assert sum(text.startswith("head ") for text in words(figure)) == heads
        assert any("no skips" in text for text in words(figure)) == (not adds)


def test_maps_are_shares_of_their_highest_value_over_the_whole_image(tmp_path):
    maps = torch.zeros(12, 8, 8)
    for head in range(11):  # the last one attends to no patch
        maps[head, head % 8, 2] = 0.01 * (head + 1)
        maps[head, 0, 7] = 0.005
    figure = drawn(draw_rollout, tmp_path / "a.png", *drawing(maps))
    panels = {axes.get_title().split(":")[0]: axes for axes in figure.axes}
    for head in range(12):
        grey, heat = panels[f"head {head}"].images
        assert torch.allclose(torch.tensor(heat.get_array()), maps[head] / (maps[head].max() or 1))
        assert heat.get_clim() == (0, 1)
        assert heat.get_extent() == grey.get_extent()
    assert {"head 0: up to 1 %", "head 9: up to 10 %", "head 11: up to 0 %"} <= set(words(figure))
    boxes = [panels[f"head {head}"].get_window_extent() for head in range(12)]
    places = [(-round(box.y1), round(box.x0)) for box in boxes]
    assert places == sorted(places), "the heads are not drawn row by row"
    assert (len({y for y, _ in places}), len({x for _, x in places})) == (3, 4)
