"""How sure a number is: bootstrap over concepts or prompts, drawn whole, and quantiles of Student's t for a few runs."""

import math
from functools import cache
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

CHANCE = 0.05
"""Share of draws in which anything at all among random directions may pass for a finding."""
RESAMPLES = 5000
LEVEL = 0.95
FEW = 5
"""The fewest concepts or prompts whose interval holds the mean about as often as it says: 92 times in 100 for five normal ones,
75 for three, whose bootstrap means cannot leave their range."""


def tails(n: int, level: float = LEVEL) -> tuple[float, float]:
    """The quantiles of bootstrap means of `n` > 1 units between which an interval lies.

    They are wider than (1 - level) / 2 at either end as Student's interval is wider than the normal one (Hesterberg 2015,
    "What teachers should know about the bootstrap", the expanded percentile interval). With the plain ones 10 units
    give intervals that hold the mean 90 times in 100 and not 95.
    """
    reach = math.sqrt(n / (n - 1)) * t_quantile(n - 1, (1 + level) / 2)
    tail = NormalDist().cdf(-reach)
    return tail, 1 - tail


def warning(n: int) -> str:
    """What to say after an interval over `n` units: nothing if they are enough, or one, of which there is none."""
    return ", too few to trust it" if 1 < n < FEW else ""


def mean_interval(units: Float[np.ndarray, " unit"], level: float = LEVEL, seed: int = 0) -> tuple[float, float] | None:
    """Bootstrap interval of the mean of units drawn whole (see `tails`); None of fewer than two."""
    if len(units) < 2:
        return None
    draws = np.random.default_rng(seed).choice(units, size=(RESAMPLES, len(units))).mean(axis=1)
    low, high = np.quantile(draws, tails(len(units), level))
    return float(low), float(high)


def share_interval(right: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval of a share, `right` of `n`, which says something of 0 and of all too, where a bootstrap cannot."""
    from scipy.stats import binomtest

    interval = binomtest(right, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


class Estimate(NamedTuple):
    """A number and its 95 % interval, NaN from a single prompt."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        interval = "one prompt, no interval" if np.isnan(self.low) else f"95 % interval {self.low:.3g} to {self.high:.3g}"
        return f"{self.value:.3g} ({interval})"

    def columns(self, name: str) -> dict[str, float]:
        """As columns of a frame: name, name_low, name_high."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def estimate(top: Float[np.ndarray, " prompt"], bottom: Any = 1.0, seed: int = 0) -> Estimate:
    """Sum of `top` over sum of `bottom`, with the interval that drawing the prompts again gives.

    With `bottom` = 1 it is the mean over prompts; with sums over tokens and numbers of tokens, the mean over tokens; with two
    effects, a share. NaN where the bottom is 0.

    Args:
        top: one number per prompt.
        bottom: one number per prompt, or one for all.
        seed: of the resampling; equal seeds draw the same prompts.
    """
    n = len(top)
    below = np.broadcast_to(np.asarray(bottom, dtype=float), n)
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(top.sum() / below.sum()) if below.sum() else np.nan
        if n == 1 or np.isnan(value):
            return Estimate(value, np.nan, np.nan)
        weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
        draws = (weights @ top) / (weights @ below)
    draws = draws[np.isfinite(draws)]
    low, high = np.quantile(draws, tails(n)) if len(draws) else (np.nan, np.nan)
    return Estimate(value, float(low), float(high))


@cache
def t_quantile(free: int, level: float = 0.975) -> float:
    """The quantile of Student's t with `free` degrees of freedom."""
    from scipy.special import stdtrit  # what scipy.stats.t.ppf calls, without the second that scipy.stats takes to import

    return float(stdtrit(free, level))
