"""Means with confidence intervals, and yes or no answers from them."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

LEARNED = 50.0  # percent: the largest training error of a network that has learned


@dataclass(frozen=True)
class Estimate:
    """A mean and the half-width of its 95 % confidence interval (infinite for n = 1)."""

    mean: float
    half: float
    n: int

    def show(self, digits: int, scale: float = 1, sign: str = "") -> str:
        """As text, "mean ± half"; `sign`: "+" to show the sign of positive means, too."""
        if not self.n:
            return "-"
        mean = f"{self.mean * scale:{sign}.{digits}f}"
        return mean if math.isinf(self.half) else f"{mean} ± {self.half * scale:.{digits}f}"

    @property
    def signed(self) -> str:
        """As text with a sign and three decimals."""
        return self.show(3, sign="+")


def estimate(values: Sequence[float], intervals: int = 1) -> Estimate:
    """Mean and 95 % interval (Student's t) of independent values.

    `intervals`: how many are to hold at the same time; each is then wider (Bonferroni).
    """
    from scipy.special import stdtrit  # slow to import, so only here

    n = len(values)
    if n < 2:
        return Estimate(values[0] if values else math.nan, math.inf, n)
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    quantile = float(stdtrit(n - 1, 1 - 0.025 / intervals))
    return Estimate(mean, quantile * math.sqrt(variance / n), n)


def seed_count(numbers: Collection[int]) -> str:
    """Text: "n = 3", or "n = 2 to 3" if the numbers differ."""
    least, most = min(numbers), max(numbers)
    return f"n = {least}" + f" to {most}" * (least < most)


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927), valid near 0 and 1 and for small n."""
    from scipy.stats import binomtest

    interval = binomtest(right, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def judge(difference: Estimate) -> tuple[str, str]:
    """Is the difference above 0? "yes", "no" (it is below) or "cannot tell", and the reason."""
    if difference.n < 2:
        return "cannot tell", "has no interval: two seeds or more are needed"
    if not abs(difference.mean) > difference.half:  # also if one of them is not a number
        return "cannot tell", "does not exclude 0"
    return "yes" if difference.mean > 0 else "no", "excludes 0"


# --- claims about trained networks ---


class Interval(NamedTuple):
    """A value, its 95 % interval, and what the interval is over."""

    value: float
    low: float
    high: float
    n: int
    of: str  # "seeds", "blocks", "images", "directions" ...

    @property
    def has_ends(self) -> bool:
        """Whether there is an interval, not only a value."""
        return self.n > 1 and math.isfinite(self.high - self.low)

    def show(self, digits: int) -> str:
        """As text: "0.8 (0.4 to 1.4; n = 27 blocks)"."""
        value, low, high = (f"{round(x, digits) + 0.0:.{digits}f}" for x in self[:3])  # no -0.0
        ends = f"{low} to {high}; " if self.has_ends else ""
        return f"{value} ({ends}n = {self.n} {self.of})"


def mean_over(values: Sequence[float], of: str) -> Interval:
    """Mean and t-interval of independent values."""
    found = estimate(values)
    return Interval(found.mean, found.mean - found.half, found.mean + found.half, found.n, of)


def median_over(values: Sequence[float], of: str) -> Interval:
    """Median and percentile bootstrap interval (Efron 1979); 10,000 draws, always the same.

    Fewer than six values have no 95 % interval of their median: even from the least to the largest,
    it covers 1 - 2 * 0.5^n.
    """
    if len(values) < 6:
        return Interval(float(np.median(values)), -math.inf, math.inf, len(values), of)
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975)).tolist()
    return Interval(float(np.median(values)), low, high, len(values), of)


def judge_claim(
    interval: Interval, side: Literal["above", "below"], bound: float, errors: Mapping[str, float]
) -> tuple[str, str]:
    """Is the whole interval above (or below) a `bound` that was fixed beforehand?

    "yes", "no" (all of it is on the other side) or "cannot tell", and the reason. A small effect
    "does not matter" only if its interval lies below a bound: that it does not exclude 0 is not
    enough. `errors`: of every network compared, its training error in percent; a network that has
    not learned has nothing to lose, so above LEARNED there is no answer.
    """
    for name, error in errors.items():
        if not error <= LEARNED:
            return "cannot tell", f"{name} has not learned: its error is {error:.1f} %"
    if not interval.has_ends:
        return "cannot tell", "there is no interval"
    above, below = interval.low > bound, interval.high < bound
    where = "above" if above else "below" if below else "around"
    answer = "cannot tell" if where == "around" else "yes" if where == side else "no"
    return answer, f"the interval is {where} {bound:g}"


def judge_equal(interval: Interval, value: float, margin: float) -> tuple[str, str]:
    """Is it `value` up to a margin that was fixed beforehand? As judge_claim."""
    low, high = value - margin, value + margin
    if not interval.has_ends:
        return "cannot tell", "there is no interval"
    inside = low < interval.low and interval.high < high
    outside = interval.high < low or interval.low > high
    where = "inside" if inside else "outside" if outside else "across the ends of"
    answer = {"inside": "yes", "outside": "no"}.get(where, "cannot tell")
    return answer, f"the interval is {where} {value:g} ± {margin:g}"


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of a t-test that the mean difference is 0; 1 without an interval."""
    from scipy.stats import ttest_1samp  # slow to import, so only here

    if len(differences) < 2 or not any(differences):
        return 1.0
    return float(ttest_1samp(differences, 0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of several tests (Holm 1979): each below 0.05 with an error rate of 5 %.

    The smallest is multiplied by the number of tests, the next by one less; none falls below the
    one before.
    """
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = worst
    return adjusted
