"""Generations -> ratings -> numbers with intervals, and what was not scored counted beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from .data import Prompt
from .generation import as_prompts, generate, row_seeds
from .judging import RATINGS, UNSCORED, Judge, Scores
from .model import Bridge
from .steering import PerPrompt, SteerText

SCORES = (*(f"{name}_score" for name in RATINGS), "overall")
RESAMPLES = 2000


@dataclass(frozen=True)
class Evaluation:
    """Judged generations.

    `frame` has one row per generation: concept, prompt, response, seed, concept_score, instruct_score, fluency_score,
    overall (NaN where unscored) and error (why a row is unscored, else None).
    """

    frame: pd.DataFrame

    @property
    def overall(self) -> float | None:
        """Mean overall score, 0 to 2: over the scored rows of each concept, then over concepts. None if none is scored."""
        return self.mean("overall")

    @property
    def unscored(self) -> int:
        """Rows without an overall score; they are in no mean."""
        return int(self.frame["overall"].isna().sum())

    def mean(self, score: str = "overall") -> float | None:
        """Mean of one of the scores over concepts; None if no row has it."""
        value = self.frame.groupby("concept")[score].mean().mean()
        return None if pd.isna(value) else float(value)

    def by_concept(self) -> pd.DataFrame:
        """One row per concept: the mean of each score, the standard error of overall over rows, n, unscored."""
        groups = self.frame.groupby("concept", sort=False)
        table = groups[list(SCORES)].mean()
        table["overall_error"] = groups["overall"].sem()
        table["n"] = groups.size()
        table["unscored"] = groups["overall"].apply(lambda column: int(column.isna().sum()))
        return table

    def interval(self, score: str = "overall", level: float = 0.95, seed: int = 0) -> tuple[float, float] | None:
        """Percentile bootstrap interval of the mean: over concepts, whole, if there are several, else over rows."""
        scored = self.frame.dropna(subset=[score])
        units = scored.groupby("concept")[score].mean() if scored["concept"].nunique() > 1 else scored[score]
        if units.empty:
            return None
        draws = np.random.default_rng(seed).choice(units.to_numpy(), size=(RESAMPLES, len(units)))
        low, high = np.quantile(draws.mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def summary(self) -> str:
        """The result in a sentence."""
        n, concepts = len(self.frame), self.frame["concept"].nunique()
        interval, overall = self.interval(), self.overall
        if overall is None or interval is None:
            return f"none of {n} responses could be scored"
        parts = ", ".join(f"{name} {self.mean(f'{name}_score'):.2f}" for name in RATINGS)
        unit = f"{concepts} concepts" if concepts > 1 else f"{n} responses to one concept"
        return (
            f"overall {overall:.2f} of 2 (95 % interval {interval[0]:.2f} to {interval[1]:.2f} over {unit}); {parts}; "
            f"{self.unscored} of {n} unscored"
        )

    @staticmethod
    def concat(parts: Sequence["Evaluation"]) -> "Evaluation":
        """Several evaluations as one, for means over concepts."""
        return Evaluation(pd.concat([part.frame for part in parts], ignore_index=True))


def evaluate(
    model: Bridge,
    sv: SteerText | PerPrompt,
    concept: str | Sequence[str],
    prompts: Sequence[Prompt],
    judge: Judge,
    *,
    max_new_tokens: int = 128,
    temperature: int | float = 1.0,
    seed: int | Sequence[int] = 0,
    chat: bool = True,
    batch_size: int = 16,
    progress: bool = False,
) -> Evaluation:
    """Generate a steered response to each prompt and have it judged for a concept (Bao et al. 2026, Sec. 5).

    Args:
        sv: what steers: a vector, several together, a `SteeringPrompt`, one per prompt, or None for the plain model. The
            judge is shown the prompts without steering prompts.
        concept: what the judge looks for, in all responses or one concept per prompt.
        judge: anything with `score(concept, prompt, response) -> Scores`. Where it raises, the row is unscored and keeps
            the reason; only an interrupt stops the evaluation.
        max_new_tokens, temperature, seed, chat, batch_size, progress: as `generate`.
    """
    batch = as_prompts(prompts)
    concepts = [concept] * len(batch) if isinstance(concept, str) else list(concept)
    if len(concepts) != len(batch):
        raise ValueError(f"{len(concepts)} concepts for {len(batch)} prompts: give one, or one per prompt")
    responses = generate(
        model,
        batch,
        sv,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        chat=chat,
        batch_size=batch_size,
        progress=progress,
    )
    rows = []
    seeds = list(seed) if isinstance(seed, Sequence) else row_seeds(seed, len(batch))
    for about, prompt, response, own in zip(concepts, batch, responses, seeds, strict=True):
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        scores, error = ask(judge, about, text, response)
        ratings = {f"{name}_score": getattr(scores, name) for name in RATINGS}
        rows.append(
            {"concept": about, "prompt": text, "response": response, "seed": own}
            | ratings
            | {"overall": scores.overall, "error": error}
        )
    return Evaluation(pd.DataFrame(rows).astype(dict.fromkeys(SCORES, float)))


def ask(judge: Judge, concept: str, prompt: str, response: str) -> tuple[Scores, str | None]:
    """The judge's scores, or unscored and why."""
    try:
        scores = judge.score(concept, prompt, response)
    except Exception as error:  # whatever goes wrong in a judge costs this row, never the run, never a zero
        return UNSCORED, f"{type(error).__name__}: {error}"
    if not isinstance(scores, Scores):
        return UNSCORED, f"the judge returned {type(scores).__name__}, not Scores"
    return scores, None if scores.overall is not None else "the judge left a rating out"


@runtime_checkable
class Checkable(Protocol):
    """A question that knows its answer, such as Terrarium's."""

    @property
    def prompt(self) -> str: ...

    def check(self, response: str) -> bool: ...


def accuracy(
    model: Bridge,
    sv: SteerText | PerPrompt,
    questions: Sequence[Checkable],
    *,
    max_new_tokens: int = 128,
    chat: bool = True,
    batch_size: int = 32,
) -> float:
    """Share of questions answered rightly by greedy decoding, 0 to 1: what a vector costs elsewhere."""
    prompts = [question.prompt for question in questions]
    settings = {"max_new_tokens": max_new_tokens, "chat": chat, "batch_size": batch_size}
    responses = generate(model, prompts, sv, temperature=0.0, **settings)
    right = [question.check(response) for question, response in zip(questions, responses, strict=True)]
    return sum(right) / len(right)
