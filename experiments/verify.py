"""Ours against theirs, block by block, to the last bit.

    python -m experiments.verify resnet50                          against torchvision
    python -m experiments.verify vit_b_16 --against transformers
    python -m experiments.verify                                   seven networks, all libraries

Their network gets shaken random weights (or ours gets `--weights`), the key map carries them over
and back, and both compute one pass in eval mode, one in train mode, and its gradients. The ViTs of
torchvision and transformers do the same sums in another order: see Oracle.rounding. Initial weights
are compared with torchvision's, and those of plain networks with their twins'.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn
from tqdm import tqdm

import zoo
from experiments import cli
from experiments.checks import Block, Difference, compare, difference, seeded_init, shake
from experiments.classifier import twin
from experiments.cli import UsageError
from experiments.device import make_deterministic
from experiments.oracles import (
    LIBRARIES,
    MODELS,
    RESNETS,
    VIT_ORACLES,
    Oracle,
    oracles_of,
    the_oracle,
)
from experiments.report import markdown_table, put_into_readme
from zoo.networks import Network
from zoo.vit import ViT
from zoo.weights.load import open_weights
from zoo.weights.published import is_published_name
from zoo.weights.recognise import classes_of

SUMMARY = (*RESNETS, "vit_b_16", "vit_b_32")  # vit_l_16 alone takes minutes


@dataclass(frozen=True)
class Options:
    """Compare our networks with other libraries', block by block, to the last bit."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = "all"
    """resnet18, 34, 50, 101 or 152, or vit_b_16, vit_b_32, vit_l_16, vit1, 2, 4, 6, 8, 12."""
    weights: str | None = None
    """A published name (IMAGENET1K_V2, DEFAULT), a file or a URL; random without it."""
    against: Literal["torchvision", "transformers", "timm"] | None = None
    """The library to compare with (torchvision; without MODEL, every one installed)."""
    publish: bool = False
    """Put the summary (without MODEL) into README.md."""


@dataclass(frozen=True)
class Proof:
    """What one comparison found."""

    model: str
    oracle: Oracle
    blocks: list[Block]
    round_trip: Difference  # of their state dict, loaded into ours and exported again
    start: str | None = None  # how seeded initial weights differ, "" if not; None: not compared

    @property
    def equal(self) -> bool:
        return self.round_trip.equal and all(b.equal for b in self.blocks) and not self.start

    @property
    def largest(self) -> float:
        return max(self.round_trip.largest, *(block.largest for block in self.blocks))


def prove(
    model: str, oracle: Oracle, weights: str | None = None, dtype: torch.dtype | None = None
) -> Proof:
    """Carry weights over the key map in both directions and compare every block."""
    dialect, start = oracle.dialect.name, None
    if weights is None:
        if oracle.same_start:
            start = seeded_init(
                lambda: zoo.build(model, 1000), lambda: oracle.build(model, 1000), oracle
            )
        theirs = oracle.build(model, 1000)
        shake(theirs)
        ours = zoo.load(zoo.build(model, 1000, **oracle.settings), theirs.state_dict(), dialect)
    else:
        published = is_published_name(weights)
        classes = None if published else classes_of(open_weights(weights))
        ours = zoo.build(model, classes, weights=weights)
        theirs = theirs_of(ours, model, oracle)
    exported = zoo.export(ours, dialect)
    wanted = {oracle.in_files(name): value for name, value in theirs.state_dict().items()}
    round_trip = Difference()
    for key in {*exported, *wanted}:
        round_trip |= difference(exported.get(key), wanted.get(key))
    return Proof(model, oracle, compare(ours, theirs, oracle, dtype), round_trip, start)


def theirs_of(ours: Network, model: str, oracle: Oracle) -> nn.Module:
    """Their network for images of the same size, with our weights."""
    sizes = {"image_size": ours.stem.image_size} if isinstance(ours, ViT) else {}
    theirs = oracle.build(model, ours.head.out_features, **sizes)
    names = {oracle.in_files(name): name for name in theirs.state_dict()}
    exported = zoo.export(ours, oracle.dialect.name)
    state = {names.get(name, name): value for name, value in exported.items()}
    theirs.load_state_dict(state, strict=True)
    return theirs


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
    if options.publish:
        raise UsageError(
            "one model is no summary", f"{options.model} --publish", "leave the model's name out"
        )
    oracle = the_oracle(options.against or "torchvision", options.model)
    print(f"comparing {options.model} with {oracle.title} ...")
    proof = prove(options.model, oracle, options.weights)
    show(proof, Console())
    return 0 if proof.equal else 1


