"""Compare our networks with those of other libraries, block by block.

    python -m experiments.verify resnet50                          against torchvision
    python -m experiments.verify vit_b_16 --against transformers
    python -m experiments.verify                                   seven networks, all libraries
    python -m experiments.verify --published PHOTO                 with all of torchvision's weights

The other library's network gets perturbed random weights (or ours gets `--weights`), which are
converted to our names and back. Both networks compute one pass in eval mode, and one in train mode
with its gradients. The ViTs of torchvision and transformers sum in another order: see
Oracle.rounding. Our initial weights are compared with torchvision's, and those of plain networks
with their residual twins'.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError, doing


@dataclass(frozen=True)
class Options:
    """Compare our networks with those of other libraries, block by block."""

    model: Annotated[tyro.conf.Positional[str], cli.shown("[MODEL]")] = "all"
    """resnet18, 34, 50, 101, 152, vit_b_16, vit_b_32, vit_l_16, or vit1, 2, 4, 6, 8, 12.
    Without a name, seven of them: the five ResNets, vit_b_16 and vit_b_32."""
    weights: cli.Word = None
    """A published name (IMAGENET1K_V2, DEFAULT), a file or a URL; without it, random weights."""
    against: Annotated[
        Literal["torchvision", "transformers", "timm"] | None,
        cli.shown("{torchvision,transformers,timm}"),
    ] = None
    """The library to compare with.
    Default: torchvision if a MODEL is given, otherwise all that are installed."""
    published: Annotated[Path | None, cli.shown("PHOTO")] = None
    """Download torchvision's weights of the five ResNets and vit_b_16 (2.1 GB), compare the logits
    of its networks and ours, and name what the photo shows. Takes no other argument."""


def main(options: Options) -> int:
    """Print the comparison; return 0 if the networks are equal, else 1."""
    if options.weights and options.model == "all":
        where = f"--weights {options.weights}"
        raise UsageError("weights are for one model", where, "add the name of the model")
    with doing("loading the libraries"):
        import torch

        import zoo
        from experiments.plumbing.device import make_deterministic
        from experiments.plumbing.tables import print_report
        from experiments.proof.oracles import COMPARED, the_oracle
        from experiments.proof.prove import prove, report_of
    if options.published:
        return verify_downloads(options)
    if options.model not in ("all", *COMPARED):
        zoo.check(options.model, {})
        why = f"no other library has {options.model}, so there is nothing to compare it with"
        fix = "choose one of these, or omit the name for a summary"
        raise UsageError(why, f"networks to compare: {', '.join(COMPARED)}", fix)
    make_deterministic(torch.device("cpu"))
    if options.model == "all":
        return verify_all(options)
    oracle = the_oracle(options.against or "torchvision", options.model)
    print(f"comparing {options.model} with {oracle.title} ...")
    proof = prove(options.model, oracle, options.weights)
    precision = "fp64" if oracle.rounding else "fp32"
    print(f"{options.model}: zoo against {oracle.title}, {precision}, largest differences")
    print_report(report_of(proof))
    return 0 if proof.overall.equal else 1


def verify_downloads(options: Options) -> int:
    """Print a comparison of published weights in both libraries; 0 if all are equal, else 1."""
    if options.model != "all" or options.weights or options.against:
        what = "--published compares all of torchvision's weights, and takes no other argument"
        raise UsageError(what, f"--published {options.published}", "give it alone")
    from experiments.plumbing.tables import print_report
    from experiments.proof.downloads import verify_published

    assert options.published
    equal, table = verify_published(options.published)
    print_report([table])
    return 0 if equal else 1


def verify_all(options: Options) -> int:
    """Print a summary of seven networks and all chosen libraries; 0 if all are equal, else 1."""
    from experiments.plumbing.tables import print_report
    from experiments.proof.oracles import LIBRARIES, RESNET_ORACLES, the_oracle
    from experiments.proof.prove import verify_summary

    if options.against:
        the_oracle(options.against, "resnet18")  # raises ModelError if it is not installed
    chosen = (options.against,) if options.against else LIBRARIES
    equal, table, text = verify_summary(chosen)
    print_report([table, text])
    for library in chosen:
        if not RESNET_ORACLES[library].installed:
            print(f"skipped: {library} is not installed (pip install {library})")
    return 0 if equal else 1


if __name__ == "__main__":
    cli.run(main, Options, "verify")
