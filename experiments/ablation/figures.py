"""The figures of an ablation, drawn from the files that its runs left; gradients are computed here.

curves.png      error by epoch, in the manner of figure 6 of He et al. 2015 (arXiv 1512.03385)
gradients.png   gradient norm by layer, of initial and of final weights, with and without BN
collapse.png    of transformers, relative residual by block, as in figure 2 of Dong et al. 2021
                (arXiv 2103.03404)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import safetensors.torch
import torch
from matplotlib.axes import Axes
from torch import nn
from torch.nn.functional import cross_entropy

from experiments.ablation.collapse import STATES, VISIBLE
from experiments.ablation.runs import Run, build_model, make_batches
from experiments.drawing.style import COLOURS, STYLE
from experiments.plumbing.device import make_deterministic
from experiments.plumbing.results import read_history, read_row

ARM_COLOURS = {"plain": "#D55E00", "resnet": "#0072B2"}


def draw_all(
    runs: Sequence[Run], residuals: Sequence[dict], output_dir: Path, device: torch.device
) -> list[Path]:
    """The figures of an ablation; `residuals`, a transformer's, are the rows of collapse.csv."""
    plt.switch_backend("Agg")  # files, no windows
    with plt.rc_context(STYLE):
        if residuals:
            arms = {"plainvit": "plain transformers", "vit": "residual transformers"}
            paths = [draw_curves(runs, output_dir, arms, "blocks")]
            paths.append(draw_collapse(residuals, output_dir))
        else:
            paths = [draw_curves(runs, output_dir)]
        if any(run.norm == "none" for run in runs):
            paths.append(draw_gradients(runs, output_dir, device))
    plt.close("all")
    return paths


ARMS = {"plain": "plain networks", "resnet": "residual networks"}


