"""Measure speed ratios: usual code against ours, timed in turns in one process, on one thread.

    python -m experiments.bench

Times vary between machines and from minute to minute; the ratio of two functions timed in turns
varies far less. Each comparison first checks that both sides compute the same losses, pixels,
features or logits.
"""

import statistics
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from experiments.plumbing import cli
from experiments.plumbing.cli import doing


@dataclass(frozen=True)
class Options:
    """Print speed ratios against usual code with PyTorch and torchvision."""

    rounds: int = 7
    """How often each side is timed, in turns (at least 5)."""


def main(options: Options) -> None:
    """Run all comparisons and print a table."""
    cli.check_numbers(options, {"rounds": (5, 1000)})
    print(f"usual / ours, {options.rounds} rounds in turns, one thread; above 1: ours is faster")
    table = Table("comparison", "min", "median", "max", "ours, ms", "equal?", show_lines=True)
    with doing("loading the libraries"):
        import torch

        from experiments.bench import networks, transfer
        from experiments.bench.timing import CPU, seconds_in_turns
        from experiments.plumbing.device import make_deterministic
    make_deterministic(CPU)
    on_gpu = networks.ON_GPU if torch.cuda.is_available() else ()
    makers = (*networks.COMPARISONS, *transfer.COMPARISONS, *on_gpu)
    for number, make in enumerate(makers, 1):
        with doing(f"comparison {number} of {len(makers)}"):
            torch.manual_seed(0)
            comparison = make()
            seconds = seconds_in_turns((comparison.usual, comparison.ours), options.rounds)
        ratios = [comparison.times * usual / ours for usual, ours in seconds]
        table.add_row(
            comparison.title,
            *(f"{f(ratios):.2f}" for f in (min, statistics.median, max)),
            f"{1000 * statistics.median(ours for _, ours in seconds):.1f}",
            comparison.checked,
        )
    Console().print(table)


if __name__ == "__main__":
    cli.run(main, Options, "bench")
