"""A gallery of bugs: networks that look like ResNets or ViTs and are not, and who notices.

    python -m experiments.bugs

Each is a few lines away from zoo/ and returns logits of the right shape; half were found in
repositories that many people learn from (`seen` names them). The table shows which of checks.CHECKS
catch it. The ViTs are in vit_bugs.py.
"""

from dataclasses import dataclass
from functools import partial

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.plumbing import cli
from experiments.plumbing.device import make_deterministic
from experiments.proof.checks import CHECKS
from experiments.proof.resnet_bugs import BUGS, CORRECT, examine_all


@dataclass(frozen=True)
class Options:
    """Show which checks catch which bugs."""


def main(options: Options) -> int:
    """0 if every bug is caught and the correct networks pass every check."""
    make_deterministic(torch.device("cpu"))
    said = examine_all()
    table = Table("network", *CHECKS, box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    for bug, texts in said.items():
        passed = "passes" if bug in CORRECT else "missed"
        cells = (word(text, passed) for text in texts.values())
        table.add_row(bug.name, *cells, end_section=bug is CORRECT[-1])
    counts = [sum(bool(said[bug][check]) for bug in BUGS) for check in CHECKS]
    table.add_section()
    table.add_row(f"caught of {len(BUGS)}", *map(str, counts))
    console = Console()
    console.print(table)
    say = partial(console.print, highlight=False, markup=False)
    for name, check in CHECKS.items():
        say(f"{name:7}{(check.__doc__ or '').splitlines()[0]}")
    say("-      It cannot run: their weights do not load.\n")
    for bug in BUGS:
        reason = next((f"{check}: {text}" for check, text in said[bug].items() if text), "")
        seen = f" ({bug.seen})" if bug.seen else ""
        say(f"{bug.name}{seen}: {reason or 'NOT CAUGHT'}")
    escaped = [bug for bug in BUGS if not any(said[bug].values())]
    wrong = [bug for bug in CORRECT if any(said[bug].values())]
    return 1 if escaped or wrong else 0


def word(text: str | None, passed: str) -> str:
    return "-" if text is None else "[green]caught[/]" if text else passed


if __name__ == "__main__":
    cli.run(main, Options, "bugs")
