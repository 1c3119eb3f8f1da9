"""Write a network as an ONNX file, which programs in other languages and browsers can run."""

import json
import warnings
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import torch

from data.views import View
from experiments.plumbing.cli import UsageError, doing
from zoo import WeightsError
from zoo.networks import Network
from zoo.weights.atomic import write_atomic

PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # torch.onnx needs the first two; one checks
TOLERANCE = 1e-3  # times the largest logit; rounding in fp32 is about 1e-6 times it


def check_installed() -> None:
    """Raise UsageError if a package is missing."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        why = f"an ONNX file needs packages that are not installed: {', '.join(missing)}"
        raise UsageError(why, "--to onnx", f"pip install {' '.join(missing)}")


def write_onnx(
    path: Path, name: str, model: Network, classes: tuple[str, ...] | None, view: View
) -> None:
    """Write the file, and print what is in it.

    Its input `images` is float32 (N, 3, S, S), normalised, with S = view.input_size and any N; its
    output `logits` is (N, K). Its metadata are texts: `model` is `name`; `preprocess` (the fields
    of `view`) and `classes` (if there are any) are JSON.
    Raises WeightsError, and writes nothing, if onnxruntime computes other logits than the network.
    """
    import onnxruntime

    images = torch.randn(2, 3, view.input_size, view.input_size)
    with doing("exporting to ONNX"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(
            model.eval(), (images,), input_names=["images"], output_names=["logits"],
            dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
        )  # fmt: skip
    assert program is not None, "torch.onnx.export returns nothing only where it writes a file"
    metadata = program.model.metadata_props
    metadata |= {"model": name, "preprocess": json.dumps(asdict(view))}
    if classes:
        metadata["classes"] = json.dumps(classes, ensure_ascii=False)
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": images[:1].numpy()})
    with torch.no_grad():
        wanted = model(images[:1])
    difference = (torch.from_numpy(found) - wanted).abs().max().item()
    if not difference <= TOLERANCE * wanted.abs().max():  # also if it is NaN
        why = f"the exported network computes other logits: one differs by {difference:.2g}"
        fix = f"try other versions of {', '.join(PACKAGES)} or torch ({torch.__version__})"
        raise WeightsError(why, path, fix)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)
    count = f"{len(classes)} class names" if classes else "no class names (add them by --classes)"
    print(f"{name}: {path} takes images as float32 (N, 3, {view.input_size}, {view.input_size})")
    print(f"its metadata: {count}; preprocessing: {asdict(view)}")
    print(f"onnxruntime's logits differ from the network's by at most {difference:.1e}")
