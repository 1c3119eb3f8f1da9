"""How far the tokens of a picture are from being all the same, block by block.

    relative residual of X (L, D) = ||X - 1 x^T|| / ||X||, where x is the mean token

It is 0 where all tokens are equal, so that X has rank one. The norm is the paper's,
sqrt(||.||_1 ||.||_inf). It is measured in fp64: without additions it falls so fast that fp32 would
see three blocks of it.

Paper: Dong et al. 2021 (arXiv 2103.03404), section 2, figure 2.
Dimension key: N batch, L tokens, D width.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from data.batches import in_order
from experiments.run import Run, build_model, csv_of, load_data, normalize_of, read_row
from zoo.vit import ViT
from zoo.weights.atomic import write_atomic

PICTURES = 100  # of the test set, the first ones: the same for every run
COLUMNS = ("network", "depth", "seed", "state", "block", "residual")
STATES = ("initial", "trained")
INITIAL_SEEDS = 20  # nothing is trained for them, so that they cost next to nothing


def composite_norm(x: Tensor) -> Tensor:
    """(N, L, D) -> (N,): root of the largest column sum times the largest row sum."""
    x = x.abs()
    return (x.sum(1).amax(1) * x.sum(2).amax(1)).sqrt()


def relative_residual(x: Tensor) -> Tensor:
    """(N, L, D) -> (N,).

    The paper subtracts the token that leaves the smallest norm; the mean token is the best in the
    sum of squares, and leaves less than twice the paper's smallest.
    """
    return composite_norm(x - x.mean(1, keepdim=True)) / composite_norm(x)


@torch.no_grad()
def residuals(model: ViT, images: Tensor) -> list[float]:
    """Mean over the images (N, 3, H, W): of the patches, then after every block."""
    model = model.double().eval()
    x = model.stem(images.double())  # (N, 3, H, W) -> (N, L, D)
    found = [relative_residual(x).mean().item()]
    for block in model.blocks:
        x = block(x)
        found.append(relative_residual(x).mean().item())
    return found


def measure(runs: Sequence[Run], output_dir: Path) -> list[dict]:
    """A row for every network, seed, state and block, which are also in collapse.csv."""
    rows = []
    for run in {(run.network, run.depth): run for run in runs}.values():
        for seed in range(INITIAL_SEEDS):
            start = replace(run, seed=seed)
            rows += rows_of(start, STATES[0], build_model(start))
    for run in runs:
        folder = output_dir / run.name
        row = read_row(folder, run)
        if row is not None and row["status"] == "finished":
            model = build_model(run)
            model.load_state_dict(safetensors.torch.load_file(folder / "final.safetensors"))
            rows += rows_of(run, STATES[1], model)
    write_atomic(output_dir / "collapse.csv", csv_of(rows, COLUMNS).encode())
    return rows


def rows_of(run: Run, state: str, model: nn.Module) -> list[dict]:
    assert isinstance(model, ViT)
    return [
        {"network": run.network, "depth": run.depth, "seed": run.seed, "state": state,
         "block": block, "residual": residual}
        for block, residual in enumerate(residuals(model, pictures(run)))
    ]  # fmt: skip


def pictures(run: Run) -> Tensor:
    """(N, 3, H, W), whole and normalised, on the CPU: not every other device has fp64."""
    data = load_data(run.data)
    images, labels = data.test_images[:PICTURES], data.test_labels[:PICTURES]
    device = torch.device("cpu")
    batches = in_order(
        images, labels, normalize_of(data, run.data), PICTURES, device, run.data.size
    )
    return next(batches)[0]
