"""Compare our networks with other libraries': map weights over and back, compare all blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from torch import nn

import zoo
from data.progress import Progress
from experiments.plumbing.tables import Part, Rows
from experiments.proof import checks
from experiments.proof.checks import Difference, worst
from experiments.proof.oracles import IMAGENET_RESNETS, LIBRARIES, VIT_ORACLES, Oracle, oracles_of
from zoo.networks import Network
from zoo.vit import ViT
from zoo.weights.identify import classes_of
from zoo.weights.load import open_weights
from zoo.weights.published import published_name

SUMMARY = (*IMAGENET_RESNETS, "vit_b_16", "vit_b_32")  # not vit_l_16, which takes minutes


@dataclass(frozen=True)
class Proof:
    """The result of comparing one network with one library's."""

    model: str
    oracle: Oracle
    blocks: list[checks.Block]
    round_trip: Difference  # of their state dict, loaded into ours and exported again
    start: str | None  # "equal" if seeded initial weights are; None: not compared

    @property
    def overall(self) -> Difference:
        """The largest difference of all parts; equal only if the initial weights are, too."""
        start = Difference(equal=self.start in (None, "equal"))
        return worst([start, self.round_trip, *(block.overall for block in self.blocks)])


def prove(model: str, oracle: Oracle, weights: str | None = None) -> Proof:
    """Map a state dict to the other library's names and back, and compare every block.

    `weights`: as zoo.build takes them; without them, both have the same random weights, shaken.
    """
    dialect, start = oracle.dialect.name, None
    if weights is None:
        build_theirs = partial(oracle.build, model, 1000)
        if oracle.library == "torchvision":  # the others initialise differently
            unlike = checks.seeded_init(partial(zoo.build, model, 1000), build_theirs, oracle)
            start = f"DIFFERENT: {unlike}" if unlike else "equal"
        theirs = build_theirs()
        checks.shake(theirs)
        ours = zoo.load(zoo.build(model, 1000, **oracle.settings), theirs.state_dict(), dialect)
    else:
        classes = None if published_name(weights) else classes_of(open_weights(weights))
        ours = zoo.build(model, classes, weights=weights)
        theirs = theirs_of(ours, model, oracle)
    exported = zoo.export(ours, dialect)
    expected = {oracle.in_files(name): value for name, value in theirs.state_dict().items()}
    names = {*exported, *expected}
    round_trip = worst(checks.difference(exported.get(n), expected.get(n)) for n in names)
    return Proof(model, oracle, checks.compare_blocks(ours, theirs, oracle), round_trip, start)


def theirs_of(ours: Network, model: str, oracle: Oracle) -> nn.Module:
    """Their network with our weights, for the same image size."""
    sizes = {"image_size": ours.stem.image_size} if isinstance(ours, ViT) else {}
    theirs = oracle.build(model, ours.head.out_features, **sizes)
    exported = zoo.export(ours, oracle.dialect.name)
    state = {name: exported[oracle.in_files(name)] for name in theirs.state_dict()}
    theirs.load_state_dict(state, strict=True)
    return theirs


ROUNDING = (
    "Rounding: torchvision's and transformers' ViTs compute the same sums in another order. They "
    "are compared in fp64, with a tolerance of "
    f"{VIT_ORACLES['torchvision'].rounding} times the machine epsilon (2.2e-16) times the tensor's "
    "largest value."
)
CAPTION = (
    "Largest absolute difference, over all blocks (stem, head and last norm included), of outputs "
    "in eval and train mode, gradients, buffers, and the state dict after conversion there and "
    "back; random weights, fp32, or fp64 where the library sums in another order. 0: equal to the "
    "last bit.\n\n"
    "Start: the same seed gives torchvision's initial weights; the other libraries initialise "
    "differently."
)


def report_of(proof: Proof) -> list[Part]:
    """A table with one line per block, and sentences on the whole network."""
    header = ("ours", "output", "eval", "train", "gradients", "buffers", "", "theirs")
    lines = []
    for block in proof.blocks:
        shape, parts = "x".join(map(str, block.shape)), map(str, block.parts)
        lines.append([block.ours, shape, *parts, block.overall.verdict, block.theirs])
    sentences = [
        f"state dict mapped over and back: largest difference {proof.round_trip}; "
        f"{len(proof.blocks)} blocks: {proof.overall.verdict}"
    ]
    if proof.start:
        sentences.append(f"seeded initial weights: {proof.start}")
    if proof.overall.verdict == "rounding":
        sentences.append(ROUNDING)
    return [Rows(header, lines, ("---", *["---:"] * 5, "---")), *sentences]


def verify_summary(libraries: Sequence[str] = LIBRARIES) -> tuple[bool, Rows, str]:
    """Compare the networks of SUMMARY with all installed `libraries`.

    Returns whether all are equal, the table, and its caption.
    """
    pairs = [(model, oracles_of(model)[library]) for model in SUMMARY for library in libraries]
    pairs = [(model, oracle) for model, oracle in pairs if oracle.installed]
    proofs = [prove(*pair) for pair in Progress(pairs, "comparing", unit="network")]
    lines = []
    for model, of_model in groupby(proofs, lambda proof: proof.model):
        mine = list(of_model)
        overall = [proof.overall for proof in mine]
        cells = [str(part) if part.equal else f"{part} DIFFERENT" for part in overall]
        start = next((proof.start for proof in mine if proof.start), "-")
        lines.append([model, str(len(mine[0].blocks)), *cells, start])
    titles = dict.fromkeys(oracle.title for _, oracle in pairs)
    table = Rows(["network", "blocks", *titles, "start"], lines)
    alike, sentence = twins_alike()
    equal = alike and all(proof.overall.equal for proof in proofs)
    return equal, table, f"{CAPTION} {sentence}\n\n{ROUNDING}"


def twins_alike() -> tuple[bool, str]:
    """Whether all plain networks (but the largest) start like their twins, and a sentence on it."""
    names = [name for name in zoo.list_models() if name.startswith("plain")]
    names.remove("plainvit_l_16")  # like plainvit_b_16, and slow to initialise
    others = []
    for name in Progress(names, "initial weights", unit="network"):
        builds = (partial(zoo.build, each) for each in (name, zoo.twin(name)))
        plain, residual = map(checks.seeded_entries, builds)
        if not all(torch.equal(value, residual[key]) for key, value in plain.items()):
            others.append(name)
    alike = (
        f"{len(names) - len(others)} of the {len(names)} plain networks that were checked start "
        "from the weights of their residual twins, given the same seed; one more, plainvit_l_16, "
        "is slow and was not checked."
    )
    different = f" DIFFERENT: {', '.join(others)}" if others else ""
    return not others, f"{alike}{different}"
