"""Log-probabilities of responses to prompts: encoding, batches, and the one forward pass that training and losses share."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..model.batches import Batch, EncodedExample, collate, pairs
from ..model.bridge import Bridge, Hooks
from ..model.forward import announced, forward
from ..model.frozen import exclusive
from ..model.halves import final_states, from_residual, token_logprobs, why_whole
from ..model.plain import hooked, why_hooked
from .lower_half import LowerHalf, Residual
from .objectives import NULL, REFERENCE, Logprobs, TokenLogprobs


def with_reference(model: Bridge, examples: Sequence[EncodedExample], batch_size: int) -> list[EncodedExample]:
    """The examples with the unsteered model's log-probabilities of both responses, computed once for all epochs."""
    known: list[EncodedExample] = []
    with torch.no_grad():
        for start in range(0, len(examples), batch_size):
            part = examples[start : start + batch_size]
            logprobs = response_logprobs(model, collate(model, pairs(part)))
            totals = rearrange(logprobs.total, "(kind batch) -> batch kind", kind=2).tolist()
            known += [e._replace(reference=(r, n)) for e, (r, n) in zip(part, totals, strict=True)]
    return known


def response_logprobs(model: Bridge, batch: Batch, hooks: Hooks = (), residual: Residual | None = None) -> TokenLogprobs:
    """log p of each response token, float32.

    Where a pass can be taken to pieces, only what predicts a response token is unembedded, and what lies below `residual` is
    not run. Else the whole pass runs, and what stands before the shortest prompt's last token is not unembedded.
    """
    first = int(batch.prompt_lengths.min())  # the shortest prompt's last token predicts at position first - 1
    targets, mask = batch.tokens[:, first:], batch.response_mask[:, first:]
    with exclusive(model), announced(model, batch.prompt_lengths):
        if why_hooked(model, hooks) is None and why_whole(model, residual.layer if residual else 0) is None:
            chosen = _in_pieces(model, batch, hooks, residual, mask, targets)
        else:
            logits = forward(model, batch.padded, hooks, keep=batch.tokens.shape[1] - first + 1)[:, :-1]
            chosen = -F.cross_entropy(logits[mask].float(), targets[mask], reduction="none")
    values = torch.zeros(mask.shape, dtype=chosen.dtype, device=chosen.device).masked_scatter(mask, chosen)
    return TokenLogprobs(values, mask)


def _in_pieces(
    model: Bridge, batch: Batch, hooks: Hooks, residual: Residual | None, mask: Tensor, targets: Tensor
) -> Float[Tensor, " token"]:
    """log p of the response tokens of all rows; mask and targets begin where the shortest prompt ends."""
    tokens, present = batch.padded
    upper = from_residual(model, *residual) if residual else nullcontext()
    with hooked(model, hooks):
        with upper:
            states = final_states(model, tokens, present)
        return token_logprobs(model, states[:, -mask.shape[1] - 1 : -1][mask], targets[mask])


HooksFor = Callable[[Batch, Tensor, str | None], Hooks]
"""(batch, index of each row's example, form to use instead of the vector's own) -> hooks for one pass"""


def objective_logprobs(
    model: Bridge,
    examples: Sequence[EncodedExample],
    needed: frozenset[str],
    hooks_for: HooksFor,
    lower: LowerHalf | None = None,
) -> Logprobs:
    """Everything that an objective needs for these examples, in one pass (two with the Null intervention).

    Response and neutral response follow the same prompt and are edited alike.

    Args:
        lower: what lies below the edited layer, if it is known.
    """
    n = len(examples)
    rows = pairs(examples) if needed else list(examples)
    batch = collate(model, rows)
    example = torch.arange(len(rows), device=batch.tokens.device) % n
    residual = None if lower is None else lower.of(model, rows)
    result = _split(response_logprobs(model, batch, hooks_for(batch, example, None), residual), n)
    logprobs = Logprobs(*result)
    if REFERENCE in needed:
        known = torch.tensor([example.reference for example in examples], device=batch.tokens.device)
        logprobs = logprobs._replace(response_reference=known[:, 0], neutral_reference=known[:, 1])
    if NULL in needed:
        response, neutral = _split(response_logprobs(model, batch, hooks_for(batch, example, "null"), residual), n)
        logprobs = logprobs._replace(response_null=response, neutral_null=neutral)
    return logprobs


def _split(logprobs: TokenLogprobs, n: int) -> tuple[TokenLogprobs, TokenLogprobs | None]:
    """The responses' rows and, where there are any, the neutral responses' rows."""
    response, neutral = (TokenLogprobs(logprobs.values[part], logprobs.mask[part]) for part in (slice(n), slice(n, None)))
    return response, neutral if neutral.values.shape[0] else None
