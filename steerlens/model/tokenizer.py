"""The tokenizer as it lies on disk, and the template arguments that belong to a model.

TransformerLens reloads a tokenizer with `add_bos_token=True` and gives it the end-of-text token where it has no BOS. Neither is
what the model's makers trained with, so prompts are made by the tokenizer as it was saved.
"""

import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .bridge import Bridge, model_name

THINKING = ("enable_thinking", "thinking")
"""Template variables that switch reasoning on, where a template has them; off unless the caller says otherwise."""
OWN_TAGS = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
"""Tags that transformers adds to jinja, around what the assistant says."""


@dataclass
class _Known:
    """What is remembered of a model's text side."""

    tokenizer: Any = None
    """As it lies on disk, a copy of our own."""
    template_args: dict[str, Any] = field(default_factory=dict)


_known: "weakref.WeakKeyDictionary[Any, _Known]" = weakref.WeakKeyDictionary()


def remember(model: Bridge, tokenizer: Any, template_args: Mapping[str, Any]) -> None:
    """Keep the tokenizer that lies on disk and the arguments of the template for a model that has just been loaded."""
    _known[model] = _Known(tokenizer, dict(template_args))


def bridge_tokenizer(model: Bridge) -> Any:
    """The tokenizer that TransformerLens holds; ValueError if there is none."""
    if model.tokenizer is None:
        raise ValueError(f"{model_name(model)} was booted without a tokenizer; pass tokenizer=... to load_model")
    return model.tokenizer


def tokenizer_of(model: Bridge) -> Any:
    """The model's tokenizer as it lies on disk, with the chat template that the model's own tokenizer has now.

    A bridge that the user booted has its files read again (from disk or the hub's cache, never the network); where that is
    impossible or gives another vocabulary, the bridge's own tokenizer is used.
    """
    held = bridge_tokenizer(model)
    known = _known.setdefault(model, _Known())
    if known.tokenizer is None or len(known.tokenizer) != len(held):
        known.tokenizer = _read_again(held)
    if known.tokenizer is not held and known.tokenizer.chat_template != held.chat_template:
        known.tokenizer.chat_template = held.chat_template
    return known.tokenizer


def _read_again(held: Any) -> Any:
    from transformers import AutoTokenizer

    try:
        fresh = AutoTokenizer.from_pretrained(held.name_or_path, local_files_only=True)
    except Exception:  # whatever the files' own code raises: there are no files to read
        return held
    return fresh if fresh.get_vocab() == held.get_vocab() else held


# --- the template and its arguments ---------------------------------------------------------------------------------------


def has_template(model: Bridge) -> bool:
    return getattr(tokenizer_of(model), "chat_template", None) is not None


def template_args(model: Bridge) -> dict[str, Any]:
    """The arguments that the model's chat template is rendered with: thinking is off where the template has such a switch."""
    known = _known.setdefault(model, _Known())
    source = tokenizer_of(model).chat_template
    if isinstance(source, Mapping):  # several templates by name, of which this one is taken
        source = source.get("default")
    variables = _variables(source) if isinstance(source, str) else frozenset()
    return {name: False for name in THINKING if name in variables} | known.template_args


@contextmanager
def templated(model: Bridge, arguments: Mapping[str, Any] | None) -> Iterator[None]:
    """Inside the block the chat template is rendered with these arguments besides the model's own; None changes nothing."""
    if not isinstance(arguments, Mapping | None):
        raise TypeError(f"template_args is {arguments!r:.60}; it must be a mapping of names to values, or None")
    known = _known.setdefault(model, _Known())
    before = known.template_args
    known.template_args = before | dict(arguments or {})
    try:
        yield
    finally:
        known.template_args = before


@lru_cache(maxsize=64)
def _variables(source: str) -> frozenset[str]:
    """Names that a chat template reads and nothing in it sets."""
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        return frozenset(meta.find_undeclared_variables(environment.parse(OWN_TAGS.sub("", source))))
    except TemplateError:  # a template with tags of its own: what it reads cannot be told
        return frozenset()


# --- tokens as texts ------------------------------------------------------------------------------------------------------


def token_strings(model: Bridge, ids: Sequence[int]) -> list[str]:
    """Each token as it reads on its own; what has no text (such as part of a character) by its name in the vocabulary."""
    tokenizer, texts = tokenizer_of(model), []
    for token in ids:
        text = str(tokenizer.decode([token]))
        if not text or "\ufffd" in text:
            text = str(tokenizer.convert_ids_to_tokens(int(token)) or f"<{int(token)}>")
        texts.append(text)
    return texts
