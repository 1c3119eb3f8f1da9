"""Choose precision, memory layout and compilation by timing, and store the choice in a file."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments.plumbing.cli import ResultsError, UsageError
from experiments.plumbing.device import has_bf16
from experiments.plumbing.distributed import Group
from experiments.plumbing.results import KEEP_IT, UNFIT, parsed, write_json
from experiments.train.loop import BatchSource, Settings, forward

Model = TypeVar("Model", bound=nn.Module)
# See rounding_error(). Trained ResNets have 0.01 to 0.04; untrained ones up to 0.2, if the images
# are alike; plain-56, over 0.6.
ROUNDED = 0.3
TIMING = 8.0  # seconds after which no further round of timing starts


def choose_precision(
    requested: str, model: nn.Module, batches: BatchSource, settings: Settings, device: torch.device
) -> tuple[Settings, str]:
    """Settings with the fastest precision and memory layout on this hardware, and the reason.

    "auto" times the forward and backward pass in what the hardware supports: fp32 in both memory
    layouts, and bf16, or fp16 on a GPU without bf16. It leaves out bf16 if rounding changes the
    features by more than ROUNDED. Any other request is used as it is, with channels_last, which is
    faster almost everywhere. mps allows only fp32 in NCHW: anything else raises UsageError.
    """
    if device.type == "mps":
        if requested not in ("auto", "fp32"):
            what, fix = "mixed precision is not tried on mps", "choose --precision fp32"
            raise UsageError(what, f"--device mps --precision {requested}", fix)
        # With channels_last, batch norm's gradients are wrong on mps (pytorch #175189).
        chosen = replace(settings, precision="fp32", channels_last=False)
        return chosen, "fp32: mixed precision and channels_last are not tried on mps"
    fp32 = replace(settings, precision="fp32", channels_last=True)
    bf16, changes = replace(fp32, precision="bf16"), ""
    in_question = has_bf16(device) if requested == "auto" else requested == "bf16"
    if in_question and not (share := rounding_error(model, batches, bf16)) <= ROUNDED:  # or nan
        changes = f"rounding to bf16 changes this network's features by {100 * share:.0f} %"
    if requested != "auto":
        reason = f"{requested}, channels_last: as requested" + f"; {changes}" * bool(changes)
        return replace(fp32, precision=requested), reason
    options, left_out = [fp32, replace(fp32, channels_last=False)], ""
    if changes:
        left_out = f"; bf16 is left out: {changes}"
    elif in_question:
        options.append(bf16)
    else:
        left_out = "; bf16 is not tried, since this hardware is not known to compute in it"
        if device.type == "cuda":
            options.append(replace(fp32, precision="fp16"))
    seconds = time_in_turns(options, model, batches)
    chosen = min(options, key=lambda option: seconds[option])
    timed = ", ".join(f"{name(option)} {1000 * spent:.0f} ms" for option, spent in seconds.items())
    return chosen, f"{name(chosen)}: fastest of {timed} a step{left_out}"


@torch.no_grad()
def rounding_error(model: nn.Module, batches: BatchSource, settings: Settings) -> float:
    """How far the precision of `settings` changes features in eval mode, compared with fp32.

    The root mean square of the change, divided by that of the images' differences from their mean.
    0.01 in a trained ResNet-56, 0.6 in a trained plain-56, under 0.2 in random networks (LOG.md).
    """
    model = copy.deepcopy(model).eval()
    compute, (images, _) = getattr(model, "features", model), batches.batch(0)
    exact, rounded = (
        forward(compute, images, replace(settings, precision=precision)).double()
        for precision in ("fp32", settings.precision)
    )
    spread = (exact - exact.mean(0)).square().mean()
    return float(((rounded - exact).square().mean() / spread).sqrt()) if spread else 0.0


def time_in_turns(
    options: list[Settings], model: nn.Module, batches: BatchSource
) -> dict[Settings, float]:
    """Minimum seconds per step of each option, over up to four rounds.

    Options that are clearly slower drop out. After TIMING seconds no further round starts.
    """
    seconds = dict.fromkeys(options, math.inf)
    begin = time.perf_counter()
    time_step(model, batches, options[0])  # warm-up: starts threads, loads libraries
    for clearly_slower in (3.0, 1.3, 1.3, 1.3):  # x the fastest; in round 1 caches are cold
        for option in options:
            seconds[option] = min(seconds[option], time_step(model, batches, option))
        limit = clearly_slower * min(seconds.values())
        options = [option for option in options if seconds[option] <= limit]
        if len(options) == 1 or time.perf_counter() - begin > TIMING:
            break
    return seconds


def name(settings: Settings) -> str:
    """Precision and layout as text, such as "bf16 channels_last"."""
    return settings.precision + (" channels_last" if settings.channels_last else "")


def time_step(
    model: nn.Module, batches: BatchSource, settings: Settings,
    clock: Callable[[], float] = time.perf_counter,
) -> float:  # fmt: skip
    """Seconds of one forward and backward pass, on a copy of the model."""
    model = to_layout(copy.deepcopy(model), settings).train()
    return seconds_of_pass(model, batches, settings, clock)


def seconds_of_pass(
    compute: Callable[[Tensor], Tensor], batches: BatchSource, settings: Settings,
    clock: Callable[[], float] = time.perf_counter,
) -> float:  # fmt: skip
    """Seconds of one forward and backward pass."""
    images, labels = batches.batch(0)
    # Does nothing on the CPU; of several GPUs, waits for this one.
    wait = partial(torch.get_device_module(images.device).synchronize, images.device)
    wait()
    start = clock()
    cross_entropy(forward(compute, images, settings), labels).backward()
    wait()
    return clock() - start


def to_layout(model: Model, settings: Settings) -> Model:
    """Convert the model's parameters to the memory layout of `settings`."""
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    return model.to(memory_format=layout)


