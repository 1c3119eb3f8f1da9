"""Measure speed ratios: usual code against ours, timed in turns, on one thread.

    python -m experiments.bench
    python -m experiments.bench --only inference-resnet18 training-resnet20
    python -m experiments.bench --device cuda

A time varies from minute to minute; the ratio of two functions timed in turns varies less. (Between
machines, ratios differ, too. `one-image` has PyTorch's number of threads.) Each comparison first
checks that both sides agree: on losses, pixels, features, weights, logits or answers. Each row is
printed, and stored, as soon as it is measured.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError, doing, shown


@dataclass(frozen=True)
class Options:
    """Print speed ratios against usual code with PyTorch and torchvision."""

    only: Annotated[tuple[str, ...], shown("NAME ...", "(default: all)")] = ()
    """Comparisons to run; a wrong name lists all."""
    rounds: int = 5
    """How often each side is timed, in turns (at least 5)."""
    device: Literal["cpu", "cuda"] = "cpu"
    """cuda: comparisons of training and inference on a GPU; meant to take under 8 minutes."""
    output: Path = Path("runs/bench.json")
    """The file of the rows, and of the machine."""


def main(options: Options) -> None:
    """Run the comparisons, and print and write each row."""
    cli.check_numbers(options, {"rounds": (5, 1000)})
    cli.check_file("--output", options.output, ".json")
    print(f"usual / ours, {options.rounds} rounds in turns, one thread; above 1: ours is faster")
    with doing("loading the libraries"):
        import torch

        from experiments.bench import gpu, networks, transfer
        from experiments.bench.timing import seconds_in_turns
        from experiments.plumbing.device import choose_device, has_bf16, make_deterministic
        from experiments.plumbing.results import machine, write_json
    device, _ = choose_device(options.device)
    makers = networks.COMPARISONS | transfer.COMPARISONS
    if device.type == "cuda":
        makers = gpu.comparisons(device, gpu.Sizes())
    if unknown := [name for name in options.only if name not in makers]:
        raise UsageError(f"there is no comparison {unknown[0]!r}", "--only", "; ".join(makers))
    make_deterministic(device)
    instructions = torch.backends.cpu.get_cpu_capability() + " with bf16" * has_bf16(device)
    about = machine(device) | {"device_type": device.type, "instructions": instructions}
    print(f"{about['device']}, {instructions}")
    rows = []
    for name in options.only or makers:
        with doing(name):
            torch.compiler.reset()  # otherwise later sizes would be compiled as variable ones
            if device.type == "cuda":
                torch.cuda.empty_cache()
            torch.manual_seed(0)
            comparison = makers[name]()
            seconds = seconds_in_turns((comparison.usual, comparison.ours), options.rounds)
        ratios = [comparison.repeats * usual / ours for usual, ours in seconds]
        median = statistics.median(ours for _, ours in seconds)
        rows.append({
            "name": name, "title": comparison.title, "checked": comparison.checked,
            "ratios": ratios, "seconds": median, "per_second": comparison.images / median,
        })  # fmt: skip
        write_json(options.output, about | {"rounds": options.rounds, "rows": rows})
        print(f"{line_of(rows[-1])}\n  {comparison.title}; {comparison.checked}")
    print(f"rows: {options.output}")


def line_of(row: dict) -> str:
    """One line: the name, the median ratio, its range, and the time of our side."""
    low, middle, high = (f(row["ratios"]) for f in (min, statistics.median, max))
    time = f"{1000 * row['seconds']:.1f} ms"
    return f"{row['name']}: {middle:.2f}x ({low:.2f} to {high:.2f}), ours {time}"


if __name__ == "__main__":
    cli.run(main, Options, "bench")
