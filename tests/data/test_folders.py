"""A user's folder: what is found, how it is split, and that nothing is lost silently."""

import contextlib
import csv
import os
import random
import re
import tempfile
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sample_images import refused as refused_by
from torchvision.datasets.folder import IMG_EXTENSIONS

from data import duplicates, listing
from data.errors import DataError
from data.folders import Scan, draw_splits, scan_classes
from data.folders import scan as scan_listing
from data.listing import EXTENSIONS, Listing, listing_of

TWO = ("ant", "bee")


def make(root: Path, *names: str, content: bytes | None = None) -> Path:
    """Write files that all have the same content, or each its own."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(name) if content is None else content)
    return root


def many(*folders: str, count: int = 4) -> list[str]:
    return [f"{folder}/{i}.jpg" for folder in folders for i in range(count)]


def given_tree(root: Path, *more: str) -> Path:
    return make(root, *many("train/ant", "train/bee", "val/ant", "val/bee"), *more)


def scan(root: Path, seed: int = 0) -> Scan:
    return scan_listing(Listing(root), seed)


def names(found: Scan, *splits: str) -> list[str]:
    return [name for split in splits or found.splits for name, _ in found.splits[split]]


def labels(found: Scan, split: str) -> list[int]:
    return [label for _, label in found.splits[split]]


def note(found: Scan, start: str) -> str:
    """The only note that begins with `start`."""
    notes = [note for note in found.notes if note.startswith(start)]
    assert len(notes) == 1, found.notes
    return notes[0]


def refused(root: Path, *words: str) -> None:
    refused_by(lambda: scan(root), *words)


def forbid(monkeypatch, owner, function: str, name: str) -> None:
    """Make owner.function(path) raise PermissionError for paths with this name."""
    real = getattr(owner, function)

    def denied(path, *arguments):
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments)

    monkeypatch.setattr(owner, function, denied)


# --- layouts ---


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
@pytest.mark.parametrize("test", [(), ("test",)])
def test_given_splits_are_taken_as_they_are(tmp_path, val, test):
    for split in ("train", val, *test):
        make(tmp_path, *many(f"{split}/bee", f"{split}/ant", count=2), f"{split}/ant/deep/er/3.PNG")
    found = scan(tmp_path)
    assert found.root == tmp_path
    assert found.classes == TWO
    assert list(found.splits) == ["train", "val", *test]
    assert found.notes == ()
    expected = ("ant/0.jpg", "ant/1.jpg", "ant/deep/er/3.PNG", "bee/0.jpg", "bee/1.jpg")
    assert names(found, "val") == [f"{val}/{name}" for name in expected]
    assert labels(found, "val") == [0, 0, 0, 1, 1]


def test_val_is_drawn_from_train_where_there_is_only_test(tmp_path):
    make(tmp_path, *many("train/ant", count=20), *many("train/bee", count=2), *many("test/ant"))
    found = scan(tmp_path)
    assert note(found, "val is drawn at random, with seed 0")
    assert labels(found, "val") == [0, 0, 0, 1]
    assert labels(found, "train") == [0] * 17 + [1]
    assert names(found, "test") == many("test/ant")
    assert all(name.startswith("train/") for name in names(found, "val"))
    assert scan(tmp_path) == found
    assert any(scan(tmp_path, seed).splits != found.splits for seed in (1, 2))


def test_a_folder_of_classes_is_drawn_70_15_15(tmp_path):
    make(tmp_path, *many("ant", count=20), *many("bee", count=3))
    found = scan(tmp_path)
    assert note(found, "val and test are drawn at random, with seed 0: 15 % of each class")
    assert set(found.splits) == {"train", "val", "test"}
    for split, ants in (("train", 14), ("val", 3), ("test", 3)):
        assert labels(found, split) == [0] * ants + [1]
        assert names(found, split) == sorted(names(found, split))
    assert sorted(names(found)) == sorted(many("ant", count=20) + many("bee", count=3))


def test_a_class_may_be_named_train(tmp_path):
    assert scan(make(tmp_path, *many("train", "plane"))).classes == ("plane", "train")


def test_names_of_any_script_and_with_spaces(tmp_path):
    classes = sorted(["개미", "🐝", "red ant", "-x", "a,b", "[b]"])
    found = scan(make(tmp_path, *many(*classes)))
    assert found.classes == tuple(classes)
    rows = list(csv.reader(found.csv().splitlines()))
    assert rows[0] == ["split", "class", "path"]
    assert sorted(row[2] for row in rows[1:]) == sorted(many(*classes))
    assert [row[0] for row in rows[1:]] == [s for s in found.splits for _ in names(found, s)]
    assert all(row[2].split("/")[0] == row[1] for row in rows[1:])


def test_images_of_a_class_stay_together_though_a_space_sorts_before_a_slash(tmp_path):
    found = scan(make(tmp_path, *many("val/ant", "train/ant", "train/ant b", "val/ant b")))
    assert labels(found, "train") == [0] * 4 + [1] * 4
    deep = given_tree(tmp_path / "deep", "val/ant/0 b/1.jpg", "val/ant/0/2.jpg")
    assert names(scan(deep), "val")[:2] == ["val/ant/0/2.jpg", "val/ant/0 b/1.jpg"]


def test_the_order_of_listing_changes_nothing(tmp_path, monkeypatch):
    root = make(tmp_path, *many("ant", "bee/x", "bee/y", "wasp", count=5), "ant/note.txt")
    make(root, "bee/.DS_Store")
    make(root, "ant/copy.jpg", content=b"ant/1.jpg")
    (root / "wasp" / "again").symlink_to(root / "wasp")
    (root / "bee" / "z").symlink_to(root / "bee" / "x")
    expected, scandir = scan(root), os.scandir
    assert len(expected.notes) == 6

    draws = random.Random(0)

    @contextlib.contextmanager
    def shuffled(path):
        with scandir(path) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        draws.shuffle(listed)
        yield listed

    monkeypatch.setattr(os, "scandir", shuffled)
    for _ in range(5):
        assert scan(root) == expected


@given(st.lists(st.integers(3, 300), min_size=1, max_size=5), st.integers(0, 2**32),
       st.sampled_from([("val",), ("val", "test")]))  # fmt: skip
def test_every_class_has_its_share_of_every_drawn_part(sizes, seed, parts):
    train = {f"{c}/{i}": ("train", str(c)) for c, size in enumerate(sizes) for i in range(size)}
    drawn = draw_splits(train, parts, seed)
    assert [label for _, label in drawn.values()] == [label for _, label in train.values()]
    counts = Counter(drawn.values())
    for c, size in enumerate(sizes):
        for split in ("train", *parts):
            share = 0.15 if split != "train" else 1 - 0.15 * len(parts)
            assert counts[split, str(c)]
            # Three images for three parts: each part gets one, however far that is from its share.
            assert abs(counts[split, str(c)] - share * size) <= (1 if size > 3 else 1.2)


def test_a_draw_does_not_favour_early_names():
    train = {f"{i:03}": ("train", "ant") for i in range(100)}
    drawn = [draw_splits(train, ("val",), seed) for seed in range(40)]
    taken = [int(name) for each in drawn for name, (split, _) in each.items() if split == "val"]
    assert len(taken) == 40 * 15
    assert 45 < sum(taken) / len(taken) < 54  # mean 49.5, standard error 1.1
    assert len(set(taken)) > 95


# --- layouts around and inside others ---


@pytest.mark.parametrize(
    ("train", "test"),
    [("seg_train/seg_train", "seg_test/seg_test"), ("train_images", "test_images"),
     ("Training Data", "Testing Data"), ("trainSet/images", "testSet/images"),
     ("set/x/train/train", "set/x/test/test"), ("train2017", "test2017")],
)  # fmt: skip
def test_nested_splits_and_names_of_several_words_are_found_and_said(tmp_path, train, test):
    root = make(tmp_path, *many(f"{train}/ant", f"{train}/bee", f"{test}/ant", f"{test}/bee"))
    base = "set/x/" if train.startswith("set") else ""
    make(root, *many(f"{base}seg_pred/seg_pred", f"{base}unlabelled", count=1))
    found = scan(root)
    assert found.classes == TWO
    assert list(found.splits) == ["train", "val", "test"]
    assert names(found, "test") == many(f"{test}/ant", f"{test}/bee")
    assert note(found, f"{train} is used as train")
    assert note(found, f"{test} is used as test")
    assert bool(base) == any("set/x is the folder that is read" in n for n in found.notes)
    assert note(found, "left out, not in a class").endswith(
        f"(2): {base}seg_pred, {base}unlabelled"
    )


def test_one_folder_around_the_classes_is_passed_through(tmp_path):
    found = scan(make(tmp_path, *many("a/b/ant", "a/b/bee"), "a/readme.txt", "__MACOSX/._x.jpg"))
    assert found.classes == TWO
    assert note(found, "a/b is the folder that is read")
    assert note(found, "left out, not in a class").endswith("(1): a/readme.txt")
    found = scan_classes(Listing(tmp_path))
    assert found.classes == TWO
    assert note(found, "a/b is the folder that is read")


def test_an_archive_inside_itself_is_no_class(tmp_path):
    root = make(tmp_path / "cells", *many(*TWO), *many("cells/ant", "cells/bee"))
    make(root, *many("cells/cells/ant", "cells/cells/bee"))
    found = scan(root)
    assert found.classes == TWO
    assert sorted(names(found)) == many(*TWO)
    assert note(found, "left out, it repeats the folders beside it").endswith("(1): cells")
    assert scan_classes(Listing(root)).classes == TWO
    root = make(tmp_path / "more", *many(*TWO), *many("more/ant", "more/bee", count=5))
    refused(root, "more/ holds folders with names of those beside it (ant, bee)")
    root = given_tree(tmp_path / "xray", *many("xray/train/ant", "xray/val/ant"))
    assert names(scan(root)) == many("train/ant", "train/bee", "val/ant", "val/bee")
    # Inside a split, too.
    root = given_tree(tmp_path / "s", *many("train/train/ant", "train/train/bee"))
    assert names(scan(root), "train") == many("train/ant", "train/bee")


def test_the_only_class_of_val_is_no_folder_around_others(tmp_path):
    root = make(tmp_path, *many("train/ant", "train/bee", "val/ant/deep", "val/ant/er"))
    assert scan(root).classes == TWO


def test_a_split_without_classes_inside_itself_is_left_out(tmp_path):
    found = scan(given_tree(tmp_path, *many("test/test", count=2)))
    assert list(found.splits) == ["train", "val"]
    assert "test/test/0.jpg" in note(found, "left out, not in a class")


def test_splits_are_never_taken_for_classes(tmp_path):
    pair = many("ant", "bee")
    for name, folders, words in (
        ("pred", ("seg_train/seg_train", "seg_pred"), ("seg_train/ is named as a split",)),
        ("folds", ("fold1", "fold2"), ("fold1, fold2 hold folders of the same names (ant, bee)",)),
        ("both", ("a_train", "a_test", "b_train", "b_test"), ("a_train/ and b_train/ are two",)),
    ):
        for folder in folders:
            make(tmp_path / name / folder, *pair)
        with pytest.raises(DataError) as error:
            scan(tmp_path / name)
        assert all(word in str(error.value) for word in words), error.value
        if name != "both":  # the advice works
            given = re.search(r"(?:give|as) (/[^,]*)", str(error.value))[1]
            assert scan(Path(given)).classes == TWO
    refused(make(tmp_path / "n", *many("ant", "bee", "more/ant", "more/bee", "more/wasp")),
            "more/ holds folders with names of those beside it (ant, bee)")  # fmt: skip
    flat = make(tmp_path / "flat", *many("img_train", "img_test"))
    refused(flat, "no images in class folders of train/")
    inside = [f"{c}/{s}" for c in TWO for s in ("train", "test")]
    refused(make(tmp_path / "inside", *many(*inside)), "ant/ holds splits", "put the classes into")


@pytest.mark.parametrize(
    ("folders", "shared", "given"),
    [(("original/ant", "original/bee", "augmented/ant", "augmented/bee", "notes"), "ant, bee",
      "original"),
     (("shop/images/ant", "shop/images/bee", "webcam/images/ant", "webcam/images/bee"), "ant, bee",
      "shop"),
     (("fold1/ant", "fold1/bee", "fold2/ant"), "ant", "fold1"),
     (("a/ant", "a/bee", "b/bee", "b/wasp"), "bee", "a"),
     (("dev/ant", "dev/bee", "learn/ant", "learn/bee"), "ant, bee", "learn")],
)  # fmt: skip
def test_collections_of_the_same_classes_are_no_classes(tmp_path, folders, shared, given):
    root = make(tmp_path, *many(*(folder for folder in folders if folder != "notes")))
    make(root, *(f"{folder}/readme.txt" for folder in folders if folder == "notes"))
    refused(root, f"hold folders of the same names ({shared})", f"such as {root / given},")
    assert scan(root / given).classes == TWO


def test_what_is_advised_for_collections_of_the_same_classes_works(tmp_path):
    folders = ("a/ant", "a/bee", "b/ant", "b/bee")
    assert scan(make(tmp_path, *many(*folders), "a/0.jpg", "b/0.jpg")).classes == ("a", "b")
    root = make(tmp_path / "inner", *many(*folders))
    for name, split in (("a", "train"), ("b", "val")):
        (root / name).rename(root / split)
    assert list(scan(root).splits) == ["train", "val"]


def test_folders_with_images_that_become_one_class_are_named(tmp_path):
    found = scan(make(tmp_path, *many("cat/siamese", "cat/persian/old", "dog", "dog/only")))
    assert note(found, "merged into one class each").endswith("(1): cat (old, siamese)")
    found = scan(make(tmp_path / "images", *many("ant/images", "bee/images")))
    assert not any("merged" in one for one in found.notes)


def test_images_of_a_split_without_class_folders_are_no_class(tmp_path):
    for name in ("a", "b"):
        make(tmp_path / name, *many("train"))
    make(tmp_path / "a", *many("test1"))
    for name in ("a", "b"):
        refused(tmp_path / name, "train/ has images but no class folders", "train/<class>/")
    make(tmp_path / "c", *many("train/ant", "train/bee", "dev/ant", "dev/bee"))
    refused(tmp_path / "c", "rename dev/ to val/", "or give", "c/train")


def test_advice_never_is_to_train_on_a_test_set(tmp_path):
    root = make(tmp_path / "a", *many("train_1/ant", "train_2/ant", "test/ant", "test/bee"))
    refused(root, "of train/", "\nadd train/ with class folders")
    images = many("training_images/ant", "training_images/bee", "test_set/ant", "test_set/bee")
    refused(make(tmp_path / "b", *images), "test_set/ is named as a split", "name it test")
    folders = [f"set/train/{one}/images" for one in TWO]
    root = make(tmp_path / "c", *many(*folders, "set/val/images"))
    refused(root, "train lacks", "'images'", f"or give {root}/set/train")
    assert scan(root / "set/train").classes == TWO


def test_one_split_of_several_is_read_alone_but_not_in_silence(tmp_path):
    root = make(tmp_path, *many("set/train/ant", "set/train/bee", "set/val/ant", "set/val/bee"))
    said = note(scan(root / "set/train"), "only train is read")
    assert said.endswith(f"to read train, val, give the folder that holds them: {root / 'set'}")


def test_a_class_named_like_a_split_is_said_to_be_taken_for_one(tmp_path):
    root = make(tmp_path, *many("cat", "dog", "test"))
    words = "taken for a split (rename it if it is a class) (1): test"
    refused(root, words)
    refused_by(lambda: scan_classes(Listing(root)), words, "class folders of test")


def test_what_was_left_out_names_the_fix(tmp_path):
    content = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    root = make(tmp_path / "heic", "ant/0.HEIC", "bee/0.HEIC", content=content)
    refused(root, "left out, HEIC image (2)", "heif-convert")
    refused_by(lambda: scan_classes(Listing(root)), "left out, HEIC image (2)", "heif-convert")
    root = make(tmp_path / "one", *many("images/ant", "images/bee"), "meta/classes.txt")
    refused(root, "only one class: 'images'", f"give {root / 'images'}")
    root = make(tmp_path / "copies", *many(*TWO), *many("all"))
    for name in many(*TWO):
        make(root, f"all/{name.replace('/', '')}", content=name.encode())
    refused(root, "'ant' in train: 0", "not counted: all/ant0.jpg (as ant/0.jpg)")


def test_words_that_only_look_like_splits_are_classes(tmp_path):
    classes = ("bullet train", "test tube", "val")
    assert scan(make(tmp_path, *many("bullet train", "test tube"))).classes == classes[:2]
    assert scan(make(tmp_path / "b", *many("train", "express train"))).classes == (
        "express train",
        "train",
    )


@pytest.mark.parametrize(
    "name", ["@eaDir", "#recycle", "__MACOSX", ".thumbnails", "$RECYCLE.BIN", "lost+found",
             ".ipynb_checkpoints", "System Volume Information", "thumbnails", "@__thumb"]
)  # fmt: skip
def test_folders_of_the_system_are_left_out_at_any_depth(tmp_path, name):
    root = given_tree(tmp_path, f"{name}/0.jpg", f"train/{name}/0.jpg", "val/bee/Thumbs.db")
    make(root, f"train/ant/{name}/0.jpg/THUMB.jpg", f"val/bee/deep/{name}/1.jpg", "desktop.ini")
    found = scan(root)
    assert names(found) == many("train/ant", "train/bee", "val/ant", "val/bee")
    places = (f"{name}", f"train/{name}", f"train/ant/{name}", f"val/bee/deep/{name}")
    every = sorted([*places, "desktop.ini", "val/bee/Thumbs.db"])
    hidden = f"left out, hidden or of the system (6): {', '.join(every[:5])} and 1 more"
    assert found.notes == (hidden,)


def test_without_train_the_folder_of_another_split_is_one_of_classes(tmp_path):
    root = make(tmp_path, *many("val/ant", "val/bee"))
    refused(root, "no images in class folders of train/", "add train/ with class folders")
    found = scan_classes(Listing(root))
    assert names(found) == many("val/ant", "val/bee")
    assert note(found, "val is used: there is no train/ beside it")
    found = scan_classes(Listing(make(root, *many("test/ant"))))
    assert names(found) == many("test/ant")
    assert note(found, "left out, not in a class").endswith("(1): val")


# --- zips ---


def zipped(root: Path, archive: Path, prefix: str = "") -> Path:
    archive.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive, "w") as out:
        for file in sorted(filter(Path.is_file, root.rglob("*")), reverse=True):
            out.write(file, prefix + file.relative_to(root).as_posix())
    return archive


def test_zips_are_read_as_if_unpacked_together(tmp_path):
    more = ("train/ant/deep/9.PNG", "train/ant/.hidden.jpg", "__MACOSX/train/ant/._0.jpg")
    tree = given_tree(tmp_path / "tree", *more, "val/note.txt")
    make(tree, "val/bee/copy.jpg", content=b"train/bee/1.jpg")
    expected = scan(tree)
    assert len(expected.notes) == 3
    zipped(tree / "train", tmp_path / "zips" / "train-1.zip", "train/")
    zipped(tree / "val", tmp_path / "zips" / "val.ZIP", "set/val/")
    zipped(tree / "__MACOSX", tmp_path / "zips" / "val-2.zip", "__MACOSX/")
    for source in (tmp_path / "zips", zipped(tree, tmp_path / "one.zip", "my_set/")):
        found = scan_listing(listing_of(source))
        assert (found.classes, found.splits) == (expected.classes, expected.splits)
        hidden = note(found, "left out, hidden")
        assert "train/ant/.hidden.jpg" in hidden
        others = set(expected.notes) - {note(expected, "left out, hidden")}
        assert set(found.notes) - {hidden} == others


def test_images_with_the_same_name_in_different_zips_or_folders_are_all_kept(tmp_path):
    folders = ("train/ant", "train/bee", "val/ant", "val/bee")
    tree = make(tmp_path / "tree", *many(*(f"{part}/{f}" for part in "12" for f in folders)))
    zipped(tree / "1", tmp_path / "two" / "part_a.zip")
    zipped(tree / "2", tmp_path / "two" / "part_b.zip", "test/")  # also the name of a split
    for source in (tmp_path / "two", zipped(tree, tmp_path / "one.zip", "training/set/")):
        found = scan_listing(listing_of(source))
        assert {split: len(images) for split, images in found.splits.items()} == {
            "train": 16,
            "val": 16,
        }
        assert (found.classes, found.notes) == (TWO, ())


def test_zips_of_splits_that_hold_classes_are_read_as_their_names_say(tmp_path):
    tree = make(tmp_path / "tree", *many("train/ant", "train/bee", "test/ant", "test/bee"))
    for name in ("train", "test"):
        zipped(tree / name, tmp_path / "zips" / f"{name}.zip")
    found = scan_listing(listing_of(tmp_path / "zips"))
    assert names(found, "test") == many("test/ant", "test/bee")
    assert note(found, "taken as a split, the name of a zip").endswith("(2): test, train")
    assert scan_listing(listing_of(tmp_path / "zips" / "test.zip")).classes == TWO
    refused(tmp_path / "zips", "unpack the zips first", "train.zip into train/")


def test_a_zip_of_thousands_of_folders_in_each_other_takes_no_time(tmp_path):
    with zipfile.ZipFile(tmp_path / "deep.zip", "w") as archive:
        archive.writestr("a/" * 20_000 + "0.png", b"")
    refused_by(lambda: scan_listing(listing_of(tmp_path / "deep.zip")), "nested too deeply (1)")


def test_classes_beside_a_zip_without_images_are_read(tmp_path):
    root = make(tmp_path / "tree", *many(*TWO))
    zipped(make(tmp_path / "other", "labels.txt"), root / "labels.zip")
    assert scan_listing(listing_of(root)).classes == TWO


def test_zips_beside_what_they_were_unpacked_to_do_not_count_twice(tmp_path):
    expected = scan(given_tree(tmp_path / "tree"))
    zipped(tmp_path / "tree", tmp_path / "tree" / "all.zip")
    found = scan_listing(listing_of(tmp_path / "tree"))
    assert found.splits == expected.splits
    assert note(found, "left out, not in a class").endswith("(1): all.zip")


def test_zips_beside_classes_are_left_out_and_only_zips_must_be_unpacked(tmp_path):
    root = make(tmp_path / "tree", *many(*TWO))
    zipped(root, root / "all.zip")
    found = scan_listing(listing_of(root))
    assert found == scan(root)
    assert note(found, "left out, not in a class").endswith("(1): all.zip")
    zipped(given_tree(tmp_path / "other"), tmp_path / "zips" / "set.zip")
    refused(tmp_path / "zips", "with images (1): set.zip", "unpack the zips first")


def test_a_damaged_zip_is_refused(tmp_path):
    archive = zipped(given_tree(tmp_path / "tree"), tmp_path / "all.zip")
    archive.write_bytes(archive.read_bytes()[:-200])
    refused_by(lambda: listing_of(archive), "cannot read a zip", "all.zip")


def test_a_folder_of_classes_can_be_read_without_a_split(tmp_path):
    root = make(tmp_path, *many("ant", "bee"), "ant/note.txt")
    found = scan_classes(Listing(root))
    assert list(found.splits) == ["whole"]
    assert names(found) == many("ant", "bee")
    assert note(found, "left out, not .jpg").endswith("ant/note.txt")
    assert scan_classes(Listing(given_tree(tmp_path / "split"))) is None


def test_the_extensions_are_torchvisions():
    assert EXTENSIONS == IMG_EXTENSIONS


# --- what is left out ---


def test_what_is_no_image_is_left_out_by_name(tmp_path):
    root = given_tree(tmp_path, "train/ant/damaged.gif")
    assert scan(root).notes == ("left out, not .jpg, .png ... (1): train/ant/damaged.gif",)
    make(root, *(f"val/bee/{i}.txt" for i in range(8)))
    assert note(scan(root), "left out, not .jpg, .png ... (9): ").endswith(
        "train/ant/damaged.gif, val/bee/0.txt, val/bee/1.txt, val/bee/2.txt, val/bee/3.txt"
        " and 4 more"
    )


@pytest.mark.parametrize("packed", [False, True])
def test_images_without_a_known_ending_are_read_by_content_and_noted(tmp_path, packed):
    kinds = {"a.jfif": "JPEG", "b.GIF": "GIF", "c.jpe": "JPEG", "d": "PNG", "e": "TIFF",
             "f.image": "WEBP", "g": "BMP", "h.pnm": "PPM"}  # fmt: skip
    root = given_tree(tmp_path / "tree")
    for name, kind in kinds.items():
        Image.new("RGB", (3, 2), (len(name), ord(name[0]), 9)).save(root / "val/bee" / name, kind)
    Image.new("RGB", (3, 2)).save(root / "val/bee/raw.nef", "TIFF")
    (root / "val/bee/notes").write_text("P1 and P2 are bees, BMW is a car", encoding="utf-8")
    (root / "val/bee/phone.heic").write_bytes(bytes(4) + b"ftypheic" + bytes(20))
    (root / "val/bee/secret").write_bytes(b"\x89PNG\r\n\x1a\n")
    archive = zipped(root, tmp_path / "all.zip") if packed else None
    found = scan_listing(listing_of(archive or root))
    read = {Path(name).name for name, _ in found.splits["val"]} - {f"{i}.jpg" for i in range(4)}
    assert read == {*kinds, "secret"}  # a damaged one too: decoding refuses it by name
    assert note(found, "read by content, not named .jpg").startswith(
        "read by content, not named .jpg, .png ... (9): val/bee/a.jfif, val/bee/b.GIF"
    )
    assert note(found, "left out, HEIC image") == "left out, HEIC image (1): val/bee/phone.heic"
    assert note(found, "left out, not .jpg").endswith("(2): val/bee/notes, val/bee/raw.nef")


def test_hidden_stray_and_empty_things_are_left_out_by_name(tmp_path):
    hidden = ["__MACOSX/train/ant/._0.jpg", ".DS_Store", "train/ant/._1.jpg",
              "train/.ipynb_checkpoints/0.jpg"]  # fmt: skip
    stray = ["loose.jpg", "README.md", "val/9.jpg"]
    root = given_tree(tmp_path, *hidden, *stray, *many("extra/deep"), "train/wasp/x.txt")
    (root / "val" / "moth").mkdir()
    found = scan(root)
    assert found.classes == TWO
    assert names(found, "train") == many("train/ant", "train/bee")
    assert note(found, "left out, hidden") == (
        "left out, hidden or of the system (4): .DS_Store, __MACOSX, train/.ipynb_checkpoints, "
        "train/ant/._1.jpg"
    )
    assert note(found, "left out, not in a class folder with images").endswith(
        " (6): README.md, extra, loose.jpg, train/wasp, val/9.jpg and 1 more"
    )


def test_a_test_folder_without_labels_is_left_out(tmp_path):
    found = scan(given_tree(tmp_path, "test/0.jpg", "test/1.jpg"))
    assert list(found.splits) == ["train", "val"]
    assert note(found, "left out, not in a class").endswith("(3): test, test/0.jpg, test/1.jpg")


def test_links_are_followed_and_loops_end(tmp_path):
    far = make(tmp_path / "far", *many("bees"), "one.jpg")
    root = make(tmp_path / "root", *many("train/ant", "val/ant", "val/bee"))
    (root / "train/bee").symlink_to(far / "bees")
    (root / "train/ant/linked.jpg").symlink_to(far / "one.jpg")
    (root / "train/ant/again").symlink_to(root / "train/ant")
    (root / "train/ant/disk").symlink_to("/")
    (far / "bees/home").symlink_to(root)  # on disk, root is not above far/bees
    (root / "val/ant/gone.jpg").symlink_to(root / "nowhere.jpg")
    (root / "val/ant/self.jpg").symlink_to(root / "val/ant/self.jpg")
    make(root, "val/bee/sub/5.jpg")
    (root / "val/bee/a").symlink_to(root / "val/bee/sub")
    os.mkfifo(root / "val/bee/pipe.jpg")
    found = scan(root)
    expected = [*many("train/ant"), "train/ant/linked.jpg", *many("train/bee")]
    assert names(found, "train") == expected
    assert names(found, "val") == [*many("val/ant", "val/bee"), "val/bee/sub/5.jpg"]
    links = "train/ant/again, train/ant/disk, train/bee/home, val/ant/gone.jpg, val/ant/self.jpg"
    assert note(found, "left out, a link").endswith(f" (7): {links} and 2 more")


def test_a_link_into_a_folder_and_one_to_all_of_it_lose_nothing(tmp_path):
    pool = make(tmp_path / "pool", "8.jpg", "9.jpg", *many("batch"))
    root = make(tmp_path / "root", *many("bee"))
    (root / "ant").mkdir()
    (root / "ant" / "a").symlink_to(pool / "batch")
    (root / "ant" / "b").symlink_to(pool)
    found = scan(root)
    assert labels(found, "train").count(0) + 2 == 6  # and one each in val and test
    assert note(found, "left out, a link").endswith(": ant/b/batch")


def test_a_lattice_of_links_is_read_once(tmp_path):
    """Thirty floors with two links each: 2^30 ways down, and no loop."""
    for floor in range(30):
        make(tmp_path / "floors", f"{floor}/{floor}.jpg")
        for link in "ab":
            (tmp_path / "floors" / str(floor) / link).symlink_to(f"../{floor + 1}")
    root = make(tmp_path / "root", *many("bee"))
    (root / "ant").symlink_to(tmp_path / "floors" / "0")
    found = scan(root)
    assert found.classes == TWO
    assert len(names(found)) == 30 + 4


def files(*folders: str):
    """Names of files anywhere below the folders, with their contents, some of them equal."""
    inner = st.lists(st.sampled_from(["sub/", "ant/", ".x/", "__MACOSX/"]), max_size=2).map("".join)
    name = st.sampled_from(["5.jpg", "6.png", "7.txt", ".8.jpg", "9.JPEG"])
    contents = st.sampled_from([b"", b"a", b"b", b"c"])
    paths = st.tuples(st.sampled_from(folders), inner, name).map("".join)
    return st.dictionaries(paths, contents, max_size=12)


SPLIT = ("train/ant", "train/bee", "val/ant", "val/bee")


@given(
    st.tuples(st.just(SPLIT), files("", "extra/", "train/", "train/ant/", "train/bee/", "val/bee/"))
    | st.tuples(st.just(TWO), files("", "ant/", "bee/"))
)
def test_nothing_is_lost(made):
    """Every file is in exactly one split, or a note names it or a folder that contains it."""
    start, more = made
    with tempfile.TemporaryDirectory() as folder, patch.object(listing, "NAMED", 1000):
        root = make(Path(folder), *many(*start))
        for name, content in more.items():
            make(root, name, content=content)
        try:
            found = scan(root)
        except DataError:
            return
        left = [note for note in found.notes if note.startswith("left out, ")]
        said = [name for note in left for name in note.split(": ", 1)[1].split(", ")]
        said = [re.sub(r" \(as .*\)$", "", name) for name in said]
        kept = names(found)
        assert len(set(kept)) == len(kept)
        assert len(set(said)) == len(said)
        for name in {*many(*start), *more}:
            ways = {name, *map(str, Path(name).parents)}
            assert (name in kept) != bool(ways & set(said)), (name, found)


# --- duplicates ---


def test_a_copy_of_a_later_splits_image_is_left_out(tmp_path):
    root = given_tree(tmp_path, *many("test/ant", "test/bee"))
    everything = set(names(scan(root)))
    make(root, "train/ant/0.jpg", "val/ant/3.jpg", content=b"in train and val")
    make(root, "train/bee/1.jpg", "val/ant/1.jpg", "test/bee/1.jpg", content=b"in all three")
    found = scan(root)
    assert everything - set(names(found)) == {"train/ant/0.jpg", "train/bee/1.jpg", "val/ant/1.jpg"}
    assert found.notes == (
        "left out, a copy of another image (3): train/ant/0.jpg (as val/ant/3.jpg), "
        "train/bee/1.jpg (as test/bee/1.jpg), val/ant/1.jpg (as test/bee/1.jpg)",
    )


def test_copies_in_one_class_are_kept_where_the_split_is_given(tmp_path):
    root = given_tree(tmp_path)
    found = scan(make(root, "train/ant/0.jpg", "train/ant/2.jpg", content=b"twice"))
    assert names(found, "train") == many("train/ant", "train/bee")
    assert found.notes == (
        "odd but kept, a copy of another image (1): train/ant/2.jpg (as train/ant/0.jpg)",
    )


@pytest.mark.parametrize("given", [(), ("test/ant", "test/bee")])
def test_where_a_part_is_drawn_one_of_the_copies_in_a_class_stays(tmp_path, given):
    inside = "train/" if given else ""
    root = make(tmp_path, *many(inside + "ant", inside + "bee", count=8), *many(*given))
    everything = names(scan(root))
    first, *others = (f"{inside}ant/{i}.jpg" for i in (3, 5, 6))
    found = scan(make(root, first, *others, content=b"thrice"))
    assert sorted(names(found)) == sorted(set(everything) - set(others))
    assert note(found, "left out, a copy of another image (2)").endswith(
        f": {others[0]} (as {first}), {others[1]} (as {first})"
    )


@pytest.mark.parametrize("split", ["train", "val", "drawn"])
def test_the_same_image_under_two_classes_is_not_trained_on(tmp_path, split):
    inside = "" if split == "drawn" else f"{split}/"
    root = make(tmp_path, *many(*TWO, count=5)) if split == "drawn" else given_tree(tmp_path)
    odd = {inside + name for name in ("ant/0.jpg", "bee/1.jpg", "bee/2.jpg")}
    found = scan(make(root, *odd, content=b"an ant or a bee"))
    assert odd & set(names(found)) == (odd if split == "val" else set())
    start = "odd but kept" if split == "val" else "left out"
    assert f"{inside}ant/0.jpg (as {inside}bee/1.jpg)" in note(
        found, f"{start}, a copy of another image (3)"
    )


def test_empty_and_unreadable_files_are_no_copies(tmp_path, monkeypatch):
    root = given_tree(tmp_path)
    make(root, "train/ant/0.jpg", "train/bee/0.jpg", "val/ant/0.jpg", content=b"")
    make(root, "train/ant/1.jpg", "val/ant/1.jpg", content=b"the same, for all we know")
    forbid(monkeypatch, Path, "open", "1.jpg")
    found = scan(root)
    assert found.notes == ()
    assert len(found.splits["train"]) == len(found.splits["val"]) == 8


def test_only_files_of_one_size_are_read(tmp_path):
    root = given_tree(tmp_path)
    for i, path in enumerate(sorted(root.rglob("*.jpg"))):
        path.write_bytes(bytes([i]) * (100 + i))
    make(root, "val/bee/3.jpg", content=b"x" * 100)
    hashlib = duplicates.hashlib
    with patch.object(hashlib, "file_digest", side_effect=hashlib.file_digest) as digest:
        scan(root)
    read = {str(Path(call.args[0].name).relative_to(root)) for call in digest.call_args_list}
    assert read == {"train/ant/0.jpg", "val/bee/3.jpg"}


# --- what looks odd, and what is refused ---


def test_classes_that_val_or_test_lack_are_named(tmp_path):
    root = make(tmp_path, *many("train/ant", "train/bee", "train/wasp", "val/bee", "test/ant"))
    assert scan(root).notes == (
        "odd, val has no images of a class of train (2): ant, wasp",
        "odd, test has no images of a class of train (2): bee, wasp",
    )


def test_class_names_that_look_the_same_are_named(tmp_path):
    apart, joined = (unicodedata.normalize(form, "개미") for form in ("NFD", "NFC"))
    found = scan(make(tmp_path, *many("Ant", "ant", "bee", apart, joined)))
    assert len(found.classes) == 5
    assert note(found, "odd, class names that differ").endswith(f"(4): Ant, ant, {apart}, {joined}")


def test_names_that_would_steer_a_terminal_or_are_no_text(tmp_path):
    root = make(tmp_path, *many(*TWO), "ant/\x1b[2J.txt")
    (root / os.fsdecode(b"ant/\xff.jpg")).write_bytes(b"1")
    found = scan(root)
    assert note(found, "left out") == "left out, not .jpg, .png ... (1): ant/\\x1b[2J.txt"
    assert r"ant/\udcff.jpg" in found.csv().encode().decode()
    make(root, *many(os.fsdecode(b"\xff")))
    refused(root, "not valid Unicode", r"'\udcff'", "rename")


def test_a_class_that_train_lacks_is_refused_and_the_classes_of_train_are_named(tmp_path):
    refused(given_tree(tmp_path / "a", "val/bees/0.jpg"), "no network can learn it: 'bees'",
            "val has a class", "to one of train's: bee")  # fmt: skip
    refused(given_tree(tmp_path / "c", "test/Ant/0.jpg"), "test has a class", "of train's: ant")
    (given_tree(tmp_path / "e", "val/wasp/0.jpg") / "train" / "wasp").mkdir()
    refused(tmp_path / "e", "'wasp'", "train's: ant, bee")


def test_a_root_that_cannot_be_used_is_refused(tmp_path):
    refused(tmp_path / "nowhere", "No such file or directory", "nowhere", "train/<class>/")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("train/ant/0.jpg", b"1")
    refused(tmp_path / "set.zip", "Not a directory", "set.zip", "unpack an archive")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no images", "expected: train/<class>/*.jpg")
    refused(make(tmp_path / "bees", "0.jpg", "1.jpg"), "no images in class folders", "0.jpg, 1.jpg")
    refused(make(tmp_path / "uno", *many("ant"), "bee/x.txt"), "only one class: 'ant'")
    refused(make(tmp_path / "t", *many("train/ant", "train/bee")), "neither val/ nor test/")
    refused(make(tmp_path / "v", *many("val/ant", "test/ant")), "no images", "of train/")
    refused(make(tmp_path / "f", *many("train"), *many("val/ant")), "no images", "of train/")
    refused(make(tmp_path / "g", *many("train/ant", "val")), "no images", "of val/ or test/")
    refused(given_tree(tmp_path / "w", "valid/ant/0.jpg"), "val/ and valid/ are two folders")
    root = make(given_tree(tmp_path / "out" / "in").parent, *many("wasp"))
    refused(root, "in/ holds splits of its own", "give", "out/in")


def test_too_few_images_are_refused_by_the_name_of_their_class(tmp_path):
    root = make(tmp_path / "a", *many("ant"), *many("bee", count=2))
    refused(root, "'bee' in train: 2", "at least 3")
    root = make(tmp_path / "b", *many("train/ant", "test/ant"), *many("train/bee", count=1))
    refused(root, "'bee' in train: 1", "at least 2")
    root = make(tmp_path / "c", *many("ant"), *many("bee", count=3))
    make(root, "bee/1.jpg", content=b"bee/0.jpg")
    refused(root, "'bee' in train: 2", "at least 3", "duplicates")
    root = given_tree(tmp_path / "d")
    for i in range(4):
        make(root, f"train/bee/{i}.jpg", content=f"val/bee/{i}.jpg".encode())
    refused(root, "'bee' in train: 0", "at least 1")
    root = make(tmp_path / "e", *many("train/ant", "train/bee", "test/ant"))
    for i in range(4):
        make(root, f"val/ant/{i}.jpg", content=f"test/ant/{i}.jpg".encode())
    refused(root, "too few images are left", "all of val: 0")


def test_a_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    root = given_tree(tmp_path)
    forbid(monkeypatch, os, "scandir", "bee")
    refused(root, "cannot list a folder: Permission denied", "train/bee", "readable")