def verify_all(options: Options) -> int:
    if options.weights:
        raise UsageError(
            "weights are for one model", f"--weights {options.weights}", "name the model before it"
        )
    if options.against:
        the_oracle(options.against, SUMMARY[0])  # refused if it is not installed
    chosen = (options.against,) if options.against else LIBRARIES
    pairs = [(model, oracles_of(model)[library]) for model in SUMMARY for library in chosen]
    pairs = [(model, oracle) for model, oracle in pairs if oracle.installed]
    proofs = [prove(*pair) for pair in tqdm(pairs, "comparing", unit="network", leave=False)]
    header, lines = summary(proofs)
    table = Table(*header, box=box.SIMPLE_HEAD)
    for line in lines:
        table.add_row(*line)
    Console().print(table)
    print(CAPTION)
    names, others = twins()
    alike = (
        f"{len(names) - len(others)} of {len(names)} plain networks start from the weights of "
        "their residual twins, seeded alike."
    )
    print(alike + (f" DIFFERENT: {', '.join(others)}" if others else ""))
    for library in chosen:
        if library not in {oracle.library for _, oracle in pairs}:
            print(f"skipped: {library} is not installed (pip install {library})")
    if options.publish:
        content = markdown_table(header, lines, "---", "---:")
        put_into_readme("verify", f"{content}\n\n{CAPTION} {alike}")
        print("README.md is up to date")
    return 0 if all(proof.equal for proof in proofs) and not others else 1


def show(proof: Proof, console: Console) -> None:
    precision = "fp64" if proof.oracle.rounding else "fp32"
    title = f"{proof.model}: zoo against {proof.oracle.title}, {precision}, largest differences"
    columns = "ours", "theirs", "output", "eval", "train", "gradients", "buffers", ""
    table = Table(*columns, title=title, box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    table.columns[1].overflow = "fold"
    for block in proof.blocks:
        table.add_row(
            block.ours, block.theirs, "x".join(map(str, block.shape)),
            *map(number, block.parts), verdict(block),
        )  # fmt: skip
    console.print(table)
    trip = f"state dict there and back: largest difference {number(proof.round_trip)}"
    console.print(f"{trip}; {len(proof.blocks)} blocks: {verdict(proof)}")
    if proof.start is not None:
        console.print(f"seeded initial weights: {start_of(proof)}")
    if proof.equal and proof.largest:
        console.print(ROUNDING)


def number(part: Difference | Block | Proof) -> str:
    return "0" if part.equal and not part.largest else f"{part.largest:.1e}"


def verdict(part: Block | Proof) -> str:
    if not part.equal:
        return "[red]DIFFERENT[/]"
    return "[green]rounding[/]" if part.largest else "[green]equal[/]"


def start_of(proof: Proof) -> str:
    return f"DIFFERENT: {proof.start}" if proof.start else "equal"


def twins() -> tuple[list[str], list[str]]:
    """Plain networks, all but the largest, and those that do not start as their twins do."""
    names = [name for name in zoo.list_models() if name.startswith("plain")]
    names.remove("plainvit_l_16")  # as plainvit_b_16, and slow to draw
    bar = tqdm(names, "initial weights", unit="network", leave=False)
    return names, [name for name in bar if not starts_as_its_twin(name)]


def starts_as_its_twin(name: str) -> bool:
    states = []
    for model in (name, twin(name)):
        torch.manual_seed(1)
        states.append(zoo.build(model).state_dict())
    plain, residual = states
    return all(torch.equal(plain[key], residual.get(key, torch.empty(0))) for key in plain)


ROUNDING = (
    "Rounding: torchvision's and transformers' ViTs do the same sums in another order; in fp64 "
    f"they may differ by {VIT_ORACLES['torchvision'].rounding} times the machine epsilon (2.2e-16) "
    "of a tensor's largest value."
)
CAPTION = (
    "Largest difference, over every block, of outputs (eval and train mode), gradients, buffers "
    "and the state dict there and back; fp32, shaken random weights; 0: equal to the last bit. "
    "Start: seeded alike, the initial weights are torchvision's; the other libraries initialise "
    f"differently. {ROUNDING}"
)


def summary(proofs: Sequence[Proof]) -> tuple[list[str], list[list[str]]]:
    """A line a model, a column a library."""
    titles = list(dict.fromkeys(proof.oracle.title for proof in proofs))
    lines = []
    for model in dict.fromkeys(proof.model for proof in proofs):
        mine = [proof for proof in proofs if proof.model == model]
        cells = {
            proof.oracle.title: number(proof) + ("" if proof.equal else " DIFFERENT")
            for proof in mine
        }
        started = [start_of(proof) for proof in mine if proof.start is not None] or ["-"]
        lines.append(
            [model, str(len(mine[0].blocks)), *(cells[title] for title in titles), *started]
        )
    return ["network", "blocks", *titles, "start"], lines


if __name__ == "__main__":
    cli.run(main, Options, "verify")
