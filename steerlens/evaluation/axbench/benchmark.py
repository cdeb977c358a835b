"""The AxBench protocol: a vector per concept, sampled responses, a judge, and scores with intervals over concepts.

Wu et al. 2025; Bao et al. 2026, Sec. 5: per concept 72 training examples and 10 AlpacaEval instructions drawn with the
concept's id, responses of 128 tokens at temperature 1.0, three ratings of 0 to 2, their harmonic mean.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from ...arguments import checked_call
from ...judges.base import Judge, check_judge, judge_identity
from ...model.batches import check_batch_size
from ...model.bridge import Bridge, check_model
from ...model.identity import identity, weights_hash
from ...reproducibility import derived_seed
from ...run_folder import RunFolder
from ...steering.generation import prepare, with_steering_prompts
from ...training.scaling import TrainConfig
from ..scoring import evaluate
from .concepts import Concept, Vectors, checked, find_concepts
from .instructions import Instructions, read_instructions
from .methods import PLAIN, Method, check_data, method_function, method_identity
from .results import AxBenchResult, joined, mended
from .run_folder import Steering, begin, finished, folder_at, load_concept, load_steering, save_all, save_concept, save_steering

METHOD = "prosv"
"""Of a run that names none."""


@checked_call
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
    batch_size: int | None = 16,
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
        out: folder to write to, or any place that fsspec reaches ("s3://...", "memory://..."): each concept at once, when it
            is done, and in the end the rows of all that are finished there in `generations.parquet`. A run that was killed
            goes on where it stopped. A method given as a function is recognised by its name, its code and the plain values it
            holds (see `method_identity`).
        n_instructions: drawn per concept.
        seed: of training, and with a concept's id and an instruction's place of each generation.
        max_new_tokens, temperature, chat, batch_size: as `generate`.
        rejudge: judge the unscored rows of finished concepts again, without generating; a verdict that lacks more than the
            old one replaces nothing. For another judge see `AxBenchResult.judged_by`.

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
    for concept in found:
        if make is not None:
            check_data(method, concept.data)
        known = make(model, concept.data) if make is not None and method in PLAIN else concept.given
        _check_prompts(model, concept, known, max_new_tokens, chat)
    about = {"method": method_identity(method) if vectors is None else "given vectors", "layer": layer, "seed": seed}
    settings = about | sampling | {"judge": judge_identity(judge), "config": None if config is None else asdict(config)}
    settings |= {"model": identity(model) | {"weights": weights_hash(model)}, "schema": 1}
    folder = None if out is None else folder_at(out)
    done = {} if folder is None else _finished(folder, settings, found)
    frames, steering = {}, {}
    for concept in tqdm(found, desc="concepts", disable=not progress):
        number = concept.number
        if number in done:
            known, steering[number] = done[number]
            frames[number] = mended(known, judge) if rejudge else known
        else:
            known, steering[number] = None, _steering(model, concept, make)
            name = None if folder is None else save_steering(folder, number, steering[number])
            settled = sampling | {"batch_size": batch_size}
            frames[number] = _run(model, concept, steering[number], judge, seed, settled, name)
        if folder is not None and frames[number] is not known:
            save_concept(folder, number, frames[number], concept.mark)
    if folder is not None:  # with concepts that other calls have finished there
        save_all(folder, joined([_rows_of(folder, number, frames) for number in finished(folder)]))
    return AxBenchResult(joined(list(frames.values())), steering, settings)


def generation_seeds(seed: int, concept_id: int, n: int) -> list[int]:
    """The seed of each generation of a concept; that of instruction i depends on `seed`, the id and i alone."""
    return [derived_seed(seed, concept_id, instruction) for instruction in range(n)]


# --- checks -----------------------------------------------------------------------------------------------------------


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


def _check_sampling(temperature: int | float, batch_size: int | None) -> None:
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature {temperature} must be at least 0 and finite")
    if batch_size is not None:
        check_batch_size(batch_size)


def _check_prompts(model: Bridge, concept: Concept, steering: Steering, max_new_tokens: int, chat: bool) -> None:
    """Raise ValueError if a concept's prompts do not fit into the context, or what steers (if it is known) into the model."""
    batch, vectors = with_steering_prompts(concept.prompts, steering)
    try:
        prepare(model, batch, vectors, max_new_tokens, chat)
    except ValueError as error:
        raise ValueError(f"{concept.words}: {error}") from error


# --- one concept ------------------------------------------------------------------------------------------------------


def _finished(
    folder: RunFolder, settings: Mapping[str, Any], concepts: Sequence[Concept]
) -> dict[int, tuple[pd.DataFrame, Steering]]:
    """The folder opened for this run; id -> rows and what steered, of the concepts that are finished there."""
    begin(folder, settings)
    done = {}
    for concept in concepts:
        frame = load_concept(folder, concept.number, concept.mark)
        if frame is not None:
            done[concept.number] = frame, load_steering(folder, concept.number, frame)
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


def _steering(model: Bridge, concept: Concept, make: Method | None) -> Steering:
    """What steers for one concept: given, or made by the method, whose errors say for which."""
    if make is None:
        return concept.given
    try:
        return checked(make(model, concept.data), f"{concept.words}: the method gave")
    except Exception as error:
        error.add_note(f"This was the method, on the concept {concept.words!r} (id {concept.number}).")
        raise


def _rows_of(folder: RunFolder, number: int, frames: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """The rows of a finished concept, from the file if this call did not run it."""
    found = frames[number] if number in frames else load_concept(folder, number, None)
    assert found is not None
    return found
