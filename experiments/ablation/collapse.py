"""Measure the collapse of an image's tokens to one vector, block by block.

    relative residual of X (L, D) = ||X - 1 x^T|| / ||X||, where x is the mean token

It is 0 if all tokens are equal; then X has rank one. The norm is the paper's,
sqrt(||.||_1 ||.||_inf). It is computed in fp64: without skips it falls so fast that fp32 could
resolve only two blocks.

Paper: Dong et al. 2021, "Attention is Not All You Need: Pure Attention Loses Rank Doubly
Exponentially with Depth" (arXiv 2103.03404), section 2 and figure 2.
Dimension key: N batch, L tokens, D width, B blocks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from data.progress import Progress
from experiments.ablation.runs import Run, build_model, evaluation_batches
from experiments.plumbing.cli import ResultsError
from experiments.plumbing.results import read_row, write_csv
from zoo.vit import ViT

STATES = {  # whose weights a network without some parts has
    "initial": "at initialisation",
    "removed": "parts removed after training",
    "trained": "trained from the start",
}
# In fp64, rounding leaves about 4e-16 if tokens are equal. Smaller residuals count as VISIBLE.
VISIBLE = 1e-14
IMAGES = 25  # the first of the test set, for every network
INITIAL_SEEDS = 100  # cheap: these networks are not trained
COLUMNS = {
    "network": str, "depth": int, "seed": int, "state": str, "block": int,
    # Over the images: mean residual, mean of log10, 10th and 90th percentile.
    "residual": float, "log10": float, "p10": float, "p90": float,
}  # fmt: skip


def composite_norm(x: Tensor) -> Tensor:
    """(N, L, D) -> (N,): root of the largest absolute column sum times the largest row sum."""
    x = x.abs()
    return (x.sum(1).amax(1) * x.sum(2).amax(1)).sqrt()


def relative_residual(x: Tensor) -> Tensor:
    """(N, L, D) -> (N,).

    Deviation from the paper: it subtracts the token that minimises the norm. The mean token
    minimises the sum of squares; its residual is less than twice the paper's.
    """
    return composite_norm(x - x.mean(1, keepdim=True)) / composite_norm(x)


@torch.no_grad()
def residuals(model: ViT, images: Tensor) -> Tensor:
    """Residuals of the patches and after every block: (N, 3, H, W) -> float64 (1 + B, N)."""
    model = model.double().eval()
    x = model.stem(images.double())  # (N, 3, H, W) -> (N, L, D)
    values = [relative_residual(x)]
    for block in model.blocks:
        x = block(x)
        values.append(relative_residual(x))
    return torch.stack(values)


def statistics(values: Tensor) -> dict[str, float]:
    """The last four of COLUMNS, from the residuals (N,) of the images after one block.

    Residuals differ by powers of ten: their mean depends on the largest only, the mean of the
    logarithms on all of them. All but the mean residual are clamped at VISIBLE.
    """
    visible = values.clamp(min=VISIBLE)
    low, high = visible.quantile(torch.tensor([0.1, 0.9]).to(values))
    log10 = visible.log10().mean()
    numbers = {"residual": values.mean(), "log10": log10, "p10": low, "p90": high}
    # Six digits: the rest is rounding error. Near VISIBLE, so are all digits but the first.
    return {name: float(f"{number:.6g}") for name, number in numbers.items()}


def measure(runs: Sequence[Run], output_dir: Path) -> list[dict]:
    """Measure the deepest networks: one row per network, seed, state and block.

    The rows are also written to collapse.csv.
    """
    depth = max(run.depth for run in runs)
    networks = [run for run in runs if run.depth == depth]
    # On the CPU: some devices have no fp64.
    images, _ = next(evaluation_batches(networks[0].data, IMAGES, torch.device("cpu")))
    rows = []
    jobs = list(conditions(networks, output_dir))
    for state, run, weights in Progress(jobs, "residuals"):
        model = build_model(run)
        assert isinstance(model, ViT)
        if weights is not None:
            load_run_weights(model, weights)
        of_run = {"network": run.network, "depth": run.depth, "seed": run.seed, "state": state}
        for block, values in enumerate(residuals(model, images)):
            rows.append({**of_run, "block": block, **statistics(values)})
    write_csv(output_dir / "collapse.csv", rows, COLUMNS)
    return rows


def load_run_weights(model: nn.Module, path: Path) -> None:
    """Load the weights of a finished run, ignoring those of parts that the model lacks.

    Raises ResultsError if the file cannot be read.
    """
    try:
        file = safetensors.torch.load_file(path)
        model.load_state_dict({key: file[key] for key in model.state_dict()})
    except (OSError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        fix = f"move {path.parent} elsewhere, and run the same command again to repeat this run"
        raise ResultsError("the weights of a finished run cannot be read", path, fix) from error


def conditions(runs: Sequence[Run], output_dir: Path) -> Iterator[tuple[str, Run, Path | None]]:
    """Yield what to measure: state, run, file of weights (None: the seed's initial weights)."""
    arms = {run.network: run for run in runs}
    for run in arms.values():
        for seed in range(INITIAL_SEEDS):
            yield "initial", replace(run, seed=seed), None
    for run in runs:
        row = read_row(output_dir / run.name, run)
        if row is None or row["status"] != "finished":
            continue
        weights = output_dir / run.name / "final.safetensors"
        yield "trained", run, weights
        if run.network == "vit":
            for network in arms:
                yield "removed", replace(run, network=network), weights
