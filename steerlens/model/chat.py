"""One way from a conversation to token ids and from token ids to a response.

Every part of steerlens that feeds text to a model comes through here: a chat prompt is what `apply_chat_template` of the
tokenizer on disk makes of it, prompt and response are encoded together, and a response ends where the template ends a turn.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..data import Prompt
from ..reproducibility import sha256
from .bridge import Bridge, model_name
from .tokenizer import has_template, template_args, tokenizer_of

FINAL_CHANNEL = "<|channel|>final<|message|>"
"""Where the answer begins in the harmony format (gpt-oss)."""
CHANNEL = "<|channel|>"
LAST = "<|return|>"
"""What ends a turn in the harmony format."""
THOUGHT_ENDS = "</think>"
THOUGHT_BEGINS = "<think>"
PROBE = "zq7 steers"
"""A message that no template contains."""


class Encoded(NamedTuple):
    """Token ids of a prompt and of the responses that may follow it."""

    prompt: list[int]
    responses: list[list[int]]


class RenderedForm(NamedTuple):
    """What tells one way of making chat prompts from another."""

    digest: str
    """Of what the template makes of one message (sha256, hex)."""
    template_args: dict[str, Any]


# --- conversation to text -------------------------------------------------------------------------------------------------


def render(model: Bridge, prompt: Prompt, *, add_generation_prompt: bool = True) -> str:
    """A prompt in the model's chat template, with the template's arguments (see `load_model(template_args=...)`).

    A template that refuses or drops the system message gets its text before the first user message, separated by a blank line.
    A conversation that ends with the assistant's beginning of a turn is continued (`add_generation_prompt=False`).

    Raises:
        ValueError: the template refuses the conversation, or the text of a message is not in what it makes.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(message) for message in prompt]
    text, refusal = _apply(model, messages, add_generation_prompt)
    missing = _missing(model, messages, text)
    if messages[0]["role"] == "system" and missing and missing[0] is messages[0]:
        messages = _folded(messages)
        text, refusal = _apply(model, messages, add_generation_prompt)
        missing = _missing(model, messages, text)
    if refusal is not None:
        raise ValueError(f"the chat template of {model_name(model)} refuses the conversation: {refusal}") from refusal
    if missing:
        raise ValueError(
            f"the chat template of {model_name(model)} drops the {missing[0]['role']} message {missing[0]['content']!r:.60}: "
            "put its text into a user message"
        )
    return text


def _apply(model: Bridge, messages: Sequence[Mapping[str, str]], header: bool) -> tuple[str, Exception | None]:
    """The rendered text, or what the template raised."""
    arguments = template_args(model) | ({} if header else {"continue_final_message": True})
    tokenizer = tokenizer_of(model)
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=header, **arguments), None
    except Exception as error:  # each template refuses in its own words and class
        return "", error


def _missing(model: Bridge, messages: Sequence[Mapping[str, str]], text: str) -> list[Mapping[str, str]]:
    """Messages whose text did not arrive; of what the assistant thought, only what follows must.

    One message may be part of another ("Hi", "Hi there"), so each is also looked for as a text that stands nowhere else.
    """
    marked = [dict(message) | {"content": f"{PROBE}{index} end"} for index, message in enumerate(messages)]
    whole, refusal = _apply_whole(model, marked)
    dropped = {index for index, mark in enumerate(marked) if refusal is None and mark["content"] not in whole}
    arrived = [message["content"].split(THOUGHT_ENDS)[-1].strip() in text for message in messages]
    return [message for index, message in enumerate(messages) if index in dropped or not arrived[index]]


