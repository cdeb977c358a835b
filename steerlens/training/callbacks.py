"""What is told to callbacks after each step, and one that keeps the directions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..vector import SteeringVector


class Step(NamedTuple):
    """What a callback is told after each step of each vector."""

    name: str
    n_steps: int
    row: Mapping[str, int | float]
    """The step's row of the history."""
    layer: int
    direction: Tensor
    """The direction as it is now, a copy on the CPU."""


Callback = Callable[[Step], None]


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """The directions of one vector in training."""

    name: str
    layer: int
    directions: list[Tensor]
    """As they were after each step, on the CPU."""


class DirectionRecorder:
    """A callback for `train` and `train_many` that keeps the direction after each step.

    It holds n_steps * d_model float32 numbers per vector: 5 MB for 500 steps at width 2304. One recorder may watch several
    trainings; `dynamics` finds the run that ended in a vector.
    """

    def __init__(self) -> None:
        self.runs: list[RecordedRun] = []
        self._open: dict[tuple[str, int], RecordedRun] = {}

    def __call__(self, step: Step) -> None:
        """Keep one step's direction; step 0 begins a new run."""
        key = (step.name, step.layer)
        if step.row["step"] == 0:
            self._open[key] = RecordedRun(step.name, step.layer, [])
            self.runs.append(self._open[key])
        self._open[key].directions.append(step.direction.clone())

    def run_of(self, sv: SteeringVector) -> RecordedRun | None:
        """The last run that ended in exactly this vector's direction, at its layer."""
        for run in reversed(self.runs):
            last = run.directions[-1]
            if run.layer == sv.layer and last.shape == sv.direction.shape and torch.equal(last, sv.direction):
                return run
        return None
