"""One way from a conversation to token ids and from token ids to a response.

Every part of steerlens that feeds text to a model comes through here: a chat prompt is what `apply_chat_template` of the
tokenizer on disk makes of it, prompt and response are encoded together, and a response ends where the template ends a turn.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ..data import Prompt
from .bridge import Bridge, model_name
from .rendering import PROBE, RenderedForm, render, rendered_form
from .responses import Stops, decode_response, response_stops, stop_tokens, turn_end
from .tokenizer import has_template, tokenizer_of

__all__ = [
    "Encoded",
    "RenderedForm",
    "Stops",
    "agreement",
    "decode_response",
    "encode_prompt",
    "encode_with_responses",
    "prefix_length",
    "render",
    "rendered_form",
    "response_stops",
    "stop_tokens",
    "text_prefix",
    "turn_end",
]


class Encoded(NamedTuple):
    """Token ids of a prompt and of the responses that may follow it."""

    prompt: list[int]
    responses: list[list[int]]


def encode_prompt(model: Bridge, prompt: Prompt, chat: bool = True) -> list[int]:
    """Token ids of one prompt: in the chat template with its generation header, or (`chat=False`, no template) as bare text.

    A chat prompt has the ids of `apply_chat_template(..., tokenize=True)` of the tokenizer on disk; bare text those of calling
    it, without a token for the end, and never with two BOS.

    Raises:
        ValueError: no tokenizer; a conversation without a template to render it; a template that refuses or drops a message;
            an empty prompt.
    """
    text, templated = _prompt_text(model, prompt, chat)
    ids = _encode(model, text, templated)
    if not ids:
        raise ValueError("the prompt is empty")
    return ids


def encode_with_responses(
    model: Bridge,
    prompt: Prompt,
    responses: Sequence[str],
    *,
    chat: bool = True,
    max_tokens: int | None = None,
    append_eos: bool = False,
) -> Encoded:
    """A prompt and each of its responses encoded as one text and cut where the prompt's ids end.

    So a response's first token is the one that the model would produce: a SentencePiece vocabulary has another for a word
    after a line break than for a word alone. Where the two texts merge into one token, the prompt is what all agree on.
    `append_eos` appends what ends a turn in the template (`turn_end`), or the end-of-text token.

    Raises:
        ValueError: as `encode_prompt`.
    """
    text, templated = _prompt_text(model, prompt, chat)
    alone = _encode(model, text, templated)
    if not alone:
        raise ValueError("the prompt is empty")
    together = [_encode(model, text + response, templated) for response in responses]
    cut = min((agreement(alone, ids) for ids in together), default=len(alone))
    end = turn_end(model) if append_eos else ()
    answers = [[*ids[cut:], *end] for ids in together]
    return Encoded(alone[:cut], [answer[:max_tokens] for answer in answers])


def agreement(prompt: Sequence[int], whole: Sequence[int]) -> int:
    """How many tokens of a prompt a longer text begins with."""
    return next(
        (index for index, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(len(prompt), len(whole))
    )


def _prompt_text(model: Bridge, prompt: Prompt, chat: bool) -> tuple[str, bool]:
    """The text that is encoded, and whether it went through the template."""
    if chat and has_template(model):
        return render(model, prompt), True
    if not isinstance(prompt, str):
        reason = "chat=False" if not chat else f"the tokenizer of {model_name(model)} has no chat template"
        raise ValueError(f"a conversation of several messages cannot be rendered: {reason}")
    return prompt, False


def _encode(model: Bridge, text: str, templated: bool) -> list[int]:
    """Ids of a text; bare text begins as the tokenizer begins a text, and has no token for its end."""
    tokenizer = tokenizer_of(model)
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if templated:
        return ids
    begins = text_prefix(model)
    while begins and ids[: len(begins)] == begins:
        ids = ids[len(begins) :]
    return [*begins, *ids]


def text_prefix(model: Bridge) -> list[int]:
    """The special tokens that the tokenizer on disk puts before a text: BOS, or none."""
    tokenizer = tokenizer_of(model)
    plain, full = (list(tokenizer(PROBE, add_special_tokens=special)["input_ids"]) for special in (False, True))
    starts = range(len(full) - len(plain) + 1)
    start = next((index for index in starts if full[index : index + len(plain)] == plain), 0)
    return full[:start]


def prefix_length(model: Bridge) -> int:
    """Tokens that every templated prompt begins with (AxBench's prefix_length), at least the first one.

    The first token, BOS or not, takes in attention that has nowhere to go, and its residual stream is far larger than any
    other: it would decide a mean.
    """
    first, second = encode_prompt(model, "1"), encode_prompt(model, "2")
    shared = next((index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
    return max(1, shared)
