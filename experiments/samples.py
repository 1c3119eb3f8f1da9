"""A contact sheet of the pictures that data/synthetic.py draws ("embedded"): one row a class.

python -m experiments.samples
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.synthetic import CLASSES, SIZE, draw
from experiments.plumbing import cli
from zoo.weights.atomic import write_atomic

COLUMNS, SCALE, GAP, MARGIN = 12, 2, 4, 110  # the last three in pixels of the sheet


@dataclass(frozen=True)
class Options:
    """Draw a contact sheet of the pictures that data/synthetic.py draws."""

    output: Path = Path("runs/samples.png")
    """The PNG to write."""


def contact_sheet(seed: int = 0) -> Image.Image:
    """The first training pictures of every class, with its name on the left."""
    cell = SIZE * SCALE + GAP
    sheet = Image.new("RGB", (MARGIN + COLUMNS * cell, len(CLASSES) * cell + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for label, name in enumerate(CLASSES):
        top = GAP + label * cell
        pen.text((MARGIN - 2 * GAP, top + cell // 2), name, "black", font, anchor="rm")
        for column in range(COLUMNS):
            pixels, drawn = draw(seed, column * len(CLASSES) + label)
            assert drawn == label
            picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
            size = (SIZE * SCALE, SIZE * SCALE)
            sheet.paste(
                picture.resize(size, Image.Resampling.NEAREST), (MARGIN + column * cell, top)
            )
    return sheet


def main(options: Options) -> None:
    cli.check_file("--output", options.output, ".png")
    buffer = io.BytesIO()
    contact_sheet().save(buffer, "PNG")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(options.output, buffer.getvalue())
    print(f"contact sheet: {options.output}")


if __name__ == "__main__":
    cli.run(main, Options, "samples")
