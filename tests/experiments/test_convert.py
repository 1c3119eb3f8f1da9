"""experiments.convert translates weights files from one library's names to another's."""

import pytest
import torch
import torchvision
from conftest import assert_prints, assert_three_lines, held, same, shaken

import zoo
from data.views import View
from experiments.proof.checks import shake
from zoo.weights.files import Metadata, read_weights, write_weights
from zoo.weights.settings import settings_of

CONVERT = "experiments.convert"


@pytest.fixture
def notebook(tmp_path):
    """A notebook's resnet50_model.pth: a network of torchvision with four outputs."""
    model = torchvision.models.resnet50(num_classes=4)
    shake(model)
    torch.save(model.state_dict(), tmp_path / "resnet50_model.pth")
    return tmp_path / "resnet50_model.pth"


def test_a_notebooks_file_comes_in_with_classes_and_goes_out(notebook, invoke, tmp_path):
    ours, hf, back = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "c.pth"
    names = "cat, dog,elephant,tiger"
    done = invoke(CONVERT, notebook, ours, "--to", "zoo", "--classes", names)
    assert_prints(done, "resnet50, torchvision -> zoo")
    read = read_weights(ours)
    assert read.metadata.model == "resnet50"
    assert read.metadata.classes == ("cat", "dog", "elephant", "tiger")
    assert read.metadata.settings == settings_of(zoo.build("resnet50"))
    assert invoke(CONVERT, ours, hf, "--to", "transformers").returncode == 0
    assert read_weights(hf).metadata.classes == read.metadata.classes
    done = invoke(CONVERT, hf, back, "--to", "torchvision")
    assert "without the 4 class names" in done.stdout
    theirs, ended = torch.load(notebook), torch.load(back, weights_only=True)
    assert same(theirs, ended)
    torchvision.models.resnet50(num_classes=4).load_state_dict(ended, strict=True)


def test_transformers_loads_what_is_converted_to_it(notebook, invoke, tmp_path):
    transformers = pytest.importorskip("transformers")
    out = tmp_path / "model.safetensors"
    assert invoke(CONVERT, notebook, out, "--to", "transformers").returncode == 0
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=4))
    model.load_state_dict(read_weights(out).tensors, strict=True)
    ours = zoo.build("resnet50", 4, weights=notebook).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(images).logits, ours(images))


@pytest.mark.parametrize("name", ["resnet20", "plain20", "plain18", "resnet50"])
def test_our_own_files_keep_their_metadata_and_weights(name, invoke, tmp_path):
    settings = {"stride_in": "conv1"} if name == "resnet50" else {}
    model = shaken(name, 3, width=4, **settings)
    first, second = tmp_path / "a.safetensors", tmp_path / "b.pth"
    metadata = Metadata(name, settings_of(model), preprocess=vars(View()))
    write_weights(first, zoo.export(model, "zoo"), metadata)
    assert invoke(CONVERT, first, second, "--to", "zoo").returncode == 0
    assert read_weights(second).metadata == read_weights(first).metadata
    back = zoo.load(zoo.build(name, 3, width=4, **settings), second)
    assert same(model.state_dict(), back.state_dict())


def test_akamasters_file_goes_there_and_back(real_data, invoke, tmp_path):
    source = real_data / "weights" / "resnet20-12fca82f.th"
    ours, back = tmp_path / "a.safetensors", tmp_path / "b.pth"
    assert invoke(CONVERT, source, ours, "--to", "zoo").returncode == 0
    assert invoke(CONVERT, ours, back, "--to", "cifar").returncode == 0
    theirs = torch.load(source, map_location="cpu", weights_only=True)["state_dict"]
    ended = torch.load(back, weights_only=True)
    assert held(theirs, ended)
    assert all(key.endswith("num_batches_tracked") for key in set(ended) - set(theirs))
    assert_three_lines(invoke(CONVERT, ours, tmp_path / "c.pth", "--to", "torchvision"), 4)


def test_what_cannot_be_converted_is_refused(notebook, invoke, tmp_path):
    out = tmp_path / "out.pth"
    plain, vgg = tmp_path / "plain.pth", tmp_path / "vgg.pth"
    torch.save(zoo.build("plain20").state_dict(), plain)
    torch.save({"features.0.weight": torch.ones(3)}, vgg)
    cases = [
        ((notebook, tmp_path / "out.onnx", "--to", "zoo"), 2, ("OUT must be new",)),
        ((notebook, notebook, "--to", "zoo"), 2, ("choose another name",)),
        ((notebook, out, "--to", "keras"), 2, ()),
        ((notebook, out, "--to", "zoo", "--classes", "a,b"), 2, ("has 4 outputs",)),
        ((notebook, out, "--to", "zoo", "--classes", "a,a,b,c"), 2, ("different names",)),
        ((notebook, out, "--to", "zoo", "--classes", "a,,b,c"), 2, ("different names",)),
        ((notebook, out, "--to", "torchvision", "--classes", "a,b,c,d"), 2, ("no place",)),
        ((plain, out, "--to", "zoo"), 4, ("plain20 or resnet20", "name it by --model")),
        ((vgg, out, "--to", "zoo"), 4, ("features.0.weight",)),
        ((tmp_path / "nowhere.pth", out, "--to", "zoo"), 4, ("no such file",)),
    ]
    for arguments, code, words in cases:
        assert_three_lines(invoke(CONVERT, *arguments), code, *words)
    assert not out.exists()
    assert torch.load(notebook)["fc.bias"].shape == (4,)
