"""The AxBench protocol: a vector per concept, sampled responses, a judge, and scores with intervals over concepts.

Wu et al. 2025; Bao et al. 2026, Sec. 5: per concept 72 training examples and 10 AlpacaEval instructions drawn with the
concept's id, responses of 128 tokens at temperature 1.0, three ratings of 0 to 2, their harmonic mean.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from tqdm import tqdm

from ..data import SteeringData, as_data, read_axbench
from ..evaluation import SCORES, Evaluation, evaluate, judge_rows
from ..generation import generate
from ..judging import Judge
from ..model import Bridge, check_model, identity
from ..prompting import SteeringPrompt
from ..scaling import TrainConfig
from ..steering import check_fits
from ..vector import SteeringVector
from .files import Steering, fingerprint, load_concept, load_steering, open_folder, save_concept, save_steering
from .instructions import Instructions, draw_instructions, read_instructions
from .methods import Method, check_data, method_function

Vectors = Mapping[Any, Steering] | str | Path
"""Concept id (or name) -> what steers for it, or a folder with `3.safetensors` for concept 3."""


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
        """One row per genre: number of concepts, mean scores over concepts, 95 % interval of overall, n, unscored."""
        rows = []
        for genre, part in self.evaluation.frame.groupby(self.frame["genre"].fillna("(none)"), sort=True):
            one = Evaluation(part)
            low, high = one.interval() or (None, None)
            means = {score: one.mean(score) for score in SCORES}
            told = {"genre": genre, "concepts": part["concept"].nunique(), "n": len(part), "unscored": one.unscored}
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
        """The result in two sentences."""
        table = self.by_concept()
        told = f"{self.settings['method']}: {self.evaluation.summary()}."
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
    method: str | Method = "prosv",
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
        vectors: what steers, by concept id (or by the mapping's names), or a folder of `<id>.safetensors`; nothing is trained.
        instructions: see `read_instructions`; each concept's are drawn from them with its id, as the benchmark draws them.
        prompts: concept id (or name) -> texts, instead of instructions.
        concepts: ids (or names) of those to run; None = all.
        out: folder to write to; each concept at once, when it is done. A run that was killed goes on where it stopped. A
            method given as a function is recognised by its name alone.
        n_instructions: drawn per concept.
        seed: of training, and with a concept's id and an instruction's place of each generation.
        max_new_tokens, temperature, chat, batch_size: as `generate`.
        rejudge: judge the unscored rows of finished concepts again, without generating.

    Raises:
        ValueError, DataError: settings, data or vectors that cannot be used, before any work starts; an `out` that holds
            another run.
    """
    check_model(model)
    if prompts is not None and instructions is not None:
        raise ValueError("instructions are drawn, prompts are given: give one of the two")
    make = method_function(model, method, layer, config, seed) if vectors is None else None
    drawn = read_instructions(instructions) if prompts is None else None
    found = _concepts(data, concepts, prompts, drawn, n_instructions, vectors)
    for one in found:
        if make is not None:
            check_data(method, one.data)
        elif isinstance(one.given, SteeringVector):
            check_fits(model, one.given)
    sampling = {"max_new_tokens": max_new_tokens, "temperature": temperature, "chat": chat}
    about = {"method": _name_of(method) if vectors is None else "given vectors", "layer": layer, "seed": seed}
    settings = about | sampling | {"judge": _describe(judge), "config": None if config is None else asdict(config)}
    settings |= {"model": identity(model), "schema": 1}
    folder = None if out is None else Path(out)
    if folder is not None:
        open_folder(folder, settings)
    frames, steering = [], {}
    for one in tqdm(found, desc="concepts", disable=not progress):
        known = None if folder is None else load_concept(folder, one.number, one.mark)
        if known is not None and folder is not None:
            name = known["vector_file"].iloc[0]
            steering[one.number] = load_steering(folder, None if pd.isna(name) else name)
            frame = _judged_again(known, judge) if rejudge else known
        else:
            steering[one.number] = _checked(one.given if make is None else make(model, one.data), one)
            name = None if folder is None else save_steering(folder, one.number, steering[one.number])
            frame = _run(model, one, steering[one.number], judge, seed, sampling | {"batch_size": batch_size}, name)
        if folder is not None and frame is not known:
            save_concept(folder, one.number, frame, one.mark)
        frames.append(frame)
    return AxBenchResult(_joined(frames), steering, settings)


