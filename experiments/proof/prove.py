"""Ours against theirs: weights carried over and back, blocks compared, and a table of many."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from tqdm import tqdm

import zoo
from experiments.proof.checks import Block, Difference, compare, difference, seeded_init, shake
from experiments.proof.oracles import LIBRARIES, RESNETS, VIT_ORACLES, Oracle, oracles_of
from zoo.networks import Network
from zoo.vit import ViT
from zoo.weights.load import open_weights
from zoo.weights.published import is_published_name
from zoo.weights.recognise import classes_of

SUMMARY = (*RESNETS, "vit_b_16", "vit_b_32")  # vit_l_16 alone takes minutes


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


def number(part: Difference | Block | Proof) -> str:
    return "0" if part.equal and not part.largest else f"{part.largest:.1e}"


def start_of(proof: Proof) -> str:
    return f"DIFFERENT: {proof.start}" if proof.start else "equal"


def starts_as_its_twin(name: str) -> bool:
    states = []
    for model in (name, zoo.twin(name)):
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


def prove_all(libraries: Sequence[str] = LIBRARIES) -> list[Proof]:
    """Every network of SUMMARY against each of the libraries that is installed."""
    pairs = [(model, oracles_of(model)[library]) for model in SUMMARY for library in libraries]
    pairs = [(model, oracle) for model, oracle in pairs if oracle.installed]
    return [prove(*pair) for pair in tqdm(pairs, "comparing", unit="network", leave=False)]


def twins_alike() -> tuple[bool, str]:
    """Whether all plain networks but the largest start as their twins do, and a sentence on it."""
    names = [name for name in zoo.list_models() if name.startswith("plain")]
    names.remove("plainvit_l_16")  # as plainvit_b_16, and slow to draw
    bar = tqdm(names, "initial weights", unit="network", leave=False)
    others = [name for name in bar if not starts_as_its_twin(name)]
    sentence = (
        f"{len(names) - len(others)} of {len(names)} plain networks start from the weights of "
        "their residual twins, seeded alike."
    )
    return not others, sentence + (f" DIFFERENT: {', '.join(others)}" if others else "")
