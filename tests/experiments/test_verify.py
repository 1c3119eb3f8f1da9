"""experiments.verify, and that its comparison notices every kind of difference.

The tests that the networks are equal are in tests/zoo: test_resnet.py and test_vit.py.
"""

import http.server
import shutil
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import assert_prints, assert_three_lines, shaken
from torch import nn

import zoo
from experiments import verify
from experiments.proof import checks, downloads, oracles
from experiments.proof.checks import Difference, compare_blocks, difference, shake, worst
from experiments.proof.oracles import RESNET_ORACLES
from experiments.proof.prove import prove
from experiments.verify import Options
from zoo.weights.files import Metadata, write_weights

TORCHVISION = RESNET_ORACLES["torchvision"]


def changed(change):
    """zoo.load, followed by a change to the model that it filled."""
    real = zoo.load

    def load(*arguments, **options):
        model = real(*arguments, **options)
        change(model)
        return model

    return load


def spoil_eps(model):
    model.stages[1][0].norm2.eps = 1e-3


def spoil_momentum(model):
    model.stages[1][0].norm2.momentum = 0.01


def spoil_weight(model):
    model.stages[1][0].conv2.weight.data[3, 2, 1, 1] += 1e-5


def spoil_gradient(model):
    shortcut = model.stages[1][1].shortcut
    shortcut.register_forward_hook(lambda module, inputs, out: out.detach())


@pytest.mark.parametrize(
    ("spoil", "evaluation", "training", "buffers"),
    [(spoil_eps, True, True, False), (spoil_weight, True, True, True),
     (spoil_momentum, False, False, True), (spoil_gradient, False, False, False)],
)  # fmt: skip
def test_verify_says_no_and_where(spoil, evaluation, training, buffers, monkeypatch, capsys):
    monkeypatch.setattr(zoo, "load", changed(spoil))
    proof = prove("resnet18", TORCHVISION)
    assert not proof.overall.equal
    by_name = {block.ours: block for block in proof.blocks}
    spoilt = by_name["stages.1.0"]
    assert by_name["stem"].evaluation.equal
    assert by_name["stages.0.1"].training.equal
    assert spoilt.evaluation.equal != evaluation
    assert spoilt.training.equal != training
    assert spoilt.buffers.equal != buffers
    if spoil is not spoil_momentum:
        assert not spoilt.gradients.equal
    assert verify.main(Options("resnet18")) == 1
    assert "DIFFERENT" in capsys.readouterr().out


def test_differences_that_are_no_numbers_are_infinite():
    one, nan = torch.ones(2), torch.tensor([1.0, float("nan")])
    assert difference(one, one.clone()) == (0, True)
    assert difference(one, one + 0.5) == (0.5, False)
    for other in (nan, None, torch.ones(3), torch.ones(2).double()):
        assert difference(one, other) == (float("inf"), False)
        assert difference(other, one) == (float("inf"), False)
    assert difference(one, one + 1e-6, 256) == (pytest.approx(1e-6, rel=0.1), True)
    for other in (one + 1e-4, nan, one / 0, None):
        assert not difference(one, other, 256).equal
        assert not difference(other, one, 256).equal
    assert worst([Difference(1.0, False), Difference(2.0, True)]) == (2.0, False)
    assert worst([]) == (0.0, True)


def test_a_missing_block_or_parameter_does_not_count_as_equal():
    theirs = TORCHVISION.build("resnet34", 1000)
    ours = zoo.build("resnet18")
    blocks = {block.ours: block for block in compare_blocks(ours, theirs, TORCHVISION)}
    missing = blocks["stages.0.2"]
    assert missing.evaluation == missing.gradients == missing.overall == (float("inf"), False)


def test_shaking_moves_every_number():
    for name in ("resnet18", "resnet50"):
        model = zoo.build(name)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        shake(model)
        for key, value in model.state_dict().items():
            assert (value != before[key]).float().mean() > 0.99, key


def test_the_command_prints_a_row_per_block(invoke):
    pytest.importorskip("timm")
    done = invoke("experiments.verify", "resnet18", "--against", "timm")
    assert_prints(done, "stages.3.1", "layer4.1", "2x512x2x2", "maxpool", "10 blocks: equal")


@pytest.mark.parametrize("classes", [1000, 3])
def test_anyones_weights_can_be_verified(classes, invoke, tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    write_weights(path, zoo.export(shaken("resnet18", classes), "transformers"), Metadata())
    arguments = "experiments.verify", "resnet18", "--weights", path
    assert_prints(invoke(*arguments), "10 blocks: equal")
    monkeypatch.setattr(checks, "difference", lambda *_, **__: Difference(1e-7, False))
    assert_prints(invoke(*arguments), code=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("resnet20",), "no other library has resnet20"), (("resnet19",), "no model 'resnet19'"),
     (("--weights", "x.pth"), "weights are for one")],
)  # fmt: skip
def test_wrong_calls_are_refused(arguments, words, invoke):
    assert_three_lines(invoke("experiments.verify", *arguments), 2, words)


