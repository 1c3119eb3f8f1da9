"""Draw the figures of an ablation from the files of its runs; gradients are computed here.

curves.png      loss by epoch, and error as in figure 6 of He et al. 2015 (arXiv 1512.03385)
gradients.png   gradient norm by layer, for initial and final weights, with and without BN
arms.png        for questions about blocks: loss of every run, by arm
collapse.png    for transformers: relative residual by block, as in figure 2 of Dong et al. 2021
                (arXiv 2103.03404)
"""

import math
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn
from torch.nn.functional import cross_entropy

from experiments.ablation.block_questions import TABLES_1_AND_2, BlockQuestion
from experiments.ablation.collapse import STATES, VISIBLE, load_run_weights
from experiments.ablation.comparison import (
    Arm,
    groups_of,
    has_failed,
    is_the_papers,
    question_of,
)
from experiments.ablation.runs import Run, build_model, in_words, make_batches
from experiments.drawing.style import COLOURS, png
from experiments.plumbing.device import make_deterministic
from experiments.plumbing.results import read_history, read_row
from experiments.plumbing.stats import estimate, seed_count

ARMS_FIGURE = "arms.png"
TITLES = {
    "plain": "plain networks", "resnet": "residual networks",
    "plainvit": "plain transformers", "vit": "residual transformers",
}  # fmt: skip
ARMS = {  # label, colour, line; dashed: without MLPs
    "vit": ("both skips (vit)", "#0072B2", "-"),
    "attention-skip": ("skip around attention only", "#009E73", "-"),
    "mlp-skip": ("skip around the MLP only", "#CC79A7", "-"),
    "plainvit": ("no skips (plainvit)", "#D55E00", "-"),
    "no-mlp": ("no MLP, one skip", "#0072B2", "--"),
    "pure-attention": ("no MLP, no skip", "#D55E00", "--"),
}


def draw_all(
    runs: Sequence[Run], results: Sequence[dict], residuals: Sequence[dict], output_dir: Path,
    device: torch.device,
) -> list[Path]:  # fmt: skip
    """Draw all figures; return their paths. `residuals`: rows of collapse.csv, or none."""
    paths = [draw_all_curves(runs, results, output_dir)]
    if paths[0].name == ARMS_FIGURE:
        return paths
    if residuals:
        paths.append(output_dir / "collapse.png")
        with png(paths[-1], 13, 4.8, mathtext=True) as figure:
            draw_collapse(figure, residuals)
    if any(run.norm == "none" for run in runs):
        paths.append(output_dir / "gradients.png")
        with png(paths[-1], 10, 7, mathtext=True) as figure:
            draw_gradients(figure, runs, output_dir, device)
    return paths


def draw_all_curves(runs: Sequence[Run], results: Sequence[dict], output_dir: Path) -> Path:
    """Draw curves.png: loss and error by epoch, for networks without and with skips (columns).

    Upper row: training loss; lower row: training error dashed, test error solid. Mean over seeds;
    bands: minimum to maximum.
    """
    if question := question_of(results):
        return draw_arms(results, question, output_dir, how_trained(runs[0]))
    path = output_dir / "curves.png"
    networks = [network for network in TITLES if network in {run.network for run in runs}]
    depths = sorted({run.depth for run in runs})
    unit = "block" if "vit" in networks else "layer"
    colours = dict(zip(depths, cycle(COLOURS), strict=False))
    drawn = set()  # numbers of seeds
    with png(path, 10, 7.4) as figure:
        panels = figure.subplots(2, 2, sharex=True, sharey="row")
        for network, (loss, error) in zip(networks, panels.T, strict=True):
            for depth, colour in colours.items():
                arm = [run for run in runs if (run.network, run.depth) == (network, depth)]
                arm = [run for run in arm if run.norm != "none"]
                history = columns([read_history(output_dir / run.name) for run in arm])
                drawn.add(len(history["epoch"]) if history else 0)
                draw_arm(loss, history, "train_loss", "-", colour)
                draw_arm(error, history, "train_error", "--", colour)
                draw_arm(error, history, "test_error", "-", colour)
            loss.set_title(TITLES[network])
            error.set_xlabel("epoch")
            error.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        panels[0, 0].set(ylabel="training loss", ylim=(0, 1.05 * panels[0, 0].get_ylim()[1]))
        panels[1, 0].set(ylabel="error (%)", ylim=(0, 100))
        for depth, colour in colours.items():
            label = f"{depth} {unit}{'s' if depth > 1 else ''}"
            panels[0, 0].plot([], [], color=colour, lw=2.2, label=label)
        panels[0, 0].legend(loc="best", frameon=False)
        panels[1, 1].plot([], [], "k-", label="test")
        panels[1, 1].plot([], [], "k--", label="training")
        panels[1, 1].legend(loc="best", frameon=False)
        shaded = "mean over seeds, shaded: minimum to maximum; " if max(drawn) > 1 else ""
        figure.supxlabel(f"{shaded}{seed_count(drawn)}; {how_trained(runs[0])}", size=11)
    return path


