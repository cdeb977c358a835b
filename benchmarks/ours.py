"""The sides of steerlens in the benchmarks of speed and memory."""

from collections.abc import Sequence
from typing import Any

import torch
from shapes import Shape, directions
from torch import Tensor

import steerlens
from steerlens.model.batches import EncodedExample
from steerlens.model.frozen import frozen
from steerlens.model.memory import pass_tokens
from steerlens.steering.decoding import decode
from steerlens.steering.hooks import edits_for_all
from steerlens.training.loop import backward
from steerlens.training.lower_half import lower_half
from steerlens.training.settings import Settings
from steerlens.training.setup import prepare

FACTOR = 4.0


class Steps:
    """Training steps of several vectors in shared passes, on the same rows, as `train_many` takes them."""

    def __init__(self, model: Any, shape: Shape, rows: list[EncodedExample], n: int) -> None:
        data = steerlens.SteeringData([steerlens.Example("w3", "w4")])
        names = {str(number): data for number in range(n)}
        settings = Settings(config=steerlens.TrainConfig(batch_size=len(rows)), seed=0)
        self.model, self.rows, self.layer = model, rows, shape.layer
        self.runs = list(prepare(model, names, [shape.layer], settings=settings).values())
        for run, direction in zip(self.runs, directions(shape, n), strict=True):
            with torch.no_grad():
                run.sites[0].direction.copy_(direction)
                run.sites[0].factor.fill_(FACTOR)
        self.keep_lower_half()

    def keep_lower_half(self) -> None:
        """Run what lies below the edited layer, once; `train_many` does it before the first step."""
        with frozen(self.model):
            self.lower = lower_half(self.model, self.rows, self.layer, pass_tokens(self.model, self.layer))

    def __call__(self) -> tuple[list[float], Tensor]:
        """Each vector's loss, and the gradient of its direction and factor as one row each."""
        with frozen(self.model):
            losses = backward(self.model, self.runs, [self.rows] * len(self.runs), self.lower)
        sites = [run.sites[0] for run in self.runs]
        gradients = torch.stack([torch.cat([_taken(site.direction), _taken(site.factor)]) for site in sites])
        return losses, gradients


def _taken(parameter: Tensor) -> Tensor:
    """A parameter's gradient, which it has no longer."""
    gradient, parameter.grad = parameter.grad, None
    assert gradient is not None
    return gradient.flatten()


def generate(
    model: Any, prompts: Sequence[Sequence[int]], new_tokens: int, vector: Any = None, *, sample: bool = False
) -> list[list[int]]:
    """Exactly so many new tokens for each prompt; sampled from the whole distribution."""
    generators = [torch.Generator().manual_seed(row) for row in range(len(prompts))]
    edits = edits_for_all([] if vector is None else [vector])
    return decode(model, prompts, edits, generators, new_tokens, 1.0 if sample else 0.0, stops=())
