"""The contact sheet of the synthetic images: one row per class, with its name."""

import numpy as np
from figures import assert_readable, drawn, words

from data.synthetic import CLASSES, SIZE, synthetic_image
from experiments.drawing.samples import COLUMNS, draw_samples


def test_every_class_has_a_row_with_its_name(tmp_path):
    figure = drawn(draw_samples, tmp_path / "s.png")
    assert words(figure) == list(CLASSES)
    assert_readable(figure)
    shown = figure.axes[0].images[0].get_array()
    cell = SIZE + 4
    assert shown.shape == (len(CLASSES) * cell, COLUMNS * cell, 3)
    for label in range(len(CLASSES)):
        expected, drawn_label = synthetic_image(0, 2 * len(CLASSES) + label)
        assert drawn_label == label
        corner = shown[label * cell + 2 :, 2 * cell + 2 :][:SIZE, :SIZE]
        assert np.array_equal(corner, expected.transpose(1, 2, 0))
