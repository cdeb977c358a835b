"""Factor selection (Algorithm 3 of Bao et al. 2026): sample with each factor, judge, keep the best mean overall score.

The best of several noisy means is too high if it is reported on the prompts that it was chosen on ("oracle"). The "fair"
score chooses on a random half of the prompts and reports on the other half.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Float

from ..arguments import checked_call
from ..data import Prompt
from ..judges.base import Judge, check_judge
from ..model.bridge import Bridge, check_model
from ..reproducibility import row_seeds
from ..result import Result
from ..scores import SCORES
from ..steering.generation import as_prompts, generate
from ..steering.hooks import PerPrompt
from ..vector import SteeringVector
from .scoring import judge_rows

if TYPE_CHECKING:
    import plotly.graph_objects as go

TIE = 1e-9
"""Means closer than this are the same: sums of the same scores in another order differ by rounding."""


class Fair(NamedTuple):
    """Score of factors chosen on one half of the prompts and reported on the other."""

    mean: float
    """Mean over the random splits."""
    spread: float
    """Standard deviation over the splits (0 for one): how much depends on which half chose."""


@dataclass(frozen=True, eq=False, repr=False)
class Selection(Result):
    """The factor of one concept's vector, and what it scored.

    `frame` has one row per generation, for each factor all prompts in order: factor and the columns of `Evaluation.frame`.
    """

    frame: pd.DataFrame
    factor: float
    """The best on all prompts: the one to deploy."""
    vector: SteeringVector
    """The vector with that factor."""
    oracle: float
    """Mean overall score of `factor`, 0 to 2, on the prompts that chose it: optimistic."""
    fair: float | None
    """Mean overall score with the factor chosen on one half of the prompts and reported on the other; None for one prompt."""
    fair_spread: float | None
    """Standard deviation of `fair` over the splits."""
    splits: int
    """How many random halvings `fair` is averaged over."""

    @property
    def n_generations(self) -> int:
        """Responses sampled and judged: what the selection cost."""
        return len(self.frame)

    @property
    def unscored(self) -> int:
        """Rows without an overall score; they are in no mean."""
        return int(self.frame["overall"].isna().sum())

    def by_factor(self) -> pd.DataFrame:
        """One row per factor, in the order given: the mean of each score, and how many rows are scored and unscored."""
        groups = self.frame.groupby("factor", sort=False)
        table = groups[list(SCORES)].mean()
        table["scored"] = groups["overall"].count()
        table["unscored"] = groups.size() - table["scored"]
        return table

    def to_frame(self) -> pd.DataFrame:
        """One row per factor; see `by_factor`."""
        return self.by_factor().reset_index()

    def plot(self) -> "go.Figure":
        """Mean scores by factor with the chosen one; for several concepts see `Selections`."""
        return Selections({str(self.frame["concept"].iloc[0]): self}).plot()

    def summary(self) -> str:
        """The result in a sentence."""
        n_factors = self.frame["factor"].nunique()
        n_prompts = self.n_generations // n_factors
        fair = "no fair score from one prompt"
        if self.fair is not None:
            fair = f"{self.fair:.2f} chosen and reported on different halves (spread {self.fair_spread:.2f})"
        if self.oracle == 0:
            return (
                f"none of {n_factors} factors scores above 0 on {n_prompts} prompts: {self.factor:.4g} is the first of equals"
            )
        return (
            f"factor {self.factor:.4g} of {n_factors} tried on {n_prompts} prompts: overall {fair}, {self.oracle:.2f} of 2 on "
            f"the prompts that chose it; {self.unscored} of {self.n_generations} unscored"
        )


class Selections(Result, dict[str, Selection]):
    """Concept -> its `Selection`, as `select_factors` gives them."""

    def to_frame(self) -> pd.DataFrame:
        """One row per concept: concept, factor (the chosen one), oracle, fair, fair_spread (0 to 2; NaN where there is none),
        n, unscored (responses)."""
        rows = [
            {
                "concept": concept,
                "factor": chosen.factor,
                "oracle": chosen.oracle,
                "fair": math.nan if chosen.fair is None else chosen.fair,
                "fair_spread": math.nan if chosen.fair_spread is None else chosen.fair_spread,
                "n": chosen.n_generations,
                "unscored": chosen.unscored,
            }
            for concept, chosen in self.items()
        ]
        return pd.DataFrame(rows, columns=["concept", "factor", "oracle", "fair", "fair_spread", "n", "unscored"])

    def summary(self) -> str:
        """The means over the concepts in a sentence."""
        if not self:
            return "no concept"
        table = self.to_frame()
        fairs = table["fair"].dropna()
        fair = f"{fairs.mean():.2f} chosen and reported on different halves" if len(fairs) else "no fair score"
        low, high = table["factor"].min(), table["factor"].max()
        factors = f"factor {low:.4g}" if low == high else f"factors {low:.4g} to {high:.4g}"
        oracle = f"{fmean(table['oracle']):.2f} of 2 on the prompts that chose"
        return (
            f"{len(table)} concept{'s' * (len(table) > 1)}, {factors}: overall {fair}, {oracle} (means over concepts); "
            f"{table['unscored'].sum()} of {table['n'].sum()} unscored"
        )

    def plot(self) -> "go.Figure":
        """Overall score of each concept's factors with the chosen one; of a single concept all its scores."""
        from ..figures import plot_selection

        means = [chosen.to_frame().assign(concept=concept) for concept, chosen in self.items()]
        return plot_selection(pd.concat(means, ignore_index=True), self.to_frame())


