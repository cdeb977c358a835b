"""Equal dose: how far a vector moves the model's next-token distributions, and the scale at which it moves them so far.

The dose of a vector is the mean over response tokens of KL(p_steered || p_unsteered), in nats. Vectors of other positions,
forms, layers or training have factors that do not compare; their doses do.
"""

import math
from collections.abc import Callable, Sequence

import torch

from ..arguments import checked_call
from ..data import Prompt
from ..interventions import REFT
from ..model.batches import EncodedExample, check_batch_size, collate
from ..model.bridge import Bridge
from ..model.frozen import frozen
from ..steering.hooks import Steer, as_list, check_fits
from ..steering.recording import divergence, encode, overflow, response_logits
from ..vector import SteeringVector

SMALL = 1 / 64
"""Where the search for the smallest scale begins."""
STEPS = 60
"""Bisections, far more than float32 can tell apart."""


@checked_call
def mean_kl(
    model: Bridge,
    sv: Steer,
    prompts: Prompt | Sequence[Prompt],
    *,
    responses: Sequence[str] | None = None,
    max_new_tokens: int = 32,
    chat: bool = True,
    batch_size: int = 16,
) -> float:
    """Mean KL(p_steered || p_unsteered) in nats per response token, over all response tokens of all prompts.

    The responses stand still while the vector changes, so that the result is a function of the vector alone; each token
    counts once, so long responses count for more. The distributions are those that predict the response's tokens. Values
    below about 1e-7 are rounding (float32).

    Args:
        sv: a vector, several together, or None (0).
        prompts: texts or conversations.
        responses: one text per prompt; None = the unsteered model's greedy responses, without the token that ends them. A
            prompt whose response has no tokens is left out.
        max_new_tokens: length limit of greedy responses.
        chat: put prompts into the model's chat template.
        batch_size: prompts per forward pass.

    Raises:
        ValueError: a vector that does not fit, a row longer than the context, no response token at all, or logits that are
            not finite.
    """
    for vector in as_list(sv):
        check_fits(model, vector)
    return _dose(model, sv, _encode(model, prompts, responses, max_new_tokens, chat, batch_size), batch_size)


@checked_call
def calibrate(
    model: Bridge,
    sv: SteeringVector,
    prompts: Prompt | Sequence[Prompt],
    *,
    kl: int | float,
    responses: Sequence[str] | None = None,
    max_new_tokens: int = 32,
    tolerance: float = 0.01,
    max_scale: int | float = 64.0,
    chat: bool = True,
    batch_size: int = 16,
) -> SteeringVector:
    """The vector scaled so that its `mean_kl` is `kl`.

    KL need not grow with the scale everywhere. The scale returned lies in the first interval in which KL comes up to `kl`
    on a grid of doublings from a small scale (1/64, or below if that is too much already); within it, by bisection.

    Args:
        kl: the dose, in nats per response token.
        tolerance: how far from it, as a share of it, the result may be.
        max_scale: the largest scale tried.
        prompts, responses, max_new_tokens, chat, batch_size: as `mean_kl`.

    Returns:
        `sv.scaled(scale)`; its provenance says so under "calibrated": kl (as measured), target, scale, prompts (how many).

    Raises:
        ValueError: a dose, tolerance or largest scale that is not above 0, a vector of norm 0, or as `mean_kl`; or no scale
            gives this dose: it is beyond `max_scale`, or below what the form does at factor 0 (a clamp takes away what the
            residual stream has along the direction), or KL is too rough to be met within the tolerance (bfloat16).
    """
    for name, value in (("kl", kl), ("tolerance", tolerance), ("max_scale", max_scale)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value!r}; it must be finite and above 0")
    if not isinstance(sv, SteeringVector):
        raise TypeError(f"calibrate scales one SteeringVector, got {type(sv).__name__}: calibrate several one by one")
    check_fits(model, sv)
    if sv.factor == 0 or (sv.form not in REFT and sv.norm == 0):
        raise ValueError("the vector has norm 0: no scale changes what it does")
    examples = _encode(model, prompts, responses, max_new_tokens, chat, batch_size)

    def dose(scale: float) -> float:
        return _dose(model, sv.scaled(scale), examples, batch_size)

    scale, measured = _solve(dose, float(kl), tolerance, float(max_scale), sv.form)
    record = {"kl": measured, "target": float(kl), "scale": scale, "prompts": len(examples)}
    return sv.scaled(scale).replace(provenance={**sv.provenance, "calibrated": record})


