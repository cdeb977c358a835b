"""What steering costs: utility against score for several vectors and strengths."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from ..arguments import checked_call
from ..data import Prompt
from ..intervals import estimate, share_interval
from ..judges.base import Judge
from ..model.bridge import Bridge
from ..result import Result
from ..steering.generation import generate
from ..steering.hooks import PerPrompt
from .scales import UNSTEERED, Steered, check_scales, scaled
from .scoring import Checkable, Evaluation, as_questions, evaluate
from .suppression_attack import Rewrite, suppression

if TYPE_CHECKING:
    import plotly.graph_objects as go

Numbers = int | float | np.generic | np.ndarray | torch.Tensor
Measured = Evaluation | Sequence[Numbers] | Numbers
Measure = Callable[[Bridge, Steered], Measured]
"""(model, what steers) -> judged rows, one number per item (whose mean counts), or one number without an interval."""


@dataclass(frozen=True, eq=False, repr=False)
class Frontier(Result):
    """Utility and score of several vectors at several scales."""

    frame: pd.DataFrame
    """One row per vector and scale, the unsteered model first (scale 0): vector, scale, score and utility with `_low` and
    `_high` (95 % interval: by bootstrap, for items that are all 0 or 1 Wilson's, NaN for a single number) and `_n` (items,
    rows), unscored (rows of the score), efficient (no other row is at least as good in both and better in one); where the
    utility is judged too, utility_unscored."""
    score_name: str
    utility_name: str

    def to_frame(self) -> pd.DataFrame:
        """One row per vector and scale; see `frame`."""
        return self.frame.copy()

    def efficient(self) -> pd.DataFrame:
        """The rows that no other dominates, by rising score. They are point estimates: look at the intervals."""
        return self.frame[self.frame["efficient"]].sort_values("score", kind="stable")

    def summary(self) -> str:
        """The efficient steered points, in a sentence or two."""
        plain = self.frame.iloc[0]
        rows = self.efficient()
        rows = rows[rows["vector"] != UNSTEERED].sort_values("score", ascending=False, kind="stable")
        points = [
            f"{row['vector']} x {row['scale']:g} ({_text(row, 'score')}, {_text(row, 'utility')})" for _, row in rows.iterrows()
        ]
        base = f"Unsteered: {_text(plain, 'score')}, {_text(plain, 'utility')}."
        if not points:
            return f"No steered point is efficient. {base}"
        more = f" and {len(points) - 3} more" if len(points) > 3 else ""
        return f"Not dominated ({self.score_name}, {self.utility_name}): {'; '.join(points[:3])}{more}. {base}"

    def plot(self) -> "go.Figure":
        """Utility against score, one line per vector."""
        from ..figures import plot_frontier

        return plot_frontier(self.frame, self.score_name, self.utility_name)


@checked_call
def frontier(
    model: Bridge,
    vectors: Mapping[str, Steered],
    *,
    score: Judge | Measure,
    utility: Sequence[Checkable] | Measure,
    concept: str | Sequence[str] | None = None,
    prompts: Sequence[Prompt] = (),
    attacked: Sequence[Prompt] | Rewrite | None = None,
    scales: Sequence[int | float] = (1.0, 0.8, 0.5),
    max_new_tokens: int = 128,
    temperature: int | float = 1.0,
    seed: int = 0,
    chat: bool = True,
    batch_size: int = 16,
) -> Frontier:
    """Utility against score (or against what is left of it under the suppression attack) as vectors are scaled.

    Args:
        vectors: name -> what steers (as for `generate`). For several concepts give `PerPrompt`: the utility is then the mean
            over its distinct vectors.
        score: a judge, for the mean overall score of `concept` on `prompts`; or a function, see `Measure`.
        utility: questions that know their answer (the share answered rightly, by greedy decoding); or a function, such as
            `lambda model, steer: harness_scores(model, steer, ["tinyGSM8k"]).value("tinyGSM8k")`.
        concept, prompts: what the judge looks for, and where.
        attacked: with a judge, score under the suppression attack instead; see `suppression`.
        scales: multiply every vector's factor; what has no factor is run once. The unsteered model is always there.
        max_new_tokens, temperature, seed, chat, batch_size: of the generations, as `generate`; questions are answered greedily.

    Raises:
        ValueError: no vectors, or a judge without concept and prompts.
    """
    if not vectors or UNSTEERED in vectors:
        raise ValueError(f"vectors must be at least one, and none may be called {UNSTEERED!r}: that row is always there")
    factors = check_scales(scales)
    sampling = {"max_new_tokens": max_new_tokens, "chat": chat, "batch_size": batch_size}
    measure = _judge_measure(score, concept, prompts, attacked, sampling | {"temperature": temperature, "seed": seed})
    useful = _question_measure(utility, sampling)
    points: list[tuple[str, float, Steered]] = [(UNSTEERED, 0.0, None)]
    points += [(name, scale, steered) for name, sv in vectors.items() for scale, steered in scaled(sv, factors).items()]
    rows = []
    for name, scale, steered in points:
        row = {"vector": name, "scale": scale} | _numbers("score", measure(model, steered))
        rows.append(row | _numbers("utility", _each(model, steered, useful)))
    frame = pd.DataFrame(rows)
    frame["efficient"] = _efficient(frame[["score", "utility"]].to_numpy(float))
    under = "" if attacked is None else " under the attack"
    scored = f"mean overall score{under} (0 to 2)" if isinstance(score, Judge) else getattr(score, "__name__", "score")
    right = getattr(utility, "__name__", "utility") if callable(utility) else "share of questions answered rightly (0 to 1)"
    return Frontier(frame, scored, right)


def _judge_measure(
    score: Judge | Measure,
    concept: str | Sequence[str] | None,
    prompts: Sequence[Prompt],
    attacked: Sequence[Prompt] | Rewrite | None,
    sampling: Mapping[str, Any],
) -> Measure:
    """The function that gives a score."""
    if not isinstance(score, Judge):
        if concept is not None or len(prompts) or attacked is not None:
            raise ValueError("concept, prompts and attacked belong to a judge; the function given as score knows its own")
        return score
    if concept is None or not len(prompts):
        raise ValueError("a judge needs a concept to look for, and prompts: frontier(..., concept=..., prompts=...)")
    judge, about = score, concept
    if attacked is None:
        return lambda model, steered: evaluate(model, steered, about, prompts, judge, **sampling)
    changed = attacked

    def under_attack(model: Bridge, steered: Steered) -> Evaluation:
        found = suppression(model, {"vector": steered}, about, prompts, judge, attacked=changed, **sampling)
        return found.evaluation("vector")

    return under_attack


def _question_measure(utility: Sequence[Checkable] | Measure, sampling: Mapping[str, Any]) -> Measure:
    """The function that gives a utility."""
    if callable(utility):
        return utility
    questions = as_questions(utility)

    def answered(model: Bridge, steered: Steered) -> Sequence[float]:
        asked = [question.prompt for question in questions]
        responses = generate(model, asked, steered, temperature=0.0, **sampling)
        return [float(question.check(response)) for question, response in zip(questions, responses, strict=True)]

    return answered


def _each(model: Bridge, steered: Steered, useful: Measure) -> Measured:
    """A utility is measured with one vector: for several (PerPrompt) the mean over the distinct ones, item by item."""
    if not isinstance(steered, PerPrompt):
        return useful(model, steered)
    values = [useful(model, vector) for vector in dict.fromkeys(steered)]
    listed = [[value.overall] if isinstance(value, Evaluation) else np.atleast_1d(_read(value)).tolist() for value in values]
    means = np.asarray(listed, dtype=float).mean(axis=0).tolist()
    return means if len(means) > 1 else float(means[0])


def _numbers(name: str, value: Measured) -> dict[str, Any]:
    """Mean, interval and number of items of what a measure returned."""
    if isinstance(value, Evaluation):
        low, high = value.interval() or (np.nan, np.nan)
        mean = np.nan if value.overall is None else value.overall
        counts = {f"{name}_n": len(value.frame), "unscored" if name == "score" else f"{name}_unscored": value.unscored}
    else:
        items = _read(value)
        mean, low, high = estimate(items) if items.ndim else (float(items), np.nan, np.nan)
        if items.size > 1 and np.isin(items, (0, 1)).all():  # right or wrong
            low, high = share_interval(int(items.sum()), items.size)
        counts = {f"{name}_n": items.size}
    counts = {"unscored": 0} | counts if name == "score" else counts
    return {name: mean, f"{name}_low": low, f"{name}_high": high} | counts


def _read(value: Sequence[Numbers] | Numbers) -> np.ndarray:
    """One number (without an axis) or one per item, from plain numbers, numpy or torch.

    Raises:
        ValueError: no number, or a table of them.
    """
    listed = value.detach().cpu() if isinstance(value, torch.Tensor) else value
    items = np.asarray(listed, dtype=float)
    if items.ndim > 1 or not items.size:
        raise ValueError(f"a measure must return one number, or one per item; got {items.size} of shape {items.shape}")
    return items


def _efficient(points: Float[np.ndarray, "point two"]) -> list[bool]:
    """Points that no other is at least as good as in both numbers and better than in one; a point with a NaN is not."""
    known = points[~np.isnan(points).any(axis=1)]
    flags = []
    for here in points:
        dominated = ((known >= here).all(axis=1) & (known > here).any(axis=1)).any()
        flags.append(not dominated and not np.isnan(here).any())
    return flags


def _text(row: Mapping[Any, Any] | pd.Series, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if pd.isna(row[name]):
        return f"{name} {'unscored' if name == 'score' else 'unknown'}"
    return f"{name} {row[name]:.2f}" + ("" if pd.isna(low) else f" [{low:.2f}, {high:.2f}]")
