"""Weights files: readable whoever wrote them, written whole, the same bytes at every save."""

import json
import zipfile

import pytest
import safetensors
import safetensors.torch
import torch
import torchvision
from conftest import held, same, shaken, unfilled
from torch import nn

import zoo
from experiments.proof.checks import shake
from zoo.weights.files import Metadata, read_weights, write_weights
from zoo.weights.settings import settings_of


def test_the_same_weights_are_the_same_bytes(tmp_path):
    model = shaken("resnet20", 2, width=2)
    metadata = Metadata("resnet20", settings_of(model), ("a", "b"))
    for suffix in (".safetensors", ".pth"):
        path = tmp_path / f"w{suffix}"
        written = set()
        for _ in range(8):
            write_weights(path, zoo.export(model, "zoo"), metadata)
            written.add(path.read_bytes())
        assert len(written) == 1
    content = (tmp_path / "w.safetensors").read_bytes()
    assert int.from_bytes(content[:8], "little") % 8 == 0
    with safetensors.safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"  # transformers 4 opens nothing without it
        assert torch.equal(file.get_tensor("head.bias"), model.head.bias)


@pytest.mark.parametrize("part", ["a name", "a number", "the metadata"])
def test_a_file_that_was_changed_after_saving_is_refused(part, tmp_path):
    """The SHA-256 in its metadata shows changes that safetensors itself does not notice."""
    model, path = shaken("resnet20", 2, width=2), tmp_path / "w.safetensors"
    write_weights(path, zoo.export(model, "zoo"), Metadata("resnet20", classes=("ant", "bee")))
    content = path.read_bytes()
    changes = {"a name": (b"stem.norm.bias", b"stem.norm.gias"),
               "a number": (content[-9:], bytes(9)), "the metadata": (b"ant", b"cat")}  # fmt: skip
    old, new = changes[part]
    path.write_bytes(content.replace(old, new))
    with pytest.raises(zoo.WeightsError, match="its SHA-256 does not match its content"):
        read_weights(path)


def test_files_with_the_former_digest_load(tmp_path):
    """A second entry used to hold the digest of the whole file; it is now ignored."""
    model, path = shaken("resnet20", 2, width=2), tmp_path / "w.safetensors"
    said = {"model": "resnet20", "settings": settings_of(model), "classes": ["ant", "bee"]}
    notes = {"format": "pt", "skipzoo": json.dumps(said), "skipzoo.sha256": "0" * 64}
    path.write_bytes(safetensors.torch.save(zoo.export(model, "zoo"), notes))
    assert read_weights(path).metadata == Metadata("resnet20", settings_of(model), ("ant", "bee"))
    assert same(zoo.build("resnet20", 2, width=2, weights=path).state_dict(), model.state_dict())


def test_a_bare_pth_is_an_ordinary_state_dict(tmp_path):
    model = shaken("resnet18", 5, width=4)
    write_weights(tmp_path / "w.pth", zoo.export(model), Metadata())
    loaded = torch.load(tmp_path / "w.pth", weights_only=True)
    assert same(loaded, zoo.export(model))


def test_files_of_torch_and_of_before_pytorch_1_6(tmp_path):
    theirs = torchvision.models.resnet18()
    shake(theirs)
    for legacy in (False, True):
        path = tmp_path / f"{legacy}.pth"
        torch.save(theirs.state_dict(), path, _use_new_zipfile_serialization=not legacy)
        ours = zoo.load(unfilled("resnet18"), path)
        assert same(zoo.export(ours), dict(theirs.state_dict()))


def optimizer_of(model: nn.Module, kind: type[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    optimizer = kind(model.parameters(), lr=0.1)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    optimizer.step()
    return optimizer


CHECKPOINTS = {
    "weights": lambda model: model.state_dict(),
    "parameters": lambda model: model.state_dict(keep_vars=True),
    "SGD and MultiStepLR": lambda model: {
        "model": model.state_dict(),
        "optimizer": (sgd := optimizer_of(model, torch.optim.SGD)).state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.MultiStepLR(sgd, [3, 5]).state_dict(),
        "epoch": 3,
    },
    "AdamW, CosineAnnealingLR, DataParallel": lambda model: {
        "state_dict": nn.DataParallel(model).state_dict(),
        "optimizer": (adam := optimizer_of(model, torch.optim.AdamW)).state_dict(),
        "scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(adam, 9).state_dict(),
        "rng": torch.get_rng_state(), "history": [(i, i / 2) for i in range(2000)],
        "best_acc": 91.5, "dtype": torch.float16,
    },
    "channels_last": lambda model: model.to(memory_format=torch.channels_last).state_dict(),
    "compiled": lambda model: {f"_orig_mod.{k}": v for k, v in model.state_dict().items()},
    "views of one storage": lambda model: views(model.state_dict()),
}  # fmt: skip


def views(state: dict) -> dict:
    flat = torch.cat([v.flatten() for v in state.values() if v.is_floating_point()])
    result, at = {}, 0
    for key, value in state.items():
        if value.is_floating_point():
            result[key] = flat[at : at + value.numel()].view(value.shape)
            at += value.numel()
    return result


FORMATS = [{"_use_new_zipfile_serialization": False}, {"pickle_protocol": 3}]


@pytest.mark.parametrize(
    ("name", "how"),
    [*((name, {}) for name in CHECKPOINTS), *(("views of one storage", how) for how in FORMATS),
     *(("AdamW, CosineAnnealingLR, DataParallel", how) for how in FORMATS)],
)  # fmt: skip
def test_what_people_save_while_training_loads(name, how, tmp_path):
    model = torchvision.models.resnet18(num_classes=3)
    torch.save(CHECKPOINTS[name](model), tmp_path / "w.pth", **how)
    ours = zoo.build("resnet18", 3, weights=tmp_path / "w.pth")
    theirs = {key: v for key, v in zoo.export(ours).items()
              if "views" not in name or v.is_floating_point()}  # fmt: skip
    assert held(theirs, model.state_dict())


def test_tensors_saved_on_a_gpu_load_on_a_cpu(tmp_path):
    """Such a file names the GPU for every storage."""
    model = shaken("resnet18", 2, width=2)
    torch.save(zoo.export(model), tmp_path / "cpu.pth")
    cpu, cuda = b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"
    with (
        zipfile.ZipFile(tmp_path / "cpu.pth") as there,
        zipfile.ZipFile(tmp_path / "gpu.pth", "w") as here,
    ):
        for entry in there.infolist():
            content = there.read(entry)
            assert (cpu in content) == entry.filename.endswith("data.pkl")
            here.writestr(entry.filename, content.replace(cpu, cuda))
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(tmp_path / "gpu.pth", weights_only=True)
    back = zoo.load(zoo.build("resnet18", 2, width=2), tmp_path / "gpu.pth")
    assert same(back.state_dict(), model.state_dict())
