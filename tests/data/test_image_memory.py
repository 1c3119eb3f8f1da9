"""No file, however small, large or odd, takes half a gigabyte of memory."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sample_images import (
    COLOR,
    FEW,
    HEIGHT,
    WIDTH,
    Made,
    chunk,
    filtered,
    png,
    rgb,
    save,
    tags,
    tiff,
)


def bombs() -> list[Made]:
    """Small files that would need a lot of memory."""
    gif, bmp, webp = save(FEW, "GIF"), save(FEW, "BMP"), save(FEW, "WEBP", lossless=True)
    jpg = save(COLOR, "JPEG")
    place = jpg.index(b"\xff\xc0") + 5
    sides = struct.pack("<HH", 60_000, 60_000)
    canvas = struct.pack("<I", 16_382)[:3] * 2  # the largest possible
    tile = tags(WIDTH, HEIGHT, 8, 1, 60_000) | {259: 8}
    flat = zlib.compress(bytes(1_000_000))
    head = b"VP8X" + struct.pack("<II", 10, 0) + canvas
    swollen = b"a\0\0" + zlib.compress(bytes(50_000_000), 9)
    text, profile = chunk(b"zTXt", swollen), chunk(b"iCCP", swollen)
    files = {
        "300 MB in 12 kB.png": png((10_000, 10_000), 8, 2, bytes(12_000_000)),
        "wide.png": png((2**31 - 1, 1), 8, 0, b""),
        "huge.gif": gif[:6] + sides + gif[10:],
        "huge.bmp": bmp[:18] + struct.pack("<ii", 60_000, 60_000) + bmp[26:],
        "huge.jpg": jpg[:place] + sides + jpg[place + 4 :],
        "huge.ppm": b"P6\n60000 60000\n255\n" + bytes(99),
        "huge.tif": tiff(tags(60_000, 60_000, 8, 1) | {259: 8}, flat),
        "huge tile.tif": tiff(tile, flat),
        "huge.webp": b"RIFF" + struct.pack("<I", len(webp) + 10) + b"WEBP" + head + webp[12:],
        "long text.png": png((WIDTH, HEIGHT), 8, 2, filtered(COLOR), text),
        "long profile.png": png((WIDTH, HEIGHT), 8, 2, filtered(COLOR), profile),
    }
    return [Made(name, content, word="cannot decode") for name, content in files.items()]


def metadata() -> list[Made]:
    """Large files with few pixels: the rest is metadata, which Pillow might expand."""
    pixel, square = bytes(100), tags(10, 10, 8, 1)
    exif = b"Exif\0\0" + b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHLL", 274, 5, 9_000_000, 26)
    one = save(Image.new("L", (9, 9)), "PNG")
    end = one.index(b"IEND") - 4
    late = chunk(b"eXIf", exif[6:] + bytes(4) + b"\7" * 72_000_000)
    jpg = save(COLOR, "JPEG")
    piece = b"\xff\xe1\xff\xff" + exif + b"\7" * (65_533 - len(exif))
    wide = "😀".encode() + b"a" * 31_000_000  # Pillow keeps four bytes a letter
    xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(wide, 1))
    return [
        Made("xmp.png", png((WIDTH, HEIGHT), 8, 2, filtered(COLOR), xmp, xmp)),
        Made("offsets.tif", tiff({**square, 273: (8,) * 3_000_000}, pixel)),
        Made("late exif.png", one[:end] + late + one[end:], rgb(np.zeros((9, 9)))),
        Made("segments.jpg", jpg[:2] + piece * 200 + jpg[2:]),
    ]


def largest() -> list[Made]:
    """As many pixels as are allowed, in the formats that take the most memory."""
    turned = Image.Exif()
    turned[0x0112] = 6
    seen, side = Image.new("RGBA", (5000, 5000), (9, 99, 200, 77)), 5000
    strip = zlib.compress(bytes(side * side * 8), 1)
    deep = {**tags(side, side, (16, 16, 16, 16), 2), 259: 8, 338: 2, 274: 6}
    grey = tags(side, side, 32, 1) | {259: 8}
    files = {
        "grey.tif": tiff(grey, zlib.compress(bytes(side * side * 4), 1)) + bytes(70_000_000),
        "a.png": save(seen, "PNG", compress_level=1, exif=turned),
        "a.tif": tiff(deep, strip) + bytes(70_000_000),
        "a.webp": save(seen.crop((0, 0, 3500, 3500)), "WEBP", lossless=True, quality=0, method=0),
        "a.jpg": save(seen.convert("RGB"), "JPEG", progressive=True, subsampling=0, exif=turned),
    }
    wide = save(Image.new("L", (4000, 4000)), "WEBP", lossless=True, quality=0, method=0)
    return [
        Made("wide.webp", wide, word="too large"),
        *(Made(name, content) for name, content in files.items()),
    ]


# The peak minus the memory in use before the first image: importing torch and torchvision took
# from 530 to 790 MiB on two machines, and nothing here can change that.
# Not getrusage: its peak survives exec, so it may be the parent's.
MEASURE = """
import sys
from data.errors import DataError
from data.images import load_image

def megabytes(name):
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) // 1024

before = megabytes("VmRSS")
for path in sys.argv[1:]:
    try:
        said = str(tuple(load_image(path).shape))
    except DataError as error:
        said = str(error).splitlines()[0]
    print(megabytes("VmHWM") - before, said)
"""


# As under `ulimit -v`: an allocation of more than half a gigabyte fails.
STRIPS = """
import resource
import torch
import torchvision.transforms.v2.functional
from data.views import RandomView, View

with open("/proc/self/statm", encoding="utf-8") as status:
    size = int(status.read().split()[0]) * resource.getpagesize()
torch.set_num_threads(1)  # each thread reserves address space
resource.setrlimit(resource.RLIMIT_AS, (size + 2**29,) * 2)
random = (RandomView(), RandomView("shift"))
for shape in ((1, 4000), (65_000, 1), (25_000_000, 1)):
    image = torch.zeros(*shape, 3, dtype=torch.uint8).permute(2, 0, 1)
    for view in (View(), View(squash=True)):
        assert view(image).shape == (3, view.crop, view.crop), shape
    for view in random:
        assert view(view.stored(image), 0).shape == (3, 224, 224), shape
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_view_of_a_thin_strip_takes_half_a_gigabyte():
    done = subprocess.run(
        [sys.executable, "-c", STRIPS],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_image_takes_half_a_gigabyte(tmp_path):
    files = [*bombs(), *metadata(), *largest()]
    for made in files:
        (tmp_path / made.name).write_bytes(made.content)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *(str(tmp_path / made.name) for made in files)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(files)
    for made, line in zip(files, lines, strict=True):
        megabytes, said = line.split(" ", 1)
        assert int(megabytes) < 512, (made.name, line)
        assert made.word in said, (made.name, line)
        assert made.word or said.startswith("(3, "), (made.name, line)