def draw_arms(
    results: Sequence[dict], question: BlockQuestion, output_dir: Path, trained: str
) -> Path:
    """Draw arms.png: the final training loss of every run, and the mean with its interval."""
    path = output_dir / ARMS_FIGURE
    groups, paper = groups_of(results, question), is_the_papers(results, question)
    panel_width = 5.4 if len(groups) + paper < 3 else 3.6
    width, height = panel_width * (len(groups) + paper) + 2.5, 2.2 + 0.33 * max(map(len, groups))
    with png(path, width, height) as figure:
        panels = figure.subplots(1, len(groups) + paper, squeeze=False, sharex=not paper)[0]
        if paper:
            draw_published(panels[-1], groups[0])
        for group, panel in zip(groups, panels, strict=False):
            names, depth, lr = [], group[0].key.depth, group[0].key.lr
            for y, arm in enumerate(reversed(group)):  # the first one at the top
                colour = COLOURS[1] if arm.is_reference else COLOURS[6]
                mean = estimate(arm.losses)
                if math.isfinite(mean.half):
                    panel.errorbar(mean.mean, y, xerr=mean.half, color=colour, capsize=3)
                for loss, row in zip(arm.losses, arm.rows, strict=True):
                    marker = "x" if has_failed(row) else "o"
                    panel.plot(loss, y, marker, color=colour, mfc="none")
                own_rate = question.rates and not question.all_rates
                names.append(arm.key.name + (f", rate {arm.key.lr:g}" if own_rate else ""))
            panel.set_yticks(range(len(group)), names)
            panel.set_ylim(-0.5, len(group) - 0.5)
            title = f"{depth} layers" + (f", rate {lr:g}" if question.all_rates else "")
            panel.set(title=title, xlabel="final training loss")
        some = any(has_failed(row) for group in groups for arm in group for row in arm.rows)
        crosses = " (x: failed, counted with the loss of guessing)" * some
        bars = f"dots: seeds{crosses}; bars: 95 % interval"
        figure.supxlabel(f"{bars}\n{trained}", size=11)
    return path


def draw_published(panel: Axes, group: Sequence[Arm]) -> None:
    """Draw our test errors, one dot per seed, and the paper's, a cross, in the order of `group`."""
    for y, arm in enumerate(reversed(group)):
        errors = [100 * row["test_error"] for row in arm.rows if row["status"] == "finished"]
        panel.plot(errors, [y] * len(errors), "o", color=COLOURS[1], mfc="none")
        published = TABLES_1_AND_2[arm.key.network]
        if published == "fail":
            panel.text(20, y, "paper: above 20", va="center", fontsize=9)
        else:
            panel.plot(float(published), y, "kx")
    panel.set_yticks(range(len(group)), [""] * len(group))
    panel.set(title="test error (%): dots ours, crosses the paper's")
    panel.set_xlim(0, max(30, panel.get_xlim()[1]))


def how_trained(run: Run) -> str:
    """Images and steps, for a caption."""
    images = in_words(run.data.source, run.data.size)
    images += ", not augmented" * (not run.data.augment)
    return f"{images}, {run.settings.steps:,} steps, batch {run.settings.batch_size}"


def columns(histories: Sequence[dict]) -> dict[str, np.ndarray]:
    """Each column as (seeds, epochs), of the seeds that did not diverge or diverged last."""
    longest = max((len(history.get("epoch", ())) for history in histories), default=0)
    whole = [history for history in histories if 0 < len(history.get("epoch", ())) == longest]
    return {name: np.array([history[name] for history in whole]) for name in (*whole, {})[0]}


def draw_arm(
    panel: Axes, history: dict[str, np.ndarray], name: str, line: str, colour: str
) -> None:
    """Draw the mean of one column over the seeds; solid lines get a band, minimum to maximum."""
    if not history:
        return
    epochs, values = history["epoch"][0], history[name] * (100 if "error" in name else 1)
    dot = "o" if len(epochs) == 1 else ""  # a line through one epoch is invisible
    solid = line == "-"
    style: dict[str, Any] = {"lw": 2.2, "mfc": colour} if solid else {"lw": 1.2, "mfc": "none"}
    panel.plot(epochs, values.mean(0), dot + line, color=colour, **style)
    if solid:
        panel.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.15, lw=0)