def few(monkeypatch) -> None:
    """Only these networks, so that the whole summary takes seconds."""
    monkeypatch.setattr("experiments.proof.prove.SUMMARY", ("resnet18",))
    monkeypatch.setattr(zoo, "list_models", lambda: ["plain8", "plain18", "plainvit_l_16"])


def draw_again(stages: nn.Sequential) -> nn.Sequential:
    """A former bug: the shortcuts were deleted, and then all weights were drawn."""
    plain = zoo.plain.without_skips(stages)
    for module in plain.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    return plain


def test_verify_notices_twins_that_start_apart(invoke, monkeypatch):
    pytest.importorskip("timm")
    few(monkeypatch)
    monkeypatch.setattr(zoo.resnet, "without_skips", draw_again)
    done = invoke("experiments.verify", "--against", "timm")
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    assert "0 of the 2 plain networks that were" in said
    assert "DIFFERENT: plain8, plain18" in said


def test_verify_notices_other_initial_weights(invoke, monkeypatch):
    """Everything else is equal, because the checks load the same weights into both networks."""
    pytest.importorskip("timm")
    monkeypatch.setattr(zoo.resnet.ResNet, "init_weights", lambda self: None)
    words = "10 blocks: DIFFERENT", "seeded initial weights: DIFFERENT: stem.conv.weight"
    assert_prints(invoke("experiments.verify", "resnet18"), *words, code=1)
    assert_prints(invoke("experiments.verify", "resnet18", "--against", "timm"))


def test_a_library_that_is_not_installed_is_reported_as_skipped(invoke, monkeypatch):
    util = oracles.importlib.util
    missing, real = ("timm", "transformers"), util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda n: None if n in missing else real(n))
    few(monkeypatch)
    done = invoke("experiments.verify")
    assert_prints(done, "skipped: timm is not installed")
    assert "2 of the 2 plain networks that were" in " ".join(done.stdout.split())
    done = invoke("experiments.verify", "resnet18", "--against", "timm")
    assert_three_lines(done, 2, "pip install timm")


def test_the_summary_says_no_in_the_row_and_the_exit_code(invoke, monkeypatch):
    monkeypatch.setattr(zoo, "load", changed(spoil_weight))
    few(monkeypatch)
    done = invoke("experiments.verify", "--against", "torchvision")
    assert_prints(done, "DIFFERENT", code=1)
    assert "e-0" in done.stdout or "e+0" in done.stdout


@pytest.mark.parametrize(
    "name", ["resnet20", "plain20", "resnet18", "resnet50", "plain50", "vit2", "plainvit2"]
)
def test_exported_and_compiled_networks_give_the_same_outputs(name):
    """To the last bit, for torch.export's program and for the graph that torch.compile captures."""
    model = shaken(name, 5, **({"image_size": 64} if "vit" in name else {"width": 8})).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits = model(images)
        assert torch.equal(torch.export.export(model, (images,)).module()(images), logits)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(images), logits)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_by_inductor_the_outputs_are_the_same_within_rounding():
    model = zoo.build("resnet8", width=8).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True)(images)
        torch.testing.assert_close(compiled, model(images), atol=1e-4, rtol=1e-4)


# --- published weights, served here ---


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def served(tmp_path, monkeypatch, files):
    """torchvision's resnet18 with random weights at the URL of its published ones; a photo."""
    theirs = torchvision.models.resnet18()
    shake(theirs)
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    handler = partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/resnet18.pth"
        entry = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
        monkeypatch.setattr(entry.value, "url", url)
        monkeypatch.setattr(downloads, "NETWORKS", ("resnet18",))
        monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
        yield files[0]
        server.shutdown()


def test_published_weights_are_compared_and_the_photo_is_named(served, invoke, monkeypatch):
    done = invoke("experiments.verify", "--published", served)
    assert_prints(done, "resnet18", "IMAGENET1K_V1", "equal", Path(served).name)
    label = done.stdout.split("equal")[1]
    assert any(name in label for name in zoo.published("resnet18").classes)
    build = zoo.build

    def spoilt(*arguments, **options):
        model = build(*arguments, **options)
        spoil_eps(model)
        return model

    monkeypatch.setattr(zoo, "build", spoilt)
    assert_prints(invoke("experiments.verify", "--published", served), "DIFFERENT", code=1)
    done = invoke("experiments.verify", "resnet18", "--published", served)
    assert_three_lines(done, 2, "takes no other argument")
