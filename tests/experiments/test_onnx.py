"""`convert --to onnx` writes the network itself, with all that a program needs to use it."""

import json
import re
import sys
from dataclasses import asdict

import pytest
import torch
from conftest import ROOT, assert_prints, assert_three_lines, shaken

import zoo
from data.views import View
from experiments.classifier import save_classifier

CONVERT = "experiments.convert"
VIEW = View(32, 32, squash=True, mean=(0.5, 0.5, 0.5), input_size=32)


@pytest.mark.slow
def test_an_onnx_file_has_the_network_and_its_metadata(invoke, tmp_path, monkeypatch):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    programs, export = [], torch.onnx.export

    def export_once(*arguments, **options):
        programs[:] = programs or [export(*arguments, **options)]
        return programs[0]

    monkeypatch.setattr("torch.onnx.export", export_once)
    model, source, out = shaken("vit1", 3), tmp_path / "a.safetensors", tmp_path / "animals.onnx"
    save_classifier(source, "vit1", model, ("cat", "개", "dog"), VIEW, {})
    done = invoke(CONVERT, source, out, "--to", "onnx")
    assert_prints(done, "(N, 3, 32, 32)", "3 class names; preprocessing: {", "differ")

    metadata = runtime.InferenceSession(out).get_modelmeta().custom_metadata_map
    assert metadata["model"] == "vit1"
    view = json.loads(json.dumps(asdict(VIEW)))  # tuples become lists
    assert json.loads(metadata["preprocess"]) == view
    page = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import json.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for batch in (1, 5):
        images = torch.randn(batch, 3, 32, 32)
        exec(code, names := {"images": images.numpy()})
        assert names["classes"] == ["cat", "개", "dog"]
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(names["logits"]), model.eval()(images))

    # A file without class names and preprocessing: what is assumed is printed.
    other = tmp_path / "other.pth"
    torch.save(zoo.export(model, "timm"), other)
    done = invoke(CONVERT, other, tmp_path / "other.onnx", "--to", "onnx")
    assert_prints(done, "no class names")
    assert "assumed, as usual" in done.stderr

    # An exporter that writes another network: nothing is left.
    model.head.bias.data += 0.01
    torch.save(zoo.export(model, "timm"), other)
    done = invoke(CONVERT, other, tmp_path / "wrong.onnx", "--to", "onnx")
    assert_three_lines(done, 4, "computes other logits: one differs by 0.01")
    assert list(tmp_path.glob("wrong*")) == []


def test_what_an_onnx_file_needs_is_checked_first(invoke, tmp_path, monkeypatch):
    nowhere, out = tmp_path / "nowhere.pth", tmp_path / "out.onnx"
    assert_three_lines(invoke(CONVERT, nowhere, tmp_path / "a.pth", "--to", "onnx"), 2, ".onnx")
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    done = invoke(CONVERT, nowhere, out, "--to", "onnx")
    assert_three_lines(done, 2, "not installed: onnx", "pip install onnx")
