"""Cosines between vectors, against those of random directions.

Everything here is about `vector` = factor * direction, so a negative factor turns the direction round.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..arguments import checked_call
from ..intervals import CHANCE, t_quantile
from ..result import Result
from ..vector import SteeringVector
from .random_directions import check_draws, exceeded, random_sets, spectrum, unit_rows
from .residual_covariance import ResidualStatistics
from .vector_sets import check_together, listed, named_vectors

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)
class CosineMap(Result):
    """Cosines of all pairs of vectors, as they are and without the direction they share, and how random ones compare."""

    frame: pd.DataFrame
    """One row per pair: a, b, cosine, p, p_corrected, and cosine_centered, p_centered, p_centered_corrected (NaN for two
    vectors). See `cosine_map`."""
    names: tuple[str, ...]
    shared: float
    """Share of the squared norm that the mean of the unit vectors holds: 1 for equal directions."""
    shared_random: float
    """The same of as many random directions, mean."""
    shared_random_high: float
    """95 % of the draws are below."""
    threshold: float
    """|cosine| that the largest of all random pairs exceeds in 5 % of the draws."""
    null: str
    """What the random directions are."""
    n_random: int
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """One row per pair; see `frame`."""
        return self.frame.copy()

    def matrix(self, column: str = "cosine") -> pd.DataFrame:
        """A column of the frame as a symmetric table, names by names; a vector with itself is NaN."""
        table = pd.DataFrame(np.nan, index=list(self.names), columns=list(self.names))
        for a, b, value in zip(self.frame["a"], self.frame["b"], self.frame[column], strict=True):
            table.loc[a, b] = table.loc[b, a] = value
        return table

    def summary(self) -> str:
        """The result in a few sentences."""
        frame, n = self.frame, len(self.frame)
        found = int((frame["p_corrected"] < CHANCE).sum())
        text = (
            f"{n} pair{'s' * (n > 1)} of {len(self.names)} vectors: cosine {_span(frame['cosine'])}; {found} beyond "
            f"{self.null} (corrected p < {CHANCE}; the largest |cosine| of all pairs stays below {self.threshold:.2f} in "
            f"95 % of {self.n_random} draws). The shared direction holds {self.shared:.0%} of the squared norm (random: "
            f"{self.shared_random:.0%}, 95 % below {self.shared_random_high:.0%})"
        )
        if len(self.names) < 3:
            return f"{text}."
        centered = int((frame["p_centered_corrected"] < CHANCE).sum())
        return f"{text}; without it the cosine is {_span(frame['cosine_centered'])}, {centered} beyond chance."

    def plot(self) -> "go.Figure":
        """A map of the cosines and one without the shared direction."""
        from ..figures.geometry import plot_cosine_map

        return plot_cosine_map(self.frame, self.null, self.shared, self.shared_random)


@checked_call
def cosine_map(
    vectors: Sequence[SteeringVector] | Mapping[Any, SteeringVector],
    *,
    statistics: ResidualStatistics | None = None,
    n_random: int = 2000,
    seed: int = 0,
) -> CosineMap:
    """Cosines between all pairs of a set of vectors: methods, objectives, seeds or concepts (Bao et al. 2026, Finding 3).

    Vectors of different concepts have much in common if all training pushes the same way ("bring something in"), so the
    cosine is also given without it (`cosine_centered`): the mean of the unit vectors is subtracted from each of them. This
    needs three vectors or more, and pulls unrelated ones to -1 / (n - 1).

    p is the share of pairs of random directions whose cosine is at least as far from 0 (centred: from -1 / (n - 1)), and
    p_corrected that of sets of as many random directions of which any pair is: it holds for all pairs at once. Both are
    (1 + count) / (1 + draws), so p_corrected is at least 1 / (1 + n_random).

    Args:
        statistics: random directions are drawn from a normal distribution with this covariance of the residual stream.
            None = the same in all directions, a null that real residual streams, which have a few long axes, pass too easily.
        n_random: sets of random directions.
        seed: of the random directions.

    Raises:
        ValueError: fewer than two vectors, a vector of norm 0, a ReFT form or the form "null", vectors of different layers,
            models, widths or weight processing, statistics of another layer or model, or n_random below 100.
        TypeError: something that is not a SteeringVector.
    """
    named = named_vectors(vectors)
    if len(named) < 2:
        raise ValueError("one vector has no cosine to another: give two or more")
    check_together(named)
    check_draws(n_random)
    law = spectrum(next(iter(named.values())), statistics)
    unit = unit_rows(torch.stack([sv.vector for sv in named.values()]).double())
    plain, centered = _cosines(unit)
    rows, columns = np.triu_indices(len(named), 1)
    null = _Null(plain.numpy(), centered.numpy(), len(named))
    for draws in random_sets(law, n_random, len(named), seed):
        null.take(draws)
    names = tuple(named)
    pairs = {"a": [names[i] for i in rows], "b": [names[j] for j in columns]}
    frame = pd.DataFrame(pairs | null.columns())
    shares = np.concatenate(null.shares)
    shared = float(unit.mean(0).square().sum())
    threshold = float(np.quantile(np.concatenate(null.plain.largest), 1 - CHANCE))
    high = float(np.quantile(shares, 1 - CHANCE))
    return CosineMap(frame, names, shared, float(shares.mean()), high, threshold, law.name, n_random, seed)


class _Tally:
    """How often random cosines are as far from where they are expected as the ones that were found."""

    def __init__(self, found: Float[np.ndarray, " pair"], expected: float) -> None:
        self._expected, self._found = expected, np.abs(found - expected)
        self._count, self._drawn = np.zeros(len(found)), 0
        self.largest: list[Float[np.ndarray, " draw"]] = []

    def take(self, cosines: Float[np.ndarray, "draw pair"]) -> None:
        far = np.abs(cosines - self._expected)
        self._count += far.size - np.searchsorted(np.sort(far, axis=None), self._found)
        self._drawn += far.size
        self.largest.append(far.max(axis=1))

    def p(self) -> Float[np.ndarray, " pair"]:
        return (1 + self._count) / (1 + self._drawn)

    def corrected(self) -> Float[np.ndarray, " pair"]:
        return exceeded(self._found, np.concatenate(self.largest))


class _Null:
    """The cosines that were found, among those of random directions."""

    def __init__(self, plain: Float[np.ndarray, " pair"], centered: Float[np.ndarray, " pair"], n_vectors: int) -> None:
        self._cosines = plain, centered
        self.plain, self._centered = _Tally(plain, 0.0), _Tally(centered, -1 / (n_vectors - 1))
        self._meaningful = n_vectors > 2
        self.shares: list[Float[np.ndarray, " draw"]] = []

    def take(self, draws: Float[Tensor, "draw vector d_model"]) -> None:
        unit = unit_rows(draws)
        plain, centered = _cosines(unit)
        self.plain.take(plain.numpy())
        self._centered.take(centered.numpy())
        self.shares.append(unit.mean(1).square().sum(-1).numpy())

    def columns(self) -> dict[str, Any]:
        """Columns of the frame of pairs."""
        plain, centered = self._cosines
        table = {"cosine": plain, "p": self.plain.p(), "p_corrected": self.plain.corrected()}
        less = {"cosine_centered": centered, "p_centered": self._centered.p()}
        less["p_centered_corrected"] = self._centered.corrected()
        return table | (less if self._meaningful else dict.fromkeys(less, np.nan))


def _cosines(unit: Float[Tensor, "*set vector d_model"]) -> tuple[Float[Tensor, "*set pair"], Float[Tensor, "*set pair"]]:
    """Cosines of all pairs, and those without the mean of the unit vectors."""
    rows, columns = torch.triu_indices(unit.shape[-2], unit.shape[-2], 1)
    both = (unit, unit_rows(unit - unit.mean(-2, keepdim=True)))
    plain, centered = ((each @ each.mT)[..., rows, columns].clamp(-1, 1) for each in both)
    return plain, centered


def _span(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low:.2f}" if len(values) == 1 else f"{low:.2f} to {high:.2f} (mean {values.mean():.2f})"


# --- seeds --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Stability(Result):
    """How much vectors of one concept and method differ between seeds."""

    frame: pd.DataFrame
    """One row per vector: seed (its name), factor, direction_norm and norm (residual-stream units), cosine_to_others (mean),
    cosine_to_mean (to the mean of the other vectors)."""
    pairs: pd.DataFrame
    """One row per pair: a, b, cosine."""
    measures: pd.DataFrame
    """One row per measure, with its 95 % interval over seeds and what random directions of the same norms give (mean, and
    what 95 % of the draws stay below; NaN where it is about size): measure, value, low, high, random, random_high. See
    `stability`."""
    null: str
    """What the random directions are."""
    n_random: int
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """One row per vector; see `frame`."""
        return self.frame.copy()

    def summary(self) -> str:
        """The result in a few sentences."""
        rows = {row["measure"]: row for row in self.measures.to_dict("records")}

        def words(name: str, form: str = ".2f") -> str:
            row = rows[name]
            known = not np.isnan(row["low"])
            interval = f"95 % interval {row['low']:{form}} to {row['high']:{form}}" if known else "no interval from two seeds"
            return f"{row['value']:{form}} ({interval})"

        cosine = rows["cosine"]
        return (
            f"{len(self.frame)} seeds: mean cosine {words('cosine')}, from {self.pairs['cosine'].min():.2f} to "
            f"{self.pairs['cosine'].max():.2f} ({self.null}: 95 % below {cosine['random_high']:.2f}); their mean holds "
            f"{words('shared', '.0%')} of the squared norm; the norm is {words('norm', '.3g')} with a spread of "
            f"{words('norm_spread', '.0%')} of it, the factor {words('factor', '.3g')} with one of "
            f"{words('factor_spread', '.0%')}."
        )

    def plot(self) -> "go.Figure":
        """Cosines between seeds, and their norms and factors."""
        from ..figures.geometry import plot_stability

        return plot_stability(self.frame, self.pairs, self.measures, self.null)


@checked_call
def stability(
    vectors_by_seed: Sequence[SteeringVector] | Mapping[Any, SteeringVector],
    *,
    statistics: ResidualStatistics | None = None,
    n_random: int = 2000,
    seed: int = 0,
) -> Stability:
    """What training one concept in one way with several seeds has in common.

    The measures: `cosine`, the mean over all pairs; `shared`, ||mean vector||^2 / mean ||vector||^2, 1 for equal vectors;
    `norm` and `factor`, means; `norm_spread` and `factor_spread`, standard deviation over |mean|. The intervals are jackknifed
    over seeds (Student's t; of a mean this is the usual interval), so with few seeds they are wide; with two there is none
    for what needs two seeds.

    Args:
        vectors_by_seed: the vectors, by seed or in a row.
        statistics: as `cosine_map`.
        n_random: sets of random directions, each with the norms of the vectors.
        seed: of the random directions.

    Raises:
        ValueError: as `cosine_map`, or vectors of different concepts, positions or forms.
        TypeError: one vector alone, or something that is not a SteeringVector.
    """
    if isinstance(vectors_by_seed, Mapping):
        named = named_vectors(vectors_by_seed)
    else:
        named = named_vectors(dict(enumerate(listed(vectors_by_seed))))
    if len(named) < 2:
        raise ValueError("one seed says nothing about others: give two or more")
    check_together(named, "concept", "positions", "form")
    check_draws(n_random)
    every = list(named.values())
    rows = torch.stack([sv.vector for sv in every]).double()
    factors = np.array([sv.factor for sv in every])
    law = spectrum(every[0], statistics)
    frame = _seed_frame(named, rows)
    first, second = np.triu_indices(len(rows), 1)
    names = list(named)
    pairs = {"a": [names[i] for i in first], "b": [names[j] for j in second], "cosine": _cosines(unit_rows(rows))[0].numpy()}
    norms = rows.norm(dim=-1)
    null = [_common(unit_rows(draws).double() * norms[:, None]) for draws in random_sets(law, n_random, len(rows), seed)]
    measures = _measures(rows, factors, torch.cat(null).numpy())
    return Stability(frame, pd.DataFrame(pairs), measures, law.name, n_random, seed)


def _seed_frame(named: Mapping[str, SteeringVector], rows: Float[Tensor, "vector d_model"]) -> pd.DataFrame:
    unit, n = unit_rows(rows), len(rows)
    to_others = ((unit @ unit.T).sum(-1) - 1) / (n - 1)
    rest = unit_rows((rows.sum(0) - rows) / (n - 1))
    columns = {
        "seed": list(named),
        "factor": [sv.factor for sv in named.values()],
        "direction_norm": [float(sv.direction.norm()) for sv in named.values()],
        "norm": rows.norm(dim=-1).numpy(),
        "cosine_to_others": to_others.numpy(),
        "cosine_to_mean": (unit * rest).sum(-1).numpy(),
    }
    return pd.DataFrame(columns)


def _common(rows: Float[Tensor, "*set vector d_model"]) -> Float[Tensor, "*set 2"]:
    """Mean cosine of all pairs, and the share of the squared norm in the mean vector."""
    shared = rows.mean(-2).square().sum(-1) / rows.square().sum(-1).mean(-1)
    return torch.stack([_cosines(unit_rows(rows))[0].mean(-1), shared], -1)


def _measures(
    rows: Float[Tensor, "vector d_model"], factors: Float[np.ndarray, " vector"], null: Float[np.ndarray, "draw 2"]
) -> pd.DataFrame:
    norms = rows.norm(dim=-1).numpy()

    def common(kept: np.ndarray) -> Float[np.ndarray, " 2"]:
        if len(kept) == 1:
            return np.full(2, np.nan)
        return _common(rows[torch.from_numpy(kept)]).numpy()

    def sizes(values: Float[np.ndarray, " vector"], kept: np.ndarray) -> Float[np.ndarray, " 2"]:
        mean = values[kept].mean()
        return np.array([mean, values[kept].std(ddof=1) / abs(mean) if mean and len(kept) > 1 else np.nan])

    parts = [jackknife(common, len(rows)), *(jackknife(lambda kept, v=v: sizes(v, kept), len(rows)) for v in (norms, factors))]
    table = pd.DataFrame(np.concatenate(parts), columns=["value", "low", "high"])
    table.insert(0, "measure", ["cosine", "shared", "norm", "norm_spread", "factor", "factor_spread"])
    unknown = [np.nan] * 4
    table["random"] = [*null.mean(0), *unknown]
    table["random_high"] = [*np.quantile(null, 1 - CHANCE, axis=0), *unknown]
    # neither leaves its range, whatever a symmetric interval says
    for measure, lowest, highest in (("cosine", -1, 1), ("shared", 0, 1), ("norm_spread", 0, None), ("factor_spread", 0, None)):
        here = table["measure"] == measure
        table.loc[here, ["low", "high"]] = table.loc[here, ["low", "high"]].clip(lowest, highest)
    return table


def jackknife(statistic: Callable[[np.ndarray], Float[np.ndarray, " measure"]], n: int) -> Float[np.ndarray, "measure 3"]:
    """Statistics of `n` things (given by their indices) with 95 % intervals; NaN where one thing fewer gives none."""
    everything = np.arange(n)
    value = statistic(everything)
    without = np.stack([statistic(np.delete(everything, i)) for i in everything])
    error = np.sqrt((n - 1) / n * np.square(without - without.mean(0)).sum(0))
    half = t_quantile(n - 1) * error
    return np.stack([value, value - half, value + half], axis=-1)
