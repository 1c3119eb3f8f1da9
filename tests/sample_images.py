"""Small image files of every kind, made by code, each with its expected pixels or refusal.

`refused` is for every test of a refusal: the action must raise a DataError with three lines.
"""

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.errors import DataError

HEIGHT, WIDTH = 10, 12
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
COLOR = np.stack([20 * X, 25 * Y, 255 - 10 * (X + Y)], -1).astype(np.uint8)  # (H, W, 3)
GREY = (10 * X + 12 * Y).astype(np.uint8)
DEEP = (GREY.astype(np.uint16) << 8) + 77  # 16 bits
ALPHA = (21 * X).astype(np.uint8)


@dataclass(frozen=True)
class Made:
    """A file and its verdict: `pixels` (H, W, 3) within `tolerance`, or refused with `word`."""

    name: str
    content: bytes
    pixels: np.ndarray | None = None
    tolerance: int = 0
    word: str = ""


def smooth_image(path: Path, size: tuple[int, int]) -> Path:
    """Write random colours of 9x12, enlarged to `size` (width, height), to `path`; return it."""
    small = torch.randint(
        0, 256, (9, 12, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    Image.fromarray(small.numpy()).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def save(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(seed, height: int, width: int, low: int = 0, high: int = 256) -> np.ndarray:
    """An image of random pixels; `seed` is a number or a generator."""
    shape = (height, width, 3)
    return np.random.default_rng(seed).integers(low, high, shape, dtype=np.uint8)


def refused(action, *words: str) -> list[str]:
    """The three lines of the DataError that action() raises; every word is in them."""
    with pytest.raises(DataError) as error:
        action()
    lines = str(error.value).split("\n")
    assert len(lines) == 3, lines
    assert all(line.strip() for line in lines), lines
    for word in words:
        assert word in str(error.value), str(error.value)
    return lines


def on_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.rint(color * share + 255 * (1 - share)).astype(np.uint8)


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, -1).astype(np.uint8)


def from_cmyk(cmyk: np.ndarray) -> np.ndarray:
    c, m, y, k = (cmyk[..., i].astype(float) for i in range(4))
    light = [(255 - ink) * (255 - k) / 255 for ink in (c, m, y)]
    return np.rint(np.stack(light, -1)).astype(np.uint8)


# --- files that Pillow cannot write, written by hand ---


def png(size: tuple[int, int], depth: int, color: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG of packed `rows`, each after its filter byte; `extra` chunks come before them."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows, 1))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + data + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def filtered(pixels: np.ndarray) -> bytes:
    """(H, ...) -> PNG rows, big-endian, with filter 0."""
    rows = pixels.astype(pixels.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in rows)


def tiff(tags: dict[int, int | tuple], data: bytes) -> bytes:
    """A little-endian TIFF of one strip or tile; all `tags` are LONGs."""
    where = 324 if 322 in tags else 273
    tags = {where: 8, where + (1 if where == 324 else 6): len(data), **tags}
    table, tail = struct.pack("<H", len(tags)), b""
    free = 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        value = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"<{len(value)}L", *value)
        place = packed.ljust(4, b"\0")
        if len(packed) > 4:
            place, tail = struct.pack("<L", free + len(tail)), tail + packed
        table += struct.pack("<HHL", tag, 4, len(value)) + place
    return b"II*\0" + struct.pack("<L", 8 + len(data)) + data + table + bytes(4) + tail


def tags(width: int, height: int, bits: int | tuple, photometric: int, tile: int = 0) -> dict:
    """The tags of a TIFF with one strip, or with one square tile."""
    part = {322: tile, 323: tile} if tile else {278: height}
    count = len(bits) if isinstance(bits, tuple) else 1
    return {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 277: count} | part


def bmp_runs(index: np.ndarray, palette: np.ndarray) -> bytes:
    """An 8-bit BMP in run lengths (RLE8), from bottom to top."""
    data = b"".join(b"".join(bytes([1, v]) for v in row) + b"\0\0" for row in index[::-1]) + b"\0\1"
    colors = b"".join(bytes([b, g, r, 0]) for r, g, b in palette)
    start, (height, width) = 54 + len(colors), index.shape
    head = b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start)
    info = (40, width, height, 1, 8, 1, len(data), 0, 0, len(palette), 0)
    return head + struct.pack("<IiiHHIIiiII", *info) + colors + data


def ycck(cmyk: np.ndarray) -> bytes:
    """An Adobe JPEG whose inks went through YCbCr, as Photoshop writes them."""
    inks = Image.fromarray(cmyk[..., :3]).convert("YCbCr")
    stored = np.dstack([255 - np.asarray(inks), cmyk[..., 3]])  # Pillow inverts all when it writes
    content = save(Image.frombytes("CMYK", (WIDTH, HEIGHT), stored.tobytes()), "JPEG", quality=100)
    place = content.index(b"Adobe") + 11
    return content[:place] + b"\2" + content[place + 1 :]


# --- the corpus ---

BITS, LAYERED = GREY > 90, np.dstack([COLOR, ALPHA])
FEW = Image.fromarray(COLOR).quantize(16)  # a palette
TABLE = np.array(FEW.getpalette()).reshape(-1, 3)[:16].astype(np.uint8)
INDEX = np.asarray(FEW)
INK = Image.frombytes("CMYK", (WIDTH, HEIGHT), np.dstack([COLOR, GREY // 2]).tobytes())
GREY_LAYERED = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(ALPHA)))
# The pixels that load_image must give for them:
SEEN_GREY, SEEN_BITS, SEEN_DEEP = rgb(GREY), rgb(255 * BITS), rgb(np.rint(DEEP / 257))
SEEN_LAYERED, SEEN_GREY_LAYERED = on_white(COLOR, ALPHA), on_white(SEEN_GREY, ALPHA)
SEEN_FEW, SEEN_INK = TABLE[INDEX], from_cmyk(np.asarray(INK))
SEEN_FEW_BUT_3 = on_white(SEEN_FEW, np.where(INDEX == 3, 0, 255))


def corpus() -> list[Made]:
    return [*plain(), *pngs(), *jpegs(), *tiffs(), *others(), *animations(), *foreign(), *broken()]


def plain() -> list[Made]:
    """Kinds of images that several formats can hold, in each of these formats."""
    sorts = {"rgb": (COLOR, COLOR), "grey": (GREY, SEEN_GREY), "1-bit": (BITS, SEEN_BITS),
             "palette": (FEW, SEEN_FEW)}  # fmt: skip
    holds = {"PNG": sorts, "BMP": sorts, "GIF": ["palette"], "PPM": ["rgb", "grey", "1-bit"],
             "TIFF": ["rgb", "grey", "palette"]}  # fmt: skip
    return [Made(f"{sort}.{kind.lower()}", save(sorts[sort][0], kind), sorts[sort][1])
            for kind, names in holds.items() for sort in names]  # fmt: skip


def pngs() -> list[Made]:
    exact = (WIDTH, HEIGHT)
    soft = np.arange(16, dtype=np.uint8) * 17
    wide, wide_alpha = (values.astype(np.uint16) * 257 for values in (COLOR, ALPHA))
    keyed = np.where((COLOR[4, 5] == COLOR).all(-1), 0, 255)
    key = chunk(b"tRNS", struct.pack(">HHH", *COLOR[4, 5].tolist()))
    deep_key = chunk(b"tRNS", struct.pack(">H", DEEP[3, 3]))
    dot = np.where(GREY[3, 3] == GREY, 0, 255)  # the same pixels in DEEP
    text = chunk(b"tEXt", b"a\0" + b"b" * 90_000)
    history = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3_000_000)))  # of a photo editor
    line = np.full((1, 70_000, 3), 9, np.uint8)
    return [
        Made("rgba.png", save(LAYERED, "PNG"), SEEN_LAYERED),
        Made("la.png", save(GREY_LAYERED, "PNG"), SEEN_GREY_LAYERED),
        Made("palette, one hidden.png", save(FEW, "PNG", transparency=3), SEEN_FEW_BUT_3),
        Made("palette, alphas.png", save(FEW, "PNG", transparency=soft.tobytes()),
             on_white(SEEN_FEW, soft[INDEX])),
        Made("rgb, one hidden.png", png(exact, 8, 2, filtered(COLOR), key), on_white(COLOR, keyed)),
        Made("grey, one hidden.png", save(GREY, "PNG", transparency=int(GREY[3, 3])),
             on_white(SEEN_GREY, dot)),
        Made("16-bit grey.png", save(DEEP, "PNG"), SEEN_DEEP),
        Made("16-bit grey, one hidden.png", png(exact, 16, 0, filtered(DEEP), deep_key),
             on_white(SEEN_DEEP, dot)),
        Made("16-bit rgb.png", png(exact, 16, 2, filtered(wide)), COLOR),
        Made("16-bit rgba.png", png(exact, 16, 6, filtered(np.dstack([wide, wide_alpha]))),
             SEEN_LAYERED),
        Made("profile.png", save(COLOR, "PNG", icc_profile=b"no profile at all" * 100), COLOR),
        Made("text.png", png(exact, 8, 2, filtered(COLOR), text), COLOR),
        Made("much text.png", png(exact, 8, 2, filtered(COLOR), history), COLOR),
        Made("broken exif.png", save(COLOR, "PNG", exif=b"not even a table"), COLOR),
        Made("png named.jpg", save(COLOR, "PNG"), COLOR),
        Made("one pixel.png", save(COLOR[:1, :1], "PNG"), COLOR[:1, :1]),
        Made("a line.png", save(line[..., 0], "PNG"), line),
    ]  # fmt: skip


