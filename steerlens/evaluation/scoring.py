"""Generations -> ratings -> numbers with intervals, and what was not scored counted beside them."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import pandas as pd

from ..arguments import checked_call
from ..data import Prompt, check_text
from ..intervals import mean_interval, warning
from ..judges.base import BatchJudge, Judge, JudgeError, Question, Verdict, check_judge
from ..model.bridge import Bridge
from ..reproducibility import prompt_seeds
from ..result import Result
from ..scores import RATINGS, SCORES, UNSCORED, Scores
from ..steering.generation import as_prompts, generate
from ..steering.hooks import PerPrompt, SteerText

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_DRAWN = 20
"""Concepts in the figure, the weakest."""


@dataclass(frozen=True, repr=False)
class Evaluation(Result):
    """Judged generations.

    `frame` has one row per generation: concept, prompt, response, seed, concept_score, instruct_score, fluency_score,
    overall (NaN where unscored) and error (why a row is unscored, else None); with a judge that writes, also replies (what it
    wrote, as JSON: rating -> text).
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

    def to_frame(self) -> pd.DataFrame:
        """One row per generation; see `frame`."""
        return self.frame.copy()

    def by_concept(self) -> pd.DataFrame:
        """One row per concept: the mean of each score, the standard error of overall over rows, n, unscored, and overall_low
        and overall_high, the 95 % bootstrap interval of overall over rows (NaN where there is none; see `interval`)."""
        groups = self.frame.groupby("concept", sort=False)
        table = groups[list(SCORES)].mean()
        table["overall_error"] = groups["overall"].sem()
        table["n"] = groups.size()
        table["unscored"] = groups["overall"].apply(lambda column: int(column.isna().sum()))
        ends = [Evaluation(rows).interval() or (math.nan, math.nan) for _, rows in groups]
        return table.assign(overall_low=[low for low, _ in ends], overall_high=[high for _, high in ends])

    def interval(self, score: str = "overall", level: float = 0.95, seed: int = 0) -> tuple[float, float] | None:
        """Bootstrap interval of the mean: over scored concepts, drawn whole, if there are several, else over rows.

        None without a score, and with a single scored row, which says nothing about its own spread. With fewer than 5
        concepts it is too narrow; see `intervals.tails`.
        """
        scored = self.frame.dropna(subset=[score])
        units = scored.groupby("concept")[score].mean() if scored["concept"].nunique() > 1 else scored[score]
        return mean_interval(units.to_numpy(), level, seed)

    def summary(self) -> str:
        """The result in a sentence."""
        n, overall = len(self.frame), self.overall
        if overall is None:
            reasons = self.frame["error"].dropna()
            return f"none of {n} responses could be scored" + (f"; the first reason: {reasons.iloc[0]}" if len(reasons) else "")
        parts = ", ".join(f"{name} {self.mean(f'{name}_score'):.2f}" for name in RATINGS)
        return f"overall {overall:.2f} of 2 ({self._spread()}); {parts}; {self.unscored} of {n} unscored"

    def _spread(self) -> str:
        """The interval, over what it is, and how many concepts are not in it."""
        scored, interval = self.frame.dropna(subset=["overall"]), self.interval()
        concepts = scored["concept"].nunique()
        missing = self.frame["concept"].nunique() - concepts
        unit = f"{concepts} concepts" if concepts > 1 else f"{len(scored)} responses to one concept"
        text = "one response, no interval"
        if interval is not None:
            text = f"95 % interval {interval[0]:.2f} to {interval[1]:.2f} over {unit}"
            text += warning(concepts if concepts > 1 else len(scored))
        return text + (f"; {missing} concept{'s' if missing > 1 else ''} unscored" if missing else "")

    def plot(self) -> "go.Figure":
        """Mean scores with the interval of the overall one, of all concepts and of each, the weakest first."""
        from ..figures import plot_scores

        concepts = self.by_concept().rename_axis("method").sort_values("overall", kind="stable").reset_index()
        rows = concepts.head(MOST_DRAWN).to_dict("records")
        if len(concepts) > 1:
            low, high = self.interval() or (math.nan, math.nan)
            means = {score: math.nan if (mean := self.mean(score)) is None else mean for score in SCORES}
            rows.insert(0, {"method": f"mean of {len(concepts)} concepts", **means, "overall_low": low, "overall_high": high})
        summary = "" if self.overall is None else f"{self.summary()}."
        return plot_scores(pd.DataFrame(rows), "Scores by concept", "concept", summary)

    @staticmethod
    def concat(parts: Sequence["Evaluation"]) -> "Evaluation":
        """Several evaluations as one, for means over concepts."""
        return Evaluation(pd.concat([part.frame for part in parts], ignore_index=True))


