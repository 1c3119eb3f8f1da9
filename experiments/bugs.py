"""Show which checks catch which bugs in networks that look like ResNets or ViTs but are not.

    python -m experiments.bugs

Each bug differs from zoo/ by a few lines and returns logits of the right shape; half were found in
repositories that many people learn from (`seen` names them). The table shows which of checks.CHECKS
catch each bug. The gallery is in proof/gallery.py.
"""

from dataclasses import dataclass

from experiments.plumbing import cli
from experiments.plumbing.cli import doing


@dataclass(frozen=True)
class Options:
    """Show which checks catch which bugs."""


def main(options: Options) -> int:
    """Print the table; return 0 if every bug is caught and the correct networks pass, else 1."""
    with doing("loading the libraries"):
        import torch

        from experiments.plumbing.device import make_deterministic
        from experiments.plumbing.tables import Rows, print_report
        from experiments.proof.checks import CHECKS
        from experiments.proof.gallery import BUGS, CORRECT, examine_all, marks, totals
    make_deterministic(torch.device("cpu"))
    verdicts = examine_all((*CORRECT, *BUGS))
    lines = [
        [bug.name, *marks(verdicts[bug], "passes" if bug in CORRECT else "missed")]
        for bug in verdicts
    ]
    lines.append([f"caught of {len(BUGS)}", *totals(verdicts[bug] for bug in BUGS)])
    print_report([Rows(("network", *CHECKS), lines)])
    for name, check in CHECKS.items():
        print(f"{name:7}{(check.__doc__ or '').splitlines()[0]}")
    print("-      Not run: the correct network's weights do not fit.\n")
    for bug in BUGS:
        reasons = [f"{check}: {text}" for check, text in verdicts[bug].items() if text]
        seen = f" ({bug.seen})" if bug.seen else ""
        print(f"{bug.name}{seen}: {reasons[0] if reasons else 'NOT CAUGHT'}")
    all_caught = all(any(verdicts[bug].values()) for bug in BUGS)
    return 0 if all_caught and not any(any(verdicts[bug].values()) for bug in CORRECT) else 1


if __name__ == "__main__":
    cli.run(main, Options, "bugs")
