"""What is given to a public function, beside what its annotations ask for: refused by name, before any work starts.

Only annotations that Python can tell cheaply are looked at: numbers, text, paths, lists of those, mappings and
some classes. The others (prompts, what steers, judges, data) have checks of their own, which say more.
"""

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, ParamSpec, TypeVar, Union, get_args, get_origin

P = ParamSpec("P")
R = TypeVar("R")
SHOWN = 60
"""Characters of a wrong value that an error shows."""


def is_whole(value: object) -> bool:
    """Whether a value counts something: an int, or what stands for one, such as numpy's."""
    if isinstance(value, (bool, type)):
        return False
    try:
        operator.index(value)  # pyright: ignore[reportArgumentType] - whether it can be is the question
    except (TypeError, ValueError):
        return False
    return True


def is_number(value: object) -> bool:
    """Whether a value is a real number, of Python, numpy or torch."""
    if isinstance(value, (str, bytes, bytearray, bool, type)) or not hasattr(value, "__float__"):
        return False
    try:
        float(value)  # pyright: ignore[reportArgumentType] - whether it can be is the question
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


class Kind(NamedTuple):
    """What an annotation asks for."""

    words: str
    """Such as "a whole number"."""
    plural: str
    accepts: Callable[[Any], bool]


_PLAIN = {
    int: Kind("a whole number", "whole numbers", is_whole),
    float: Kind("a number", "numbers", is_number),
    str: Kind("text", "texts", lambda value: isinstance(value, str)),
    Path: Kind("a path", "paths", lambda value: isinstance(value, Path)),
    NoneType: Kind("None", "None", lambda value: value is None),
}
_LISTS = (Sequence, list, tuple)


def kind_of(annotation: Any) -> Kind | None:
    """What an annotation asks for; None where it is not for this module to say."""
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return _any_of([part for part in inner if part is not int or float not in inner])
    if origin is Sequence and len(inner) == 1:
        return _list_of(inner[0])
    if origin is Mapping:
        return Kind("a mapping", "mappings", lambda value: isinstance(value, Mapping))
    if inspect.isclass(annotation) and origin is None and annotation.__module__.startswith(f"{__package__}."):
        return _instance_of(annotation)
    return None


def _any_of(parts: Sequence[Any]) -> Kind | None:
    kinds = [kind for part in parts if (kind := kind_of(part)) is not None]
    if len(kinds) < len(parts):
        return None
    words = dict.fromkeys(kind.words for kind in kinds)
    if {"text", "a path"} <= words.keys():
        words = dict.fromkeys(word for word in words if word != "text")
    return Kind(" or ".join(words), " or ".join(kind.plural for kind in kinds), lambda v: any(k.accepts(v) for k in kinds))


def _list_of(part: Any) -> Kind | None:
    item = kind_of(part)
    if item is None or item.words == "None":
        return None

    def accepts(value: Any) -> bool:
        if isinstance(value, str):  # where texts are asked for, one may stand for a list of one
            return item.accepts(value)
        if isinstance(value, (bytes, Mapping, type)) or not isinstance(value, Iterable):
            return False
        return not isinstance(value, _LISTS) or all(map(item.accepts, value))

    return Kind(f"a list of {item.plural}", f"lists of {item.plural}", accepts)


def _instance_of(kind: type) -> Kind | None:
    if getattr(kind, "_is_protocol", False):
        return None
    article = "an" if kind.__name__[0] in "AEIO" or kind.__name__ == "SAE" else "a"
    return Kind(f"{article} {kind.__name__}", f"{kind.__name__}s", lambda value: isinstance(value, kind))


def check_ordered(values: Any, name: str) -> None:
    """Raise ValueError for a set where the order matters, which differs from run to run."""
    if isinstance(values, (set, frozenset)):
        raise ValueError(f"{name} are a set, which has no order: give a list")


def check_bridge(model: Any) -> None:
    """Raise TypeError for what is no TransformerLens bridge."""
    if not all(hasattr(model, name) for name in ("cfg", "hooks", "original_model", "tokenizer")):
        raise TypeError(f"expected a TransformerBridge, as steerlens.load_model gives, got {type(model).__name__}")


def checked_call(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose arguments must be what its annotations ask for, as far as `kind_of` tells; its model first.

    Raises (when it is called):
        TypeError: an argument is something else; the message names it and says what it must be.
    """
    signature = inspect.signature(function)
    takes_a_bridge = "model" in signature.parameters and signature.parameters["model"].annotation is Any
    kinds = {name: kind for name, given in signature.parameters.items() if (kind := kind_of(given.annotation)) is not None}

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs).arguments
        if takes_a_bridge:
            check_bridge(given["model"])
        for name, value in given.items():
            if name in kinds:
                check_argument(name, value, kinds[name])
        return function(*args, **kwargs)

    return call


def check_argument(name: str, value: Any, kind: Kind) -> None:
    """Raise TypeError unless a value is of its kind."""
    if not kind.accepts(value):
        shown = repr(value)
        shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
        raise TypeError(f"{name} is {shown}; it must be {kind.words}")
