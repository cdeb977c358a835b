"""One page about vectors or an evaluation: what there is to know, each figure with what to read from it."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from .. import figures
from ..analysis import (
    SAE,
    ResidualStatistics,
    attention_effects,
    compare_to_sae,
    cosine_map,
    drift,
    dynamics,
    load_sae,
    position_effects,
    readout,
    token_effects,
)
from ..analysis.vector_sets import by_name
from ..arguments import checked_call
from ..data import Prompt
from ..evaluation.scoring import Evaluation
from ..files import write_atomically
from ..model.bridge import Bridge
from ..steering.generation import as_prompts, generate, prepare
from ..steering.hooks import check_fits
from ..vector import SteeringVector
from .html_page import Part, page

LARGEST = 5_000_000
"""Bytes of a page."""
MOST_ROWS = 20
"""Concepts in a figure, the worst."""
ABOVE = ("layer", "positions", "form", "model_name", "d_model")
"""Provenance that the first table says already."""
EXAMPLES = 5
"""Responses shown from either end of the scores, and of those unscored."""


class Given(NamedTuple):
    """What a report about vectors is made from."""

    vectors: dict[str, SteeringVector]
    model: Any
    """A bridge, or None, as are prompts, sae and statistics where they are not given."""
    prompts: Any
    sae: Any
    statistics: ResidualStatistics | None
    text: dict[str, Any]
    """max_new_tokens and chat."""
    seed: int


class Section(NamedTuple):
    """A part of the report that may be impossible."""

    title: str
    read: str
    """What to read from it."""
    needs: tuple[str, ...]
    """Fields of `Given`."""
    make: Callable[[Given], list[Part]]
    several: bool = False
    """Only of several vectors."""


@checked_call
def report(
    what: SteeringVector | Mapping[str, SteeringVector] | Evaluation,
    path: str | Path,
    *,
    model: Bridge | None = None,
    prompts: Prompt | Sequence[Prompt] | None = None,
    sae: Any = None,
    statistics: ResidualStatistics | None = None,
    title: str | None = None,
    max_new_tokens: int = 40,
    chat: bool = True,
    seed: int = 0,
) -> Path:
    """Write one self-contained HTML page, below 5 MB, that opens from disk without a network.

    About vectors: what they are, how they were trained, and, as far as the arguments allow, what they answer, what they do to
    tokens, positions, attention and the vocabulary, and what they are in features of an autoencoder. A section that cannot be
    made says why. About an evaluation: scores with intervals, what was not scored, the weakest concepts, the best and worst
    responses.

    Args:
        what: a vector, several by name, or an evaluation.
        path: ends in .html; written atomically.
        model: for everything that needs forward passes.
        prompts: what is answered and looked into, best two or more; the first is shown token by token.
        sae: an autoencoder, or what `steerlens.analysis.load_sae` reads.
        statistics: of the residual stream, from `steerlens.analysis.residual_statistics`: what chance looks like for the
            vocabulary, the autoencoder and the cosines.
        max_new_tokens: length limit of the greedy responses.
        chat: put prompts into the model's chat template.
        seed: of random directions and resampling.

    Raises:
        TypeError: something else than vectors or an evaluation.
        ValueError: no vector, one that does not fit the model, prompts without a model or too long for its context, a path
            that does not end in .html, a page that would be too large, or a model given for an evaluation.
    """
    target = Path(path)
    if target.suffix != ".html":
        raise ValueError(f"{target.name}: name the file *.html")
    if isinstance(what, Evaluation):
        if any(given is not None for given in (model, prompts, sae, statistics)):
            raise ValueError("model, prompts, sae and statistics are for vectors: an evaluation holds all that is reported")
        parts, name = list(_evaluation(what)), "Evaluation"
    else:
        given = _given(what, model, prompts, sae, statistics, max_new_tokens, chat, seed)
        parts, name = _vectors(given), f"Steering vector{'s' * (len(given.vectors) > 1)}: {', '.join(given.vectors)}"
    content = page(title or name, parts).encode()
    if len(content) > LARGEST:
        raise ValueError(f"the page would have {len(content) / 1e6:.1f} MB: give fewer vectors, fewer or shorter prompts")
    write_atomically(target, content)
    return target


def _given(
    what: SteeringVector | Mapping[str, SteeringVector],
    model: Bridge | None,
    prompts: Prompt | Sequence[Prompt] | None,
    sae: Any,
    statistics: ResidualStatistics | None,
    max_new_tokens: int,
    chat: bool,
    seed: int,
) -> Given:
    """The arguments, checked before any work starts."""
    given = {what.concept or "vector": what} if isinstance(what, SteeringVector) else what
    if not isinstance(given, Mapping) or not all(isinstance(sv, SteeringVector) for sv in given.values()):
        raise TypeError(f"expected a SteeringVector, a mapping of names to them, or an Evaluation, got {type(what).__name__}")
    if not given:
        raise ValueError("there is no vector to report on")
    vectors = by_name(given)
    listed = None if prompts is None else as_prompts(prompts)
    if listed is not None and model is None:
        raise ValueError("prompts need a model to answer them: pass model=...")
    for sv in vectors.values():
        if model is not None:
            check_fits(model, sv)
    if model is not None and listed is not None:
        prepare(model, listed, list(vectors.values()), max_new_tokens, chat)
    if sae is not None and not isinstance(sae, SAE):
        sae = load_sae(sae)
    return Given(vectors, model, listed, sae, statistics, {"max_new_tokens": max_new_tokens, "chat": chat}, seed)


# --- vectors ------------------------------------------------------------------------------------------------------------


def _vectors(given: Given) -> list[Part]:
    parts: list[Part] = []
    for section in SECTIONS:
        if section.several and len(given.vectors) == 1:
            continue
        parts += [f"# {section.title}", section.read]
        missing = [name for name in section.needs if getattr(given, name) is None]
        if missing:
            parts.append(f"Not shown: it needs {' and '.join(f'{name}=...' for name in missing)}.")
            continue
        try:
            parts += section.make(given)
        except ValueError as error:  # an analysis refuses where its number would be wrong: the page says so
            parts.append(f"Not shown: {error}.")
    return parts


def _each(given: Given, make: Callable[[SteeringVector], list[Part]]) -> list[Part]:
    """The same for every vector, under its name if there are several; one that is refused says why."""
    parts: list[Part] = []
    for name, sv in given.vectors.items():
        parts += [f"{name}:"] if len(given.vectors) > 1 else []
        try:
            parts += make(sv)
        except ValueError as error:
            parts.append(f"Not shown: {error}.")
    return parts


def _identity(given: Given) -> list[Part]:
    rows = [
        {
            "vector": name,
            "concept": sv.concept,
            "layer": sv.layer,
            "positions": "a function" if callable(sv.positions) else sv.positions,
            "form": sv.form,
            "factor": sv.factor,
            "norm of factor x direction": sv.norm,
            "width": sv.d_model,
            "model": sv.model_name,
        }
        for name, sv in given.vectors.items()
    ]
    provenances = [sv.provenance for sv in given.vectors.values()]
    fields = dict.fromkeys(key for provenance in provenances for key, value in provenance.items() if value is not None)
    if not fields:
        return [pd.DataFrame(rows), "Nothing is recorded about how it was made."]
    values = {key: {_said(provenance.get(key)) for provenance in provenances} for key in fields if key not in ABOVE}
    made = [{"how it was made": key, "value": found.pop() if len(found) == 1 else "differs"} for key, found in values.items()]
    return [pd.DataFrame(rows), pd.DataFrame(made)]


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False).replace('"', "")


def _training(given: Given) -> list[Part]:
    trained = {name: sv for name, sv in given.vectors.items() if sv.history is not None}
    if not trained:
        raise ValueError("there is no training history: the vector was not trained, or saved without it")
    result = dynamics(trained)
    ended = {name: float(sv.history["factor"].iloc[-1]) for name, sv in trained.items() if sv.history is not None}
    changed = [
        f"{name}: changed after training, which ended at factor {last:.4g}; it is {trained[name].factor:.4g} now."
        for name, last in ended.items()
        if not math.isclose(last, trained[name].factor, rel_tol=1e-4)
    ]
    return [result.summary(), *changed, result.plot()]


def _likeness(given: Given) -> list[Part]:
    result = cosine_map(given.vectors, statistics=given.statistics, seed=given.seed)
    return [result.summary(), result.plot()]


def _answers(given: Given) -> list[Part]:
    columns: dict[str, Any] = {"prompt": [_text(prompt) for prompt in given.prompts]}
    for name, sv in {"unsteered": None, **given.vectors}.items():
        responses = generate(given.model, given.prompts, sv, temperature=0, **given.text)
        columns[name if name not in columns else f"{name} (vector)"] = [text or "(empty)" for text in responses]
    return [pd.DataFrame(columns)]


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def _tokens(given: Given) -> list[Part]:
    def make(sv: SteeringVector) -> list[Part]:
        result = token_effects(given.model, sv, given.prompts, **given.text)
        return [result.summary(), result.view(), result.plot()]

    return _each(given, make)


def _positions(given: Given) -> list[Part]:
    def make(sv: SteeringVector) -> list[Part]:
        result = position_effects(given.model, sv, given.prompts, **given.text, seed=given.seed)
        return [result.summary(), result.plot()]

    return _each(given, make)


def _drift(given: Given) -> list[Part]:
    result = drift(given.model, given.vectors, given.prompts, **given.text, seed=given.seed)
    return [result.summary(), result.plot()]


def _attention(given: Given) -> list[Part]:
    def make(sv: SteeringVector) -> list[Part]:
        result = attention_effects(given.model, sv, given.prompts, **given.text, seed=given.seed)
        return [result.summary(), result.plot(), result.view()]

    return _each(given, make)


def _vocabulary(given: Given) -> list[Part]:
    result = readout(given.model, given.vectors, statistics=given.statistics, seed=given.seed)
    return [result.summary(), result.plot()]


def _features(given: Given) -> list[Part]:
    result = compare_to_sae(given.vectors, given.sae, statistics=given.statistics, seed=given.seed)
    return [result.summary(), *(result.plot(name) for name in given.vectors), result.plot_decomposition()]


_PASSES = ("model", "prompts")
SECTIONS = (
    Section("What it is", "h <- h + factor * direction, after the block and at the positions named here.", (), _identity),
    Section(
        "How it was trained",
        "Read whether factor, norm and direction have come to rest; the loss is that of each batch and jumps.",
        (),
        _training,
    ),
    Section("How alike the vectors are", "Read the cosines against those of random directions.", (), _likeness, several=True),
    Section("What it answers", "Greedy responses to the same prompts, side by side.", _PASSES, _answers),
    Section(
        "What it does to each token",
        "The same tokens with and without the vector. Read where the predictions change, and how far the change spreads from "
        "the edited tokens and layer.",
        _PASSES,
        _tokens,
    ),
    Section(
        "Which edited tokens matter",
        "Each edited token left out, and edited alone. Read which carry the effect; shares need not add up to 1.",
        _PASSES,
        _positions,
    ),
    Section("How long it lasts", "The effect at each step of the response. Read whether it fades.", _PASSES, _drift),
    Section(
        "Where attention moves",
        "Steered minus unsteered attention. Read which tokens are looked at more (red) and less (blue); more on BOS most often "
        "means that a head does less.",
        _PASSES,
        _attention,
    ),
    Section(
        "What it says in the vocabulary",
        "The direction read directly through the unembedding, without the blocks between: at an early layer a weak lens.",
        ("model",),
        _vocabulary,
    ),
    Section(
        "Against features of an autoencoder",
        "Read which features point the same way, and how many it takes to make up the vector.",
        ("sae",),
        _features,
    ),
)


# --- an evaluation ------------------------------------------------------------------------------------------------------


def _evaluation(judged: Evaluation) -> Iterator[Part]:
    concepts, frame = judged.by_concept().drop(columns="overall_error").reset_index(), judged.frame
    yield "# Scores"
    yield "Concept, instruct and fluency are rated 0 to 2; overall is their harmonic mean, 0 if any is 0."
    yield judged.summary()
    yield f"{judged.unscored} of {len(frame)} responses are unscored; they are in no mean."
    if concepts["overall"].notna().any():
        shown = concepts.sort_values("overall", kind="stable", na_position="last").head(MOST_ROWS)
        yield "# Concepts, the weakest first"
        yield (
            f"{len(shown)} of {len(concepts)} concepts, with 95 % intervals over their responses: concepts whose intervals "
            "overlap widely are not told apart."
        )
        yield figures.plot_scores(shown.rename(columns={"concept": "method"}), "Scores by concept", "concept")
        yield concepts.sort_values("overall", kind="stable")
    scored = frame.dropna(subset=["overall"]).sort_values("overall", kind="stable")
    columns = ["concept", "prompt", "response", "overall"]
    yield "# Responses with the lowest scores"
    yield scored.head(EXAMPLES)[columns] if len(scored) else "No response is scored."
    yield "# Responses with the highest scores"
    yield scored.tail(EXAMPLES)[columns].iloc[::-1] if len(scored) else "No response is scored."
    unscored = frame[frame["overall"].isna()]
    if len(unscored):
        yield "# Unscored responses"
        yield f"The first {min(EXAMPLES, len(unscored))} of {len(unscored)}, with the reason."
        yield unscored.head(EXAMPLES)[["concept", "prompt", "response", "error"]]
