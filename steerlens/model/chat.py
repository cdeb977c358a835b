"""Text to tokens and back: chat template, responses, the tokens that end them."""

from collections.abc import Sequence
from typing import Any

from ..data import Prompt
from .bridge import Bridge, model_name


def encode_prompt(model: Bridge, prompt: Prompt, chat: bool = True) -> list[int]:
    """Token ids of one prompt, in the chat template with its generation header, with one BOS and never two.

    A tokenizer without a template, or `chat=False`, uses the bare text.

    Raises:
        ValueError: no tokenizer; a conversation without a template to render it; an empty prompt.
    """
    tokenizer = tokenizer_of(model)
    templated = chat and getattr(tokenizer, "chat_template", None) is not None
    if not isinstance(prompt, str) and not templated:
        reason = "chat=False" if not chat else f"the tokenizer of {model_name(model)} has no chat template"
        raise ValueError(f"a conversation of several messages cannot be rendered: {reason}")
    text = prompt
    if templated:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    bos = tokenizer.bos_token_id
    if bos is not None and _starts_with_bos(model, templated):
        start = next((i for i, token in enumerate(ids) if token != bos), len(ids))
        ids = [bos, *ids[start:]]
    if not ids:
        raise ValueError("the prompt is empty")
    return ids


def _starts_with_bos(model: Bridge, templated: bool) -> bool:
    """Bare text begins as TransformerLens would have it; a templated text as its tokenizer would."""
    if not templated and model.cfg.default_prepend_bos:
        return True
    return list(tokenizer_of(model)("", add_special_tokens=True)["input_ids"])[:1] == [tokenizer_of(model).bos_token_id]


def encode_response(model: Bridge, response: str, max_tokens: int | None = None, append_eos: bool = False) -> list[int]:
    """Token ids of a response as it would be generated after the prompt: no BOS, cut at `max_tokens`."""
    tokenizer = tokenizer_of(model)
    ids = list(tokenizer(response, add_special_tokens=False)["input_ids"])
    if append_eos and (max_tokens is None or len(ids) < max_tokens):
        ids.append(int(tokenizer.eos_token_id))
    return ids[:max_tokens]


def decode_response(model: Bridge, ids: Sequence[int]) -> str:
    return str(tokenizer_of(model).decode(list(ids), skip_special_tokens=True))


def token_strings(model: Bridge, ids: Sequence[int]) -> list[str]:
    """Each token as it reads on its own; what has no text (such as part of a character) by its name in the vocabulary."""
    tokenizer, texts = tokenizer_of(model), []
    for token in ids:
        text = str(tokenizer.decode([token]))
        if not text or "\ufffd" in text:
            text = str(tokenizer.convert_ids_to_tokens(int(token)) or f"<{int(token)}>")
        texts.append(text)
    return texts


def stop_tokens(model: Bridge) -> frozenset[int]:
    """Tokens that end a response: those of the generation config and the tokenizer's EOS."""
    config = getattr(model.original_model, "generation_config", None)
    listed = getattr(config, "eos_token_id", None)
    ids = listed if isinstance(listed, (list, tuple)) else [listed]
    return frozenset(int(token) for token in (*ids, tokenizer_of(model).eos_token_id) if token is not None)


def tokenizer_of(model: Bridge) -> Any:
    if model.tokenizer is None:
        raise ValueError(f"{model_name(model)} was booted without a tokenizer; pass tokenizer=... to load_model")
    return model.tokenizer


def prefix_length(model: Bridge) -> int:
    """Tokens that every templated prompt begins with (AxBench's prefix_length), at least the first one.

    The first token, BOS or not, takes in attention that has nowhere to go, and its residual stream is far larger than any
    other: it would decide a mean.
    """
    pairs = zip(encode_prompt(model, "1"), encode_prompt(model, "2"), strict=False)
    shared = next((index for index, (a, b) in enumerate(pairs) if a != b), 0)
    return max(1, shared)
