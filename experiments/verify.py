"""Ours against theirs, block by block, to the last bit.

    python -m experiments.verify resnet50                          against torchvision
    python -m experiments.verify vit_b_16 --against transformers
    python -m experiments.verify                                   seven networks, all libraries

Their network gets shaken random weights (or ours gets `--weights`), the key map carries them over
and back, and both compute one pass in eval mode, one in train mode, and its gradients. The ViTs of
torchvision and transformers do the same sums in another order: see Oracle.rounding. Initial weights
are compared with torchvision's, and those of plain networks with their twins'.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import tyro

import zoo
from experiments.plumbing import cli
from experiments.plumbing.cli import UsageError
from experiments.plumbing.device import make_deterministic
from experiments.plumbing.tables import Part, Rows, print_report
from experiments.proof.checks import Block
from experiments.proof.oracles import LIBRARIES, MODELS, the_oracle
from experiments.proof.prove import (
    CAPTION,
    ROUNDING,
    SUMMARY,
    Proof,
    number,
    prove,
    prove_all,
    start_of,
    summary,
    twins_alike,
)


@dataclass(frozen=True)
class Options:
    """Compare our networks with other libraries', block by block, to the last bit."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = "all"
    """resnet18, 34, 50, 101 or 152, or vit_b_16, vit_b_32, vit_l_16, vit1, 2, 4, 6, 8, 12."""
    weights: str | None = None
    """A published name (IMAGENET1K_V2, DEFAULT), a file or a URL; random without it."""
    against: Literal["torchvision", "transformers", "timm"] | None = None
    """The library to compare with (torchvision; without MODEL, every one installed)."""


def main(options: Options) -> int:
    if options.model not in ("all", *MODELS):
        zoo.build(options.model)  # an unknown name is refused there
        raise UsageError(
            f"no other library has {options.model}, so there is nothing to compare it with",
            f"compared are {', '.join(MODELS)}",
            "choose one of these, or leave the name out for a summary",
        )
    make_deterministic(torch.device("cpu"))
    if options.model == "all":
        return verify_all(options)
    oracle = the_oracle(options.against or "torchvision", options.model)
    print(f"comparing {options.model} with {oracle.title} ...")
    proof = prove(options.model, oracle, options.weights)
    show(proof)
    return 0 if proof.equal else 1


def verify_all(options: Options) -> int:
    if options.weights:
        raise UsageError(
            "weights are for one model", f"--weights {options.weights}", "name the model before it"
        )
    if options.against:
        the_oracle(options.against, SUMMARY[0])  # refused if it is not installed
    chosen = (options.against,) if options.against else LIBRARIES
    proofs = prove_all(chosen)
    print_report([Rows(*summary(proofs)), CAPTION])
    alike, sentence = twins_alike()
    print(sentence)
    for library in chosen:
        if library not in {proof.oracle.library for proof in proofs}:
            print(f"skipped: {library} is not installed (pip install {library})")
    return 0 if all(proof.equal for proof in proofs) and alike else 1


def show(proof: Proof) -> None:
    precision = "fp64" if proof.oracle.rounding else "fp32"
    print(f"{proof.model}: zoo against {proof.oracle.title}, {precision}, largest differences")
    header = ("ours", "theirs", "output", "eval", "train", "gradients", "buffers", "")
    lines = [
        [block.ours, block.theirs, "x".join(map(str, block.shape)), *map(number, block.parts),
         verdict(block)]
        for block in proof.blocks
    ]  # fmt: skip
    trip = f"state dict there and back: largest difference {number(proof.round_trip)}"
    said: list[Part] = [Rows(header, lines)]
    said.append(f"{trip}; {len(proof.blocks)} blocks: {verdict(proof)}")
    if proof.start is not None:
        said.append(f"seeded initial weights: {start_of(proof)}")
    if proof.equal and proof.largest:
        said.append(ROUNDING)
    print_report(said)


def verdict(part: Block | Proof) -> str:
    return "DIFFERENT" if not part.equal else "rounding" if part.largest else "equal"


if __name__ == "__main__":
    cli.run(main, Options, "verify")
