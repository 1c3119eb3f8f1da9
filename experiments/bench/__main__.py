"""Speed as ratios: the usual way against ours, in one process, on one thread, in turns.

    python -m experiments.bench

Seconds differ from machine to machine and from minute to minute; the ratio of two things timed in
turns does so far less. Each comparison first checks what both sides must have in common: losses,
pixels, features or logits.
"""

import statistics
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from experiments.bench import networks, transfer
from experiments.bench.timing import CPU, ratios
from experiments.plumbing import cli
from experiments.plumbing.device import make_deterministic
from experiments.plumbing.progress import doing

COMPARISONS = (*networks.COMPARISONS, *transfer.COMPARISONS)


@dataclass(frozen=True)
class Options:
    """Print speed ratios against PyTorch's and torchvision's usual ways."""

    rounds: int = 7
    """How often each side is timed, in turns (5 or more)."""


def main(options: Options) -> None:
    cli.check_numbers(options, {"rounds": (5, 1000)})
    make_deterministic(CPU)
    print(f"usual / ours, {options.rounds} rounds in turns, one thread; above 1 ours is faster")
    table = Table("comparison", "min", "median", "max", "ours, ms", "equal?", show_lines=True)
    for number, make in enumerate(COMPARISONS, 1):
        with doing(f"comparison {number} of {len(COMPARISONS)}"):
            comparison = make()
            quotients, seconds = ratios(comparison, options.rounds)
        table.add_row(
            comparison.title,
            *(f"{f(quotients):.2f}" for f in (min, statistics.median, max)),
            f"{1000 * statistics.median(seconds):.1f}",
            comparison.checked,
        )
    Console().print(table)
    if torch.cuda.is_available():
        print(f"on {torch.cuda.get_device_name()}:")
        print("\n".join(networks.images_per_second(torch.device("cuda"))))


if __name__ == "__main__":
    cli.run(main, Options, "bench")