@checked_call
def select_factor(
    model: Bridge,
    sv: SteeringVector,
    concept: str,
    prompts: Sequence[Prompt],
    judge: Judge,
    factors: Sequence[int | float],
    *,
    splits: int = 20,
    max_new_tokens: int = 128,
    temperature: int | float = 1.0,
    seed: int = 0,
    chat: bool = True,
    batch_size: int | None = 16,
    progress: bool = False,
) -> Selection:
    """Choose a vector's factor by judged samples (Bao et al. 2026, Algorithm 3).

    Every factor answers the same prompts with the same random numbers (each prompt has its seed, see `row_seeds`), so that
    factors differ by what they do and not by luck in sampling.

    Args:
        sv: the vector; each candidate is `sv.replace(factor=f)`.
        concept: what the judge looks for.
        prompts: each gets a response per factor.
        judge: as for `evaluate`; where it fails, the row is unscored and keeps the reason.
        factors: values of the factor itself (alpha), not multiples of the vector's own.
        splits: random halvings of the prompts over which the fair score is averaged.
        seed: of the sampling and of the splits.
        max_new_tokens, temperature, chat, batch_size, progress: as `generate`.

    Returns:
        The selection. Ties go to the factor nearest 0.

    Raises:
        ValueError: factors or prompts that cannot be used, before any work starts; or no response could be scored, with the
            judge's first error, since then there is nothing to choose by.
    """
    chosen = select_factors(
        model,
        {concept: sv},
        {concept: prompts},
        judge,
        factors,
        splits=splits,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        chat=chat,
        batch_size=batch_size,
        progress=progress,
    )
    return chosen[concept]


@checked_call
def select_factors(
    model: Bridge,
    vectors: Mapping[str, SteeringVector],
    prompts: Mapping[str, Sequence[Prompt]],
    judge: Judge,
    factors: Sequence[int | float],
    *,
    splits: int = 20,
    max_new_tokens: int = 128,
    temperature: int | float = 1.0,
    seed: int = 0,
    chat: bool = True,
    batch_size: int | None = 16,
    progress: bool = False,
) -> Selections:
    """Choose the factor of many concepts' vectors, their rows in shared batches; each comes out as `select_factor` alone.

    Args:
        vectors: concept, as the judge is told it -> its vector.
        prompts: concept -> its prompts.
        judge, factors, splits, max_new_tokens, temperature, seed, chat, batch_size, progress: as `select_factor`.

    Raises:
        ValueError: as `select_factor`; vectors and prompts are not of the same concepts.
    """
    check_model(model)
    check_judge(judge)
    candidates = _checked_factors(factors)
    if splits < 1:
        raise ValueError(f"splits is {splits}; it must be at least 1")
    rows = _rows(vectors, prompts, candidates, seed)
    responses = generate(
        model,
        [row.prompt for row in rows],
        PerPrompt([row.vector for row in rows]),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=[row.seed for row in rows],
        chat=chat,
        batch_size=batch_size,
        progress=progress,
    )
    answers = judge_rows(judge, [r.concept for r in rows], [r.prompt for r in rows], responses, [r.seed for r in rows])
    judged = [{"factor": row.vector.factor} | answer for row, answer in zip(rows, answers, strict=True)]
    frame = pd.DataFrame(judged).astype(dict.fromkeys(("factor", *SCORES), float))
    parts = {str(concept): part.reset_index(drop=True) for concept, part in frame.groupby("concept", sort=False)}
    return Selections({concept: _selection(parts[concept], sv, candidates, splits, seed) for concept, sv in vectors.items()})


# --- choosing from a table of scores: no model ------------------------------------------------------------------------


def best_factor(scores: Float[np.ndarray, "factor prompt"], factors: Sequence[int | float]) -> float:
    """The factor with the best mean over its scored prompts; of equal ones that nearest 0, and of +f and -f the positive.

    Args:
        scores: overall scores, NaN = unscored.
        factors: one per row.

    Raises:
        ValueError: nothing is scored.
    """
    best = _best(scores, factors)
    if best is None:
        raise ValueError("no response is scored, so no factor can be chosen")
    return float(factors[best])


