"""Every kind of image file, valid or not: load_image gives its pixels or refuses it by name."""

import io
import json
import multiprocessing
import os
import random
import signal
import struct
import subprocess
import time
import warnings
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sample_images import ALPHA, COLOR, HEIGHT, WIDTH, chunk, corpus, noise, save
from sample_images import refused as refused_by

from data.errors import DataError
from data.images import FORMATS, as_image, load_image

CORPUS = corpus()


def refused(file, *words: str, name: str | None = None) -> str:
    """The error has three lines, and the second names the image."""
    what, where, fix = refused_by(lambda: load_image(file, name))
    assert max(len(what), len(fix)) < 300, (what, fix)
    assert where == (name or str(file))
    assert all(word in what for word in words), what
    return what


def load(content: bytes) -> torch.Tensor:
    return load_image(io.BytesIO(content), "a test")


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_the_corpus_is_large_and_has_every_format():
    assert len(CORPUS) == len({made.name for made in CORPUS}) > 100
    kinds = {Image.open(io.BytesIO(m.content)).format for m in CORPUS if m.pixels is not None}
    assert kinds == {*FORMATS, "MPO"}


@pytest.mark.filterwarnings("ignore")
def test_bytes_and_pillows_images_give_the_pixels_of_their_file():
    for made in CORPUS:
        if made.pixels is not None:
            image = load(made.content)
            assert torch.equal(as_image(made.content), image), made.name
            with Image.open(io.BytesIO(made.content)) as opened:
                assert torch.equal(as_image(opened), image), made.name


PIXELS = torch.from_numpy(COLOR).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (PIXELS / 255, ["float32", "(255 * x).round().to(torch.uint8)"]),
        (COLOR / 255, ["float64", "(255 * x).round().astype('uint8')"]),
        (COLOR.astype(np.int64), ["int64", "x.round().astype('uint8')"]),
        (PIXELS.permute(1, 2, 0), ["(10, 12, 3)", "x.permute(2, 0, 1)"]),
        (PIXELS[0], ["(10, 12)", "x.expand(3, -1, -1)"]),
        (PIXELS[:1], ["(1, 10, 12)", "x.expand(3, -1, -1)"]),
        (PIXELS[None], ["(1, 3, 10, 12)", "x[0]"]),
        (COLOR[None], ["(1, 10, 12, 3)", "x[0]"]),
        (PIXELS[None, None], ["(1, 1, 3, 10, 12)", "x[0]"]),
        (COLOR[:, :, :1], ["(10, 12, 1)"]),
        (COLOR[None, :, :, 0], ["(1, 10, 12)", "x[0]"]),
        (Image.fromarray(COLOR).convert("I"), ["mode I ", "numpy.asarray(x)"]),
        (Image.fromarray(COLOR[:, :, 0].astype("uint16")), ["mode I;16", "white"]),
        ("https://localhost/a.png", ["download it first"]),
        (COLOR.transpose(2, 0, 1), ["(3, 10, 12)", "x.transpose(1, 2, 0)"]),
        (PIXELS.repeat(2, 1, 1)[:4], ["(4, 10, 12)", "fromarray"]),
        (np.dstack([COLOR, ALPHA]), ["(10, 12, 4)", "fromarray"]),
        (COLOR[:3], ["a NumPy array of uint8 (3, 12, 3)"]),
        (PIXELS[:, :, :3], ["(3, 10, 3)", "colors", "first or last"]),
        (COLOR[:3, :3], ["(3, 3, 3)", "first or last"]),
        (COLOR[:0], ["(0,"]),
        (torch.zeros(0, dtype=torch.uint8), ["(0,"]),
        (np.zeros((), np.uint8), ["uint8 ()"]),
        (["a.png", "b.png"], ["list", "for x in images"]),
        (None, ["NoneType"]),
        (io.StringIO("text"), ["mode 'rb'"]),
        (io.TextIOWrapper(io.BytesIO(b"\x89PNG")), ["mode 'rb'"]),
        (b"", ["empty", "read to its end before"]),
        (Image.new("F", (2, 2)), ["mode F"]),
        (Image.new("RGB", (6000, 5000)), ["too large"]),
    ],
)
def test_what_is_no_image_is_refused_with_the_call_that_mends_it(wrong, words):
    assert max(map(len, refused_by(lambda: as_image(wrong), *words))) < 300