def _folded(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The system message before the first user message, in one turn; alone, it is the user's."""
    system, rest = messages[0], [dict(message) for message in messages[1:]]
    first = next((index for index, message in enumerate(rest) if message["role"] == "user"), None)
    if first is None:
        return [{"role": "user", "content": system["content"]}, *rest]
    rest[first]["content"] = f"{system['content'].rstrip()}\n\n{rest[first]['content']}"
    return rest


def rendered_form(model: Bridge) -> RenderedForm | None:
    """How this model's chat prompts look; None without a template.

    A template that prints today's date gives another digest tomorrow, and one whose date is an argument does not.
    """
    if model.tokenizer is None or not has_template(model):
        return None
    arguments = json.loads(json.dumps(template_args(model), default=str))
    return RenderedForm(sha256(render(model, PROBE)), arguments)


# --- text to ids ----------------------------------------------------------------------------------------------------------


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
    `append_eos` appends the token that ends a turn in the template, or the end-of-text token.

    Raises:
        ValueError: as `encode_prompt`.
    """
    text, templated = _prompt_text(model, prompt, chat)
    alone = _encode(model, text, templated)
    if not alone:
        raise ValueError("the prompt is empty")
    together = [_encode(model, text + response, templated) for response in responses]
    cut = min((agreement(alone, ids) for ids in together), default=len(alone))
    end = turn_end(model) if append_eos else None
    answers = [ids[cut:] if end is None else [*ids[cut:], end] for ids in together]
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


# --- where a response ends, and what it says ------------------------------------------------------------------------------


def turn_end(model: Bridge) -> int | None:
    """The token that ends the assistant's turn in the template, else the tokenizer's end-of-text token, else None."""
    tokenizer = tokenizer_of(model)
    if CHANNEL in str(getattr(tokenizer, "chat_template", None)):  # <|end|> ends a message, its reasoning among them
        return tokenizer.get_vocab().get(LAST, tokenizer.eos_token_id)
    if has_template(model):
        conversation = [{"role": "user", "content": "1"}, {"role": "assistant", "content": PROBE}]
        text, refusal = _apply_whole(model, conversation)
        after = "" if refusal is not None or PROBE not in text else text.rsplit(PROBE, 1)[1]
        ids = list(tokenizer(after.lstrip(), add_special_tokens=False)["input_ids"])
        if ids and (ids[0] in tokenizer.all_special_ids or ids[0] in tokenizer.added_tokens_decoder):
            return int(ids[0])
    return None if tokenizer.eos_token_id is None else int(tokenizer.eos_token_id)


def _apply_whole(model: Bridge, messages: Sequence[Mapping[str, str]]) -> tuple[str, Exception | None]:
    try:
        return tokenizer_of(model).apply_chat_template(messages, tokenize=False, **template_args(model)), None
    except Exception as error:  # as in _apply
        return "", error


def stop_tokens(model: Bridge, stop: Sequence[str | int] = (), chat: bool = True) -> frozenset[int]:
    """Tokens that end a response: of the generation config, the tokenizer's EOS, the template's end of turn, and `stop`.

    Raises:
        ValueError: a text in `stop` that is not exactly one token of the vocabulary, or an id that is outside of it.
    """
    tokenizer = tokenizer_of(model)
    config = getattr(model.original_model, "generation_config", None)
    listed = getattr(config, "eos_token_id", None)
    ids = [*(listed if isinstance(listed, (list, tuple)) else [listed]), tokenizer.eos_token_id]
    ids.append(turn_end(model) if chat else None)
    return frozenset(int(token) for token in ids if token is not None) | {_stop_id(model, text) for text in stop}


def _stop_id(model: Bridge, stop: str | int) -> int:
    tokenizer = tokenizer_of(model)
    if isinstance(stop, str):
        ids = list(tokenizer(stop, add_special_tokens=False)["input_ids"])
        if len(ids) != 1:
            raise ValueError(f"stop {stop!r} is {len(ids)} tokens of {model_name(model)}: give one that is a token, or its id")
        return int(ids[0])
    if isinstance(stop, bool) or not 0 <= stop < len(tokenizer):
        raise ValueError(f"stop {stop!r} is no token of {model_name(model)}: ids go from 0 to {len(tokenizer) - 1}")
    return int(stop)


def decode_response(model: Bridge, ids: Sequence[int], chat: bool = True) -> str:
    """The response's text without special tokens: of a model that reasons first, only what comes after its reasoning.

    With channels (gpt-oss) that is the final channel, with `<think>` blocks what follows the last one; "" if the answer was
    not begun. What follows bare text (`chat=False`) is given whole.
    """
    tokenizer = tokenizer_of(model)
    ids = [int(token) for token in ids]
    template = str(getattr(tokenizer, "chat_template", None) or "") if chat else ""
    if CHANNEL in template:
        ids = _final_channel(tokenizer, ids)
    elif THOUGHT_BEGINS in template or THOUGHT_ENDS in template:
        return _after_thought(model, ids)
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def _after_thought(model: Bridge, ids: list[int]) -> str:
    """What follows the last `</think>`; all of it where there was no thinking. The marks may be special tokens or not."""
    tokenizer = tokenizer_of(model)
    ends = list(tokenizer(THOUGHT_ENDS, add_special_tokens=False)["input_ids"])
    if len(ends) == 1 and ends[0] in ids:
        last = len(ids) - ids[::-1].index(ends[0])
        return str(tokenizer.decode(ids[last:], skip_special_tokens=True)).lstrip()
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    if THOUGHT_ENDS in text:
        return text.rsplit(THOUGHT_ENDS, 1)[1].lstrip()
    thinking = str(tokenizer.decode(ids, skip_special_tokens=False)).lstrip().startswith(THOUGHT_BEGINS)
    return "" if thinking or render(model, PROBE).rstrip().endswith(THOUGHT_BEGINS) else text


def _final_channel(tokenizer: Any, ids: list[int]) -> list[int]:
    """What follows the header of the final channel; all of it where there is no channel at all."""
    header = list(tokenizer(FINAL_CHANNEL, add_special_tokens=False)["input_ids"])
    for start in range(len(ids) - len(header), -1, -1):
        if ids[start : start + len(header)] == header:
            return ids[start + len(header) :]
    opening = header[0]
    return [] if opening in ids else ids
