"""A contact sheet of the synthetic images of data/synthetic.py: one row per class."""

from pathlib import Path

import numpy as np

from data.synthetic import CLASSES, SIZE, synthetic_image
from experiments.drawing.style import png

COLUMNS = 8


def draw_samples(path: Path, seed: int = 0) -> None:
    """Draw the first training images of every class, with its name on the left."""
    indices = np.arange(COLUMNS) * len(CLASSES) + np.arange(len(CLASSES))[:, None]
    border = ((0, 0), (2, 2), (2, 2))
    cells = [
        [np.pad(synthetic_image(seed, i)[0], border, constant_values=255) for i in row]
        for row in indices.tolist()
    ]
    with png(path, 6.5, 7.2) as figure:
        axes = figure.subplots()
        axes.imshow(np.block(cells).transpose(1, 2, 0))  # (3, H, W) -> (H, W, 3)
        axes.set_yticks((np.arange(len(CLASSES)) + 0.5) * (SIZE + 4), CLASSES)
        axes.set(xticks=[], frame_on=False)
        axes.grid(False)
        axes.tick_params(length=0)