def _solve(dose: Callable[[float], float], kl: float, tolerance: float, max_scale: float, form: str) -> tuple[float, float]:
    """The scale and the dose measured there."""
    floor = dose(0.0)
    if floor >= kl:
        raise ValueError(
            f"the form {form!r} gives a KL of {floor:.4g} at factor 0 already, so no scale near 0 gives {kl:g}: ask for more, "
            'or use form="add"'
        )
    low, high = _bracket(dose, kl, max_scale)
    nearest = math.inf
    for _ in range(STEPS):
        scale = math.sqrt(low * high)
        measured = dose(scale)
        if abs(measured - kl) <= tolerance * kl:
            return scale, measured
        nearest = min(nearest, measured, key=lambda value: abs(value - kl))
        low, high = (scale, high) if measured < kl else (low, scale)
    raise ValueError(
        f"the KL jumps past {kl:g} near scale {high:.4g} (nearest: {nearest:.4g}): raise tolerance ({tolerance:g}), give more "
        "prompts, or load the model in float32"
    )


def _bracket(dose: Callable[[float], float], kl: float, max_scale: float) -> tuple[float, float]:
    """The first two neighbouring scales of the grid with a dose below and one not below `kl`."""
    start = low = min(SMALL, max_scale)
    largest = (dose(low), low)
    while largest[0] >= kl:  # ends: the dose at 0 is below kl, and tiny scales round to 0
        low /= 2
        largest = (dose(low), low)
    if low < start:
        return low, 2 * low
    while low < max_scale:
        high = min(2 * low, max_scale)
        measured = dose(high)
        if measured >= kl:
            return low, high
        low, largest = high, max(largest, (measured, high))
    raise ValueError(
        f"no scale up to {max_scale:g} gives a KL of {kl:g}; the largest is {largest[0]:.4g}, at scale {largest[1]:.4g}: raise "
        "max_scale, ask for less, or edit more tokens"
    )


# --- the dose -----------------------------------------------------------------------------------------------------------


def _encode(
    model: Bridge,
    prompts: Prompt | Sequence[Prompt],
    responses: Sequence[str] | None,
    max_new_tokens: int,
    chat: bool,
    batch_size: int,
) -> list[EncodedExample]:
    """Prompts with the responses that the dose is measured on; those without a response token are left out."""
    check_batch_size(batch_size)
    examples = encode(model, prompts, responses, max_new_tokens=max_new_tokens, chat=chat, batch_size=batch_size)
    kept = [example for example in examples if example.response]
    if not kept:
        raise ValueError("no response has a token to measure on: give responses=..., or other prompts")
    return kept


def _dose(model: Bridge, sv: Steer, examples: Sequence[EncodedExample], batch_size: int) -> float:
    total, n_tokens = 0.0, 0
    with torch.no_grad(), frozen(model):
        for start in range(0, len(examples), batch_size):
            batch = collate(model, examples[start : start + batch_size])
            steered, plain = response_logits(model, batch, sv), response_logits(model, batch, None)
            moved = divergence(steered, plain)
            total += float(moved.sum(dtype=torch.float64))
            n_tokens += len(moved)
    if not math.isfinite(total):
        raise overflow(f"the KL is {total}", as_list(sv))
    return max(total / n_tokens, 0.0)  # rounding can end just below 0
