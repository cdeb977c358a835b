"""One vector, a list or a mapping of them, by name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..interventions import REFT
from ..vector import SteeringVector

Vectors = SteeringVector | Sequence[SteeringVector] | Mapping[Any, SteeringVector]
"""One vector, several, or several by name."""


def named_vectors(vectors: Vectors, *, zero: bool = False, reft: bool = False) -> dict[str, SteeringVector]:
    """Vectors by name; those of a sequence are called by their concepts, and equal names are numbered.

    Args:
        zero: accept vectors of norm 0.
        reft: accept forms whose edit is not to add or set `vector`: the ReFT forms, and "null".

    Raises:
        ValueError: there are none, two names read the same, or a vector has no direction to compare.
        TypeError: something that is not a SteeringVector.
    """
    if isinstance(vectors, Mapping):
        named = by_name(vectors)
    else:
        named = {}
        for sv in [vectors] if isinstance(vectors, SteeringVector) else listed(vectors):
            base = name = getattr(sv, "concept", None) or "vector"
            number = 1
            while name in named:
                number += 1
                name = f"{base} #{number}"
            named[name] = sv
    if not named:
        raise ValueError("there are no vectors")
    for name, sv in named.items():
        if not isinstance(sv, SteeringVector):
            raise TypeError(f"{name!r} is a {type(sv).__name__}, not a SteeringVector")
        if sv.form in REFT and not reft:
            raise ValueError(
                f"{name!r} has the form {sv.form!r}, whose edit depends on the token and is not one vector: make a "
                "SteeringVector of a row of its direction"
            )
        if sv.form == "null" and not reft:
            raise ValueError(
                f"{name!r} has the form 'null', which takes its direction away and adds no vector: to look at the direction, "
                'give sv.replace(form="add")'
            )
        if not zero and sv.norm == 0:
            raise ValueError(f"{name!r} has norm 0 and so adds no direction: leave it out")
    return named


def listed(vectors: Any) -> list[Any]:
    """Several vectors as a list; raises TypeError for one, and for what is no sequence at all."""
    if isinstance(vectors, SteeringVector) or not isinstance(vectors, Iterable):
        raise TypeError(f"expected several SteeringVectors, in a list or by name, got {type(vectors).__name__}")
    return list(vectors)


def by_name(vectors: Mapping[Any, SteeringVector], text: Callable[[Any], str] = str) -> dict[str, SteeringVector]:
    """Vectors by their keys as text; raises ValueError if two read the same, since one would be lost."""
    first: dict[str, Any] = {}
    for key in vectors:
        if (other := first.setdefault(text(key), key)) is not key:
            raise ValueError(f"two names read the same: {other!r} and {key!r}")
    return {text(key): sv for key, sv in vectors.items()}


def check_together(named: Mapping[str, SteeringVector], *fields: str) -> None:
    """Raise ValueError unless all vectors live in one residual stream, and agree in further fields.

    What a vector does not say about itself (None) agrees with everything.
    """
    seen: dict[str, tuple[str, Any]] = {}
    for name, sv in named.items():
        common = {"width": sv.d_model, "layer": sv.layer, "model": sv.model_name}
        common["weight processing"] = sv.provenance.get("weight_processing")
        for field, value in (common | {field: getattr(sv, field) for field in fields}).items():
            first, other = seen.setdefault(field, (name, value)) if value is not None else (name, None)
            if value is not None and value != other:
                raise ValueError(
                    f"vectors of different {field} do not compare: {first!r} has {other!r}, {name!r} has {value!r}; look at "
                    f"each {field} on its own"
                )
