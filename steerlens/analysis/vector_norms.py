"""How large vectors are: factors and norms over concepts and methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from ..arguments import checked_call
from ..intervals import LEVEL, RESAMPLES
from ..result import Result
from ..vector import SteeringVector
from .random_directions import check_statistics
from .residual_covariance import ResidualStatistics
from .vector_sets import by_name, check_together, named_vectors

if TYPE_CHECKING:
    import plotly.graph_objects as go

MEASURES = ("factor_size", "direction_norm", "norm", "relative_norm")


@dataclass(frozen=True, eq=False, repr=False)
class Sizes(Result):
    """Factor and norms of vectors, by group."""

    frame: pd.DataFrame
    """One row per vector: group (such as the method), name (such as the concept), layer, positions, form, factor, factor_size
    (|factor|), direction_norm and norm (of factor * direction; residual-stream units), relative_norm (norm over the root
    mean square norm of the residual stream; NaN without statistics)."""
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """One row per vector; see `frame`."""
        return self.frame.copy()

    def by_group(self) -> pd.DataFrame:
        """One row per group and measure: group, measure, n, median, median_low, median_high (95 %, bootstrap over vectors;
        NaN from one vector), q25, q75, lowest, highest."""
        rows = []
        for group, mine in self.frame.groupby("group", sort=False):
            for measure in MEASURES:
                values = mine[measure].dropna().to_numpy(float)
                if len(values):
                    rows.append({"group": group, "measure": measure, "n": len(values)} | _middle(values, self.seed))
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """The result in a sentence per group."""
        sentences = []
        for group, mine in self.by_group().groupby("group", sort=False):
            rows = {str(row["measure"]): row for row in mine.to_dict("records")}
            parts = [f"{words} {_estimate(rows[name])}" for name, words in _WORDS.items() if name in rows]
            negative = int((self.frame.loc[self.frame["group"] == group, "factor"] < 0).sum())
            turned = f" ({negative} factors are negative)" if negative else ""
            n = int(mine["n"].iloc[0])
            sentences.append(f"{group} ({n} vector{'s' * (n > 1)}): median {', '.join(parts)}{turned}.")
        return f"{' '.join(sentences)} Brackets: 95 % interval of the median over vectors."

    def plot(self) -> "go.Figure":
        """A dot per vector and a box per group, for each measure."""
        from ..figures.geometry import plot_sizes

        return plot_sizes(self.frame)


_WORDS = {
    "factor_size": "|factor|",
    "direction_norm": "norm of the direction",
    "norm": "norm of the vector",
    "relative_norm": "norm over that of the residual stream",
}


@checked_call
def sizes(
    vectors: Sequence[SteeringVector] | Mapping[Any, SteeringVector],
    *,
    statistics: ResidualStatistics | None = None,
    seed: int = 0,
) -> Sizes:
    """Factors and norms of vectors over concepts and methods (Bao et al. 2026, Finding 2).

    The form "add" adds `factor * direction`, whose norm is all that counts; how it is divided between the two is a matter of
    training. The form "clamp" also takes away what the residual stream has along the direction, which no number here shows.

    Args:
        vectors: by (group, name), such as (method, concept); or by name, or in a row, as one group.
        statistics: of the residual stream at the vectors' layer, for `relative_norm`.
        seed: of the bootstrap.

    Raises:
        ValueError: no vectors, two whose names read the same, a ReFT form or the form "null", vectors of
            different models, widths or weight processing, or of different layers (norms grow with depth: look at each layer
            on its own); statistics of another layer, model or width.
        TypeError: something that is not a SteeringVector.
    """
    if isinstance(vectors, Mapping) and vectors and all(isinstance(key, tuple) for key in vectors):
        if any(len(key) != 2 for key in vectors):
            raise ValueError("the keys are tuples, but not of two entries: use (group, name)")
        keys = [(str(group), str(name)) for group, name in vectors]
        named = named_vectors(by_name(vectors, lambda key: " / ".join(map(str, key))), zero=True)
    else:
        named = named_vectors(vectors, zero=True)
        keys = [("all", name) for name in named]
    check_together(named)
    unit = np.nan
    if statistics is not None:
        for sv in named.values():
            check_statistics(sv, statistics)
        unit = float((statistics.covariance.double().trace() + statistics.mean.double().square().sum()).sqrt())
    rows = [
        {
            "group": group,
            "name": name,
            "layer": sv.layer,
            "positions": sv.positions if isinstance(sv.positions, str) else "a function",
            "form": sv.form,
            "factor": sv.factor,
            "factor_size": abs(sv.factor),
            "direction_norm": float(sv.direction.norm()),
            "norm": sv.norm,
            "relative_norm": sv.norm / unit,
        }
        for (group, name), sv in zip(keys, named.values(), strict=True)
    ]
    return Sizes(pd.DataFrame(rows), seed)


def _middle(values: Float[np.ndarray, " vector"], seed: int) -> dict[str, float]:
    """Median with its interval, quartiles and range."""
    low = high = np.nan
    if len(values) > 1:
        draws = np.median(np.random.default_rng(seed).choice(values, size=(RESAMPLES, len(values))), axis=1)
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    q25, median, q75 = np.quantile(values, [0.25, 0.5, 0.75])
    names = ("median", "median_low", "median_high", "q25", "q75", "lowest", "highest")
    return dict(zip(names, map(float, (median, low, high, q25, q75, values.min(), values.max())), strict=True))


def _estimate(row: Mapping[Any, Any]) -> str:
    interval = "" if np.isnan(row["median_low"]) else f" [{row['median_low']:.3g}, {row['median_high']:.3g}]"
    return f"{row['median']:.3g}{interval}"
