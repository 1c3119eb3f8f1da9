"""Do plain networks degrade more with depth than residual ones? Yes, no, or cannot tell."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.plumbing.stats import estimate, judge, signed


@dataclass(frozen=True)
class Verdict:
    answer: str  # "yes", "no" or "cannot tell"
    sentence: str


def verdict(
    results: Sequence[dict], plain: str = "plain", residual: str = "resnet", unit: str = "layers"
) -> Verdict:
    """Do plain networks degrade more with depth than residual ones?

    Degradation is the final training loss of the deepest minus that of the shallowest network,
    paired by seed. The answer is yes or no if the t-interval of plain minus residual excludes 0.
    """
    arms = (plain, residual)
    results = [r for r in results if r["norm"] != "none" and r["network"] in arms]
    depths = sorted({result["depth"] for result in results})
    if len(depths) < 2:
        return Verdict("cannot tell", "Cannot tell: one depth alone shows no degradation.")
    losses = {
        (result["network"], result["depth"], result["seed"]): result["train_loss"]
        for result in results
        if result["status"] == "finished"
    }

    def degradation(network: str, seed: int) -> float:
        deepest, shallowest = (losses.get((network, depths[end], seed)) for end in (-1, 0))
        return math.nan if deepest is None or shallowest is None else deepest - shallowest

    seeds = sorted({result["seed"] for result in results})
    pairs = [tuple(degradation(network, seed) for network in arms) for seed in seeds]
    pairs = [pair for pair in pairs if not math.isnan(sum(pair))]
    worse = [estimate([pair[arm] for pair in pairs]) for arm in (0, 1)]
    difference = estimate([pair[0] - pair[1] for pair in pairs])
    answer, reason = judge(difference)
    return Verdict(
        answer,
        f"{answer.capitalize()}: from {depths[0]} to {depths[-1]} {unit} the final training loss "
        f"changes by {signed(worse[0])} in plain networks and by {signed(worse[1])} in residual "
        f"ones; plain minus residual, {signed(difference)} (n = {difference.n}, paired by seed, "
        f"95 % t-interval), {reason}." + unfinished(results),
    )


def unfinished(results: Sequence[dict]) -> str:
    """A sentence that names the runs that diverged; empty if none did."""
    diverged = [result for result in results if result["status"] != "finished"]
    if not diverged:
        return ""
    names = (f"{r['network']}{r['depth']} seed {r['seed']} {r['status']}" for r in diverged)
    return f" {len(diverged)} of {len(results)} runs did not finish: {', '.join(names)}."
