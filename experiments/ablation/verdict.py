"""Do plain networks degrade more with depth than residual ones? Yes, no, or cannot tell."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from experiments.plumbing.stats import Estimate, estimate, judge
from zoo.resnet import TABLE


class Degradation(NamedTuple):
    """The change of the training loss from the shallowest to the deepest network, in both arms."""

    depths: list[int]  # compared ones, ascending
    unit: str  # of depth: "layers" or "blocks"
    pairs: list[tuple[float, float]]  # (plain, residual) for each seed with all four runs
    results: list[dict]  # the rows of both arms, with normalisation


def degradation_of(results: Sequence[dict]) -> Degradation:
    """The final training loss of the deepest minus that of the shallowest network, by seed.

    Networks without normalisation are left out. If several depths share a kind of block, networks
    with another kind are left out, too.
    """
    arms, unit = ("plain", "resnet"), "layers"
    if any(result["norm"] == "layer" for result in results):
        arms, unit = ("plainvit", "vit"), "blocks"
    results = [r for r in results if r["norm"] != "none" and r["network"] in arms]
    depths = sorted({result["depth"] for result in results})
    if unit == "layers":
        depths = of_one_block(depths)
    finished = [result for result in results if result["status"] == "finished"]
    losses = {(r["network"], r["depth"], r["seed"]): r["train_loss"] for r in finished}

    def degradation(network: str, seed: int) -> float:
        deepest, shallowest = (losses.get((network, depths[i], seed), math.nan) for i in (-1, 0))
        return deepest - shallowest

    seeds = sorted({result["seed"] for result in results})
    pairs = [(degradation(arms[0], seed), degradation(arms[1], seed)) for seed in seeds]
    pairs = [pair for pair in pairs if not math.isnan(sum(pair))]
    return Degradation(depths, unit, pairs, results)


def verdict(results: Sequence[dict]) -> str:
    """Do plain networks degrade more with depth than residual ones?

    Yes or no if the t-interval of plain minus residual, paired by seed, excludes 0.
    """
    depths, unit, pairs, results = degradation_of(results)
    if len(depths) < 2:
        return "Cannot tell: one depth alone shows no degradation."
    answer, difference, plain, residual = compare_arms(pairs)
    return (
        f"{answer}: from {depths[0]} to {depths[-1]} {unit} the final training loss "
        f"changes by {plain.signed} in plain networks and by {residual.signed} in residual "
        f"ones; plain minus residual, {difference}" + unfinished(results)
    )


def of_one_block(depths: list[int]) -> list[int]:
    """The most depths of ResNets that share a kind of block; all depths if no two share one.

    ResNets of 18 and 34 layers have BasicBlocks, those of 50 layers have Bottlenecks.
    """
    kinds: dict[object, list[int]] = defaultdict(list)
    for depth in depths:
        kinds[TABLE[f"resnet{depth}"].block].append(depth)
    largest = max(kinds.values(), key=len, default=[])
    return largest if len(largest) > 1 else depths


def estimates(pairs: Sequence[tuple[float, float]]) -> tuple[Estimate, Estimate, Estimate]:
    """The means of both arms and of their difference; each pair is of one seed."""
    first, second = (estimate([pair[i] for pair in pairs]) for i in (0, 1))
    return first, second, estimate([pair[0] - pair[1] for pair in pairs])


def compare_arms(pairs: Sequence[tuple[float, float]]) -> tuple[str, str, Estimate, Estimate]:
    """The answer, the difference in words, and both means; each pair is of one seed."""
    first, second, difference = estimates(pairs)
    answer, reason = judge(difference)
    interval = f"(n = {difference.n}, paired by seed, 95 % t-interval), {reason}."
    return answer.capitalize(), f"{difference.signed} {interval}", first, second


def unfinished(results: Sequence[dict]) -> str:
    """A sentence that names the runs that diverged; empty if none did."""
    diverged = [result for result in results if result["status"] != "finished"]
    if not diverged:
        return ""
    names = (f"{r['network']}{r['depth']} seed {r['seed']} {r['status']}" for r in diverged)
    return f" {len(diverged)} of {len(results)} runs did not finish: {', '.join(names)}."
