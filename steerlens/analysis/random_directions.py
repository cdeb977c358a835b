"""Random directions, to judge what vectors have in common or say."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..vector import SteeringVector
from .residual_covariance import ResidualStatistics

DRAWN_AT_ONCE = 2**22
"""Random numbers in memory."""


class Spectrum(NamedTuple):
    """How random directions are drawn: normal numbers times `scale` along each column of `basis` (None: the unit vectors)."""

    scale: Float[Tensor, " d_model"]
    basis: Float[Tensor, "d_model d_model"] | None
    name: str
    """What they are, in words."""


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