def draw_curves(
    runs: Sequence[Run], output_dir: Path, arms: Mapping[str, str] = ARMS, unit: str = "layers"
) -> Path:
    """Training error dashed, test error solid; mean over the seeds, and a band from min to max.

    `arms`: the network of each of the two panels, and its title; `unit`: what depth counts.
    """
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True, layout="constrained")
    depths = sorted({run.depth for run in runs})
    for (network, title), panel in zip(arms.items(), panels, strict=True):
        for depth, colour in zip(depths, COLOURS, strict=False):
            label = f"{depth} {unit if depth > 1 else unit.removesuffix('s')}"
            draw_arm(panel, runs, output_dir, (network, depth), colour, label)
        panel.set(title=title, xlabel="epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("error (%)")
    panels[0].set_ylim(0, 100)
    panels[1].legend(loc="upper right", frameon=False)
    panels[0].plot([], [], "k-", label="test")
    panels[0].plot([], [], "k--", label="training")
    panels[0].legend(loc="lower left", frameon=False)
    figure.savefig(output_dir / "curves.png")
    return output_dir / "curves.png"


def draw_arm(
    panel: Axes, runs: Sequence[Run], output_dir: Path, arm: tuple[str, int], colour: str, name: str
) -> None:
    histories = [
        read_history(output_dir / run.name)
        for run in runs
        if run.norm != "none" and (run.network, run.depth) == arm
    ]
    longest = max((len(history.get("epoch", ())) for history in histories), default=0)
    whole = [history for history in histories if len(history.get("epoch", ())) == longest]
    if not longest:
        return
    epochs = np.array(whole[0]["epoch"])
    for column, style, width in (("train_error", "--", 1.2), ("test_error", "-", 2.2)):
        errors = 100 * np.array([history[column] for history in whole])  # (seeds, epochs)
        label = name if column == "test_error" else None
        panel.plot(epochs, errors.mean(0), style, color=colour, linewidth=width, label=label)
        if column == "test_error":
            panel.fill_between(epochs, errors.min(0), errors.max(0), color=colour, alpha=0.15, lw=0)


LABELS = {  # dashed: without MLPs
    "vit": ("both additions (vit)", "#0072B2", "-"),
    "attention-skip": ("attention's addition alone", "#009E73", "-"),
    "mlp-skip": ("the MLP's addition alone", "#CC79A7", "-"),
    "plainvit": ("no addition (plainvit)", "#D55E00", "-"),
    "no-mlp": ("no MLP, with the addition", "#0072B2", "--"),
    "pure-attention": ("no MLP, no addition", "#D55E00", "--"),
}


def draw_collapse(residuals: Sequence[dict], output_dir: Path) -> Path:
    """By block, a panel for every state; geometric mean over seeds and pictures.

    A band has eight or more of ten pictures of every seed in it.
    """
    figure, panels = plt.subplots(1, 3, figsize=(13, 4.4), sharey=True, layout="constrained")
    blocks = range(1 + max(row["block"] for row in residuals))
    for (state, title), panel in zip(STATES.items(), panels, strict=True):
        for network, (label, colour, style) in LABELS.items():
            rows = [r for r in residuals if (r["network"], r["state"]) == (network, state)]
            if not rows:
                continue
            at = [[row for row in rows if row["block"] == block] for block in blocks]
            middle = [10 ** np.mean([row["log10"] for row in found]) for found in at]
            low = [min(row["p10"] for row in found) for found in at]
            high = [max(row["p90"] for row in found) for found in at]
            panel.plot(blocks, middle, style, color=colour, linewidth=2, label=label)
            panel.fill_between(blocks, low, high, color=colour, alpha=0.1, lw=0)
        panel.set(title=title, xlabel="block (0: the patches)", yscale="log", ylim=(VISIBLE, 3))
        panel.set_xticks(blocks)
    panels[0].set_ylabel("relative residual")
    panels[0].legend(loc="lower left", frameon=False, fontsize=11)
    figure.savefig(output_dir / "collapse.png", dpi=100)
    return output_dir / "collapse.png"


def gradient_norms(model: nn.Module, run: Run, device: torch.device) -> list[float]:
    """L2 norm of the loss's gradient in every convolution but the shortcuts', first first, in fp32.

    One training batch, seed of the run; BN in training mode, as while training.
    """
    images, labels = make_batches(run, device).batch(0)
    model = model.to(device).train()
    loss = cross_entropy(model(images), labels)
    weights = [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and "shortcut" not in name
    ]
    return [float(grad.norm()) for grad in torch.autograd.grad(loss, weights)]


def draw_gradients(runs: Sequence[Run], output_dir: Path, device: torch.device) -> Path:
    """Rows: at initialisation, after training. Columns: with BN, without."""
    make_deterministic(device)
    figure, panels = plt.subplots(
        2, 2, figsize=(10, 7), sharex=True, sharey="col", layout="constrained"
    )
    deepest = max(run.depth for run in runs)
    chosen = [run for run in runs if run.depth == deepest and run.seed == 0]
    for column, norm in enumerate(("batch", "none")):
        for run in chosen:
            if run.norm == norm:
                before, after = panels[0][column], panels[1][column]
                draw_norms(before, run, build_model(run), device, "")
                trained, note = load_final(run, output_dir)
                draw_norms(after, run, trained, device, note)
        words = "with BN" if norm == "batch" else "without BN"
        panels[0][column].set_title(f"{words}, at initialisation")
        panels[1][column].set_title(f"{words}, after training")
        panels[1][column].set_xlabel("layer, from the first convolution to the last")
        panels[column][0].set_ylabel("gradient norm")
    figure.savefig(output_dir / "gradients.png")
    return output_dir / "gradients.png"


def draw_norms(panel: Axes, run: Run, model: nn.Module, device: torch.device, note: str) -> None:
    norms = np.array(gradient_norms(model, run, device))
    shown = np.where(np.isfinite(norms) & (norms > 0), norms, np.nan)
    name = run.model + (f": {note}" if note else "")
    panel.semilogy(
        range(1, len(norms) + 1), shown, color=ARM_COLOURS[run.network], label=name,
        marker="o" if run.network == "resnet" else "s", markersize=3.5,
    )  # fmt: skip
    panel.legend(frameon=False, fontsize=10)


def load_final(run: Run, output_dir: Path) -> tuple[nn.Module, str]:
    """The network after its last step, and "diverged at step k" if that was not the end."""
    folder = output_dir / run.name
    model = build_model(run)
    model.load_state_dict(safetensors.torch.load_file(folder / "final.safetensors"))
    row = read_row(folder, run)
    assert row is not None
    return model, "" if row["status"] == "finished" else row["status"]
