"""How far the tokens of an image are from being all the same, block by block.

    relative residual of X (L, D) = ||X - 1 x^T|| / ||X||, where x is the mean token

It is 0 where all tokens are equal, so that X has rank one. The norm is the paper's,
sqrt(||.||_1 ||.||_inf). It is measured in fp64: without additions it falls so fast that fp32 would
see two blocks of it.

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

STATES = {  # the weights of a network, and where its parts went
    "initial": "at initialisation",
    "removed": "removed after training",
    "trained": "trained without them",
}
# Rounding in fp64 leaves about 4e-16 of tokens that are equal, and nothing below this is compared.
VISIBLE = 1e-14
IMAGES = 25  # of the test set, the first ones: the same for every network
INITIAL_SEEDS = 100  # nothing is trained for them
COLUMNS = {
    "network": str, "depth": int, "seed": int, "state": str, "block": int,
    # Of the residuals of the images: their mean, the mean of their logarithms, two percentiles.
    "residual": float, "log10": float, "p10": float, "p90": float,
}  # fmt: skip


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
def residuals(model: ViT, images: Tensor) -> Tensor:
    """Of the patches, then after every block: (N, 3, H, W) -> float64 (1 + B, N)."""
    model = model.double().eval()
    x = model.stem(images.double())  # (N, 3, H, W) -> (N, L, D)
    found = [relative_residual(x)]
    for block in model.blocks:
        x = block(x)
        found.append(relative_residual(x))
    return torch.stack(found)


def statistics(found: Tensor) -> dict[str, float]:
    """The numbers of COLUMNS, of the residuals (N,) of the images after one block.

    They differ by powers of ten, so no one number says all: the mean shows the largest, the mean of
    the logarithms all of them, down to where rounding begins.
    """
    visible = found.clamp(min=VISIBLE)
    low, high = visible.quantile(torch.tensor([0.1, 0.9]).to(found))
    log10 = visible.log10().mean()
    numbers = {"residual": found.mean(), "log10": log10, "p10": low, "p90": high}
    # Six digits: the rest is rounding, and of residuals near VISIBLE all but the first.
    return {name: float(f"{number:.6g}") for name, number in numbers.items()}


def measure(runs: Sequence[Run], output_dir: Path) -> list[dict]:
    """A row for every deepest network, seed, state and block, which are also in collapse.csv."""
    depth = max(run.depth for run in runs)
    networks = [run for run in runs if run.depth == depth]
    # On the CPU: not every other device has fp64.
    images, _ = next(evaluation_batches(networks[0].data, IMAGES, torch.device("cpu")))
    rows = []
    jobs = list(conditions(networks, output_dir))
    for state, run, weights in Progress(jobs, "residuals"):
        model = build_model(run)
        assert isinstance(model, ViT)
        if weights is not None:
            load_run_weights(model, weights)
        of_run = {"network": run.network, "depth": run.depth, "seed": run.seed, "state": state}
        for block, found in enumerate(residuals(model, images)):
            rows.append({**of_run, "block": block, **statistics(found)})
    write_csv(output_dir / "collapse.csv", rows, COLUMNS)
    return rows


def load_run_weights(model: nn.Module, path: Path) -> None:
    """With the weights of a finished run; those of parts that the model has not are left out."""
    try:
        file = safetensors.torch.load_file(path)
        model.load_state_dict({key: file[key] for key in model.state_dict()})
    except (OSError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        fix = f"move {path.parent} elsewhere, and the same command makes this run again"
        raise ResultsError("the weights of a finished run cannot be read", path, fix) from error


def conditions(runs: Sequence[Run], output_dir: Path) -> Iterator[tuple[str, Run, Path | None]]:
    """State, network and seed, and the file of the weights; None: those that the seed gives."""
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
