"""check_data decodes every image, and names those that cannot be decoded."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, assert_three_lines
from sample_images import noise, save

SPLITS = ("train", "val")
TWO = ("ant", "bee")


def image(seed: int, size: tuple[int, int] = (40, 50)) -> bytes:
    """A PNG of noise; `size` is (width, height)."""
    return save(noise(seed, *size[::-1]), "PNG", compress_level=1)


def make_tree(root: Path, count: int, size: tuple[int, int] = (40, 50)) -> Path:
    """Half of the images in train and half in val; the two classes alternate."""
    for i in range(count):
        path = root / SPLITS[2 * i // count] / TWO[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(i, size))
    return root


@pytest.fixture
def tree(tmp_path) -> Path:
    return make_tree(tmp_path / "set", 12)


def spoil(root: Path) -> list[Path]:
    """Three bad files, in the order of the scan."""
    bad = [root / "train/ant/2.png", root / "train/bee/5.png", root / "val/bee/9.png"]
    bad[0].write_bytes(image(2)[:2000])
    bad[1].write_bytes(b"")
    bad[2].write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    return bad


def test_a_good_folder(tree, invoke):
    (tree / "train" / "ant" / "notes.txt").write_bytes(b"not an image")
    done = invoke("experiments.check_data", tree, "--workers", 0)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "left out, not .jpg, .png ... (1): train/ant/notes.txt"
    assert lines[-1] == "6 + 6 images in 2 classes: all decode"
    table = [" ".join(line.split()) for line in lines]
    rows = [row for row in table[table.index("class train val") :] if row[-1:].isdigit()]
    assert rows == ["ant 3 3", "bee 3 3", "all 6 6"]
    for word in ("synthetic", "bad", "odd"):
        assert word not in done.stdout


def test_bad_images_are_all_named_and_the_check_fails(tree, tmp_path, invoke):
    bad = spoil(tree)
    table = tmp_path / "new" / "table.csv"
    done = invoke("experiments.check_data", tree, "--workers", 0, "--output", table)
    assert_three_lines(done, 3, "3 of 12 cannot be decoded", str(bad[0]), "--skip-bad")
    said = [line for line in done.stdout.splitlines() if line.startswith("bad: ")]
    assert [line.split(": ")[1] for line in said] == [str(path) for path in bad]
    assert all(len(line.split(": ", 2)[2]) > 10 for line in said)
    assert done.stdout.splitlines()[-1] == "3 of 12 cannot be decoded"
    assert "all decode" not in done.stdout

    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert len(rows) == 12
    for row in rows:
        path = tree / row["path"]
        assert [row["split"], row["class"]] == row["path"].split("/")[:2]
        assert int(row["bytes"]) == path.stat().st_size
        assert (row["verdict"] != "fine") == (path in bad)
        size = ["0", "0"] if path in bad else ["40", "50"]
        assert [row["width"], row["height"]] == size


def test_tiny_images_are_counted_and_named_but_fine(tree, invoke):
    for name, size in (("ant/6", (31, 200)), ("ant/8", (32, 32)), ("bee/7", (200, 1))):
        (tree / f"val/{name}.png").write_bytes(image(0, size))
    done = invoke("experiments.check_data", tree, "--workers", 0)
    assert done.returncode == 0
    assert "odd: images with a side under 32 pixels: 2: val/ant/6.png, val/bee/7.png" in done.stdout


def test_a_folder_of_classes_says_that_its_split_is_drawn(tree, invoke):
    done = invoke("experiments.check_data", tree / "train", "--workers", 0)
    assert "val and test are drawn at random, with seed 0: 15 % of each class" in done.stdout
    assert done.stdout.splitlines()[-1] == "2 + 2 + 2 images in 2 classes: all decode"


def test_names_with_markup_are_shown_as_they_are(tree, invoke):
    for split in SPLITS:
        (tree / split / "ant").rename(tree / split / "[bold]ant[dim]")
    done = invoke("experiments.check_data", tree, "--workers", 0)
    assert done.returncode == 0, done.stderr
    assert "[bold]ant[dim] " in done.stdout


def test_impossible_options_and_missing_folders_are_refused(tree, invoke):
    assert_three_lines(invoke("experiments.check_data", tree, "--workers", -1), 2, "--workers -1")
    assert_three_lines(invoke("experiments.check_data"), 2)
    done = invoke("experiments.check_data", tree / "no")
    assert_three_lines(done, 3, "No such file or directory")


def test_the_real_ants_and_bees(real_data, tmp_path, invoke):
    shutil.unpack_archive(real_data / "hymenoptera_data.zip", tmp_path)
    done = invoke("experiments.check_data", tmp_path / "hymenoptera_data", "--workers", 0)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    note = "read by content, not named .jpg, .png ... (1): train/ants/imageNotFound.gif"
    assert lines[0] == note
    assert lines[-1] == "245 + 153 images in 2 classes: all decode"


def test_letters_that_the_terminal_lacks_do_not_end_a_command(tree):
    """Windows writes a log file in a regional encoding, such as cp1252."""
    for split in SPLITS:
        (tree / split / "bee").rename(tree / split / "꿀벌")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.check_data", str(tree), "--workers", "0"],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert rb"\uafc0\ubc8c" in done.stdout
