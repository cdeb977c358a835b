"""Where a response ends, and what it says."""

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from .bridge import Bridge, model_name
from .rendering import PROBE, THOUGHT_BEGINS, THOUGHT_ENDS, apply, render
from .tokenizer import has_template, tokenizer_of

CHANNEL = "<|channel|>"
"""What begins a message's header in the harmony format (gpt-oss), with the channel's name."""
HEADER_ENDS = "<|message|>"
FINAL = re.compile(r"\s*final\b")
"""The header of the answer, as text after CHANNEL; the kind of its content may follow."""
LAST = "<|return|>"
"""What ends a turn in the harmony format."""
ENDS = ("<|end|>", LAST, "<|call|>", "<|start|>")
"""What a message ends with, or the next one begins with."""


class Stops(NamedTuple):
    """What ends a response."""

    tokens: frozenset[int]
    sequences: tuple[tuple[int, ...], ...] = ()
    """Several tokens, one after the other; the longest first."""
    texts: tuple[str, ...] = ()
    """What the sequences say, also where the model writes it in other tokens."""

    def cut(self, text: str) -> str:
        """A response's text up to the first of the texts."""
        return text[: min((at for stop in self.texts if (at := text.find(stop)) >= 0), default=len(text))]


def turn_end(model: Bridge) -> tuple[int, ...]:
    """What ends the assistant's turn in the template: a special token, or a text of several tokens ("### end").

    A special token that only begins the next turn is taken too (GLM's `<|user|>`, which ends a response there). Without any,
    it is the tokenizer's end-of-text token, or nothing.
    """
    tokenizer = tokenizer_of(model)
    eos = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
    if CHANNEL in str(getattr(tokenizer, "chat_template", None)):  # <|end|> ends a message, its reasoning among them
        last = tokenizer.get_vocab().get(LAST)
        return eos if last is None else (last,)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    if tokenizer.bos_token_id not in eos:
        special.discard(tokenizer.bos_token_id)  # begins a turn, and no model is trained to produce it
    after = _after_answers(model)
    for text in after:
        ids = _ids(model, text.lstrip())
        if ids and ids[0] in special:
            return (ids[0],)
    return _ids(model, _end_text(after)) or eos


def _after_answers(model: Bridge) -> list[str]:
    """What the template puts after an answer: at a conversation's end, and before the user's next turn."""
    if not has_template(model):
        return []
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": PROBE}]
    texts = [apply(model, conversation)[0] for conversation in (turns, [*turns, turns[0]])]
    return [text.rsplit(PROBE, 1)[1] if PROBE in text else "" for text in texts]


def _end_text(after: Sequence[str]) -> str:
    """What follows an answer whatever comes next, such as "\\n### end"; "" if that is only white space."""
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(*after, strict=False)) if len(after) == 2 else ()
    return "".join(character for character, _ in shared).rstrip()


def _ids(model: Bridge, text: str) -> tuple[int, ...]:
    return tuple(map(int, tokenizer_of(model)(text, add_special_tokens=False)["input_ids"])) if text else ()


def stop_tokens(model: Bridge, stop: Sequence[str | int] = (), chat: bool = True) -> frozenset[int]:
    """Single tokens that end a response: of the generation config, the tokenizer's EOS, the template's end of turn, and `stop`.

    Raises:
        ValueError: a text in `stop` that is not exactly one token of the vocabulary, or an id that is outside of it.
    """
    tokenizer = tokenizer_of(model)
    config = getattr(model.original_model, "generation_config", None)
    listed = getattr(config, "eos_token_id", None)
    ids = [*(listed if isinstance(listed, (list, tuple)) else [listed]), tokenizer.eos_token_id]
    end = turn_end(model) if chat else ()
    ids += end if len(end) == 1 else ()
    return frozenset(int(token) for token in ids if token is not None) | {_stop_id(model, text) for text in stop}


