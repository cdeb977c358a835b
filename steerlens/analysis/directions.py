"""Vectors side by side, and random directions to judge them by."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..interventions import REFT
from ..vector import SteeringVector
from .residuals import ResidualStatistics

Vectors = SteeringVector | Sequence[SteeringVector] | Mapping[Any, SteeringVector]
"""One vector, several, or several by name."""
CHANCE = 0.05
"""Share of draws in which anything at all among random directions may pass for a finding."""
DRAWN_AT_ONCE = 2**22
"""Random numbers in memory."""


class Spectrum(NamedTuple):
    """How random directions are drawn: normal numbers times `scale` along each column of `basis` (None: the unit vectors)."""

    scale: Float[Tensor, " d_model"]
    basis: Float[Tensor, "d_model d_model"] | None
    name: str
    """What they are, in words."""


# --- sets of vectors ----------------------------------------------------------------------------------------------------


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
        place = {"width": sv.d_model, "layer": sv.layer, "model": sv.model_name}
        place["weight processing"] = sv.provenance.get("weight_processing")
        for field, value in (place | {field: getattr(sv, field) for field in fields}).items():
            first, other = seen.setdefault(field, (name, value)) if value is not None else (name, None)
            if value is not None and value != other:
                raise ValueError(
                    f"vectors of different {field} do not compare: {first!r} has {other!r}, {name!r} has {value!r}; look at "
                    f"each {field} on its own"
                )


def check_statistics(sv: SteeringVector, statistics: ResidualStatistics) -> None:
    """Raise ValueError unless the statistics are of the residual stream that the vector edits."""
    pairs = {
        "layer": (statistics.layer, sv.layer),
        "model": (statistics.model_name, sv.model_name),
        "weight processing": (statistics.weight_processing, sv.provenance.get("weight_processing")),
        "width": (len(statistics.mean), sv.d_model),
    }
    for field, (theirs, ours) in pairs.items():
        if theirs is not None and ours is not None and theirs != ours:
            raise ValueError(
                f"the statistics are of {field} {theirs!r}, the vectors of {ours!r}: collect them where the vectors are"
            )


# --- random directions --------------------------------------------------------------------------------------------------


def spectrum(sv: SteeringVector, statistics: ResidualStatistics | None) -> Spectrum:
    """The law of random directions beside a vector.

    Raises:
        ValueError: statistics of another layer, model or width, or a covariance of zero.
    """
    if statistics is None:
        return Spectrum(torch.ones(sv.d_model), None, "isotropic random directions")
    check_statistics(sv, statistics)
    variances, basis = torch.linalg.eigh(statistics.covariance.double())
    if float(variances.max()) <= 0:
        raise ValueError("the covariance of the statistics is zero: collect them over more tokens")
    return Spectrum(variances.clamp(min=0).sqrt().float(), basis.float(), "random directions of the residual covariance")


def random_sets(law: Spectrum, n: int, size: int, seed: int) -> Iterator[Float[Tensor, "draw vector d_model"]]:
    """`n` sets of random directions, some at a time, in the coordinates of the law's basis (cosines are the same there)."""
    generator = torch.Generator().manual_seed(seed)
    step = max(1, DRAWN_AT_ONCE // (size * len(law.scale)))
    for start in range(0, n, step):
        yield torch.randn(min(step, n - start), size, len(law.scale), generator=generator) * law.scale


def random_rows(law: Spectrum, n: int, seed: int) -> Float[Tensor, "row d_model"]:
    """Random directions of unit length in the coordinates of the residual stream."""
    drawn = torch.randn(n, len(law.scale), generator=torch.Generator().manual_seed(seed)) * law.scale
    return unit_rows(drawn if law.basis is None else drawn @ law.basis.T)


def unit_rows(rows: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
    """Each row at length 1; a row of zeros stays."""
    return torch.nn.functional.normalize(rows, dim=-1)


def exceeded(found: Float[np.ndarray, "*shape"], largest: Float[np.ndarray, " draw"]) -> Float[np.ndarray, "*shape"]:
    """p corrected for everything that was looked at: (1 + draws whose largest value reaches it) / (1 + draws)."""
    return (1 + len(largest) - np.searchsorted(np.sort(largest), found)) / (1 + len(largest))


def check_draws(n_random: int) -> None:
    if n_random < 100:
        raise ValueError(f"n_random is {n_random}; p-values need at least 100 draws")