def jpegs() -> list[Made]:
    fine = {"quality": 100, "subsampling": 0}
    whole = save(COLOR, "JPEG", **fine)
    broken_exif = b"Exif\0\0II*\0" + b"\xff" * 40
    pair = {"save_all": True, "append_images": [Image.fromarray(SEEN_GREY)], "quality": 100}
    twelve = whole.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c")
    return [
        Made("rgb.jpg", whole, COLOR, 4),
        Made("grey.jpg", save(GREY, "JPEG", quality=100), SEEN_GREY, 4),
        Made("progressive.jpg", save(COLOR, "JPEG", progressive=True, **fine), COLOR, 4),
        Made("halved color.jpg", save(COLOR, "JPEG", quality=95), COLOR, 40),
        Made("rgb inside.jpg", save(COLOR, "JPEG", keep_rgb=True, quality=100), COLOR, 4),
        Made("restarts.jpg", save(COLOR, "JPEG", restart_marker_blocks=1, **fine), COLOR, 4),
        Made("cmyk.jpg", save(INK, "JPEG", quality=100), SEEN_INK, 5),
        Made("ycck.jpg", ycck(np.asarray(INK)), SEEN_INK, 8),
        Made("two images.jpg", save(COLOR, "MPO", **pair), COLOR, 40),
        Made("followed by a film.jpg", whole + bytes(range(256)) * 20, COLOR, 4),
        Made("profile.jpg", save(COLOR, "JPEG", icc_profile=b"none" * 40_000, **fine), COLOR, 4),
        Made("broken exif.jpg", save(COLOR, "JPEG", exif=broken_exif, **fine), COLOR, 4),
        Made("jpeg named.png", whole, COLOR, 4),
        Made("no end.jpg", whole[:-2], word="truncated"),
        Made("12-bit.jpg", twelve, word="none of"),
    ]


