"""Means with confidence intervals, and yes or no answers from them."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass


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


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval (Student's t) of independent values."""
    from scipy.special import stdtrit  # slow to import, so only here

    n = len(values)
    if n < 2:
        return Estimate(values[0] if values else math.nan, math.inf, n)
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, float(stdtrit(n - 1, 0.975)) * math.sqrt(variance / n), n)


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