def response_stops(model: Bridge, stop: str | int | Sequence[str | int] = (), chat: bool = True) -> Stops:
    """All that ends a response: `stop_tokens`, and what takes several tokens: texts in `stop`, the template's end of turn.

    Raises:
        ValueError: an empty text in `stop`, or an id outside of the vocabulary.
    """
    given = [stop] if isinstance(stop, (str, int)) else list(stop)
    long = [text for text in given if isinstance(text, str) and len(_ids(model, text)) > 1]
    end = _end_text(_after_answers(model)) if chat and len(turn_end(model)) > 1 else ""
    several: list[str] = [*long, *([end, end.strip()] if end else [])]
    texts = list(dict.fromkeys(several))
    sequences = {ids for text in texts for ids in _spellings(model, text)}
    single = stop_tokens(model, [text for text in given if text not in texts], chat)
    return Stops(single, tuple(sorted(sequences, key=lambda ids: (-len(ids), ids))), tuple(texts))


def _spellings(model: Bridge, text: str) -> set[tuple[int, ...]]:
    """The tokens of a text that stands alone, and of one that follows another."""
    before, both = _ids(model, PROBE), _ids(model, PROBE + text)
    return {_ids(model, text)} | ({both[len(before) :]} if both[: len(before)] == before else set())


def _stop_id(model: Bridge, stop: str | int) -> int:
    tokenizer = tokenizer_of(model)
    if isinstance(stop, str):
        ids = _ids(model, stop)
        if len(ids) != 1:
            raise ValueError(f"stop {stop!r} is {len(ids)} tokens of {model_name(model)}: give one that is a token, or its id")
        return ids[0]
    if isinstance(stop, bool) or not 0 <= stop < len(tokenizer):
        raise ValueError(f"stop {stop!r} is no token of {model_name(model)}: ids go from 0 to {len(tokenizer) - 1}")
    return int(stop)


# --- what it says -----------------------------------------------------------------------------------------------------------


def decode_response(model: Bridge, ids: Sequence[int], chat: bool = True) -> str:
    """The response's text without special tokens: of a model that reasons first, only what comes after its reasoning.

    With channels (gpt-oss) that is the first message of the final channel. With `<think>` blocks it is what follows the last
    one if the response begins with a thought (its own, or one that the template began), else all of it. "" if the answer was
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
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    began = str(tokenizer.decode(ids, skip_special_tokens=False)).lstrip().startswith(THOUGHT_BEGINS)
    if not began and not render(model, PROBE).rstrip().endswith(THOUGHT_BEGINS):
        return text
    ends = _ids(model, THOUGHT_ENDS)
    if len(ends) == 1 and ends[0] in ids:
        last = len(ids) - ids[::-1].index(ends[0])
        return str(tokenizer.decode(ids[last:], skip_special_tokens=True)).lstrip()
    return text.rsplit(THOUGHT_ENDS, 1)[1].lstrip() if THOUGHT_ENDS in text else ""


def _final_channel(tokenizer: Any, ids: list[int]) -> list[int]:
    """The first message of the final channel; where no channel was begun, the text up to the end of its message."""
    names: Mapping[str, int] = tokenizer.get_vocab()
    ends = {names[name] for name in ENDS if name in names}
    opening, closing = names.get(CHANNEL), names.get(HEADER_ENDS)
    starts = [index for index, token in enumerate(ids) if token == opening]
    if not starts or (any(token in ends for token in ids[: starts[0]]) and ids[0] not in ends):
        return _until(ids, ends)
    for start in starts:
        header = _until(ids[start + 1 :], {closing})
        body = ids[start + len(header) + 2 :]
        if FINAL.match(tokenizer.decode(header)):
            return _until(body, ends)
    return []


def _until(ids: list[int], ends: set[int] | set[int | None]) -> list[int]:
    return ids[: next((index for index, token in enumerate(ids) if token in ends), len(ids))]