def tiffs() -> list[Made]:
    pages = {"save_all": True, "append_images": [Image.new("RGB", (3, 3))]}
    wide = COLOR.astype("<u2") * 257
    twelve = DEEP.reshape(-1, 2).astype(int) >> 4  # two values in three bytes
    packed = np.stack([twelve[:, 0] >> 4, (twelve[:, 0] << 4 | twelve[:, 1] >> 8) & 255,
                       twelve[:, 1] & 255], -1).astype(np.uint8).tobytes()  # fmt: skip
    faded = np.dstack([np.minimum(GREY, ALPHA), ALPHA])
    tile = np.zeros((16, 16), np.uint8)
    tile[:HEIGHT, :WIDTH] = GREY
    pale = Image.merge("LAB", [Image.new("L", (WIDTH, HEIGHT), v) for v in (138, 209, 198)])
    ways = ("tiff_lzw", "tiff_adobe_deflate", "packbits")
    deep32 = DEEP.astype(np.int32)
    return [
        *(Made(f"{way}.tif", save(COLOR, "TIFF", compression=way), COLOR) for way in ways),
        Made("jpeg.tif", save(COLOR, "TIFF", compression="jpeg", quality=95), COLOR, 4),
        Made("big.tif", save(COLOR, "TIFF", big_tiff=True), COLOR),
        Made("fax.tif", save(BITS, "TIFF", compression="group4"), SEEN_BITS),
        Made("rgba.tif", save(LAYERED, "TIFF"), SEEN_LAYERED),
        Made("la.tif", save(GREY_LAYERED, "TIFF"), SEEN_GREY_LAYERED),
        Made("la, multiplied.tif", tiff(tags(WIDTH, HEIGHT, (8, 8), 1) | {338: 1}, faded.tobytes()),
             rgb(255 - ALPHA + faded[..., 0]), 1),
        Made("cmyk.tif", save(INK, "TIFF"), SEEN_INK, 1),
        Made("ycbcr.tif", save(Image.fromarray(COLOR).convert("YCbCr"), "TIFF"), COLOR, 3),
        Made("lab red.tif", save(pale, "TIFF"), np.full_like(COLOR, (255, 0, 0)), 6),
        Made("pages.tif", save(COLOR, "TIFF", **pages), COLOR),
        Made("16-bit.tif", save(DEEP, "TIFF"), SEEN_DEEP),
        Made("16-bit big-endian.tif", save(DEEP.astype(">u2"), "TIFF"), SEEN_DEEP),
        Made("16-bit rgb.tif", tiff(tags(WIDTH, HEIGHT, (16, 16, 16), 2), wide.tobytes()), COLOR),
        Made("12-bit.tif", tiff(tags(WIDTH, HEIGHT, 12, 1), packed),
             rgb(np.rint((DEEP >> 4) / 4095 * 255))),
        Made("white is zero.tif", tiff(tags(WIDTH, HEIGHT, 8, 0), GREY.tobytes()), 255 - SEEN_GREY),
        Made("16-bit, white is zero.tif", tiff(tags(WIDTH, HEIGHT, 16, 0),
             DEEP.astype("<u2").tobytes()), 255 - SEEN_DEEP),
        Made("tiled.tif", tiff(tags(WIDTH, HEIGHT, 8, 1, 16), tile.tobytes()), SEEN_GREY),
        Made("32-bit.tif", save(deep32, "TIFF"), SEEN_DEEP),
        Made("32-bit, too bright.tif", save(deep32 + 20_000, "TIFF"), word="not in 0 to 65535"),
        Made("32-bit, negative.tif", save(deep32 - 100, "TIFF"), word="-23"),
        Made("float.tif", save(GREY.astype(np.float32), "TIFF"), word="floats"),
    ]  # fmt: skip


