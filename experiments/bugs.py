"""A gallery of bugs: networks that look like ResNets or ViTs and are not, and who notices.

    python -m experiments.bugs

Each is a few lines away from zoo/ and returns logits of the right shape; half were found in
repositories that many people learn from (`seen` names them). The table shows which of checks.CHECKS
catch it. The ViTs are in vit_bugs.py.
"""

from dataclasses import dataclass

import torch

from experiments.plumbing import cli
from experiments.plumbing.device import make_deterministic
from experiments.plumbing.tables import Rows, print_report
from experiments.proof.checks import CHECKS
from experiments.proof.resnet_bugs import BUGS, CORRECT, examine_all


@dataclass(frozen=True)
class Options:
    """Show which checks catch which bugs."""


def main(options: Options) -> int:
    """0 if every bug is caught and the correct networks pass every check."""
    make_deterministic(torch.device("cpu"))
    said = examine_all()
    lines = [
        [bug.name, *(word(text, bug in CORRECT) for text in said[bug].values())] for bug in said
    ]
    counts = [sum(bool(said[bug][check]) for bug in BUGS) for check in CHECKS]
    lines.append([f"caught of {len(BUGS)}", *map(str, counts)])
    print_report([Rows(("network", *CHECKS), lines)])
    for name, check in CHECKS.items():
        print(f"{name:7}{(check.__doc__ or '').splitlines()[0]}")
    print("-      It cannot run: their weights do not load.\n")
    for bug in BUGS:
        reason = next((f"{check}: {text}" for check, text in said[bug].items() if text), "")
        seen = f" ({bug.seen})" if bug.seen else ""
        print(f"{bug.name}{seen}: {reason or 'NOT CAUGHT'}")
    escaped = [bug for bug in BUGS if not any(said[bug].values())]
    wrong = [bug for bug in CORRECT if any(said[bug].values())]
    return 1 if escaped or wrong else 0


def word(text: str | None, correct: bool) -> str:
    return "-" if text is None else "caught" if text else "passes" if correct else "missed"


if __name__ == "__main__":
    cli.run(main, Options, "bugs")
