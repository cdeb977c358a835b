"""Vectors, covariances and null laws for the tests of directions."""

from typing import Any

import numpy as np
import torch
from tiny import WIDTH
from torch import Tensor

from steerlens import SteeringVector
from steerlens.analysis.residual_covariance import ResidualStatistics

UNIFORM = 1.63
"""Kolmogorov's distance times sqrt(n) that uniform numbers exceed in 1 % of the cases."""


def vector(values: Tensor, **fields: Any) -> SteeringVector:
    return SteeringVector(values, **({"factor": 1.0, "layer": 1} | fields))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def statistics(covariance: Tensor, **fields: Any) -> ResidualStatistics:
    made: dict[str, Any] = {"mean": torch.zeros(len(covariance)), "n_tokens": 1000, "layer": 1, "covariance": covariance}
    return ResidualStatistics(**(made | fields))


def stretched(width: int = WIDTH) -> Tensor:
    """A covariance with a few long axes, not along the coordinates."""
    axes = torch.linalg.qr(normal(width, width, seed=7)).Q
    return axes @ torch.diag(0.5 ** torch.arange(width).float() + 1e-4) @ axes.T


def distance_to_uniform(values: Any) -> float:
    ordered, n = np.sort(np.asarray(values, dtype=float)), len(values)
    steps = np.arange(n + 1) / n
    return float(max(np.abs(ordered - steps[:-1]).max(), np.abs(ordered - steps[1:]).max()) * np.sqrt(n))


def lorefted() -> SteeringVector:
    eye = torch.eye(WIDTH)[:1]
    return vector(eye, form="loreft", read=eye, bias=torch.zeros(1))
