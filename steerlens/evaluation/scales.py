"""Vectors at several scales of their factor, side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..steering.hooks import PerPrompt, SteerText
from ..vector import SteeringVector

UNSTEERED = "unsteered"
Steered = SteerText | PerPrompt


def check_scales(scales: Sequence[int | float]) -> list[float]:
    """The scales as floats; ValueError for none, for one twice, or for one that is not finite."""
    values = [float(scale) for scale in scales]
    if not values or len(set(values)) < len(values) or not np.isfinite(values).all():
        raise ValueError(f"the scales {list(scales)} must be at least one finite number, each once")
    return values


def scaled(steering: Steered, scales: Sequence[float]) -> dict[float, Steered]:
    """scale -> the steering with every factor multiplied; what holds no vector has scale 1 alone."""

    def at(scale: float, part: Any) -> Any:
        return part.scaled(scale) if isinstance(part, SteeringVector) else part

    several = isinstance(steering, Sequence)
    if not any(isinstance(part, SteeringVector) for part in (steering if several else [steering])):
        return {1.0: steering}
    if isinstance(steering, PerPrompt):
        return {scale: PerPrompt([at(scale, part) for part in steering]) for scale in scales}
    if isinstance(steering, Sequence):
        return {scale: [at(scale, part) for part in steering] for scale in scales}
    return {scale: at(scale, steering) for scale in scales}
