"""What each token of a prompt and its response is: BOS, the chat template before the instruction, the instruction, the template
after it, or the response."""

from collections.abc import Sequence

from ..data import Message, Prompt
from ..model.batches import EncodedExample
from ..model.bridge import Bridge
from ..model.chat import encode_prompt
from ..model.tokenizer import has_template, tokenizer_of

GROUPS = ("bos", "template prefix", "instruction", "template suffix", "response")
"""In the order in which they stand in a sequence; a sequence need not have each."""
MERGED = 1
"""Tokens at a prompt's end that its response may have merged with (see `encode_with_responses`)."""
PROBES = ("1", "2")
"""Put in the instruction's place. No token of an instruction is the first (or last) of both."""


def token_groups(model: Bridge, prompt: Prompt, example: EncodedExample, chat: bool = True) -> list[str]:
    """The group of each token of prompt and response, one of `GROUPS` per token.

    The template is what stays when the instruction is replaced, so a token that holds characters of both counts as
    instruction. Of a conversation the instruction is everything from the first message's text to the last one's, with the
    marks of the turns between. Without a template, or with `chat=False`, there are only BOS, instruction and response.

    Args:
        prompt: what `example.prompt` was encoded from.
        chat: whether it was put into the chat template.

    Raises:
        ValueError: the example was encoded from another prompt, or with another `chat`.
    """
    ids = list(example.prompt)
    whole = encode_prompt(model, prompt, chat)
    if ids != whole[: len(ids)] or len(ids) < len(whole) - MERGED:
        raise ValueError(
            "the example's prompt tokens are not those of this prompt: give the prompt and chat it was encoded with"
        )
    templated = chat and has_template(model)
    before, after = _template_lengths(model, prompt, ids) if templated else (0, 0)
    groups = ["template prefix"] * before + ["instruction"] * (len(ids) - before - after) + ["template suffix"] * after
    bos = tokenizer_of(model).bos_token_id
    if bos is not None and ids[0] == bos:
        groups[0] = "bos"
    return groups + ["response"] * len(example.response)


def _template_lengths(model: Bridge, prompt: Prompt, ids: list[int]) -> tuple[int, int]:
    """Tokens of the template before and after the instruction."""
    messages: list[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    first = [encode_prompt(model, [{**messages[0], "content": probe}, *messages[1:]]) for probe in PROBES]
    last = [encode_prompt(model, [*messages[:-1], {**messages[-1], "content": probe}]) for probe in PROBES]
    before = min(_shared(ids, other) for other in first)
    after = min(_shared(ids[::-1], other[::-1]) for other in last)
    return before, min(after, len(ids) - before)


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens that both begin with."""
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