def compile_training(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network as one program, replayed as a CUDA graph: Python no longer starts each kernel.

    Programs of earlier networks are forgotten: PyTorch keeps at most eight for one function, and
    would leave the ninth network uncompiled without a word.
    """
    torch.compiler.reset()
    return torch.compile(model, mode="reduce-overhead", dynamic=False)


def choose_compile(
    model: nn.Module, batches: BatchSource, settings: Settings, steps: int, why: str
) -> tuple[Settings, str]:
    """`settings`, compiled if that saves time in `steps` steps, compiling included; and the reason.

    `why`: the reason for the other settings.
    """
    eager = min(time_step(model, batches, settings) for _ in range(4))
    copied = to_layout(copy.deepcopy(model), settings).train()
    compute = compile_training(copied)

    def one_pass() -> float:
        copied.zero_grad()  # a CUDA graph overwrites its gradients: nothing may be added to them
        return seconds_of_pass(compute, batches, settings)

    try:
        first = one_pass()
        # The first two also record the graph.
        later = min(one_pass() for _ in range(6))
    except Exception as error:  # compilers fail in many ways
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return settings, f"{why}; not compiled: torch.compile failed ({reason:.80})"
    pays = first + steps * later < steps * eager
    times = f"{1000 * eager:.1f} ms a step, compiled {1000 * later:.1f} ms after {first:.0f} s"
    chosen = f"{'compiled' if pays else 'not compiled'}: {times}"
    return replace(settings, compiled=pays), f"{why}; {chosen}"


ALL = "all networks"  # of an ablation: they share one entry
ENTRY = ("precision", "channels_last", "compiled", "reason")
SETTINGS_FILES = ("campaign.json", "transfer.json")  # of experiments.ablation, of .transfer


def settle(
    path: Path, about: Mapping[str, str], requested: str, device: torch.device,
    models: Mapping[str, Callable[[], tuple[nn.Module, BatchSource]]], group: Group,
    compile_for: int = 0,
) -> dict[str, Settings]:  # fmt: skip
    """Precision, layout and compilation of every model: chosen once per folder, stored in `path`.

    `compile_for`: steps of one run, to decide on a GPU whether compiling saves time; 0: it is not
    tried.

    `about`: what else all runs in the folder share. Raises UsageError if the folder's results
    differ in that, or are of the other command of SETTINGS_FILES. `models`: name -> a function that
    builds the network and the batches to time.
    """
    for name in SETTINGS_FILES:
        if name != path.name and (path.parent / name).exists():
            what = "this folder has the results of another command"
            raise UsageError(what, path.parent / name, "choose another --output-dir")
    saved: dict[str, Any] = {**about, "models": {}}
    if path.exists():
        saved = parsed(path.read_bytes(), path, saved.keys())
        for key, value in about.items():
            refuse_mixing(path, key, saved[key], value)
    settled = {}
    for model, make in models.items():
        known = model in saved["models"]
        if not known:
            if requested == "auto" and device.type != "mps":
                group.say("Precision: timing steps ...")
            chosen, reason = choose_precision(requested, *make(), Settings(), device)
            if compile_for and device.type == "cuda":
                chosen, reason = choose_compile(*make(), chosen, compile_for, reason)
            values = chosen.precision, chosen.channels_last, chosen.compiled, reason
            saved["models"][model] = dict(zip(ENTRY, values, strict=True))
        try:
            entry = {"compiled": False} | saved["models"][model]  # which older files lack
            precision, layout, compiled, reason = (entry[key] for key in ENTRY)
        except (TypeError, KeyError) as error:
            raise ResultsError(UNFIT, path, KEEP_IT) from error
        if requested != "auto":
            refuse_mixing(path, "precision", precision, requested)
        settled[model] = Settings(precision=precision, channels_last=layout, compiled=compiled)
        earlier = f" (chosen earlier: {path})" * known
        group.say(f"Precision of {model} is {reason}{earlier}")
    if group.first:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, saved)
    return group.same(settled)


def refuse_mixing(path: Path, key: str, earlier: str, now: str) -> None:
    """Raise UsageError if `now` differs from the folder's `earlier` value of `key`."""
    if earlier != now:
        what = f"the results here were made with {key} {earlier!r}, and runs are not mixed"
        way = f"the preset {earlier}" if key == "preset" else f"--{key} {earlier}"
        raise UsageError(what, path, f"choose another --output-dir, or {way}")
