"""Files are complete or absent, and damage is noticed."""

import errno
import random
from unittest.mock import Mock

import pytest
import torch

from experiments.plumbing.cli import CheckpointError
from experiments.plumbing.resume import load_checkpoint, save_checkpoint
from zoo.weights import atomic
from zoo.weights.atomic import write_atomic

CONTENT = {"model": {"w": torch.arange(50.0)}, "step": 7, "history": [{"lr": 0.1}], "run": "{}"}


def test_a_checkpoint_comes_back(tmp_path):
    save_checkpoint(tmp_path / "c.pt", CONTENT)
    back = load_checkpoint(tmp_path / "c.pt")
    assert torch.equal(back["model"]["w"], CONTENT["model"]["w"])
    assert back | {"model": None} == CONTENT | {"model": None}
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, CONTENT)
    good = path.read_bytes()
    draw = random.Random(0)
    damaged = []
    for _ in range(300):
        place, bit = draw.randrange(len(good)), 1 << draw.randrange(8)
        damaged.append(good[:place] + bytes([good[place] ^ bit]) + good[place + 1 :])
    damaged += [good[: draw.randrange(len(good))] for _ in range(50)]
    damaged += [b"", b"\n", good + b"\0", good[:-100] + bytes(100)]
    damaged.append(b"PK\x03\x04\nwhat torch.save writes")
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(path)
        assert len(str(error.value).splitlines()) == 3
        assert str(path) in str(error.value)


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "row.json"
    write_atomic(path, b"old")
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(atomic.os, "fsync", Mock(side_effect=full))
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["row.json"]
