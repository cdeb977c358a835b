"""A conversation to the text of the model's chat template, in which everything that was said has to arrive."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..conversations import is_empty
from ..data import Message, Prompt
from ..reproducibility import sha256
from .bridge import Bridge, model_name
from .tokenizer import has_template, mentions_key, template_args, tokenizer_of

THOUGHT_ENDS = "</think>"
THOUGHT_BEGINS = "<think>"
PROBE = "zq7 steers"
"""A message that no template contains."""
CLOCK = re.compile(r"""strftime_now\(\s*(['"]).*?\1""")
"""How a template asks for date and time."""
TIME = re.compile("%-?[HIMSTRXcfprs]")
"""What of them is the time of day (`%c` and `%s` are date and time in one, of which the date stays)."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Keys under which an assistant's message holds what it thought; a template that knows them may leave earlier thoughts out."""
LABELS = ("role", "content", "id", "timestamp", "model", "tool_call_id")
"""Keys of a message that need not be in the text by themselves: its content is looked for, the others are labels."""


class RenderedForm(NamedTuple):
    """What tells one way of making chat prompts from another."""

    digest: str
    """Of what the template makes of some conversations, with and without a system message and earlier turns (sha256, hex)."""
    template_args: dict[str, Any]


def render(model: Bridge, prompt: Prompt, *, add_generation_prompt: bool = True) -> str:
    """A prompt in the model's chat template, with the template's arguments (see `load_model(template_args=...)`).

    A template that refuses or drops the system message gets its text before the first user message, separated by a blank line.
    A conversation that ends with the assistant's beginning of a turn is continued (`add_generation_prompt=False`).

    Raises:
        ValueError: the template refuses the conversation; the text of a message is not in what it makes (but for what the
            assistant thought); or a message has a further part, such as tool_calls or a name, that makes no difference.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(message) for message in prompt]
    text, refusal = apply(model, messages, add_generation_prompt)
    missing = _missing(model, messages, text)
    if messages[0]["role"] == "system" and missing and missing[0] is messages[0]:
        for key in _further(messages[0]):
            raise _dropped_part(model, 0, key)
        messages = _folded(messages)
        text, refusal = apply(model, messages, add_generation_prompt)
        missing = _missing(model, messages, text)
    if refusal is not None:
        raise ValueError(f"the chat template of {model_name(model)} refuses the conversation: {refusal}") from refusal
    if missing:
        raise ValueError(
            f"the chat template of {model_name(model)} drops the {missing[0]['role']} message {missing[0]['content']!r:.60}: "
            "put its text into a user message"
        )
    _check_further_parts(model, messages, text, add_generation_prompt)
    return text


def apply(model: Bridge, messages: Sequence[Message], header: bool | None = None, **extra: Any) -> tuple[str, Exception | None]:
    """The rendered text, or what the template raised. `header`: False continues the last message, None ends it."""
    endings = {True: {"add_generation_prompt": True}, False: {"continue_final_message": True}, None: {}}
    try:
        arguments = template_args(model) | extra | endings[header]
        return tokenizer_of(model).apply_chat_template(messages, tokenize=False, **arguments), None
    except Exception as error:  # each template refuses in its own words and class
        return "", error


# --- what has to arrive -----------------------------------------------------------------------------------------------------


def _missing(model: Bridge, messages: Sequence[Message], text: str) -> list[Message]:
    """Messages whose text did not arrive; of what the assistant says, its thoughts need not.

    One message may be part of another ("Hi", "Hi there"), so each is also looked for as a text that stands nowhere else.
    """
    marked = [dict(message) | {"content": f"{PROBE}{index} end"} for index, message in enumerate(messages)]
    whole, refusal = apply(model, marked)
    dropped = {index for index, mark in enumerate(marked) if refusal is None and mark["content"] not in whole}
    return [
        message
        for index, message in enumerate(messages)
        if message["content"].strip() and (index in dropped or not all(part in text for part in _said(message)))
    ]


def _said(message: Message) -> list[str]:
    """The texts of a message that must arrive."""
    content = message["content"]
    if message["role"] != "assistant":
        return [content.strip()]
    begins, ends = re.escape(THOUGHT_BEGINS), re.escape(THOUGHT_ENDS)
    closed = re.split(rf"{begins}.*?{ends}", content, flags=re.DOTALL)
    if THOUGHT_BEGINS not in content.partition(THOUGHT_ENDS)[0]:  # the template began the thought
        closed = [content.rpartition(THOUGHT_ENDS)[2]]
    return [part.strip() for part in closed]


def _further(message: Message) -> list[str]:
    return [key for key, value in message.items() if key not in LABELS and not is_empty(value)]


def _check_further_parts(model: Bridge, messages: Sequence[Message], text: str, header: bool) -> None:
    """Raise ValueError for a part of a message, or a piece of one, without which the text is the same."""
    for index, message in enumerate(messages):
        for key in _further(message):
            if key in THOUGHTS and message["role"] == "assistant" and mentions_key(model, key):
                continue
            for less in _lessened(message, key):
                if apply(model, [*messages[:index], less, *messages[index + 1 :]], header) == (text, None):
                    raise _dropped_part(model, index, key)


def _lessened(message: Message, key: str) -> Iterator[Message]:
    """The message without the part, without each of several pieces of it, and without the arguments of each call."""
    value = message[key]
    yield {name: part for name, part in message.items() if name != key}
    if not isinstance(value, (list, tuple)):
        return
    for index, piece in enumerate(value):
        before, after = value[:index], value[index + 1 :]
        if len(value) > 1:
            yield {**message, key: [*before, *after]}
        call = piece.get("function", piece) if isinstance(piece, Mapping) else {}
        if isinstance(call, Mapping) and not is_empty(arguments := call.get("arguments")):
            bare = {**call, "arguments": "" if isinstance(arguments, str) else {}}
            yield {**message, key: [*before, {**piece, "function": bare} if "function" in piece else bare, *after]}


def _dropped_part(model: Bridge, index: int, key: str) -> ValueError:
    return ValueError(
        f"the chat template of {model_name(model)} drops {key!r} of message {index}, or a part of it: put what it says "
        "into the content, or leave it out"
    )


def _folded(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The system message before the first user message, in one turn; alone, it is the user's."""
    system, rest = messages[0], [dict(message) for message in messages[1:]]
    first = next((index for index, message in enumerate(rest) if message["role"] == "user"), None)
    if first is None:
        return [{"role": "user", "content": system["content"]}, *rest]
    rest[first]["content"] = f"{system['content'].rstrip()}\n\n{rest[first]['content']}"
    return rest


# --- what the identity remembers --------------------------------------------------------------------------------------------


def rendered_form(model: Bridge) -> RenderedForm | None:
    """How this model's chat prompts look; None without a template.

    A template that prints today's date gives another digest tomorrow, and one whose date is an argument does not. The time of
    day is left out: with a template that prints it no two prompts are the same, and a digest of it would recognise nothing. To
    make such prompts the same, load the model with `template_args={"chat_template": ...}`, a template without it.
    """
    if model.tokenizer is None or not has_template(model):
        return None
    arguments = json.loads(json.dumps(template_args(model), default=str))
    template = template_args(model).get("chat_template", tokenizer_of(model).chat_template)
    timeless = {"chat_template": _without_time(template)} if isinstance(template, str) and CLOCK.search(template) else {}
    texts = [apply(model, conversation, True, **timeless)[0] for conversation in _probes()]
    return RenderedForm(sha256(json.dumps(texts)), arguments)


def _probes() -> Iterator[list[Message]]:
    """One question, and a conversation, each without and with a system message."""
    system: Message = {"role": "system", "content": f"{PROBE} s"}
    question: Message = {"role": "user", "content": PROBE}
    answer: Message = {"role": "assistant", "content": f"{PROBE} a"}
    conversations: tuple[list[Message], ...] = ([question], [question, answer, question])
    for turns in conversations:
        yield turns
        yield [system, *turns]


def _without_time(template: str) -> str:
    """A template whose clock gives the date and no time of day."""
    return CLOCK.sub(lambda call: TIME.sub(lambda part: "%x" if part[0][-1] in "cs" else "", call[0]), template)