def test_the_advised_calls_work():
    x, a = PIXELS, COLOR
    for mended in (
        (255 * (x / 255)).round().to(torch.uint8), (255 * (a / 255)).round().astype("uint8"),
        x.permute(1, 2, 0).permute(2, 0, 1), a.transpose(2, 0, 1).transpose(1, 2, 0), x[None][0],
        Image.fromarray(a), Image.fromarray(np.dstack([a, np.full_like(ALPHA, 255)])),
    ):  # fmt: skip
        assert torch.equal(as_image(mended), PIXELS)
    grey = as_image(a[:, :, 0])
    for white, kind in ((255, "int32"), (65535, "uint16"), (1, "float32")):
        image = Image.fromarray((a[:, :, 0] * (white / 255)).astype(kind))
        again = (255 / white * np.asarray(image)).round().astype("uint8")
        assert torch.equal(as_image(again), grey), kind
    for mended in (np.matrix(a[:, :, 0]), a[:, :, :1][..., 0], a[None, :, :, 0][0]):
        assert torch.equal(as_image(mended), grey)
    assert torch.equal(as_image(x[0].expand(3, -1, -1)), as_image(a[:, :, 0]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("made", CORPUS, ids=lambda made: made.name)
def test_a_file_gives_its_pixels_or_is_refused_by_name(tmp_path, capfd, made):
    path = tmp_path / made.name
    path.write_bytes(made.content)
    if made.pixels is None:
        what = refused(path, made.word)
        assert made.word != "none of" or all(kind in what for kind in FORMATS)
    else:
        image = load_image(path)
        assert image.dtype == torch.uint8
        assert image.permute(1, 2, 0).is_contiguous()
        assert image.shape == (3, *made.pixels.shape[:2])
        difference = image.permute(1, 2, 0).numpy().astype(int) - made.pixels
        assert np.abs(difference).max() <= made.tolerance
        with path.open("rb") as file:
            assert torch.equal(load_image(file), image)
    if not path.name.startswith("half") or path.suffix != ".tif":  # libtiff prints there itself
        assert capfd.readouterr().err == ""


def test_postscript_never_starts_a_program(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    (tmp_path / "image.jpg").write_bytes(save(COLOR, "EPS"))
    refused(tmp_path / "image.jpg", "PNG")


def test_pillow_alone_would_turn_16_bit_grey_white_and_show_hidden_colors():
    """Why load_image does not use convert("RGB"): if this test fails, it could."""
    deep = next(made for made in CORPUS if made.name == "32-bit.tif")
    plain = np.asarray(Image.open(io.BytesIO(deep.content)).convert("RGB"))
    assert (plain == 255).mean() > 0.9
    hidden = Image.open(io.BytesIO(save(Image.new("RGBA", (2, 2), (255, 0, 0, 0)), "PNG")))
    assert hidden.convert("RGB").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_all_eight_orientations_of_an_image_are_the_same(kind):
    upright = torch.from_numpy(COLOR).permute(2, 0, 1)
    # How the image must be stored so that EXIF orientations 1 to 8 turn it upright.
    stored = [
        upright, upright.flip(2), upright.flip(1, 2), upright.flip(1), upright.transpose(1, 2),
        upright.rot90(1, (1, 2)), upright.rot90(2, (1, 2)).transpose(1, 2),
        upright.rot90(-1, (1, 2)),
    ]  # fmt: skip
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    for orientation, pixels in enumerate(stored, 1):
        array = np.ascontiguousarray(pixels.permute(1, 2, 0))
        image = load(save(array, kind, exif=turned(orientation), **options))
        assert image.shape == upright.shape, orientation
        assert (image.int() - upright).abs().max() <= (4 if kind == "JPEG" else 0), orientation


def test_exif_is_read_after_the_pixels_and_after_xmp():
    stored = torch.from_numpy(COLOR).permute(2, 0, 1)
    png, exif = save(COLOR, "PNG"), turned(8).tobytes()
    end = png.index(b"IEND") - 4
    content = png[:end] + chunk(b"eXIf", exif[6:]) + png[end:]
    assert torch.equal(load(content), stored.rot90(1, (1, 2)))
    jpg, xmp = (
        save(COLOR, "JPEG"),
        b"http://ns.adobe.com/xap/1.0/\0<x/>",
    )  # as photo editors write it
    segments = [b"\xff\xe1" + struct.pack(">H", 2 + len(part)) + part for part in (xmp, exif)]
    content = jpg[:2] + b"".join(segments) + jpg[2:]
    assert torch.equal(load(content), load(jpg).rot90(1, (1, 2)))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_is_refused_wherever_it_is_cut_off(mode, options):
    whole = save(Image.fromarray(COLOR).convert(mode), "JPEG", **options)
    assert load(whole).shape == (3, HEIGHT, WIDTH)
    for length in range(len(whole)):
        with pytest.raises(DataError, match="a test"):
            load(whole[:length])


# --- paths ---


@pytest.mark.parametrize(
    "name", ["Ünï cödé 日本.png", "a b.png", "x" * 250 + ".png", os.fsdecode(b"\xff\xfe.png"),
             "a\x1b[31m\nb"],
)  # fmt: skip
def test_any_path_works_and_can_be_printed(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(save(COLOR, "PNG"))
    assert torch.equal(load_image(path), load_image(str(path)))
    path.write_bytes(b"no image")
    lines = refused_by(lambda: load_image(path), *([str(path)] if name.isprintable() else []))
    assert all(line.isprintable() for line in lines)  # so it can be encoded, too


def test_threads_that_decode_leave_the_warnings_as_they_are(tmp_path):
    for i in range(40):
        Image.fromarray(noise(i, 60, 60)).save(tmp_path / f"{i}.png")
    before = warnings.filters[:]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(load_image, 5 * list(tmp_path.glob("*.png"))))
    assert warnings.filters == before


def test_what_cannot_be_read_is_refused_at_once(tmp_path):
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("load_image waits"))
    signal.alarm(5)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "pipe.png", tmp_path / "folder.png", "/dev/zero"):
        refused(path, "not a file")
    refused(tmp_path / "loop.png", "symbolic links")
    refused(tmp_path / "none.png", "No such file")
    assert refused_by(lambda: load_image(tmp_path / "none.png"))[2] == "check the path"
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "the file is empty")
    (tmp_path / "one.png").write_bytes(save(COLOR, "PNG"))
    entry = type("Entry", (), {"__fspath__": lambda self: os.fsencode(tmp_path / "one.png")})()
    assert torch.equal(as_image(entry), PIXELS)
    refused(tmp_path / ("x" * 5000), "too long")
    refused(tmp_path / "a.png\0b", "null byte", name="a.png")
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(10**11)
    refused(tmp_path / "sparse.png", "too large")
    signal.alarm(0)