def others() -> list[Made]:
    digits = " ".join(map(str, COLOR.ravel())).encode()
    head = f"{WIDTH} {HEIGHT}\n".encode()
    clear = save(LAYERED, "WEBP", lossless=True, exact=True)
    return [
        Made("runs.bmp", bmp_runs(INDEX, TABLE), SEEN_FEW),
        Made("one hidden.gif", save(FEW, "GIF", transparency=3), SEEN_FEW_BUT_3),
        Made("digits.ppm", b"P3\n# a comment\n" + head + b"255\n" + digits, COLOR),
        Made("16-bit.pgm", b"P5\n" + head + b"65535\n" + DEEP.astype(">u2").tobytes(), SEEN_DEEP),
        Made("float.pfm", b"Pf\n" + head + b"-1\n" + GREY.astype("<f4").tobytes(), word="floats"),
        Made("lossless.webp", save(COLOR, "WEBP", lossless=True), COLOR),
        Made("lossy.webp", save(COLOR, "WEBP", quality=100), COLOR, 40),
        Made("rgba.webp", clear, SEEN_LAYERED, 1),
    ]


def animations() -> list[Made]:
    more = {"save_all": True, "append_images": [Image.new("RGB", (WIDTH, HEIGHT), "red")]}
    return [
        Made("frames.gif", save(FEW, "GIF", **more), SEEN_FEW),
        Made("frames.png", save(COLOR, "PNG", **more), COLOR),
        Made("frames.webp", save(COLOR, "WEBP", lossless=True, **more), COLOR),
    ]


