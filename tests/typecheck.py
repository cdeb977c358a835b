"""What checks the types of every function of steerlens while its tests run, at less cost.

The option --jaxtyping-packages of pyproject.toml puts `jaxtyping.jaxtyped` on each function. At every call that binds the
arguments to their names, which takes longer than a small function does. The names are needed where an annotation has a shape,
such as Float[Tensor, "n d"]; beartype alone checks the others, and sees the same.
"""

from collections.abc import Callable
from inspect import isasyncgenfunction, iscoroutinefunction, isfunction, isgeneratorfunction
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

SAME_ERROR = BeartypeConf(violation_type=jaxtyping.TypeCheckError)
whole = jaxtyping.jaxtyped


def jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    """In the place of `jaxtyping.jaxtyped`, as its import hook calls it."""

    def decorate(checked: Any) -> Any:
        lazy = isgeneratorfunction(checked) or iscoroutinefunction(checked) or isasyncgenfunction(checked)
        if not isfunction(checked) or lazy:
            return whole(checked, typechecker=typechecker)
        hints = {name: _resolved(hint, checked.__globals__) for name, hint in checked.__annotations__.items()}
        return whole(checked, typechecker=typechecker) if any(map(_has_shape, hints.values())) else _plain(checked, hints)

    return decorate


def _plain(function: Any, hints: dict[str, Any]) -> Any:
    """beartype reads the annotations once; the function keeps them as they were written."""
    written, function.__annotations__ = function.__annotations__, hints
    checked = beartype(conf=SAME_ERROR)(function)
    function.__annotations__ = checked.__annotations__ = written
    return checked


def _resolved(hint: Any, names: dict[str, Any]) -> Any:
    """An annotation in quotes, read; Any where it names what is imported for type checkers alone, as jaxtyping does."""

    def holder() -> None: ...

    holder.__annotations__ = {"hint": hint}
    try:
        return get_type_hints(holder, names, include_extras=True)["hint"]
    except Exception:  # as in jaxtyping: annotations may hold anything
        return Any


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_has_shape, hint if isinstance(hint, list) else get_args(hint)))
