"""Log-probabilities of responses to prompts: encoding, batches, and the one forward pass that training and losses share."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..model.batches import Batch, EncodedExample, collate, pairs
from ..model.bridge import Bridge, Hooks
from ..model.forward import announced, forward
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


def response_logprobs(model: Bridge, batch: Batch, hooks: Hooks = ()) -> TokenLogprobs:
    """log p of each response token, float32. What stands before the shortest prompt's last token is not unembedded."""
    first = int(batch.prompt_lengths.min())  # the shortest prompt's last token predicts at position first - 1
    width = batch.tokens.shape[1]
    with announced(model, batch.prompt_lengths):
        logits = forward(model, batch.padded, hooks, keep=width - first + 1)[:, :-1]
    targets, mask = batch.tokens[:, first:], batch.response_mask[:, first:]
    chosen = -F.cross_entropy(logits[mask].float(), targets[mask], reduction="none")
    values = torch.zeros(mask.shape, dtype=chosen.dtype, device=chosen.device).masked_scatter(mask, chosen)
    return TokenLogprobs(values, mask)


HooksFor = Callable[[Batch, Tensor, str | None], Hooks]
"""(batch, index of each row's example, form to use instead of the vector's own) -> hooks for one pass"""


def objective_logprobs(
    model: Bridge, examples: Sequence[EncodedExample], needed: frozenset[str], hooks_for: HooksFor
) -> Logprobs:
    """Everything that an objective needs for these examples, in one pass (two with the Null intervention).

    Response and neutral response follow the same prompt and are edited alike.
    """
    n = len(examples)
    rows = pairs(examples) if needed else list(examples)
    batch = collate(model, rows)
    example = torch.arange(len(rows), device=batch.tokens.device) % n
    result = _split(response_logprobs(model, batch, hooks_for(batch, example, None)), n)
    logprobs = Logprobs(*result)
    if REFERENCE in needed:
        known = torch.tensor([example.reference for example in examples], device=batch.tokens.device)
        logprobs = logprobs._replace(response_reference=known[:, 0], neutral_reference=known[:, 1])
    if NULL in needed:
        response, neutral = _split(response_logprobs(model, batch, hooks_for(batch, example, "null")), n)
        logprobs = logprobs._replace(response_null=response, neutral_null=neutral)
    return logprobs


def _split(logprobs: TokenLogprobs, n: int) -> tuple[TokenLogprobs, TokenLogprobs | None]:
    """The responses' rows and, where there are any, the neutral responses' rows."""
    response, neutral = (TokenLogprobs(logprobs.values[part], logprobs.mask[part]) for part in (slice(n), slice(n, None)))
    return response, neutral if neutral.values.shape[0] else None