def foreign() -> list[Made]:
    """Files that are no images of an allowed format, though some are named like one."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("a.png", save(COLOR, "PNG"))
    known = {
        "page.jpg": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "HTML page"),
        "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><rect/></svg>', "SVG"),
        "drawing.png": (b'<?xml version="1.0"?>\n<svg/>', "SVG"),
        "paper.pdf": (b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n", "PDF"),
        "images.png": (archive.getvalue(), "zip"),
        "phone.heic": (brand(b"heic") + b"mif1heic" + bytes(90), "HEIC image"),
        "phone.jpg": (brand(b"mif1") + b"mif1heic" + bytes(90), "HEIC image"),
        "new.avif": (save(COLOR, "AVIF"), "AVIF image"),
        "film.jpg": (brand(b"isom") + b"isomiso2mp41" + bytes(90), "video"),
        "wavelets.jp2": (save(COLOR, "JPEG2000"), "JPEG 2000"),
        "layers.jpg": (b"8BPS\0\1" + bytes(90), "Photoshop"),
        "stored elsewhere.jpg": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    }
    files = {
        "words.png": b"no image, just text",
        "postscript.eps": save(COLOR, "EPS"),
        "postscript.jpg": save(COLOR, "EPS"),
        "icon.ico": save(COLOR, "ICO", sizes=[(8, 8)]),
        "signature only.png": b"\x89PNG\r\n\x1a\n",
    }
    return [
        *(Made(name, content, word="PPM, TIFF, WEBP") for name, content in files.items()),
        *(Made(name, content, word=word) for name, (content, word) in known.items()),
    ]


def brand(name: bytes) -> bytes:
    """The start of a file in the container of MP4, HEIC and AVIF."""
    return struct.pack(">I", 24) + b"ftyp" + name + bytes(4)


def broken() -> list[Made]:
    color = noise(0, 99, 99)
    kinds = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
    wholes = {f"half.{kind.lower()}": (save(color, kind), "cannot decode") for kind in kinds} | {
        "half lzw.tif": (save(color, "TIFF", compression="tiff_lzw"), "cannot decode"),
        "half progressive.jpg": (save(color, "JPEG", progressive=True), "truncated"),
        "half cmyk.jpg": (save(Image.fromarray(color).convert("CMYK"), "JPEG"), "truncated"),
    }
    return [
        *(
            Made(name, whole[: len(whole) // 2], word=word)
            for name, (whole, word) in wholes.items()
        ),
        Made("empty.png", b"", word="empty"),
        Made("no pixels.png", png((0, 0), 8, 2, b""), word="none of"),
        Made("no pixels.tif", tiff(tags(0, 9, 8, 1), b""), word="cannot decode"),
        Made("no pixels.pgm", b"P5\n0 0\n255\n", word="cannot decode"),
    ]
