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
        from experiments.plumbing.tables import print_report
        from experiments.proof.checks import CHECKS
        from experiments.proof.gallery import BUGS, CORRECT, examine_all, table
    make_deterministic(torch.device("cpu"))
    verdicts = examine_all((*CORRECT, *BUGS))
    print_report([table({bug: verdicts[bug] for bug in BUGS})])
    for name, check in CHECKS.items():
        print(f"{name:7}{(check.__doc__ or '').splitlines()[0]}")
    print("-      Not run: the correct network's weights do not fit.\n")
    wrong = 0
    for bug, found in verdicts.items():
        reasons = [f"{check}: {text}" for check, text in found.items() if text]
        missed = "passes every check" if bug in CORRECT else "NOT CAUGHT"
        wrong += bool(reasons) == (bug in CORRECT)
        print(f"{bug.name}{bug.seen and f' ({bug.seen})'}: {reasons[0] if reasons else missed}")
    return int(wrong > 0)


if __name__ == "__main__":
    cli.run(main, Options, "bugs")
