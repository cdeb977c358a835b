"""The tokenizer as it lies on disk, and the template arguments that belong to a model.

TransformerLens reloads a tokenizer with `add_bos_token=True` and gives it the end-of-text token where it has no BOS. Neither is
what the model's makers trained with, so prompts are made by the tokenizer as it was saved.
"""

import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .bridge import Bridge, model_name

THINKING = ("enable_thinking", "thinking")
"""Template variables that switch reasoning on, where a template has them; off unless the caller says otherwise."""
SET_HERE = ("messages", "conversation", "tokenize", "add_generation_prompt", "continue_final_message", "return_dict")
"""Arguments of `apply_chat_template` that are not the caller's to choose."""
OF_TRANSFORMERS = ("chat_template",)
"""Its arguments that choose a template."""
OWN_TAGS = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
"""Tags that transformers adds to jinja, around what the assistant says."""


@dataclass
class _Known:
    """What is remembered of a model's text side."""

    tokenizers: list[tuple[Any, Any]] = field(default_factory=list)
    """Those that the model has held, each with the one that prompts are made with: as it lies on disk, a copy of our own."""
    template_args: dict[str, Any] = field(default_factory=dict)


_known: "weakref.WeakKeyDictionary[Any, _Known]" = weakref.WeakKeyDictionary()


def remember(model: Bridge, tokenizer: Any, template_args: Mapping[str, Any]) -> None:
    """Keep the tokenizer that lies on disk and the arguments of the template for a model that has just been loaded."""
    held = model.tokenizer
    _known[model] = _Known([] if held is None or tokenizer is None else [(held, tokenizer)], dict(template_args))
    if template_args:
        checked_template_args(model)


def bridge_tokenizer(model: Bridge) -> Any:
    """The tokenizer that TransformerLens holds; ValueError if there is none."""
    if model.tokenizer is None:
        raise ValueError(f"{model_name(model)} was booted without a tokenizer; pass tokenizer=... to load_model")
    return model.tokenizer


def tokenizer_of(model: Bridge) -> Any:
    """The model's tokenizer as it lies on disk, with the chat template that the model's own tokenizer has now.

    A bridge that the user booted has its files read again (from disk or the hub's cache, never the network); where that is
    impossible or gives another vocabulary, the bridge's own tokenizer is used. One that the user has put in the place of
    another (`model.tokenizer = ...`) is used as it is.
    """
    held = bridge_tokenizer(model)
    known = _known.setdefault(model, _Known())
    used = next((own for other, own in known.tokenizers if other is held), None)
    if used is None or len(used) != len(held):
        others = [(other, own) for other, own in known.tokenizers if other is not held]
        used = held if others and used is None else _read_again(held)
        known.tokenizers = [*others, (held, used)]
    if used is not held and used.chat_template != held.chat_template:
        used.chat_template = held.chat_template
    return used


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
    given = _known.setdefault(model, _Known()).template_args
    source = tokenizer_of(model).chat_template
    if isinstance(source, Mapping):  # several templates by name, of which this one is taken
        source = source.get("default")
    variables = _variables(source) if isinstance(source, str) else frozenset()
    return {name: False for name in THINKING if name in variables} | given


def checked_template_args(model: Bridge) -> dict[str, Any]:
    """`template_args`, of which each makes a difference.

    Raises:
        ValueError: no template; an argument that it never mentions, or that is set by whoever renders it.
    """
    given = _known.setdefault(model, _Known()).template_args
    if given and not has_template(model):
        raise ValueError(f"template_args {sorted(given)}: the tokenizer of {model_name(model)} has no chat template")
    if taken := sorted({*given} & {*SET_HERE}):
        raise ValueError(f"template_args {taken}: steerlens sets these itself; give arguments of the template's own")
    if unknown := sorted(name for name in given if not (name in OF_TRANSFORMERS or mentioned(model, name))):
        names = _names(_source(model)) or frozenset()
        near = get_close_matches(unknown[0], names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"template_args {unknown}: the chat template of {model_name(model)} mentions no such name{hint}")
    return template_args(model)


def mentioned(model: Bridge, name: str) -> bool:
    """Whether the chat template reads a variable of this name."""
    source = _source(model)
    names = _names(source)
    return name in source if names is None else name in names


def mentions_key(model: Bridge, key: str) -> bool:
    """Whether the chat template knows a key of messages."""
    return key in _source(model)


def _source(model: Bridge) -> str:
    """The text of the chat template, or of several."""
    given = _known.setdefault(model, _Known()).template_args.get("chat_template")
    source = given if given is not None else getattr(tokenizer_of(model), "chat_template", None)
    return "\n".join(map(str, source.values())) if isinstance(source, Mapping) else str(source or "")


@contextmanager
def templated(model: Bridge, arguments: Mapping[str, Any] | None) -> Iterator[None]:
    """Inside the block the chat template is rendered with these arguments besides the model's own; None changes nothing."""
    if not isinstance(arguments, Mapping | None):
        raise TypeError(f"template_args is {arguments!r:.60}; it must be a mapping of names to values, or None")
    known = _known.setdefault(model, _Known())
    before = known.template_args
    known.template_args = before | dict(arguments or {})
    try:
        if arguments:
            checked_template_args(model)
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


@lru_cache(maxsize=64)
def _names(source: str) -> frozenset[str] | None:
    """All variables that a chat template reads; None if it has tags of its own."""
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        tree = environment.parse(OWN_TAGS.sub("", source))
    except TemplateError:
        return None
    return frozenset(node.name for node in tree.find_all(nodes.Name) if node.ctx == "load")


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
