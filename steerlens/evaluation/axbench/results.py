"""What a run of the AxBench protocol gives: rows, tables, sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...judges.base import Judge, check_judge, judge_identity
from ...model.bridge import Bridge
from ...result import Result
from ...scores import SCORES
from ...steering.generation import generate
from ...vector import SteeringVector
from ..scoring import Evaluation, as_frame, judge_rows
from .run_folder import Steering, finished, folder_at, load_concept, load_steering, read_settings

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)
class AxBenchResult(Result):
    """What a method scored on each concept."""

    frame: pd.DataFrame
    """One row per generation: concept_id, concept, genre, instruction (its place among the concept's, from 0), prompt,
    response, seed, concept_score, instruct_score, fluency_score, overall (0 to 2, NaN where unscored), error, replies (if the
    judge writes), vector_file (in `out`)."""
    vectors: Mapping[int, Steering]
    """Concept id -> what steered."""
    settings: Mapping[str, Any]
    """Method, model, seed and sampling, as JSON values."""

    @staticmethod
    def open(out: str | Path) -> "AxBenchResult":
        """The concepts that are finished in the `out` of a run, by id, without a model and without running anything.

        Raises:
            FileNotFoundError: no run of the protocol began there.
            ValueError: no concept is finished, or a file is not intact.
        """
        folder = folder_at(out)
        settings, numbers = read_settings(folder), finished(folder)
        if not numbers:
            raise ValueError(f"no concept is finished in {folder} yet")
        frames = {number: frame for number in numbers if (frame := load_concept(folder, number, None)) is not None}
        steering = {number: load_steering(folder, number, frame) for number, frame in frames.items()}
        return AxBenchResult(joined(list(frames.values())), steering, settings)

    @property
    def evaluation(self) -> Evaluation:
        """The rows as an `Evaluation`, in which concepts of the same words are told apart by their id."""
        shared = self.frame.groupby("concept")["concept_id"].transform("nunique") > 1
        numbered = self.frame["concept"] + " [" + self.frame["concept_id"].astype(str) + "]"
        names = self.frame["concept"].where(~shared, numbered)
        if self.frame.groupby(names)["concept_id"].nunique().max() > 1:  # one is called what another is numbered
            names = numbered
        return Evaluation(self.frame.assign(concept=names))

    def to_frame(self) -> pd.DataFrame:
        """One row per generation; see `frame`."""
        return self.frame.copy()

    def by_concept(self) -> pd.DataFrame:
        """One row per concept: concept_id, genre, what `Evaluation.by_concept` says of it (mean scores from 0 to 2,
        overall_error, n, unscored, overall_low, overall_high), and factor and norm (residual-stream units) of its vector (NaN
        for a prompt)."""
        table = self.evaluation.by_concept()
        first = self.evaluation.frame.groupby("concept", sort=False)[["concept_id", "genre"]].first()
        vectors = [self.vectors[number] for number in first["concept_id"]]
        sizes = [(sv.factor, sv.norm) if isinstance(sv, SteeringVector) else (float("nan"),) * 2 for sv in vectors]
        return first.join(table).assign(factor=[size[0] for size in sizes], norm=[size[1] for size in sizes])

    def by_genre(self) -> pd.DataFrame:
        """One row per genre: number of concepts with a score, mean scores over concepts, 95 % interval of overall over them
        (NaN for one concept; only their range below five), n, unscored."""
        rows = []
        for genre, part in self.evaluation.frame.groupby(self.frame["genre"].fillna("(none)"), sort=True):
            evaluation = Evaluation(part)
            n_scored = part.dropna(subset=["overall"])["concept"].nunique()
            low, high = (evaluation.interval() if n_scored > 1 else None) or (None, None)
            means = {score: evaluation.mean(score) for score in SCORES}
            counts = {"genre": genre, "concepts": n_scored, "n": len(part), "unscored": evaluation.unscored}
            rows.append(counts | means | {"overall_low": low, "overall_high": high})
        return pd.DataFrame(rows).set_index("genre")

    def worst(self, n: int = 5) -> pd.DataFrame:
        """The concepts of the lowest overall scores, the lowest first; unscored ones are not among them."""
        return _lowest(self.by_concept(), n)

    def judged_by(self, judge: Judge) -> "AxBenchResult":
        """The same responses rated by another judge, without generating; nothing is written."""
        check_judge(judge)
        settings = {**self.settings, "judge": judge_identity(judge)}
        return AxBenchResult(rated(self.frame, judge), self.vectors, settings)

    def redo(self, model: Bridge, row: int) -> str:
        """The response of a row of `frame` again, generated alone with its own seed."""
        asked, settings = self.frame.iloc[row], self.settings
        sampling = {name: settings[name] for name in ("max_new_tokens", "temperature", "chat")}
        steering = self.vectors[int(asked["concept_id"])]
        return generate(model, asked["prompt"], steering, seed=[int(asked["seed"])], **sampling)[0]

    def summary(self) -> str:
        """The result in two or three sentences."""
        table = self.by_concept()
        text = self._scores()
        if missing := self.evaluation.unscored:
            text += f" {missing} of {len(self.frame)} rows are unscored: rejudge=True with the run's own out judges them again."
        norms = table["norm"].dropna()
        sizes = f", vectors of norm {norms.median():.3g} ({norms.min():.3g} to {norms.max():.3g})" if len(norms) else ""
        worst = _lowest(table, 1)
        if worst.empty:
            return text
        return f"{text} Lowest: {worst.index[0]} ({worst['overall'].iloc[0]:.2f}); {len(table)} concepts{sizes}."

    def _scores(self) -> str:
        """The method and what it scored, in a sentence."""
        return f"{self.settings['method']}: {self.evaluation.summary()}."

    def plot(self) -> "go.Figure":
        """Score of each concept, their mean with its interval, and the norms of the vectors."""
        from ...figures import plot_benchmark

        evaluation = self.evaluation
        return plot_benchmark(self.by_concept().reset_index(), evaluation.overall, evaluation.interval(), self._scores())


def _lowest(table: pd.DataFrame, n: int) -> pd.DataFrame:
    return table.dropna(subset=["overall"]).sort_values("overall", kind="stable").head(n)


def rated(frame: pd.DataFrame, judge: Judge) -> pd.DataFrame:
    """The rows with their responses rated anew."""
    rows = judge_rows(judge, *(frame[name].tolist() for name in ("concept", "prompt", "response", "seed")))
    new = as_frame(rows).set_index(frame.index)
    names = [name for name in (*SCORES, "error", "replies") if name in new]
    return _ordered(frame.drop(columns=[*SCORES, "error", "replies"], errors="ignore").join(new[names]))


def mended(frame: pd.DataFrame, judge: Judge) -> pd.DataFrame:
    """The rows with those that lack a score rated anew, except where the new verdict lacks more; the same object if none is."""
    unscored = frame.index[frame["overall"].isna()]
    if unscored.empty:
        return frame
    before, after = frame.loc[unscored], rated(frame.loc[unscored], judge)
    better = after[list(SCORES)].isna().sum(axis=1) <= before[list(SCORES)].isna().sum(axis=1)
    return joined([frame.drop(index=unscored), before[~better], after[better]], keep_order=True)


def joined(frames: Sequence[pd.DataFrame], keep_order: bool = False) -> pd.DataFrame:
    """All rows as one table, in the order of their index if that is kept; a text that is missing is None."""
    parts = [frame.astype({"error": object}) for frame in frames if len(frame)]
    whole = pd.concat(parts, ignore_index=not keep_order)
    whole = whole.sort_index() if keep_order else whole
    for column in {"genre", "error", "vector_file", "replies"} & set(whole):
        whole[column] = pd.Series([None if pd.isna(value) else value for value in whole[column]], whole.index, dtype=object)
    return _ordered(whole)


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns in the order of `AxBenchResult.frame`."""
    first = ("concept_id", "concept", "genre", "instruction", "prompt", "response", "seed", *SCORES, "error", "replies")
    return frame[[name for name in (*first, "vector_file") if name in frame]]
