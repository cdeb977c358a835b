"""How a vector was learned: where factor, norm and direction went, step by step, and which part of the updates moved them.

Everything comes from the history that training keeps. Only the cosine to the last direction needs more, the directions
themselves: a `DirectionRecorder` given to `train` keeps them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from ..arguments import checked_call
from ..intervals import t_quantile
from ..result import Result
from ..training.callbacks import DirectionRecorder
from ..vector import SteeringVector
from .vector_sets import Vectors, named_vectors

if TYPE_CHECKING:
    import plotly.graph_objects as go

DELTAS = ("delta1", "delta2", "delta3")
SHARES = ("share1", "share2", "share3")
LAST_SHARE = 10
"""A tenth of the steps is taken as the end of training."""
FEWEST = 3
"""Steps that a tenth must have, for its mean loss to have an interval."""


@dataclass(frozen=True)
class Ending:
    """What one vector did, and whether it was still doing it in the last tenth of its steps."""

    vector: str
    steps: int
    last: int
    """Steps of the last tenth."""
    fall: float
    """Mean loss of the tenth before it minus its own: above 0 if the loss still fell. NaN with too few steps to say."""
    fall_error: float
    """Half-width of the 95 % t-interval of `fall`, over the steps' batches."""
    factor_change: float
    """Of the factor over the last tenth, as a share of its value at the end."""
    norm_change: float
    """The same of the vector's norm."""

    @property
    def verdict(self) -> str:
        """In words; the learning rates end at 0 in any case, so standing still is no proof of having arrived."""
        if math.isnan(self.fall):
            return f"{self.steps} steps are too few to say whether it had settled"
        ended = "had settled as far as its batches can tell"
        if abs(self.fall) > self.fall_error:
            ended = "was still falling at the end" if self.fall > 0 else "was rising at the end"
        return (
            f"the loss {ended} (it changed by {-self.fall:+.3g} ± {self.fall_error:.2g}, 95 %, from the last but one tenth of "
            f"the steps to the last, in which the factor moved by {100 * self.factor_change:.1f} % and the norm by "
            f"{100 * self.norm_change:.1f} %)"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Dynamics(Result):
    """Training, step by step, of one vector or several."""

    frame: pd.DataFrame
    """One row per vector and step: vector (its name), the columns of `train`'s history, and
    feature (root mean square per coordinate of factor * direction, residual-stream units),
    turned (degrees between the direction and the first one),
    share1, share2, share3 (of delta1 to delta3 in their sum, 0 to 1; NaN at a step that moved nothing),
    cos_end (cosine of the direction to the last one; NaN without a recorder)."""
    objectives: Mapping[str, str | None]
    """Name of each vector's objective, where it is known. Losses of different objectives do not compare."""

    def to_frame(self) -> pd.DataFrame:
        """The frame described above."""
        return self.frame.copy()

    def histories(self) -> dict[str, pd.DataFrame]:
        """The frame cut by vector; `attrs["objective"]` of each says what its loss is."""
        cut = {}
        for name, part in self.frame.groupby("vector", sort=False):
            part = part.drop(columns="vector").reset_index(drop=True)
            part.attrs["objective"] = self.objectives[str(name)]
            cut[str(name)] = part
        return cut

    def endings(self) -> list[Ending]:
        """How each vector's training ended."""
        return [_ending(name, part) for name, part in self.histories().items()]

    def plot(self, what: Literal["history", "updates", "path"] = "history") -> "go.Figure":
        """Loss, factor, norm and cosines; or the updates' parts; or factor against direction norm.

        Raises:
            ValueError: another name than "history", "updates" or "path".
        """
        from ..figures import training as figures

        drawn = {"history": figures.plot_history, "updates": figures.plot_updates, "path": figures.plot_trajectories}
        if what not in drawn:
            raise ValueError(f"there is no figure {what!r}: choose from {', '.join(drawn)}")
        return drawn[what](self.histories())

    def summary(self) -> str:
        """Where factor, norm and direction of each vector went, by which part of the updates, and whether it had settled."""
        sentences = []
        for (name, part), ending in zip(self.histories().items(), self.endings(), strict=True):
            first, last = part.iloc[0], part.iloc[-1]
            shares = " / ".join(f"{100 * part[share].mean():.0f}" for share in SHARES)
            sentences.append(
                f"{name}, {ending.steps} steps: factor {first['factor']:.4g} to {last['factor']:.4g}, norm "
                f"{first['vector_norm']:.4g} to {last['vector_norm']:.4g}, direction turned by {last['turned']:.0f} degrees; "
                f"updates by the factor's move / the direction's / both together: {shares} %; {ending.verdict}."
            )
        return " ".join(sentences)


@checked_call
def dynamics(vectors: Vectors, recorder: DirectionRecorder | None = None) -> Dynamics:
    """Read the training of one vector, of several by name, or of one at each of several layers.

    Values are those after each step, but the loss is that of the step's batch before it (Bao et al. 2026, Sec. 4, for
    delta1 to delta3).

    Args:
        recorder: that watched the training (`train(..., callbacks=[recorder])`); it gives `cos_end`.

    Raises:
        TypeError: something that is not a SteeringVector.
        ValueError: a vector without history, such as one made by hand; two of one name; a recorder that did not see the
            training of a vector.
    """
    named = _named(vectors)
    frames = []
    for name, sv in named.items():
        if sv.history is None or not len(sv.history):
            raise ValueError(f"{name!r} has no history: only `train` and `train_many` keep one")
        frames.append(_derived(name, sv, _to_end(name, sv, recorder)))
    objectives = {name: sv.provenance.get("objective") for name, sv in named.items()}
    return Dynamics(pd.concat(frames, ignore_index=True), objectives)


def _named(vectors: Vectors) -> dict[str, SteeringVector]:
    named = named_vectors(vectors, zero=True, reft=True)
    if isinstance(vectors, (SteeringVector, Mapping)):
        return named
    by_layer = {f"layer {sv.layer}": sv for sv in named.values()}
    if len(by_layer) < len(named):
        raise ValueError("a list holds vectors of different layers: give others as a mapping, name -> vector")
    return by_layer


def _to_end(name: str, sv: SteeringVector, recorder: DirectionRecorder | None) -> Float[np.ndarray, " step"]:
    """Cosine of each step's direction to the last; NaN without a recorder."""
    assert sv.history is not None
    if recorder is None:
        return np.full(len(sv.history), np.nan)
    run = recorder.run_of(sv)
    if run is None or len(run.directions) != len(sv.history):
        raise ValueError(f"the recorder did not see the training of {name!r}: give it to train(..., callbacks=[recorder])")
    rows = torch.stack([direction.flatten() for direction in run.directions]).double()
    return torch.cosine_similarity(rows, rows[-1:], dim=-1).numpy()


def _derived(name: str, sv: SteeringVector, cos_end: Float[np.ndarray, " step"]) -> pd.DataFrame:
    assert sv.history is not None
    history = sv.history
    total = history[list(DELTAS)].sum(axis=1).replace(0.0, np.nan)
    shares = {share: history[delta] / total for share, delta in zip(SHARES, DELTAS, strict=True)}
    more = {
        "feature": history["vector_norm"] / math.sqrt(sv.direction.shape[-1]),
        "turned": np.degrees(np.arccos(history["cos_init"].clip(-1, 1))),
    }
    frame = history.assign(**more, **shares, cos_end=cos_end)
    frame.attrs = {}
    frame.insert(0, "vector", name)
    return frame


def _ending(name: str, history: pd.DataFrame) -> Ending:
    n = len(history) // LAST_SHARE
    unknown = Ending(name, len(history), n, math.nan, math.nan, math.nan, math.nan)
    if n < 1:
        return unknown
    start, end = history.iloc[-n - 1], history.iloc[-1]
    moved = {
        f"{short}_change": abs(end[column] - start[column]) / abs(end[column]) if end[column] else math.nan
        for short, column in (("factor", "factor"), ("norm", "vector_norm"))
    }
    if n < FEWEST:
        return replace(unknown, **moved)
    before, last = history["loss"].iloc[-2 * n : -n], history["loss"].iloc[-n:]
    error = t_quantile(2 * n - 2) * math.sqrt(float(before.var() + last.var()) / n)
    return Ending(name, len(history), n, float(before.mean() - last.mean()), error, **moved)
