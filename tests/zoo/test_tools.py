"""PyTorch's tools, and torchvision's and onnxruntime's, get the same outputs from our networks."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from conftest import shaken
from torch import Tensor, nn
from torch.export import Dim
from torchvision.models.feature_extraction import create_feature_extractor

from zoo.resnet import ImageNetStem, ResNet

NETWORKS = {
    "resnet8": {},
    "plain8": {},
    "resnet18": {"num_classes": 10, "width": 8},
    "resnet50": {"num_classes": 10, "width": 4},
    "vit1": {},
    "plainvit1": {},
}


def dynamic(model: nn.Module) -> tuple:
    """Any batch; a ResNet takes any height and width, too."""
    return (dict.fromkeys((0, 2, 3) if isinstance(model, ResNet) else (0,), Dim.DYNAMIC),)


def exported(model, images):
    return torch.export.export(model, (images,), dynamic_shapes=dynamic(model)).module()


def traced(model, images):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; a ViT's trace is for one size
        return torch.jit.trace(model, images[:1])


def followed(model, images):
    return torch.fx.symbolic_trace(model)


def extracted(model, images):
    extractor = create_feature_extractor(model, {"head": "logits"})
    return lambda images: extractor(images)["logits"]


def compiled(model, images):
    torch.compiler.reset()
    return torch.compile(model, fullgraph=True, backend="eager", dynamic=True)


def as_onnx(model, images):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    program = torch.onnx.export(
        model, (images,), dynamo=True, dynamic_shapes=dynamic(model), verbose=False,
        input_names=["images"],
    )  # fmt: skip
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def copied(model, images):
    return copy.deepcopy(model)


def pickled(model, images):
    return pickle.loads(pickle.dumps(model))


def saved(model, images):
    torch.save(model, file := io.BytesIO())
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


def channels_last(model, images):
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return lambda images: other(images.to(memory_format=torch.channels_last))


def from_meta(model, images):
    empty = copy.deepcopy(model).to("meta")
    assert empty(images.to("meta")).shape == (len(images), 10)
    empty.to_empty(device="cpu").load_state_dict(model.state_dict())
    return empty


def in_half(dtype):
    def convert(model, images):
        other = copy.deepcopy(model).to(dtype)
        return lambda images: other(images.to(dtype)).float()

    return convert


FEW = {  # tools that take seconds; experiments.convert's tests export a ViT and a plain network
    "onnx": ("resnet8", "plainvit1"),
    "compile": ("resnet8", "plain8", "vit1", "plainvit1"),
    "trace": ("resnet8", "plain8", "resnet18", "vit1", "plainvit1"),
    "export": ("resnet8", "plain8", "resnet18", "vit1", "plainvit1"),
}
# These make something of a ViT that is for images of one size; compile starts again for another.
FIXED_SIZE = ("export", "trace", "onnx", "compile")
TOOLS = {  # the largest difference, as a part of the largest logit
    "export": (exported, 0),
    "trace": (traced, 0),
    "fx": (followed, 0),
    "feature extractor": (extracted, 0),
    "compile": (compiled, 0),
    "onnx": (as_onnx, 1e-5),
    "deepcopy": (copied, 0),
    "pickle": (pickled, 0),
    "torch.save": (saved, 0),
    "channels_last": (channels_last, 1e-5),
    "meta": (from_meta, 0),
    "half": (in_half(torch.half), 8 * torch.finfo(torch.half).eps),
    "bf16": (in_half(torch.bfloat16), 16 * torch.finfo(torch.bfloat16).eps),
}


@pytest.mark.parametrize(
    ("tool", "name"),
    [
        pytest.param(tool, name, marks=[pytest.mark.slow] * (tool == "onnx"))
        for tool in TOOLS
        for name in FEW.get(tool, NETWORKS)
    ],
)
def test_outputs_are_the_networks_own(tool, name):
    """Also for another batch than the one that the tool saw, and for other heights and widths."""
    model = shaken(name, **NETWORKS[name]).eval()
    make, tolerance = TOOLS[tool]
    side = 64 if isinstance(model.stem, ImageNetStem) else 32
    sizes = [(2, 3, side, side), (4, 3, side, side), (3, 3, side + 32, side + 8)]
    if tool in FIXED_SIZE and not isinstance(model, ResNet):
        sizes.pop()
    with torch.no_grad():
        result = make(model, torch.randn(sizes[0]))
        for size in sizes:
            wanted = model(images := torch.randn(size))
            assert_close(result(images), wanted, tolerance * wanted.abs().max().item())


def assert_close(found: Tensor, wanted: Tensor, difference: float) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=difference)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
@pytest.mark.parametrize("resizing", ["align-corners", "antialias", "bicubic"])
def test_positions_are_resized_in_half_precision(resizing, dtype):
    model = shaken("vit1", resizing=resizing).eval()
    images = torch.randn(2, 3, 24, 40)
    with torch.no_grad():
        wanted = model(images)
        found = in_half(dtype)(model, images)(images)
    assert_close(found, wanted, 8 * torch.finfo(dtype).eps * wanted.abs().max().item())


def test_torch_fx_keeps_the_refusal_of_a_wrong_size():
    with pytest.raises(ValueError, match="24x30 pixels are no whole number of patches"):
        torch.fx.symbolic_trace(shaken("vit1"))(torch.randn(1, 3, 24, 30))
