"""Print shapes, parameters, FLOPs and receptive field of a network, by stage or by block.

    python -m experiments.shapes resnet50

They are computed in proof/shapes.py.
"""

from dataclasses import dataclass

import tyro

from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError, doing


@dataclass(frozen=True)
class Options:
    """Print shapes, parameters, FLOPs and receptive field, stage by stage or block by block."""

    model: tyro.conf.Positional[str] = "resnet50"
    """A name of zoo.list_models()."""
    size: cli.Pixels = None
    """Side of the input image in pixels (default: the network's: 224, or 32 for CIFAR)."""


def main(options: Options) -> None:
    """Print the table; raise UsageError for a size that does not suit a ViT."""
    with doing("loading the libraries"):
        import torch

        import zoo
        from experiments.plumbing.tables import Rows, print_report
        from experiments.proof.shapes import default_size, parts
        from zoo.vit import ViT
    cli.check_numbers(options, {"size": (1, zoo.LARGEST_IMAGE)})
    with torch.device("meta"):
        model = zoo.build(options.model)
    size = options.size or default_size(model)
    if isinstance(model, ViT) and size % (patch := model.stem.conv.stride[0]):
        why = f"images with sides of {size} pixels are not a whole number of patches"
        raise UsageError(why, f"--size {size}", f"give a multiple of {patch}")
    table = parts(model, size)
    lines = [
        [part.name, f"({', '.join(map(str, part.shape))})", f"{part.parameters:,}",
         f"{part.flops / 1e9:.3f}", part.receptive_field]
        for part in table
    ]  # fmt: skip
    parameters, flops = sum(p.parameters for p in table), sum(p.flops for p in table)
    lines.append(["total", "", f"{parameters:,}", f"{flops / 1e9:.3f}", ""])
    print(f"{options.model}, one image (1, 3, {size}, {size})")
    header = ("part", "output shape", "parameters", "GFLOPs", "receptive field")
    note = "A multiply-add counts as two FLOPs. torchvision prints GMACs, which are half as many."
    print_report([Rows(header, lines), note])


if __name__ == "__main__":
    cli.run(main, Options, "shapes")
