"""The attention figure: every head and the roll-out, their highest values, in the right places."""

import pytest
import torch
from figures import NASTY, drawn, readable, words

from experiments.drawing.heatmap import draw_attention

pytestmark = pytest.mark.filterwarnings("error")


def drawing(maps, title="a.png: cat", adds=True):
    """All arguments of draw_attention except the path."""
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    return image, title, maps, maps[0].double(), "blocks.11, the last", adds


@pytest.mark.parametrize(("heads", "side"), [(1, 1), (2, 3), (3, 14), (4, 8), (12, 14), (16, 14)])
def test_attention_is_readable_for_any_number_of_heads(heads, side, tmp_path):
    for i, adds in enumerate((True, False)):
        title = f"{NASTY[heads % 10]}: {NASTY[i]}"
        what = drawing(torch.rand(heads, side, side), title, adds)
        figure = readable(draw_attention, tmp_path / "deep" / "a.png", *what)
        assert sum(text.startswith("head ") for text in words(figure)) == heads
        assert any("no skips" in text for text in words(figure)) == (not adds)


def test_maps_are_shares_of_their_highest_value_over_the_whole_image(tmp_path):
    maps = torch.zeros(12, 8, 8)
    for head in range(11):  # the last one attends to no patch
        maps[head, head % 8, 2] = 0.01 * (head + 1)
        maps[head, 0, 7] = 0.005
    figure = drawn(draw_attention, tmp_path / "a.png", *drawing(maps))
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
