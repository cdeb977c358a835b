"""What training minimises: log-probabilities of responses -> one loss per example. Pure tensors, cited.

An objective is a function `(Logprobs) -> RowLosses`. A function of your own may also return one loss per row, which then
count equally; an attribute `needs` on it names what must be computed besides `response`, such as {"neutral"}.

Symbols of the paper (Bao et al. 2026, Sec. 3): x = prompt, y_c = response, y = neutral response, p = the model without
steering (the reference), p_Phi = steered, p_Null = under the Null intervention.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

NEUTRAL, REFERENCE, NULL = "neutral", "reference", "null"
"""What an objective may need: the neutral response; summed reference log-probabilities; the Null intervention's pass."""


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
    """What an objective may look at; fields that it does not need are None."""

    response: TokenLogprobs
    """log p_Phi(y_c | x)."""
    neutral: TokenLogprobs | None = None
    """log p_Phi(y | x)."""
    response_reference: Float[Tensor, " batch"] | None = None
    """log p(y_c | x), summed over tokens."""
    neutral_reference: Float[Tensor, " batch"] | None = None
    """log p(y | x), summed over tokens."""
    response_null: TokenLogprobs | None = None
    """log p_Null(y_c | x)."""
    neutral_null: TokenLogprobs | None = None
    """log p_Null(y | x)."""


class RowLosses(NamedTuple):
    """A batch's loss is `loss.sum() / weight.sum()`."""

    loss: Float[Tensor, " batch"]
    weight: Float[Tensor, " batch"]


Objective = Callable[[Logprobs], RowLosses | Tensor]


def lang(logprobs: Logprobs) -> RowLosses:
    """Lang: `-sum log p_Phi(y_c | x)` over response tokens, as a mean per token (Bao et al. 2026, Sec. 3)."""
    return RowLosses(-logprobs.response.total, logprobs.response.length)


def simpo(logprobs: Logprobs) -> Float[Tensor, " batch"]:
    """Scaled SimPO, the positive half of RePS: `-log sigmoid(D+)` (Bao et al. 2026, Sec. 3).

    `D+ = (b+/|y_c|) log p_Phi(y_c|x) - (1/|y|) log p_Phi(y|x)`, `b+ = max(log p(y|x) - log p(y_c|x), 1)`: the less likely
    the response was, the more it weighs. No gradient flows through b+.
    """
    neutral, reference, other = logprobs.neutral, logprobs.response_reference, logprobs.neutral_reference
    assert neutral is not None and reference is not None and other is not None
    weight = (other - reference).clamp(min=1).detach()
    gap = weight * _per_token(logprobs.response) - _per_token(neutral)
    return -F.logsigmoid(gap)


def reps(logprobs: Logprobs) -> Float[Tensor, " batch"]:
    """RePS (Wu et al. 2025): scaled SimPO plus its mirror image, which prefers the neutral response under Null.

    `-log sigmoid(D+) - log sigmoid(D-)`, `D- = (b-/|y|) log p_Null(y|x) - (1/|y_c|) log p_Null(y_c|x)`,
    `b- = max(log p(y_c|x) - log p(y|x), 1)`.
    """
    neutral, response = logprobs.neutral_null, logprobs.response_null
    reference, other = logprobs.response_reference, logprobs.neutral_reference
    assert neutral is not None and response is not None and reference is not None and other is not None
    weight = (reference - other).clamp(min=1).detach()
    gap = weight * _per_token(neutral) - _per_token(response)
    return simpo(logprobs) - F.logsigmoid(gap)


def dpo(logprobs: Logprobs, beta: float = 0.1) -> Float[Tensor, " batch"]:
    """DPO (Rafailov et al. 2023): `-log sigmoid(beta [log p_Phi/p (y_c|x) - log p_Phi/p (y|x)])`, summed log-probabilities."""
    neutral, reference, other = logprobs.neutral, logprobs.response_reference, logprobs.neutral_reference
    assert neutral is not None and reference is not None and other is not None
    return -F.logsigmoid(beta * ((logprobs.response.total - reference) - (neutral.total - other)))


def simpo_margin(logprobs: Logprobs, beta: float = 2.0, margin: float = 0.5) -> Float[Tensor, " batch"]:
    """Plain SimPO (Meng et al. 2024), not the paper's scaled form: fixed weight beta and a target margin gamma.

    `-log sigmoid(beta [log p_Phi(y_c|x) / |y_c| - log p_Phi(y|x) / |y|] - gamma)`.
    """
    assert logprobs.neutral is not None
    return -F.logsigmoid(beta * (_per_token(logprobs.response) - _per_token(logprobs.neutral)) - margin)


def _per_token(logprobs: TokenLogprobs) -> Float[Tensor, " batch"]:
    return logprobs.total / logprobs.length


OBJECTIVES: dict[str, Objective] = {"lang": lang, "simpo": simpo, "reps": reps, "dpo": dpo, "simpo_margin": simpo_margin}
_NEEDS: dict[Objective, frozenset[str]] = {
    lang: frozenset(),
    simpo: frozenset({NEUTRAL, REFERENCE}),
    reps: frozenset({NEUTRAL, REFERENCE, NULL}),
    dpo: frozenset({NEUTRAL, REFERENCE}),
    simpo_margin: frozenset({NEUTRAL}),
}


def objective_function(objective: str | Objective) -> Objective:
    """The function of an objective's name; a function is returned as it is.

    Raises:
        ValueError: the name is not a known objective.
    """
    if callable(objective):
        return objective
    if objective not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise ValueError(f"objective {objective!r} is unknown; use {known}, or a function of log-probabilities")
    return OBJECTIVES[objective]


def objective_name(objective: str | Objective) -> str:
    """A name for records."""
    return objective if isinstance(objective, str) else getattr(_plain(objective), "__name__", "function")


def needs(objective: Objective) -> frozenset[str]:
    """What must be computed besides the steered log-probabilities of the responses.

    Raises:
        ValueError: a function's own `needs` names something unknown.
    """
    own = getattr(objective, "needs", None)
    if own is None:
        return _NEEDS.get(_plain(objective), frozenset())
    named = frozenset(own)
    if not named <= {NEUTRAL, REFERENCE, NULL}:
        raise ValueError(f"the objective needs {sorted(named)}; known: {NEUTRAL}, {REFERENCE}, {NULL}")
    return named | {NEUTRAL} if named else named


def _plain(objective: Objective) -> Objective:
    """The function under `functools.partial(dpo, beta=...)`."""
    return objective.func if isinstance(objective, partial) else objective


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
