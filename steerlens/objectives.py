"""What training minimises: log-probabilities of responses -> one loss per example. Pure tensors, cited.

An objective is a function `(Logprobs) -> RowLosses`. A function of your own may also return one loss per row, which
then count equally.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class TokenLogprobs(NamedTuple):
    """log p(token | everything before it), for the response tokens of each row."""

    values: Float[Tensor, "batch pos"]
    """0 outside the response."""
    mask: Bool[Tensor, "batch pos"]
    """True at response tokens."""

    @property
    def total(self) -> Float[Tensor, " batch"]:
        """log p(response | prompt)."""
        return self.values.sum(-1)

    @property
    def length(self) -> Float[Tensor, " batch"]:
        """Number of response tokens."""
        return self.mask.sum(-1).to(self.values.dtype)


class Logprobs(NamedTuple):
    """What an objective may look at."""

    response: TokenLogprobs
    """Of the responses that show the concept, under the steered model."""


class RowLosses(NamedTuple):
    """A batch's loss is `loss.sum() / weight.sum()`."""

    loss: Float[Tensor, " batch"]
    weight: Float[Tensor, " batch"]


Objective = Callable[[Logprobs], RowLosses | Tensor]


def lang(logprobs: Logprobs) -> RowLosses:
    """Lang: `-sum log p_Phi(y_c | x)` over response tokens, as a mean per token (Bao et al. 2026, Sec. 3)."""
    return RowLosses(-logprobs.response.total, logprobs.response.length)


OBJECTIVES: dict[str, Objective] = {"lang": lang}


def objective_function(objective: str | Objective) -> Objective:
    """The function of an objective's name; a function is returned as it is.

    Raises:
        ValueError: the name is not a known objective.
    """
    if callable(objective):
        return objective
    if objective not in OBJECTIVES:
        raise ValueError(f"objective {objective!r} is unknown; use {', '.join(OBJECTIVES)}, or a function of log-probabilities")
    return OBJECTIVES[objective]


def objective_name(objective: str | Objective) -> str:
    """A name for records."""
    return objective if isinstance(objective, str) else getattr(objective, "__name__", "function")


def row_losses(objective: Objective, logprobs: Logprobs) -> RowLosses:
    """Evaluate an objective and check what it returned.

    Raises:
        ValueError: the result is neither RowLosses nor one loss per row.
    """
    result = objective(logprobs)
    batch = logprobs.response.values.shape[0]
    if isinstance(result, RowLosses):
        return result
    if not isinstance(result, Tensor) or result.shape != (batch,):
        got = f"a tensor of shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(f"the objective must return RowLosses or one loss per row, shape ({batch},); it returned {got}")
    return RowLosses(result, torch.ones_like(result))