def draw_collapse(figure: Figure, residuals: Sequence[dict]) -> None:
    """Draw residuals by block, one panel per state: geometric mean over seeds and images.

    Bands: from the lowest 10th to the highest 90th percentile (over images) of any seed.
    """
    panels = figure.subplots(1, 3, sharey=True)
    blocks = range(1 + max(row["block"] for row in residuals))
    for (state, title), panel in zip(STATES.items(), panels, strict=True):
        for network, (label, colour, line) in ARMS.items():
            rows = [r for r in residuals if (r["network"], r["state"]) == (network, state)]
            if not rows:
                continue
            logs, low, high = (  # (blocks, seeds)
                np.array([[r[column] for r in rows if r["block"] == block] for block in blocks])
                for column in ("log10", "p10", "p90")
            )
            panel.plot(blocks, 10 ** logs.mean(1), line, color=colour, linewidth=2, label=label)
            panel.fill_between(blocks, low.min(1), high.max(1), color=colour, alpha=0.1, lw=0)
        panel.set(title=title, xlabel="block (0: the patches)", yscale="log", ylim=(VISIBLE, 3))
        panel.set_xticks(blocks)
    panels[0].set_ylabel("relative residual")
    panels[0].legend(loc="lower left", frameon=False, fontsize=11)
    seeds = " / ".join(
        str(len({row["seed"] for row in residuals if row["state"] == state})) for state in STATES
    )
    band = "bands: lowest 10th to highest 90th percentile of any seed"
    figure.supxlabel(f"geometric mean over seeds and images; {band}; n = {seeds} seeds", size=11)


def draw_gradients(
    figure: Figure, runs: Sequence[Run], output_dir: Path, device: torch.device
) -> None:
    """Draw gradient norms. Rows: at initialisation, after training. Columns: with, without BN."""
    make_deterministic(device)
    panels = figure.subplots(2, 2, sharex=True, sharey="col")
    deepest = max(run.depth for run in runs)
    for column, norm in enumerate(("batch", "none")):
        before, after = panels[:, column]
        for run in runs:
            if (run.depth, run.seed, run.norm) == (deepest, 0, norm):
                model, folder = build_model(run), output_dir / run.name
                draw_norms(before, run, gradient_norms(model, run, device), run.model)
                load_run_weights(model, folder / "final.safetensors")
                row = read_row(folder, run) or {}
                note = "" if row.get("status") == "finished" else f": {row.get('status')}"
                draw_norms(after, run, gradient_norms(model, run, device), run.model + note)
        words = "with BN" if norm == "batch" else "without BN"
        before.set_title(f"{words}, at initialisation")
        after.set_title(f"{words}, after training")
        after.set_xlabel("layer, from the first convolution to the last")
        panels[column, 0].set_ylabel("L2 norm of the gradient")
        after.xaxis.get_major_locator().set_params(integer=True)
    figure.supxlabel(f"one seed, one training batch; {how_trained(runs[0])}", size=11)


def draw_norms(panel: Axes, run: Run, norms: np.ndarray, label: str) -> None:
    """Draw one network's norms (layers,) on a log axis; only the label shows zeros and NaN."""
    drawable = np.where(np.isfinite(norms) & (norms > 0), norms, np.nan)
    colour, marker = ("#0072B2", "o") if run.network == "resnet" else ("#D55E00", "s")
    if not np.isfinite(norms).any() or not norms.any():
        label += ": 0 everywhere" if np.isfinite(norms).all() else ": not a number"
    layers = range(1, len(norms) + 1)
    panel.semilogy(layers, drawable, color=colour, label=label, marker=marker, markersize=3.5)
    panel.legend(frameon=False, fontsize=10)


def gradient_norms(model: nn.Module, run: Run, device: torch.device) -> np.ndarray:
    """L2 norm of the loss's gradient in each convolution except shortcuts, in order, in fp32.

    Computed for one training batch of the run's seed, with BN in training mode.
    """
    images, labels = make_batches(run, device).batch(0)
    model = model.to(device).train()
    loss = cross_entropy(model(images), labels)
    weights = [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and "shortcut" not in name
    ]
    return np.array([grad.norm().item() for grad in torch.autograd.grad(loss, weights)])
