"""Pictures made by code, small files of every kind, each with what must become of it."""

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

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


def save(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def on_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.rint(color * share + 255 * (1 - share)).astype(np.uint8)


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, -1).astype(np.uint8)


def from_cmyk(cmyk: np.ndarray) -> np.ndarray:
    c, m, y, k = (cmyk[..., i].astype(float) for i in range(4))
    light = [(255 - ink) * (255 - k) / 255 for ink in (c, m, y)]
    return np.rint(np.stack(light, -1)).astype(np.uint8)


# --- files by hand, where Pillow cannot write them ---


def png(size: tuple[int, int], depth: int, color: int, rows: bytes, *extra: bytes) -> bytes:
    """`rows` are packed already, each after its filter byte; `extra` stands before them."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows, 1))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + data + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def filtered(pixels: np.ndarray) -> bytes:
    """(H, ...) -> PNG rows, big-endian, with filter 0."""
    rows = pixels.astype(pixels.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in rows)


def tiff(tags: dict[int, int | tuple | bytes], data: bytes) -> bytes:
    """A little-endian TIFF of one strip or tile; `tags` are LONGs, or bytes of type UNDEFINED."""
    where = 324 if 322 in tags else 273
    tags = {where: 8, where + (1 if where == 324 else 6): len(data), **tags}
    table, tail = struct.pack("<H", len(tags)), b""
    free = 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        kind = 7 if isinstance(value, bytes) else 4
        if not isinstance(value, bytes):
            value = value if isinstance(value, tuple) else (value,)
        packed = value if kind == 7 else struct.pack(f"<{len(value)}L", *value)
        place = packed.ljust(4, b"\0")
        if len(packed) > 4:
            place, tail = struct.pack("<L", free + len(tail)), tail + packed
        table += struct.pack("<HHL", tag, kind, len(value)) + place
    return b"II*\0" + struct.pack("<L", 8 + len(data)) + data + table + bytes(4) + tail


def tags(width: int, height: int, bits: int | tuple, photometric: int, **more: int) -> dict:
    count = len(bits) if isinstance(bits, tuple) else 1
    return {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 277: count, 278: height}


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
    stored = np.dstack([255 - np.asarray(inks), cmyk[..., 3]])  # Pillow inverts all as it writes
    content = save(Image.frombytes("CMYK", (WIDTH, HEIGHT), stored.tobytes()), "JPEG", quality=100)
    place = content.index(b"Adobe") + 11
    return content[:place] + b"\2" + content[place + 1 :]


# --- the corpus ---


def corpus() -> list[Made]:
    return [*pngs(), *jpegs(), *tiffs(), *others(), *animations(), *foreign(), *broken()]


def pngs() -> list[Made]:
    color, grey, exact = Image.fromarray(COLOR), Image.fromarray(GREY), (WIDTH, HEIGHT)
    few = color.quantize(16)
    table = np.array(few.getpalette()).reshape(-1, 3)[:16].astype(np.uint8)
    index = np.asarray(few)
    seen = np.where(index == 3, 0, 255)
    soft = np.arange(16, dtype=np.uint8) * 17
    wide = COLOR.astype(np.uint16) * 257
    keyed = np.where((COLOR[4, 5] == COLOR).all(-1), 0, 255)
    key = b"".join(struct.pack(">H", v) for v in COLOR[4, 5].tolist())
    profile = b"no profile at all" * 100
    return [
        Made("rgb.png", save(color, "PNG"), COLOR),
        Made("grey.png", save(grey, "PNG"), rgb(GREY)),
        Made("1-bit.png", save(Image.fromarray(GREY > 90), "PNG"), rgb(255 * (GREY > 90))),
        Made("palette.png", save(few, "PNG"), table[index]),
        Made("rgba.png", save(np.dstack([COLOR, ALPHA]), "PNG"), on_white(COLOR, ALPHA)),
        Made("la.png", save(Image.merge("LA", (grey, Image.fromarray(ALPHA))), "PNG"),
             on_white(rgb(GREY), ALPHA)),
        Made("palette, one hidden.png", save(few, "PNG", transparency=3),
             on_white(table[index], seen)),
        Made("palette, alphas.png", save(few, "PNG", transparency=soft.tobytes()),
             on_white(table[index], soft[index])),
        Made("rgb, one hidden.png", png(exact, 8, 2, filtered(COLOR), chunk(b"tRNS", key)),
             on_white(COLOR, keyed)),
        Made("grey, one hidden.png", save(grey, "PNG", transparency=int(GREY[3, 3])),
             on_white(rgb(GREY), np.where(GREY[3, 3] == GREY, 0, 255))),
        Made("16-bit grey.png", save(DEEP, "PNG"), rgb(np.rint(DEEP / 257))),
        Made("16-bit grey, one hidden.png", png(exact, 16, 0, filtered(DEEP),
             chunk(b"tRNS", struct.pack(">H", DEEP[3, 3]))),
             on_white(rgb(np.rint(DEEP / 257)), np.where(DEEP[3, 3] == DEEP, 0, 255))),
        Made("16-bit rgb.png", png(exact, 16, 2, filtered(wide)), COLOR),
        Made("16-bit rgba.png", png(exact, 16, 6,
             filtered(np.dstack([wide, ALPHA.astype(np.uint16) * 257]))), on_white(COLOR, ALPHA)),
        Made("profile.png", save(color, "PNG", icc_profile=profile), COLOR),
        Made("text.png", png(exact, 8, 2, filtered(COLOR), chunk(b"tEXt", b"a\0" + b"b" * 90_000)),
             COLOR),
        Made("png named.jpg", save(color, "PNG"), COLOR),
        Made("one pixel.png", save(color.crop((0, 0, 1, 1)), "PNG"), COLOR[:1, :1]),
        Made("a line.png", save(Image.new("L", (70_000, 1), 9), "PNG"),
             np.full((1, 70_000, 3), 9, np.uint8)),
    ]  # fmt: skip


def jpegs() -> list[Made]:
    color, grey = Image.fromarray(COLOR), Image.fromarray(GREY)
    cmyk = np.dstack([COLOR, GREY // 2])
    ink = Image.frombytes("CMYK", (WIDTH, HEIGHT), cmyk.tobytes())
    fine = {"quality": 100, "subsampling": 0}
    whole = save(color, "JPEG", **fine)
    broken_exif = b"Exif\0\0II*\0" + b"\xff" * 40
    pair = {"save_all": True, "append_images": [grey.convert("RGB")], "quality": 100}
    return [
        Made("rgb.jpg", whole, COLOR, 4),
        Made("grey.jpg", save(grey, "JPEG", quality=100), rgb(GREY), 4),
        Made("progressive.jpg", save(color, "JPEG", progressive=True, **fine), COLOR, 4),
        Made("halved color.jpg", save(color, "JPEG", quality=95), COLOR, 40),
        Made("rgb inside.jpg", save(color, "JPEG", keep_rgb=True, quality=100), COLOR, 4),
        Made("restarts.jpg", save(color, "JPEG", restart_marker_blocks=1, **fine), COLOR, 4),
        Made("cmyk.jpg", save(ink, "JPEG", quality=100), from_cmyk(cmyk), 5),
        Made("ycck.jpg", ycck(cmyk), from_cmyk(cmyk), 8),
        Made("two pictures.jpg", save(color, "MPO", **pair), COLOR, 40),
        Made("followed by a film.jpg", whole + bytes(range(256)) * 20, COLOR, 4),
        Made("profile.jpg", save(color, "JPEG", icc_profile=b"none" * 40_000, **fine), COLOR, 4),
        Made("broken exif.jpg", save(color, "JPEG", exif=broken_exif, **fine), COLOR, 4),
        Made("broken exif.png", save(color, "PNG", exif=b"not even a table"), COLOR),
        Made("jpeg named.png", whole, COLOR, 4),
        Made("no end.jpg", whole[:-2], word="truncated"),
        Made("12-bit.jpg", whole.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
             word="none of"),
    ]  # fmt: skip


def tiffs() -> list[Made]:
    color, grey = Image.fromarray(COLOR), Image.fromarray(GREY)
    ink = Image.frombytes("CMYK", (WIDTH, HEIGHT), np.dstack([COLOR, GREY // 2]).tobytes())
    pages = {"save_all": True, "append_images": [Image.new("RGB", (3, 3))]}
    float_grey = Image.fromarray(GREY.astype(np.float32))
    wide = COLOR.astype("<u2") * 257
    twelve = DEEP.reshape(-1, 2).astype(int) >> 4  # two values in three bytes
    packed = np.stack([twelve[:, 0] >> 4, (twelve[:, 0] << 4 | twelve[:, 1] >> 8) & 255,
                       twelve[:, 1] & 255], -1).astype(np.uint8).tobytes()  # fmt: skip
    faded = np.dstack([np.minimum(GREY, ALPHA), ALPHA])
    tile = np.zeros((16, 16), np.uint8)
    tile[:HEIGHT, :WIDTH] = GREY
    tiled = {322: 16, 323: 16, **tags(WIDTH, HEIGHT, 8, 1)}
    del tiled[278]
    pale = Image.merge("LAB", [Image.new("L", (WIDTH, HEIGHT), v) for v in (138, 209, 198)])
    ways = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")
    return [
        *(Made(f"{way}.tif", save(color, "TIFF", compression=way), COLOR) for way in ways),
        Made("jpeg.tif", save(color, "TIFF", compression="jpeg", quality=95), COLOR, 4),
        Made("big.tif", save(color, "TIFF", big_tiff=True), COLOR),
        Made("grey.tif", save(grey, "TIFF"), rgb(GREY)),
        Made("fax.tif", save(Image.fromarray(GREY > 90), "TIFF", compression="group4"),
             rgb(255 * (GREY > 90))),
        Made("rgba.tif", save(np.dstack([COLOR, ALPHA]), "TIFF"), on_white(COLOR, ALPHA)),
        Made("la.tif", save(Image.merge("LA", (grey, Image.fromarray(ALPHA))), "TIFF"),
             on_white(rgb(GREY), ALPHA)),
        Made("la, multiplied.tif", tiff(tags(WIDTH, HEIGHT, (8, 8), 1) | {338: 1}, faded.tobytes()),
             rgb(255 - ALPHA + faded[..., 0]), 1),
        Made("cmyk.tif", save(ink, "TIFF"), from_cmyk(np.asarray(ink)), 1),
        Made("ycbcr.tif", save(color.convert("YCbCr"), "TIFF"), COLOR, 3),
        Made("lab red.tif", save(pale, "TIFF"), np.full_like(COLOR, (255, 0, 0)), 6),
        Made("pages.tif", save(color, "TIFF", **pages), COLOR),
        Made("16-bit.tif", save(DEEP, "TIFF"), rgb(np.rint(DEEP / 257))),
        Made("16-bit big-endian.tif", save(Image.fromarray(DEEP.astype(">u2")), "TIFF"),
             rgb(np.rint(DEEP / 257))),
        Made("16-bit rgb.tif", tiff(tags(WIDTH, HEIGHT, (16, 16, 16), 2), wide.tobytes()), COLOR),
        Made("12-bit.tif", tiff(tags(WIDTH, HEIGHT, 12, 1), packed),
             rgb(np.rint((DEEP >> 4) / 4095 * 255))),
        Made("white is zero.tif", tiff(tags(WIDTH, HEIGHT, 8, 0), GREY.tobytes()), rgb(255 - GREY)),
        Made("16-bit, white is zero.tif", tiff(tags(WIDTH, HEIGHT, 16, 0),
             DEEP.astype("<u2").tobytes()), rgb(255 - np.rint(DEEP / 257))),
        Made("tiled.tif", tiff(tiled, tile.tobytes()), rgb(GREY)),
        Made("32-bit.tif", save(DEEP.astype(np.int32), "TIFF"), rgb(np.rint(DEEP / 257))),
        Made("32-bit, too bright.tif", save(DEEP.astype(np.int32) + 20_000, "TIFF"),
             word="leave 0 to 65535"),
        Made("32-bit, negative.tif", save(DEEP.astype(np.int32) - 100, "TIFF"), word="-23"),
        Made("float.tif", save(float_grey, "TIFF"), word="floats"),
    ]  # fmt: skip


def others() -> list[Made]:
    color, grey = Image.fromarray(COLOR), Image.fromarray(GREY)
    few = color.quantize(16)
    table = np.array(few.getpalette()).reshape(-1, 3)[:16].astype(np.uint8)
    index = np.asarray(few)
    hidden = on_white(table[index], np.where(index == 3, 0, 255))
    digits = " ".join(map(str, COLOR.ravel())).encode()
    layered = np.dstack([COLOR, ALPHA])
    head = f"{WIDTH} {HEIGHT}\n".encode()
    return [
        Made("rgb.bmp", save(color, "BMP"), COLOR),
        Made("grey.bmp", save(grey, "BMP"), rgb(GREY)),
        Made("1-bit.bmp", save(Image.fromarray(GREY > 90), "BMP"), rgb(255 * (GREY > 90))),
        Made("palette.bmp", save(few, "BMP"), table[index]),
        Made("runs.bmp", bmp_runs(index, table), table[index]),
        Made("palette.gif", save(few, "GIF"), table[index]),
        Made("one hidden.gif", save(few, "GIF", transparency=3), hidden),
        Made("color.ppm", save(color, "PPM"), COLOR),
        Made("digits.ppm", b"P3\n# a comment\n" + head + b"255\n" + digits, COLOR),
        Made("grey.pgm", save(grey, "PPM"), rgb(GREY)),
        Made("1-bit.pbm", save(Image.fromarray(GREY > 90), "PPM"), rgb(255 * (GREY > 90))),
        Made("16-bit.pgm", b"P5\n" + head + b"65535\n" + DEEP.astype(">u2").tobytes(),
             rgb(np.rint(DEEP / 257))),
        Made("float.pfm", b"Pf\n" + head + b"-1\n" + GREY.astype("<f4").tobytes(), word="floats"),
        Made("lossless.webp", save(color, "WEBP", lossless=True), COLOR),
        Made("lossy.webp", save(color, "WEBP", quality=100), COLOR, 40),
        Made("rgba.webp", save(layered, "WEBP", lossless=True, exact=True),
             on_white(COLOR, ALPHA), 1),
    ]  # fmt: skip


def animations() -> list[Made]:
    color = Image.fromarray(COLOR)
    few = color.quantize(16)
    shown = np.asarray(few.convert("RGB"))
    more = {"save_all": True, "append_images": [Image.new("RGB", color.size, "red")]}
    return [
        Made("frames.gif", save(few, "GIF", **more), shown),
        Made("frames.png", save(color, "PNG", **more), COLOR),
        Made("frames.webp", save(color, "WEBP", lossless=True, **more), COLOR),
    ]


def foreign() -> list[Made]:
    """What is no picture of an allowed format, though some are named like one."""
    color = Image.fromarray(COLOR)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("a.png", save(color, "PNG"))
    files = {
        "words.png": b"no picture, just text",
        "page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9"/></svg>',
        "paper.pdf": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
        "pictures.png": archive.getvalue(),
        "postscript.eps": save(color, "EPS"),
        "postscript.jpg": save(color, "EPS"),
        "phone.heic": struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(90),
        "new.avif": save(color, "AVIF"),
        "wavelets.jp2": save(color, "JPEG2000"),
        "icon.ico": save(color, "ICO", sizes=[(8, 8)]),
        "signature only.png": b"\x89PNG\r\n\x1a\n",
    }
    return [Made(name, content, word="PPM, TIFF, WEBP") for name, content in files.items()]


def broken() -> list[Made]:
    color = Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8))
    halves = [
        Made(f"half.{kind.lower()}", whole[: len(whole) // 2], word="cannot decode")
        for kind in ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
        for whole in [save(color, kind)]
    ]
    whole = save(color, "TIFF", compression="tiff_lzw")
    progressive = save(color, "JPEG", progressive=True)
    cmyk = save(color.convert("CMYK"), "JPEG")
    return [
        *halves,
        Made("half lzw.tif", whole[: len(whole) // 2], word="cannot decode"),
        Made("half progressive.jpg", progressive[: len(progressive) // 2], word="truncated"),
        Made("half cmyk.jpg", cmyk[: len(cmyk) // 2], word="truncated"),
        Made("empty.png", b"", word="empty"),
        Made("no pixels.png", png((0, 0), 8, 2, b""), word="none of"),
        Made("no pixels.tif", tiff(tags(0, 9, 8, 1), b""), word="cannot decode"),
        Made("no pixels.pgm", b"P5\n0 0\n255\n", word="cannot decode"),
    ]
