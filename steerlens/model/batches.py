"""Examples as token ids and as padded batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..arguments import is_whole
from ..data import DataError, Prompt, SteeringData
from ..positions import PositionFunction, position_mask, prompt_tokens
from .bridge import Bridge, check_tokens, context_length, model_name
from .chat import Encoded, encode_with_responses
from .forward import Padded, pad
from .support import check_rotary_side


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
    def padded(self) -> Padded:
        """What a forward pass takes."""
        return Padded(self.tokens, self.token_mask.long())

    @property
    def response_mask(self) -> Bool[Tensor, "batch pos"]:
        return self.token_mask & ~self.prompt_mask

    @property
    def prompt_lengths(self) -> Int[Tensor, " batch"]:
        return self.prompt_mask.sum(-1)

    def edited(self, positions: str | PositionFunction) -> Bool[Tensor, "batch pos"]:
        """The tokens that these positions edit."""
        return position_mask(positions, self.prompt_mask, self.token_mask)


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
        texts = [example.response]
        if neutral:
            if example.neutral is None:
                raise DataError(f"row {number} has no neutral response, which this objective compares the response with")
            texts.append(example.neutral)
        prompt, responses = _encoded(model, number, example.prompt, texts, max_response_tokens, append_eos)
        for response in responses:
            if not response:
                raise DataError(f"row {number}: the response has no tokens")
            n_tokens = len(prompt) + len(response)
            beginning = f"row {number}: {n_tokens} tokens ({len(prompt)} of the prompt) exceed"
            remedy = "shorten it, or cut responses with TrainConfig(max_response_tokens=...)"
            check_context(model, n_tokens, beginning, remedy, DataError)
        other = tuple(responses[1]) if neutral else None
        encoded.append(EncodedExample(tuple(prompt), tuple(responses[0]), other))
    check_rotary_side(model, [(example.length, example.length) for example in encoded])
    return encoded


def _encoded(
    model: Bridge, number: int, prompt: Prompt, texts: Sequence[str], max_tokens: int | None, append_eos: bool
) -> Encoded:
    """A row's token ids; what the template refuses is said with the row."""
    try:
        encoded = encode_with_responses(model, prompt, texts, max_tokens=max_tokens, append_eos=append_eos)
        for ids in (encoded.prompt, *encoded.responses):
            check_tokens(model, ids, "it")
        return encoded
    except ValueError as error:
        raise DataError(f"row {number}: {error}") from error


def check_batch_size(batch_size: int) -> None:
    """Raise ValueError unless there is at least one row in a batch."""
    if not is_whole(batch_size):
        raise ValueError(f"batch_size is {batch_size!r:.60}; it must be a whole number")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")


def check_context(model: Bridge, n_tokens: int, beginning: str, remedy: str, error: type[ValueError] = ValueError) -> None:
    """Raise `error` if so many tokens are more than the model's context.

    Args:
        beginning: of the message, up to the verb, such as "prompt 3 has 700 tokens and exceeds".
        remedy: the message's end.
    """
    if n_tokens > context_length(model):
        raise error(f"{beginning} the context of {model_name(model)} ({context_length(model)}): {remedy}")


RowT = TypeVar("RowT")


def in_passes(rows: Sequence[RowT], pass_tokens: int, length: Callable[[RowT], int]) -> Iterator[list[RowT]]:
    """Rows that are sorted by length in parts of at most so many tokens, padding counted, but of one row at least."""
    part: list[RowT] = []
    for row in rows:
        if part and (len(part) + 1) * length(row) > pass_tokens:
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def pairs(examples: Sequence[EncodedExample]) -> list[EncodedExample]:
    """All responses, then all neutral responses, as examples of their own."""
    neutral = [example._replace(response=example.neutral) for example in examples if example.neutral is not None]
    return [*examples, *neutral]


def collate(model: Bridge, examples: Sequence[EncodedExample]) -> Batch:
    """Pad examples to one length, prompt and response in one row each."""
    tokens, mask = pad(model, [example.prompt + example.response for example in examples], "right")
    lengths = torch.tensor([len(example.prompt) for example in examples], device=tokens.device)
    token_mask = mask.bool()
    return Batch(tokens, token_mask, prompt_tokens(token_mask, lengths))
