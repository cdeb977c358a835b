"""Log-probabilities of responses to prompts: encoding, batches, and the one forward pass that training and losses share."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from .data import DataError, SteeringData
from .model import Bridge, Hooks, Padded, context_length, encode_prompt, encode_response, forward, model_name, pad
from .objectives import TokenLogprobs


class EncodedExample(NamedTuple):
    """Token ids of one example."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]


class Batch(NamedTuple):
    """Examples padded on the right."""

    tokens: Int[Tensor, "batch pos"]
    token_mask: Bool[Tensor, "batch pos"]
    prompt_mask: Bool[Tensor, "batch pos"]

    @property
    def response_mask(self) -> Bool[Tensor, "batch pos"]:
        return self.token_mask & ~self.prompt_mask


def encode_data(
    model: Bridge, data: SteeringData, max_response_tokens: int | None = None, append_eos: bool = False
) -> list[EncodedExample]:
    """Token ids of all examples.

    Raises:
        DataError: a row is longer than the model's context, or has no response token; the message names the row.
    """
    encoded = []
    for number, example in enumerate(data):
        prompt = encode_prompt(model, example.prompt)
        response = encode_response(model, example.response, max_response_tokens, append_eos)
        size, limit = len(prompt) + len(response), context_length(model)
        if size > limit:
            raise DataError(
                f"row {number}: {size} tokens ({len(prompt)} of the prompt) exceed the context of {model_name(model)} "
                f"({limit}): shorten it, or cut responses with TrainConfig(max_response_tokens=...)"
            )
        if not response:
            raise DataError(f"row {number}: the response has no tokens")
        encoded.append(EncodedExample(tuple(prompt), tuple(response)))
    return encoded


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
    logits = forward(model, _padded(batch), hooks, keep=width - first + 1)[:, :-1]
    targets, mask = batch.tokens[:, first:], batch.response_mask[:, first:]
    chosen = -F.cross_entropy(logits[mask].float(), targets[mask], reduction="none")
    values = torch.zeros(mask.shape, dtype=chosen.dtype, device=chosen.device).masked_scatter(mask, chosen)
    return TokenLogprobs(values, mask)


def _padded(batch: Batch) -> Padded:
    return Padded(batch.tokens, batch.token_mask.long())