def test_without_permission_it_is_refused(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(save(COLOR, "PNG"))
    path.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # root may read everything
        refused(path, "Permission denied")
    finally:
        os.seteuid(user)


def test_a_file_in_a_damaged_zip_is_refused():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.bmp", save(COLOR, "BMP"))
    content = bytearray(out.getvalue())
    content[40] ^= 255
    with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open("a.bmp") as file:
        refused(file, "cannot decode an image", name="a.bmp")


# --- damage ---


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The file with bits flipped, its end cut off, or a part repeated, replaced or set to zero."""
    data = bytearray(content)
    start, place = draw.randrange(len(data)), draw.randrange(len(data))
    part = data[start : start + draw.randrange(1, 200)]
    way = draw.choice(("flip", "cut", "double", "clear", "replace"))
    if way == "flip":
        for _ in range(draw.choice((1, 3, 30))):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif way == "cut":
        del data[start:]
    elif way == "double":
        data[place:place] = part
    else:
        random_bytes = draw.randbytes(len(part))
        data[start : start + len(part)] = random_bytes if way == "replace" else bytes(len(part))
    return bytes(data)


def decode_damaged(count: int, report: Path) -> None:
    draw = random.Random(0)
    whole = [made for made in CORPUS if made.pixels is not None and len(made.content) < 20_000]
    with report.open("w", encoding="utf-8") as out:
        for i in range(count):
            made = whole[i % len(whole)]
            content, start = damaged(made.content, draw), time.perf_counter()
            try:
                load(content)
                end = "decoded"
            except DataError:
                end = "refused"
            except BaseException as error:
                end = repr(error)
            out.write(json.dumps([made.name, end, time.perf_counter() - start]) + "\n")
            out.flush()


def test_a_thousand_damaged_files_decode_or_are_refused(tmp_path):
    load(save(COLOR, "JPEG"))  # so that no file's time includes torchvision's import
    report = tmp_path / "report"
    child = multiprocessing.get_context("fork").Process(target=decode_damaged, args=(1000, report))
    child.start()
    child.join(60)
    child.kill()
    ends = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    assert child.exitcode == 0, ends[-1:]
    assert not [end for end in ends if end[2] > 2]
    counts = Counter(end for _, end, _ in ends)
    assert counts["refused"] + counts["decoded"] == len(ends) == 1000, counts
    assert counts["refused"] > 300
    assert counts["decoded"] > 200
