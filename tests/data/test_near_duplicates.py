"""Near-duplicates in different splits: found, reported with a sheet, left out if asked."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_prints, assert_three_lines
from PIL import Image
from sample_images import noise

from data import near_duplicates
from data.collection import Source, open_dataset
from data.images import load_image
from data.near_duplicates import MISSING, MOST_BITS, fingerprint, near_pairs

pytest.importorskip("imagehash", reason="imagehash is not installed")


def photo(seed: int, side: int = 96) -> Image.Image:
    """Smooth random shapes, which survive compression as a photo's do."""
    return Image.fromarray(noise(seed, 7, 7)).resize((side, side), Image.Resampling.BICUBIC)


def save(root: Path, name: str, image: Image.Image, **options) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    image.save(root / name, **options)


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """Two train images are copies of val's and of test's; one val image is a copy of test's."""
    monkeypatch.setattr("data.collection.IMAGE_CACHE", tmp_path / "cache")
    root, seed = tmp_path / "set", 0
    for split in ("train", "val", "test"):
        for label in ("ant", "bee"):
            for i in range(3):
                seed += 1
                save(root, f"{split}/{label}/{i}.png", photo(seed))
    for name, of in (
        ("train/ant/v.jpg", "val/ant/1"),
        ("train/bee/t.jpg", "test/bee/0"),
        ("val/ant/t.jpg", "test/ant/2"),
        ("train/ant/same.jpg", "train/ant/0"),
    ):
        save(root, name, Image.open(root / f"{of}.png").resize((50, 50)), quality=60)
    return root


PAIRS = {"train/ant/v.jpg": "val/ant/1.png", "train/bee/t.jpg": "test/bee/0.png",
         "val/ant/t.jpg": "test/ant/2.png"}  # fmt: skip


def test_copies_are_near_and_other_images_are_not():
    prints, copies = [], []
    for seed in range(30):
        out = io.BytesIO()
        photo(seed).resize((40, 55)).save(out, "JPEG", quality=50)
        out.seek(0)
        prints.append(fingerprint(torch.from_numpy(np.array(photo(seed))).permute(2, 0, 1)))
        copies.append(fingerprint(load_image(out)))
    assert all(0 <= bits < 2**64 for bits in prints)
    found = near_pairs(prints + copies, ["train"] * 30 + ["val"] * 30)
    assert [(one, other) for one, other, _ in found] == [(i, i + 30) for i in range(30)]
    assert all(bits == (prints[i] ^ copies[i]).bit_count() for i, _, bits in found)


def test_the_nearest_of_later_splits_is_found():
    rng, splits = np.random.default_rng(0), ("train", "val", "test")
    homes = [splits[i] for i in rng.integers(0, 3, 60)]
    prints: list[int | None] = [int(i) for i in rng.integers(0, 2**12, 60)]
    prints[7] = None
    expected = []
    for one, bits in enumerate(prints):
        later = [j for j in range(60) if splits.index(homes[j]) > splits.index(homes[one])]
        apart = [
            ((bits ^ prints[j]).bit_count(), j) for j in later if None not in (bits, prints[j])
        ]
        if apart and min(apart)[0] <= MOST_BITS:
            expected.append((one, min(apart)[1], min(apart)[0]))
    assert sorted(near_pairs(prints, homes)) == expected
    assert near_pairs([], []) == []


def test_check_data_names_and_draws_the_pairs(tree, tmp_path, invoke, monkeypatch):
    sheet = tmp_path / "runs" / "pairs.png"
    monkeypatch.setattr("experiments.check_data.SHEET", sheet)
    save(tree, "train/ant/9.jpg", photo(99))
    (tree / "train/ant/9.jpg").write_bytes(b"no image")
    table = tmp_path / "table.csv"
    done = invoke("experiments.check_data", tree, "--workers", 0, "--output", table)
    assert done.returncode == 3
    pairs = ", ".join(f"{one} (as {other})" for one, other in sorted(PAIRS.items()))
    note = f"odd, nearly the same as an image of a later split (3): {pairs}"
    assert note in done.stdout.splitlines()
    assert f"sheet of near-duplicates: {sheet}" in done.stdout
    assert Image.open(sheet).size[0] > 300
    rows = [line.split(",") for line in table.read_text(encoding="utf-8").splitlines()]
    assert {row[0]: row[-1] for row in rows[1:] if row[-1]} == PAIRS


def test_transfer_leaves_out_the_copies_of_later_splits_if_asked(tree):
    dataset = open_dataset(Source(str(tree)), 0, 0)
    before = {split: set(part.files) for split, part in dataset.splits.items()}
    dataset.check_near_duplicates(skip=False)
    assert dataset.notes[-1].startswith("odd but kept (--skip-near-duplicates leaves them out), ")
    assert {split: set(part.files) for split, part in dataset.splits.items()} == before
    dataset.check_near_duplicates(skip=True)
    assert dataset.notes[-1].startswith(
        "left out, nearly the same as an image of a later split (3)"
    )
    gone = {
        file for split, part in dataset.splits.items() for file in before[split] - {*part.files}
    }
    assert gone == {str(tree / name) for name in PAIRS}
    for part in dataset.splits.values():
        labels = [dataset.classes[label] for label in part.labels]
        assert labels == [Path(file).parent.name for file in part.files]


def test_hashes_are_computed_once(tree, monkeypatch):
    open_dataset(Source(str(tree)), 0, 0).check_near_duplicates(skip=False)
    monkeypatch.setattr("data.store.decode_all", None)
    dataset = open_dataset(Source(str(tree)), 0, 0)
    dataset.check_near_duplicates(skip=False)
    assert "(3): " in dataset.notes[-1]


def test_without_imagehash_one_line_says_so(tree, invoke, monkeypatch):
    monkeypatch.setattr(near_duplicates, "installed", lambda: False)
    done = invoke("experiments.check_data", tree, "--workers", 0)
    assert_prints(done, MISSING, "all decode")
    assert "nearly the same" not in done.stdout
    dataset = open_dataset(Source(str(tree)), 0, 0)
    dataset.check_near_duplicates(skip=False)
    assert dataset.notes == [MISSING]
    done = invoke("experiments.transfer", tree, "--skip-near-duplicates")
    assert_three_lines(done, 2, "imagehash", "--skip-near-duplicates", "pip install")
