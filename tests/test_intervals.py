"""Intervals of means: quantiles by hand, the coverage they promise, and nothing from a single unit."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest

from steerlens.intervals import FEW, RESAMPLES, estimate, mean_interval, share_interval, t_quantile, tails, warning


@pytest.mark.parametrize(("free", "quantile"), [(1, 12.7062), (2, 4.3027), (9, 2.2622), (30, 2.0423)])
def test_quantiles_of_t_are_the_printed_ones(free: int, quantile: float) -> None:
    assert t_quantile(free) == pytest.approx(quantile, abs=1e-4)


@pytest.mark.parametrize("level", [0.6, 0.9, 0.975, 0.995])
def test_quantiles_of_t_by_closed_forms_and_by_summing_the_density(level: float) -> None:
    """One, two and four degrees of freedom have closed forms; the sum over 100,000 angles is good to about eight digits."""
    rest = 4 * level * (1 - level)
    four = 2 * math.sqrt(math.cos(math.acos(math.sqrt(rest)) / 3) / math.sqrt(rest) - 1)
    closed = {1: math.tan(math.pi * (level - 0.5)), 2: (2 * level - 1) * math.sqrt(2 / rest), 4: four}
    for free, value in closed.items():
        assert t_quantile(free, level) == pytest.approx(value, rel=1e-12)
    for free in (*closed, 3, 9, 30, 100):
        angle = np.linspace(0, math.pi / 2, 100_001)
        density = np.cos(angle) ** (free - 1)
        mass = np.cumsum((density[1:] + density[:-1]) / 2)
        summed = math.sqrt(free) * math.tan(float(np.interp((2 * level - 1) * mass[-1], mass, angle[1:])))
        assert t_quantile(free, level) == pytest.approx(summed, rel=1e-8)


def test_tails_by_hand() -> None:
    """sqrt(10 / 9) * 2.2622 = 2.3846, below which a standard normal number falls with probability 0.00855."""
    low, high = tails(10)
    assert low == pytest.approx(0.00855, abs=1e-5) and high == pytest.approx(1 - low)
    assert tails(10_000)[0] == pytest.approx(0.025, abs=1e-4), "those of the plain percentile interval where units are many"
    assert tails(10, 0.8)[0] == pytest.approx(0.07243, abs=1e-4), "sqrt(10 / 9) * 1.3830 = 1.4578"


def test_the_interval_of_the_mean_of_three_by_counting() -> None:
    """All 27 draws of three numbers: so far out in their distribution lie its ends."""
    units = np.array([0.0, 1.0, 5.0])
    means = sorted(sum(draw) / 3 for draw in itertools.product(units, repeat=3))
    assert mean_interval(units) == (means[0], means[-1]) == (0.0, 5.0)
    level = 0.5  # t 0.8165 * sqrt(1.5) = 1: tails of 0.1587, after 4.3 of the 27
    assert tails(3, level)[0] == pytest.approx(0.1587, abs=1e-4)
    low, high = mean_interval(units, level) or (0, 0)
    assert low == pytest.approx(means[4]) and high == pytest.approx(means[22])


@pytest.mark.parametrize(("n", "lowest"), [(FEW, 0.90), (10, 0.925), (20, 0.935)])
def test_it_holds_the_mean_about_as_often_as_it_says(n: int, lowest: float) -> None:
    """Normal units, 1,000 times (of 100 plain percentiles hold it 84, 90 and 93 times)."""
    samples = np.random.default_rng(n).normal(size=(1000, n))
    hits = [low <= 0 <= high for low, high in (mean_interval(units) or (1, 1) for units in samples)]
    assert lowest <= np.mean(hits) <= 0.97


def test_a_mean_over_equal_weights_has_the_same_interval_as_an_estimate() -> None:
    """Two ways of drawing, so up to the noise of the draws."""
    units = np.random.default_rng(0).normal(size=12)
    low, high = mean_interval(units) or (0, 0)
    found = estimate(units, np.ones(12))
    np.testing.assert_allclose((found.low, found.high), (low, high), atol=6 * units.std() / RESAMPLES**0.5)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(8, 10, 0.4902, 0.9433), (10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775), (45, 45, 0.9213, 1.0)]
)
def test_shares_by_wilsons_formula(right: int, n: int, low: float, high: float) -> None:
    """The ends p solve (p - right / n)^2 = z^2 p (1 - p) / n; values as printed in tables."""
    found = share_interval(right, n)
    assert found == pytest.approx((low, high), abs=1e-4)
    for end in found:
        assert (end - right / n) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / n, abs=1e-7)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (1, 3), (0, 10), (8, 10), (45, 45), (777, 1000)])
def test_shares_as_wilsons_formula_is_written(right: int, n: int, level: float) -> None:
    z, share = NormalDist().inv_cdf((1 + level) / 2), right / n
    middle, half = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    expected = max((middle - half) / (1 + z**2 / n), 0.0), min((middle + half) / (1 + z**2 / n), 1.0)
    assert share_interval(right, n, level) == pytest.approx(expected, abs=1e-12)


def test_one_unit_has_no_interval() -> None:
    assert [warning(n) != "" for n in (1, 2, FEW - 1, FEW)] == [False, True, True, False]
    assert mean_interval(np.array([1.0])) is None and mean_interval(np.array([])) is None
    assert np.isnan(estimate(np.array([1.0])).low)