def generation_seeds(seed: int, concept_id: int, n: int) -> list[int]:
    """The seed of each generation of a concept; that of instruction i depends on `seed`, the id and i alone."""
    digests = (hashlib.sha256(f"{seed}:{concept_id}:{place}".encode()).digest() for place in range(n))
    return [int.from_bytes(digest[:7], "big") for digest in digests]


# --- what is run ------------------------------------------------------------------------------------------------------


class Concept(NamedTuple):
    """One concept of a run."""

    number: int
    words: str
    data: SteeringData
    prompts: list[str]
    given: Steering
    mark: str
    """Fingerprint of data, prompts and given vector."""


def _concepts(
    data: str | Path | Mapping[Any, Any],
    wanted: Sequence[Any] | None,
    prompts: Mapping[Any, Sequence[str]] | None,
    drawn: list[str] | None,
    n: int,
    vectors: Vectors | None,
) -> list[Concept]:
    """The concepts asked for, each with its prompts and, if they are given, its vector."""
    named = read_axbench(data) if isinstance(data, (str, Path)) else {name: as_data(rows) for name, rows in data.items()}
    numbers = {name: int(rows.metadata.get("concept_id", place)) for place, (name, rows) in enumerate(named.items())}
    if len(set(numbers.values())) < len(numbers):
        raise ValueError(f"two concepts have the same id: {sorted(numbers.values())}")
    keys = {**{number: name for name, number in numbers.items()}, **{name: name for name in named}}
    unknown = [key for key in wanted or () if key not in keys]
    if unknown or not named or (wanted is not None and not wanted):
        raise ValueError(f"there is no concept {unknown or 'asked for'}; the data have {list(named)[:10]!r}")
    chosen = list(named) if wanted is None else list(dict.fromkeys(keys[key] for key in wanted))
    found = []
    for name in chosen:
        rows, number = named[name], numbers[name]
        words = str(name) if rows.concept is None else rows.concept
        rows = rows if rows.concept is not None else SteeringData(rows.examples, words, rows.metadata, rows.negatives)
        asked = draw_instructions(drawn, number, n) if drawn is not None else list(_of(prompts or {}, name, number, "prompts"))
        if not asked or not all(isinstance(text, str) for text in asked):
            raise ValueError(f"{words}: the prompts must be texts, at least one")
        given = None if vectors is None else _given(vectors, name, number)
        mark = fingerprint(rows.hash, rows.concept, asked, given)
        found.append(Concept(number, words, rows, asked, given, mark))
    return found


def _of(table: Mapping[Any, Any], name: Any, number: int, what: str) -> Any:
    for key in (name, number):
        if key in table:
            return table[key]
    raise ValueError(f"there are no {what} for concept {name!r} (id {number})")


def _given(vectors: Vectors, name: Any, number: int) -> Steering:
    if isinstance(vectors, Mapping):
        return _of(vectors, name, number, "vectors")
    path = Path(vectors) / f"{number}.safetensors"
    if not path.exists():
        raise ValueError(f"there is no vector for concept {name!r}: {path} does not exist")
    return SteeringVector.load(path)


def _checked(steering: Any, concept: Concept) -> Steering:
    if steering is not None and not isinstance(steering, (SteeringVector, SteeringPrompt)):
        kind = type(steering).__name__
        raise TypeError(f"{concept.words}: the method gave {kind}, not a SteeringVector, a SteeringPrompt or None")
    return steering


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
    for place, row in zip(places, rows, strict=True):
        for name in {*SCORES, "error", *(set(row) & {"replies"} & set(frame))}:
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
    return (
        method if isinstance(method, str) else f"{method.__module__}.{getattr(method, '__qualname__', type(method).__name__)}"
    )


def _describe(judge: Judge) -> str:
    """How a judge is recognised when a run goes on: its own words if it has any, else its type."""
    kind = type(judge)
    return f"{kind.__module__}.{kind.__qualname__}" if kind.__repr__ is object.__repr__ else repr(judge)
