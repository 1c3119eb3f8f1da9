"""Means with intervals, and what an interval answers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean and the half-width of its 95 % confidence interval (infinite for n = 1)."""

    mean: float
    half: float
    n: int

    def show(self, digits: int, scale: float = 1, sign: str = "") -> str:
        """`sign`: "+" to show that of positive means, too."""
        if not self.n:
            return "-"
        mean = f"{self.mean * scale:{sign}.{digits}f}"
        return mean if math.isinf(self.half) else f"{mean} ± {self.half * scale:.{digits}f}"

    @property
    def signed(self) -> str:
        return self.show(3, sign="+")


def estimate(values: Sequence[float]) -> Estimate:
    """Student's t interval of independent values."""
    from scipy.special import stdtrit  # slow to import, so only here

    n = len(values)
    if n < 2:
        return Estimate(values[0] if values else math.nan, math.inf, n)
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, float(stdtrit(n - 1, 0.975)) * math.sqrt(variance / n), n)


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927): holds near 0 and 1, and for small n."""
    from scipy.stats import binomtest

    interval = binomtest(right, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def judge(difference: Estimate) -> tuple[str, str]:
    """Is it above 0? "yes", "no" (it is below) or "cannot tell", and what the interval says."""
    if difference.n < 2:
        return "cannot tell", "has no interval: two seeds or more are needed"
    if not abs(difference.mean) > difference.half:  # nor if one of them is not a number
        return "cannot tell", "does not exclude 0"
    return "yes" if difference.mean > 0 else "no", "excludes 0"
