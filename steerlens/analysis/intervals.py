"""How sure a number is: percentile bootstrap over prompts, drawn whole, and quantiles of Student's t for a few runs."""

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

RESAMPLES = 2000
LEVEL = 0.95


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
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(draws) else (np.nan, np.nan)
    return Estimate(value, float(low), float(high))


@cache
def t_quantile(free: int, level: float = 0.975) -> float:
    """The quantile of Student's t, by summing its density: with x = sqrt(free) * tan(angle) that is cos(angle)^(free - 1)."""
    angle = np.linspace(0, math.pi / 2, 100_001)
    density = np.cos(angle) ** (free - 1)
    mass = np.cumsum((density[1:] + density[:-1]) / 2)
    at = np.interp((2 * level - 1) * mass[-1], mass, angle[1:])
    return math.sqrt(free) * math.tan(float(at))
