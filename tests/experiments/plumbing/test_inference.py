"""Which way of computing many batches is taken, and that none changes what is computed."""

import ctypes
import multiprocessing
import platform

import pytest
import torch
from conftest import shaken

from experiments.plumbing import inference
from experiments.plumbing.device import keep_freed_memory
from experiments.plumbing.inference import FEW, for_many
from zoo.fold import ForInference

IMAGES = torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize("batches", [1, FEW - 1, FEW, 10 * FEW])
def test_many_batches_are_folded_and_the_outputs_stay(batches):
    model = shaken("resnet8", width=2).train()
    faster = for_many(model, IMAGES, batches)
    assert isinstance(faster, ForInference) == (batches >= FEW)
    assert faster is model or faster.not_folded == []
    with torch.no_grad():
        torch.testing.assert_close(faster(IMAGES), model.eval()(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("folded", "compiled", "has_compiler", "expected"),
    [(9.0, 5.0, True, True), (9.0, 8.9, True, False), (9.0, 5.0, False, False),
     (1.0, 0.1, True, False)],
)  # fmt: skip
def test_only_long_jobs_are_compiled_and_only_if_it_pays(
    monkeypatch, folded, compiled, has_compiler, expected
):
    """Of 40 batches; the limit is 300 s."""
    made = []

    def for_inference(model, compiled=False):
        made.append(compiled)
        return compiled

    monkeypatch.setattr(inference.zoo, "for_inference", for_inference)
    monkeypatch.setattr(inference, "has_compiler", lambda: has_compiler)
    monkeypatch.setattr(inference, "seconds_of_batch", lambda m, _: compiled if m else folded)
    assert for_many(None, None, 40) == expected
    assert made == [False, True][: 1 + (folded > 7 and has_compiler)]


def faults(keep: bool, found) -> None:
    """Page faults of a round in which 200 MB are allocated and freed, in blocks of 1 MB."""
    import resource

    libc = ctypes.CDLL("libc.so.6")
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    if keep:
        assert keep_freed_memory()
    # No tensors: a small object that stays above them would keep their memory, too.
    blocks = [0] * 200
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for i in range(200):
            blocks[i] = libc.malloc(2**20)
            ctypes.memset(blocks[i], 1, 2**20)
        for block in reversed(blocks):
            libc.free(block)
        found.value = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_memory_is_kept_for_the_next_step():
    """200 MB are 51,200 pages. By default, the system takes them back in every round.

    They fit in no gap that imports have left in the process's memory: that would be kept.
    """
    if platform.libc_ver()[0] != "glibc":
        assert not keep_freed_memory()
        return
    counts, new = [], multiprocessing.get_context("spawn")  # a fork has its parent's free memory
    for keep in (False, True):
        found = new.Value("q", -1)
        process = new.Process(target=faults, args=(keep, found))
        process.start()
        process.join(60)
        counts.append(found.value)
    assert counts[0] > 30_000
    assert 0 <= counts[1] < 300
