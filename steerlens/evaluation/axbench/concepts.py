"""The concepts of a run: each with its data, its prompts and, where one is given, what steers for it."""

import operator
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...data import SteeringData, as_data, read_axbench
from ...steering.generation import as_prompts
from ...steering.steering_prompt import SteeringPrompt
from ...vector import SteeringVector
from .instructions import draw_instructions
from .run_folder import Steering, fingerprint

Vectors = Mapping[Any, Steering] | str | Path
"""Concept id (or name) -> what steers for it, or a folder with `3.safetensors` for concept 3."""


class Concept(NamedTuple):
    """One concept of a run."""

    number: int
    words: str
    data: SteeringData
    prompts: list[str]
    given: Steering
    mark: str
    """Fingerprint of data, prompts and given vector."""


def find_concepts(
    data: str | Path | Mapping[Any, Any],
    wanted: Any,
    prompts: Mapping[Any, Any] | None,
    drawn: list[str] | None,
    n: int,
    vectors: Vectors | None,
) -> list[Concept]:
    """The concepts asked for, each with its prompts and, if they are given, its vector.

    Args:
        wanted: ids or names; None = all.
        prompts: concept -> texts, for which a single text may stand; taken where nothing is `drawn` from.
        drawn: the instructions that `n` are drawn from.

    Raises:
        ValueError: concepts, prompts or vectors that are not there, or are not what they should be.
    """
    named = read_axbench(data) if isinstance(data, (str, Path)) else {name: as_data(rows) for name, rows in data.items()}
    numbers = {name: _number(name, rows.metadata.get("concept_id", index)) for index, (name, rows) in enumerate(named.items())}
    if len(set(numbers.values())) < len(numbers):
        raise ValueError(f"two concepts have the same id: {sorted(numbers.values())}")
    found = []
    for name in _chosen(wanted, numbers):
        rows, number = named[name], numbers[name]
        words = str(name) if rows.concept is None else rows.concept
        rows = rows if rows.concept is not None else SteeringData(rows.examples, words, rows.metadata, rows.negatives)
        given_prompts = _of(prompts or {}, name, number, "prompts") if drawn is None else draw_instructions(drawn, number, n)
        asked = _texts(given_prompts, words)
        given = None if vectors is None else _given(vectors, name, number)
        found.append(Concept(number, words, rows, asked, given, fingerprint(rows.hash, rows.concept, asked, given)))
    return found


def _number(name: Any, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name!r} has the concept_id {value!r}; it must be a whole number") from error


def _chosen(wanted: Any, numbers: Mapping[Any, int]) -> list[Any]:
    """The names of those asked for."""
    if isinstance(wanted, str) or not (wanted is None or isinstance(wanted, Iterable)):
        raise ValueError(f"concepts is {wanted!r}: give a list of ids or names, such as [{wanted!r}], or None for all")
    listed = None if wanted is None else list(wanted)
    keys = {**{number: name for name, number in numbers.items()}, **{name: name for name in numbers}}
    unknown = [key for key in listed or () if key not in keys]
    if unknown or not numbers or (listed is not None and not listed):
        raise ValueError(f"there is no concept {unknown or 'asked for'}; the data have {list(numbers)[:10]!r}")
    return list(numbers) if listed is None else list(dict.fromkeys(keys[key] for key in listed))


def _texts(prompts: Any, words: str) -> list[str]:
    """Prompts as texts; a single one is taken as a list of one."""
    try:
        asked = as_prompts(prompts)
    except ValueError as error:
        raise ValueError(f"{words}: the prompts must be texts, at least one: {error}") from error
    texts = [prompt for prompt in asked if isinstance(prompt, str)]
    if len(texts) < len(asked):
        raise ValueError(f"{words}: the prompts must be texts, not conversations")
    return texts


def _of(table: Mapping[Any, Any], name: Any, number: int, what: str) -> Any:
    for key in (name, number):
        if key in table:
            return table[key]
    raise ValueError(f"there are no {what} for concept {name!r} (id {number})")


def _given(vectors: Vectors, name: Any, number: int) -> Steering:
    if isinstance(vectors, Mapping):
        return checked(_of(vectors, name, number, "vectors"), f"concept {name!r}: vectors has")
    path = Path(vectors) / f"{number}.safetensors"
    if not path.exists():
        raise ValueError(f"there is no vector for concept {name!r}: {path} does not exist")
    return SteeringVector.load(path)


def checked(steering: Any, who: str) -> Steering:
    """The same; TypeError if it is nothing that steers."""
    if steering is not None and not isinstance(steering, (SteeringVector, SteeringPrompt)):
        raise TypeError(f"{who} {type(steering).__name__}, not a SteeringVector, a SteeringPrompt or None")
    return steering
