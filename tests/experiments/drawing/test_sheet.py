"""Contact sheets and confusion matrices: their contents, and that they are readable."""

import time

import numpy as np
import pytest
import torch
from figures import NASTY, drawn, readable, words
from matplotlib.colors import same_color, to_hex
from sample_images import refused

from experiments.drawing import sheet
from experiments.drawing.sheet import LabelledImage, draw_confusion, draw_sheet

# matplotlib warns of letters that no font has: there must be no such warning.
pytestmark = pytest.mark.filterwarnings("error")


def labelled(
    labels=("cat", "dog", "cow"), scores=(0.5, 0.3, 0.2), truth=None, name="a.png", size=(32, 32)
):
    return LabelledImage(torch.zeros(3, *size, dtype=torch.uint8), name, labels, scores, truth)


@pytest.mark.parametrize("count", [1, 6, 30, 31])
def test_a_sheet_of_any_length_and_names_is_readable(count, tmp_path):
    items = [
        labelled(NASTY[i % 7 : i % 7 + 3], (0.3,) * 3, NASTY[i % 9], NASTY[-1 - i % 9], (9 + i, 30))
        for i in range(count)
    ]
    items[0] = labelled(name="x" * 100_000, size=(1, 3000))
    path = tmp_path / "deep" / "sheet.png"
    figure = readable(draw_sheet, path, items, "title " * 99)
    assert [file.name for file in path.parent.iterdir()] == ["sheet.png"], "there is another file"
    assert sum(len(axes.images) for axes in figure.axes) == count
    assert any(text.startswith("xxx") and "…" in text for text in words(figure))


@pytest.mark.parametrize(
    ("truth", "verdict"), [("cat", "✓ right"), ("cow", "✗ wrong: it is cow"),
                           ("owl", "✗ wrong: it is owl"), (None, None)],
)  # fmt: skip
def test_names_bars_percentages_and_the_verdict(truth, verdict, tmp_path):
    figure = drawn(draw_sheet, tmp_path / "s.png", [labelled(truth=truth)], "title")
    rows = ["a.png", verdict, "cat", "50.0%", "dog", "30.0%", "cow", "20.0%"]
    assert [text for text in words(figure) if text != "title"] == [row for row in rows if row]
    image, lines = figure.axes
    bars = [(bar.get_width(), to_hex(bar.get_facecolor()).upper()) for bar in lines.patches]
    bars = [bar for bar in bars if bar[0] and bar[1] in (sheet.TRUE, sheet.OTHER)]
    colors = [sheet.TRUE if label == truth else sheet.OTHER for label in ("cat", "dog", "cow")]
    assert bars == list(zip((0.5, 0.3, 0.2), colors, strict=True))
    wrong = "✗" in (verdict or "")
    assert same_color(image.spines["left"].get_edgecolor(), sheet.WRONG) == wrong


def test_a_long_truth_does_not_push_out_the_word_wrong(tmp_path):
    figure = drawn(draw_sheet, tmp_path / "s.png", [labelled(truth="W" * 200)], "title")
    assert any(text.startswith("✗ wrong: it is W") and "…" in text for text in words(figure))


@pytest.mark.parametrize("size", [(50, 100), (900, 300)])
def test_an_image_keeps_its_shape_and_its_colours(size, tmp_path):
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None].expand(3, *size)
    figure = drawn(draw_sheet, tmp_path / "s.png", [LabelledImage(red, "", ("a",), (1.0,))], "")
    box = figure.axes[0].get_window_extent()
    assert box.height / box.width == pytest.approx(size[0] / size[1], rel=0.01)
    assert max(box.size) > 180
    assert figure.axes[0].images[0].get_array()[0, 0].tolist() == [255, 0, 0]


def test_ten_of_many_classes_are_drawn_and_the_others_counted(tmp_path):
    names = tuple(f"class {i}" for i in range(100))
    items = [labelled(names, (0.01,) * 100)] * 3
    figure = readable(draw_sheet, tmp_path / "s.png", items, "title")
    assert words(figure).count("class 9") == words(figure).count("and 90 more classes") == 3
    assert "class 10" not in words(figure)


def test_nothing_to_draw_is_an_error_and_leaves_no_file(tmp_path):
    refused(lambda: draw_sheet(tmp_path / "nothing.png", [], "title"), "nothing.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [1, 2, 10, 20, 21, 100, 120])
def test_a_confusion_matrix_is_readable(count, tmp_path):
    matrix = torch.full((count, count), 123456)
    classes = [*NASTY, *(f"class {i}" for i in range(110))][:count]
    figure = readable(draw_confusion, tmp_path / "c.png", matrix, classes)
    assert words(figure).count("123456") == (count**2 if count <= 20 else 0)


def test_rows_are_the_truth_and_colours_are_shares_of_a_row(tmp_path):
    matrix = torch.tensor([[0, 0, 0], [10, 0, 30], [0, 0, 1]])
    figure = drawn(draw_confusion, tmp_path / "c.png", matrix, ["a", "b", "c"])
    axes = figure.axes[0]
    shares = np.ma.filled(axes.images[0].get_array(), np.nan)
    assert np.isnan(shares[0]).all(), "class a has no images"
    assert shares[1:].tolist() == [[0.25, 0, 0.75], [0, 0, 1]]
    assert [text.get_text() for text in axes.texts] == ["0", "0", "0", "10", "0", "30", "0", "0",
                                                       "1"]  # fmt: skip
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert "1 of 41 images right (2.4%)" in words(figure)


def test_a_thousand_classes_go_by_number_and_the_largest_confusions_are_listed(tmp_path):
    matrix = 50 * torch.eye(1000, dtype=torch.int64)
    matrix[3, 998], matrix[7, 5] = 20, 30
    begin = time.perf_counter()
    figure = drawn(draw_confusion, tmp_path / "c.png", matrix, [f"name {i}" for i in range(1000)])
    assert time.perf_counter() - begin < 30
    assert figure.bbox.width * figure.bbox.height < 1e7
    assert "true class (its number)" in words(figure)
    assert "name 3" not in words(figure)
    lines = ("30 of 80: name 7 taken for name 5", "20 of 70: name 3 taken for name 998")
    assert "\n".join(("Largest confusions", *lines)) in words(figure)