def fair_score(
    scores: Float[np.ndarray, "factor prompt"],
    factors: Sequence[int | float],
    splits: int = 20,
    seed: int = 0,
    report: Float[np.ndarray, "factor prompt"] | None = None,
) -> Fair | None:
    """What selection is worth on prompts that had no part in it (the fair score of Bao et al. 2026, Sec. 5).

    A split halves the prompts at random. Each half is reported with the factor that is best on the other half, and the
    split's value is the mean over all reported prompts. Without unscored rows it never exceeds the oracle's score.

    Args:
        scores: overall scores, NaN = unscored: in no mean. A factor without a scored prompt in a half is not chosen there.
        factors: one per row, for ties.
        splits: random halvings, at least 1.
        seed: of the halvings.
        report: what is averaged instead of the scores that choose, such as the concept ratings of the same responses.

    Returns:
        Mean and spread over the splits that reported anything; None if none did, or for fewer than two prompts.
    """
    n_prompts = scores.shape[1]
    if n_prompts < 2:
        return None
    shown = scores if report is None else report
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(splits):
        order = rng.permutation(n_prompts)
        halves = order[: n_prompts // 2], order[n_prompts // 2 :]
        reported = []
        for choosing, reporting in (halves, halves[::-1]):
            best = _best(scores[:, choosing], factors)
            reported += [] if best is None else shown[best, reporting].tolist()
        known = [score for score in reported if not math.isnan(score)]
        values += [sum(known) / len(known)] if known else []
    return Fair(float(np.mean(values)), float(np.std(values))) if values else None


def _best(scores: Float[np.ndarray, "factor prompt"], factors: Sequence[int | float]) -> int | None:
    """Index of the best factor; None if nothing is scored."""
    means = _means(scores)
    if np.isnan(means).all():
        return None
    tied: list[int] = np.flatnonzero(means >= np.nanmax(means) - TIE).tolist()
    return min(tied, key=lambda index: (abs(factors[index]), -factors[index]))


def _means(scores: Float[np.ndarray, "factor prompt"]) -> Float[np.ndarray, " factor"]:
    """Mean over each factor's scored prompts; NaN where there are none."""
    scored = ~np.isnan(scores)
    count = scored.sum(axis=1)
    total = np.where(scored, scores, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


# --- rows of the table ------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    """One response to be sampled and judged."""

    concept: str
    vector: SteeringVector
    prompt: Prompt
    seed: int


def _rows(
    vectors: Mapping[str, SteeringVector], prompts: Mapping[str, Sequence[Prompt]], factors: Sequence[float], seed: int
) -> list[_Row]:
    """Every concept, factor and prompt, in this order."""
    if not vectors:
        raise ValueError("there are no vectors to choose factors for")
    if unmatched := set(vectors) ^ set(prompts):
        raise ValueError(f"vectors and prompts are not of the same concepts: {sorted(unmatched)} in only one of them")
    rows = []
    for concept, sv in vectors.items():
        if not isinstance(sv, SteeringVector):
            raise TypeError(f"{concept}: a factor is chosen for one SteeringVector, got {type(sv).__name__}")
        batch = as_prompts(prompts[concept])
        seeds = row_seeds(seed, len(batch))
        for candidate in [sv.replace(factor=factor) for factor in factors]:
            rows += [_Row(concept, candidate, prompt, own) for prompt, own in zip(batch, seeds, strict=True)]
    return rows


def _checked_factors(factors: Sequence[int | float]) -> list[float]:
    values = [float(factor) for factor in factors]
    if not values:
        raise ValueError("there are no factors to choose from")
    for number, value in enumerate(values):
        if not math.isfinite(value):
            raise ValueError(f"factor {number} is {value}; factors must be finite")
        if value in values[:number]:
            raise ValueError(f"the factor {value:g} is given twice")
    return values


def _selection(frame: pd.DataFrame, sv: SteeringVector, factors: Sequence[float], splits: int, seed: int) -> Selection:
    scores = rearrange(frame["overall"].to_numpy(float), "(factor prompt) -> factor prompt", factor=len(factors))
    best = _best(scores, factors)
    if best is None:
        raise ValueError(
            f"{frame['concept'][0]}: none of {len(frame)} responses could be scored, so no factor can be chosen; the first "
            f"row's reason: {frame['error'][0]}"
        )
    fair = fair_score(scores, factors, splits, seed)
    mean, spread = (None, None) if fair is None else fair
    oracle = float(_means(scores)[best])
    return Selection(frame, factors[best], sv.replace(factor=factors[best]), oracle, mean, spread, splits)
