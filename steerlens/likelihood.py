"""Log-probabilities of responses to prompts: encoding, batches, and the one forward pass that training and losses share."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor

from .data import DataError, SteeringData
from .model import Bridge, Hooks, Padded, context_length, encode_prompt, encode_response, forward, model_name, pad
from .objectives import NULL, REFERENCE, Logprobs, TokenLogprobs
from .passes import announced


class EncodedExample(NamedTuple):
    """Token ids of one example."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    neutral: tuple[int, ...] | None = None
    """None where the objective does not look at it."""
    reference: tuple[float, float] | None = None
    """Summed log-probabilities of response and neutral response under the unsteered model."""

    @property
    def length(self) -> int:
        """Tokens of the prompt and the longer response."""
        return len(self.prompt) + max(len(self.response), len(self.neutral or ()))


class Batch(NamedTuple):
    """Examples padded on the right."""

    tokens: Int[Tensor, "batch pos"]
    token_mask: Bool[Tensor, "batch pos"]
    prompt_mask: Bool[Tensor, "batch pos"]

    @property
    def response_mask(self) -> Bool[Tensor, "batch pos"]:
        return self.token_mask & ~self.prompt_mask


def encode_data(
    model: Bridge,
    data: SteeringData,
    max_response_tokens: int | None = None,
    append_eos: bool = False,
    *,
    neutral: bool = False,
) -> list[EncodedExample]:
    """Token ids of all examples, with their neutral responses if asked for.

    Raises:
        DataError: a row is longer than the model's context, has no response token, or lacks a neutral response that is
            asked for; the message names the row.
    """
    encoded = []
    for number, example in enumerate(data):
        prompt = encode_prompt(model, example.prompt)
        texts = [example.response]
        if neutral:
            if example.neutral is None:
                raise DataError(f"row {number} has no neutral response, which this objective compares the response with")
            texts.append(example.neutral)
        responses = [encode_response(model, text, max_response_tokens, append_eos) for text in texts]
        for response in responses:
            _check_length(model, number, len(prompt), len(response))
        other = tuple(responses[1]) if neutral else None
        encoded.append(EncodedExample(tuple(prompt), tuple(responses[0]), other))
    return encoded


def _check_length(model: Bridge, number: int, prompt: int, response: int) -> None:
    if not response:
        raise DataError(f"row {number}: the response has no tokens")
    size, limit = prompt + response, context_length(model)
    if size > limit:
        raise DataError(
            f"row {number}: {size} tokens ({prompt} of the prompt) exceed the context of {model_name(model)} "
            f"({limit}): shorten it, or cut responses with TrainConfig(max_response_tokens=...)"
        )


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


def pairs(examples: Sequence[EncodedExample]) -> list[EncodedExample]:
    """All responses, then all neutral responses, as examples of their own."""
    neutral = [example._replace(response=example.neutral) for example in examples if example.neutral is not None]
    return [*examples, *neutral]


def collate(model: Bridge, examples: Sequence[EncodedExample]) -> Batch:
    """Pad examples to one length, prompt and response in one row each."""
    tokens, mask = pad(model, [example.prompt + example.response for example in examples], "right")
    lengths = torch.tensor([len(example.prompt) for example in examples], device=tokens.device)
    places = torch.arange(tokens.shape[1], device=tokens.device)
    return Batch(tokens, mask.bool(), places < lengths[:, None])


def response_logprobs(model: Bridge, batch: Batch, hooks: Hooks = ()) -> TokenLogprobs:
    """log p of each response token, float32. What stands before the shortest prompt's last token is not unembedded."""
    first = int(batch.prompt_mask.sum(-1).min())  # the shortest prompt's last token predicts at position first - 1
    width = batch.tokens.shape[1]
    with announced(model, batch.prompt_mask.sum(-1)):
        logits = forward(model, _padded(batch), hooks, keep=width - first + 1)[:, :-1]
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
    place = torch.arange(len(rows), device=batch.tokens.device) % n
    result = _split(response_logprobs(model, batch, hooks_for(batch, place, None)), n)
    logprobs = Logprobs(*result)
    if REFERENCE in needed:
        known = torch.tensor([example.reference for example in examples], device=batch.tokens.device)
        logprobs = logprobs._replace(response_reference=known[:, 0], neutral_reference=known[:, 1])
    if NULL in needed:
        response, neutral = _split(response_logprobs(model, batch, hooks_for(batch, place, "null")), n)
        logprobs = logprobs._replace(response_null=response, neutral_null=neutral)
    return logprobs


def _split(logprobs: TokenLogprobs, n: int) -> tuple[TokenLogprobs, TokenLogprobs | None]:
    """The responses' rows and, where there are any, the neutral responses' rows."""
    response, neutral = (TokenLogprobs(logprobs.values[part], logprobs.mask[part]) for part in (slice(n), slice(n, None)))
    return response, neutral if neutral.values.shape[0] else None


def _padded(batch: Batch) -> Padded:
    return Padded(batch.tokens, batch.token_mask.long())