@checked_call
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
    batch_size: int | None = 16,
    template_args: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Generate a steered response to each prompt and have it judged for a concept (Bao et al. 2026, Sec. 5).

    Args:
        sv: what steers: a vector, several together, a `SteeringPrompt`, one per prompt, or None for the plain model. The
            judge is shown the prompts without steering prompts.
        concept: what the judge looks for, in all responses or one concept per prompt.
        judge: anything with `score(concept, prompt, response) -> Scores`; a `BatchJudge` gets all questions at once. Where
            it raises, the row is unscored and keeps the reason; only an interrupt stops the evaluation.
        max_new_tokens, temperature, seed, chat, batch_size, template_args, progress: as `generate`.
    """
    check_judge(judge)
    batch = as_prompts(prompts)
    concepts = concept_of_each(concept, len(batch))
    responses = generate(
        model,
        batch,
        sv,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        chat=chat,
        batch_size=batch_size,
        template_args=template_args,
        progress=progress,
    )
    return Evaluation(as_frame(judge_rows(judge, concepts, batch, responses, prompt_seeds(seed, len(batch)))))


def concept_of_each(concept: str | Sequence[str], n: int) -> list[str]:
    """The concept of each of `n` prompts; raises ValueError for another number of them, or what is no text."""
    concepts = [concept] * n if isinstance(concept, str) else list(concept)
    if len(concepts) != n:
        raise ValueError(f"{len(concepts)} concepts for {n} prompts: give one, or one per prompt")
    for number, words in enumerate(concepts):
        if not isinstance(words, str) or not words.strip():
            raise ValueError(f"concept {number} is {words!r}: a judge needs words to look for")
        check_text(words, f"concept {number}")
    return concepts


def judge_rows(
    judge: Judge, concepts: Sequence[str], prompts: Sequence[Prompt], responses: Sequence[str], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Rows of `Evaluation.frame` for responses that exist already, one each. Of a conversation the judge sees the last turn."""
    texts = [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts]
    questions = [Question(*asked) for asked in zip(concepts, texts, responses, strict=True)]
    verdicts = ask_all(judge, questions)
    rows = []
    for question, seed, (scores, error, _) in zip(questions, seeds, verdicts, strict=True):
        ratings = {f"{name}_score": getattr(scores, name) for name in RATINGS}
        rows.append(question._asdict() | {"seed": seed} | ratings | {"overall": scores.overall, "error": error})
    if any(verdict.replies is not None for verdict in verdicts):
        for row, verdict in zip(rows, verdicts, strict=True):
            row["replies"] = None if verdict.replies is None else json.dumps(dict(verdict.replies), ensure_ascii=False)
    return rows


def as_frame(rows: Sequence[Mapping[str, Any]], columns: Iterable[str] | None = None) -> pd.DataFrame:
    """Judged rows as a frame in which a missing score is NaN and a missing text None."""
    frame = pd.DataFrame(rows, columns=None if columns is None else list(columns)).astype(dict.fromkeys(SCORES, float))
    for name in {"error", "replies"} & set(frame):
        texts = [None if pd.isna(value) else value for value in frame[name]]
        frame[name] = pd.Series(texts, index=frame.index, dtype=object)
    return frame


def ask_all(judge: Judge, questions: Sequence[Question]) -> list[Verdict]:
    """A verdict per question, in order; whatever goes wrong in a judge is a reason in its rows, never an error or a zero."""
    if not isinstance(judge, BatchJudge):
        return [ask(judge, *question) for question in questions]
    try:
        verdicts = list(judge.score_many(questions))
    except JudgeError as error:
        verdicts = list(error.verdicts) or [Verdict(UNSCORED, str(error))] * len(questions)
    except Exception as error:
        return [Verdict(UNSCORED, f"{type(error).__name__}: {error}")] * len(questions)
    if len(verdicts) != len(questions):  # which belongs to which cannot be known
        reason = f"the judge returned {len(verdicts)} verdicts for {len(questions)} questions"
        return [Verdict(UNSCORED, reason)] * len(questions)
    return [_checked(verdict) for verdict in verdicts]


def ask(judge: Judge, concept: str, prompt: str, response: str) -> Verdict:
    """The judge's scores, or unscored and why."""
    try:
        scores = judge.score(concept, prompt, response)
    except Exception as error:  # whatever goes wrong in a judge costs this row, never the run, never a zero
        return Verdict(UNSCORED, f"{type(error).__name__}: {error}")
    if not isinstance(scores, Scores):
        return Verdict(UNSCORED, f"the judge returned {type(scores).__name__}, not Scores")
    return _checked(Verdict(scores))


def _checked(verdict: Any) -> Verdict:
    """A verdict with a reason wherever a rating is missing."""
    if not isinstance(verdict, Verdict) or not isinstance(verdict.scores, Scores):
        return Verdict(UNSCORED, f"the judge returned {type(verdict).__name__}, not a Verdict with Scores")
    if verdict.scores.overall is None and verdict.error is None:
        return verdict._replace(error="the judge left a rating out")
    return verdict


@runtime_checkable
class Checkable(Protocol):
    """A question that knows its answer, such as Terrarium's."""

    @property
    def prompt(self) -> str: ...

    def check(self, response: str) -> bool: ...


def as_questions(questions: Iterable[Checkable]) -> list[Checkable]:
    """The questions in a list; TypeError for what are none, ValueError if there are none."""
    if isinstance(questions, (str, Mapping, type)) or not isinstance(questions, Iterable):
        raise TypeError(f"the questions are {questions!r:.60}; they must be a list, such as terrarium.utility_questions()")
    listed = list(questions)
    for number, question in enumerate(listed):
        if not isinstance(question, Checkable):
            raise TypeError(f"question {number} is {question!r:.60}; it must have a prompt and check(response) -> bool")
    if not listed:
        raise ValueError("there are no questions to measure accuracy or utility with")
    return listed


@checked_call
def accuracy(
    model: Bridge,
    sv: SteerText | PerPrompt,
    questions: Sequence[Checkable],
    *,
    max_new_tokens: int = 128,
    chat: bool = True,
    batch_size: int = 32,
) -> float:
    """Share of questions answered rightly by greedy decoding, 0 to 1: what a vector costs elsewhere.

    Raises:
        TypeError: something that is no question.
        ValueError: there are no questions, or as `generate`.
    """
    questions = as_questions(questions)
    prompts = [question.prompt for question in questions]
    settings = {"max_new_tokens": max_new_tokens, "chat": chat, "batch_size": batch_size}
    responses = generate(model, prompts, sv, temperature=0.0, **settings)
    right = [question.check(response) for question, response in zip(questions, responses, strict=True)]
    return sum(right) / len(right)
