"""The AxBench protocol: a vector per concept, sampled responses, a judge, and scores with intervals over concepts.

Wu et al. 2025; Bao et al. 2026, Sec. 5: per concept 72 training examples and 10 AlpacaEval instructions drawn with the
concept's id, responses of 128 tokens at temperature 1.0, three ratings of 0 to 2, their harmonic mean.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from ..evaluation import SCORES, Evaluation, evaluate, judge_rows
from ..generation import generate, prepare, with_steering_prompts
from ..judging import Judge, judge_identity
from ..model import Bridge, check_model, identity, weights_hash
from ..scaling import TrainConfig
from ..vector import SteeringVector
from .concepts import Concept, Vectors, checked, find_concepts
from .files import (
    Steering,
    finished,
    load_concept,
    load_steering,
    open_folder,
    read_settings,
    save_all,
    save_concept,
    save_steering,
)
from .instructions import Instructions, read_instructions
from .methods import PLAIN, Method, check_data, method_function

METHOD = "prosv"
"""Of a run that names none."""


@dataclass(frozen=True, eq=False)
class AxBenchResult:
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
        folder = Path(out)
        settings, numbers = read_settings(folder), finished(folder)
        if not numbers:
            raise ValueError(f"no concept is finished in {folder} yet")
        frames = {number: frame for number in numbers if (frame := load_concept(folder, number, None)) is not None}
        steering = {number: load_steering(folder, number, frame) for number, frame in frames.items()}
        return AxBenchResult(_joined(list(frames.values())), steering, settings)

    @property
    def evaluation(self) -> Evaluation:
        """The rows as an `Evaluation`, in which concepts of the same words are told apart by their id."""
        told = self.frame.groupby("concept")["concept_id"].transform("nunique") > 1
        numbered = self.frame["concept"] + " [" + self.frame["concept_id"].astype(str) + "]"
        return Evaluation(self.frame.assign(concept=self.frame["concept"].where(~told, numbered)))

    def to_frame(self) -> pd.DataFrame:
        """One row per generation; see `frame`."""
        return self.frame.copy()

    def by_concept(self) -> pd.DataFrame:
        """One row per concept: concept_id, genre, mean scores (0 to 2), overall_error (standard error over its responses), n,
        unscored, factor and norm (residual-stream units) of its vector (NaN for a prompt)."""
        table = self.evaluation.by_concept()
        first = self.evaluation.frame.groupby("concept", sort=False)[["concept_id", "genre"]].first()
        vectors = [self.vectors[number] for number in first["concept_id"]]
        sizes = [(sv.factor, sv.norm) if isinstance(sv, SteeringVector) else (float("nan"),) * 2 for sv in vectors]
        return first.join(table).assign(factor=[size[0] for size in sizes], norm=[size[1] for size in sizes])

    def by_genre(self) -> pd.DataFrame:
        """One row per genre: number of concepts with a score, mean scores over concepts, 95 % interval of overall, n,
        unscored."""
        rows = []
        for genre, part in self.evaluation.frame.groupby(self.frame["genre"].fillna("(none)"), sort=True):
            one = Evaluation(part)
            low, high = one.interval() or (None, None)
            means = {score: one.mean(score) for score in SCORES}
            told = {
                "genre": genre,
                "concepts": part.dropna(subset=["overall"])["concept"].nunique(),
                "n": len(part),
                "unscored": one.unscored,
            }
            rows.append(told | means | {"overall_low": low, "overall_high": high})
        return pd.DataFrame(rows).set_index("genre")

    def worst(self, n: int = 5) -> pd.DataFrame:
        """The concepts of the lowest overall scores, the lowest first; unscored ones are not among them."""
        return self.by_concept().dropna(subset=["overall"]).sort_values("overall", kind="stable").head(n)

    def redo(self, model: Bridge, row: int) -> str:
        """The response of a row of `frame` again, generated alone with its own seed."""
        told, settings = self.frame.iloc[row], self.settings
        sampling = {name: settings[name] for name in ("max_new_tokens", "temperature", "chat")}
        steering = self.vectors[int(told["concept_id"])]
        return generate(model, told["prompt"], steering, seed=[int(told["seed"])], **sampling)[0]

    def summary(self) -> str:
        """The result in two or three sentences."""
        table = self.by_concept()
        told = f"{self.settings['method']}: {self.evaluation.summary()}."
        if missing := self.evaluation.unscored:
            told += f" {missing} of {len(self.frame)} rows are unscored: rejudge=True with the run's own out judges them again."
        norms = table["norm"].dropna()
        sizes = f", vectors of norm {norms.median():.3g} ({norms.min():.3g} to {norms.max():.3g})" if len(norms) else ""
        worst = self.worst(1)
        if worst.empty:
            return told
        return f"{told} Lowest: {worst.index[0]} ({worst['overall'].iloc[0]:.2f}); {len(table)} concepts{sizes}."

    def plot(self) -> Any:
        """Score of each concept, their mean with its interval, and the norms of the vectors, as a plotly figure."""
        from ..figures import plot_benchmark

        return plot_benchmark(self)


def axbench(
    model: Bridge,
    data: str | Path | Mapping[Any, Any],
    *,
    judge: Judge,
    method: str | Method = METHOD,
    layer: int | None = None,
    config: TrainConfig | None = None,
    vectors: Vectors | None = None,
    instructions: Instructions = None,
    prompts: Mapping[Any, Sequence[str]] | None = None,
    concepts: Sequence[Any] | None = None,
    out: str | Path | None = None,
    n_instructions: int = 10,
    seed: int = 42,
    max_new_tokens: int = 128,
    temperature: int | float = 1.0,
    chat: bool = True,
    batch_size: int = 16,
    rejudge: bool = False,
    progress: bool = True,
) -> AxBenchResult:
    """Run the AxBench protocol: a vector for each concept, responses to its instructions, ratings, and their means.

    Args:
        data: an AxBench folder (see `read_axbench`), or concept -> `SteeringData` (or what it can be built from). A concept's
            id is `metadata["concept_id"]`, else its place in the mapping.
        judge: rates each response; where it fails, the row is unscored and keeps the reason.
        method: "prosv", "fssv", "prosv-simpo", "fssv-simpo", "prosv-reps", "fssv-reps", "loreft", "diffmean", "pca", "probe",
            "prompt", "unsteered", or a function (model, data) -> SteeringVector, SteeringPrompt or None.
        layer: 0-based block whose output is edited, for the named methods that edit one.
        config: of training; None takes the published settings.
        vectors: what steers, by concept id (or by the mapping's names), or a folder of `<id>.safetensors`; nothing is trained,
            and method, layer and config stay as they are.
        instructions: see `read_instructions`; each concept's are drawn from them with its id, as the benchmark draws them.
        prompts: concept id (or name) -> texts (or one text), instead of instructions.
        concepts: ids (or names) of those to run; None = all.
        out: folder to write to; each concept at once, when it is done, and in the end all rows in `generations.parquet`. A
            run that was killed goes on where it stopped. A method given as a function is recognised by its name alone.
        n_instructions: drawn per concept.
        seed: of training, and with a concept's id and an instruction's place of each generation.
        max_new_tokens, temperature, chat, batch_size: as `generate`.
        rejudge: judge the unscored rows of finished concepts again, without generating.

    Raises:
        ValueError, DataError: settings, prompts, data or vectors that cannot be used, before any work starts; an `out` that
            holds another run, or whose files are not intact.
        TypeError: a judge that cannot score; a method that gives something else than what steers.
        OSError: an `out` that cannot be written to.
    """
    check_model(model)
    check_judge(judge)
    _check_choices(prompts, instructions, vectors, method, layer, config)
    if rejudge and out is None:
        raise ValueError("rejudge is for the finished concepts of an out=..., which is not given")
    sampling = {"max_new_tokens": max_new_tokens, "temperature": temperature, "chat": chat}
    make = method_function(model, method, layer, config, seed) if vectors is None else None
    drawn = read_instructions(instructions) if prompts is None else None
    found = find_concepts(data, concepts, prompts, drawn, n_instructions, vectors)
    _check_sampling(temperature, batch_size)
    for one in found:
        if make is not None:
            check_data(method, one.data)
        known = make(model, one.data) if make is not None and method in PLAIN else one.given
        _check_prompts(model, one, known, max_new_tokens, chat)
    about = {"method": _name_of(method) if vectors is None else "given vectors", "layer": layer, "seed": seed}
    settings = about | sampling | {"judge": judge_identity(judge), "config": None if config is None else asdict(config)}
    settings |= {"model": identity(model) | {"weights": weights_hash(model)}, "schema": 1}
    folder = None if out is None else Path(out)
    done = {} if folder is None else _finished(folder, settings, found)
    frames, steering = [], {}
    for one in tqdm(found, desc="concepts", disable=not progress):
        if one.number in done:
            known, steering[one.number] = done[one.number]
            frame = _judged_again(known, judge) if rejudge else known
        else:
            known = None
            steering[one.number] = (
                one.given if make is None else checked(make(model, one.data), f"{one.words}: the method gave")
            )
            name = None if folder is None else save_steering(folder, one.number, steering[one.number])
            frame = _run(model, one, steering[one.number], judge, seed, sampling | {"batch_size": batch_size}, name)
        if folder is not None and frame is not known:
            save_concept(folder, one.number, frame, one.mark)
        frames.append(frame)
    whole = _joined(frames)
    if folder is not None:
        save_all(folder, whole)
    return AxBenchResult(whole, steering, settings)


def generation_seeds(seed: int, concept_id: int, n: int) -> list[int]:
    """The seed of each generation of a concept; that of instruction i depends on `seed`, the id and i alone."""
    digests = (hashlib.sha256(f"{seed}:{concept_id}:{place}".encode()).digest() for place in range(n))
    return [int.from_bytes(digest[:7], "big") for digest in digests]


# --- checks -----------------------------------------------------------------------------------------------------------


def check_judge(judge: Any) -> None:
    """Raise TypeError for what cannot score a response."""
    if isinstance(judge, type):
        raise TypeError(f"the judge is the class {judge.__name__}: give an object of it, such as {judge.__name__}(...)")
    if not isinstance(judge, Judge) or not callable(judge.score):
        kind = type(judge).__name__
        raise TypeError(f"the judge is of type {kind} and has no method score(concept, prompt, response) -> Scores")


def _check_choices(
    prompts: Any,
    instructions: Any,
    vectors: Vectors | None,
    method: str | Method,
    layer: int | None,
    config: TrainConfig | None,
) -> None:
    """Raise ValueError for arguments of which one would be ignored."""
    if prompts is not None and instructions is not None:
        raise ValueError("instructions are drawn, prompts are given: give one of the two")
    if vectors is None:
        return
    chosen = {"method": None if method == METHOD else method, "layer": layer, "config": config}
    ignored = [name for name, value in chosen.items() if value is not None]
    if ignored:
        raise ValueError(f"vectors are given, so that nothing is made of {' and '.join(ignored)}: leave out one or the other")


def _check_sampling(temperature: int | float, batch_size: int) -> None:
    if not 0 <= temperature < math.inf or batch_size < 1:
        raise ValueError(f"temperature {temperature} must be at least 0 and finite, batch_size {batch_size} at least 1")


def _check_prompts(model: Bridge, concept: Concept, steering: Steering, max_new_tokens: int, chat: bool) -> None:
    """Raise ValueError if a concept's prompts do not fit into the context, or what steers (if it is known) into the model."""
    batch, vectors = with_steering_prompts(concept.prompts, steering)
    try:
        prepare(model, batch, vectors, max_new_tokens, chat)
    except ValueError as error:
        raise ValueError(f"{concept.words}: {error}") from error


# --- one concept ------------------------------------------------------------------------------------------------------


def _finished(
    folder: Path, settings: Mapping[str, Any], concepts: Sequence[Concept]
) -> dict[int, tuple[pd.DataFrame, Steering]]:
    """The folder opened for this run; id -> rows and what steered, of the concepts that are finished there."""
    open_folder(folder, settings)
    done = {}
    for one in concepts:
        frame = load_concept(folder, one.number, one.mark)
        if frame is not None:
            done[one.number] = frame, load_steering(folder, one.number, frame)
    return done


def _run(
    model: Bridge, concept: Concept, steering: Steering, judge: Judge, seed: int, sampling: Mapping[str, Any], name: str | None
) -> pd.DataFrame:
    """The judged rows of one concept."""
    seeds = generation_seeds(seed, concept.number, len(concept.prompts))
    rows = evaluate(model, steering, concept.words, concept.prompts, judge, seed=seeds, **sampling).frame
    rows.insert(0, "concept_id", concept.number)
    rows.insert(2, "genre", concept.data.metadata.get("genre"))
    rows.insert(3, "instruction", range(len(rows)))
    return rows.assign(vector_file=name).astype({"genre": object, "error": object, "vector_file": object})


def _judged_again(frame: pd.DataFrame, judge: Judge) -> pd.DataFrame:
    """The rows with the unscored ones judged anew; the same object if there are none."""
    places = frame.index[frame["overall"].isna()]
    if places.empty:
        return frame
    asked = frame.loc[places]
    rows = judge_rows(judge, *(asked[name].tolist() for name in ("concept", "prompt", "response", "seed")))
    changed = frame.astype({"error": object})
    told = {"replies"} & set(rows[0])
    if told - set(frame):
        changed.insert(list(changed).index("vector_file"), "replies", None)
    changed = changed.astype(dict.fromkeys(told, object))
    for place, row in zip(places, rows, strict=True):
        for name in {*SCORES, "error", *told}:
            changed.loc[place, name] = row[name]
    return changed


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All concepts' rows; what is missing everywhere stays None."""
    whole = pd.concat([frame.astype({"error": object}) for frame in frames], ignore_index=True)
    for column in {"genre", "error", "vector_file", "replies"} & set(whole):
        whole[column] = [None if pd.isna(value) else value for value in whole[column]]
        whole[column] = whole[column].astype(object)
    return whole


def _name_of(method: str | Method) -> str:
    """How a method is recognised when a run goes on."""
    if isinstance(method, str):
        return method
    return f"{method.__module__}.{getattr(method, '__qualname__', type(method).__name__)}"
