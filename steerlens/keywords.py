"""Keywords that several functions share: written once, in a dataclass, and shown where someone asks for a signature."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def keywords_of(carrier: type, default: Any = MISSING) -> list[inspect.Parameter]:
    """The fields of a dataclass as keyword-only parameters, with `default` as what all of them show in place of their own."""
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(
            field.name, keyword_only, default=field.default if default is MISSING else default, annotation=field.type
        )
        for field in fields(carrier)
    ]


def with_keywords(
    keywords: Sequence[inspect.Parameter], several: str | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function of `**settings: Unpack[...]` with these keywords in its signature; a wrong one is refused by name.

    A type checker reads the keywords off the `TypedDict` in `Unpack`; `help`, Jupyter and the function itself know them from
    here.

    Args:
        several: the function for several layers, of a function that takes one.

    Raises (when it is called):
        TypeError: a keyword that there is not, with those that read like it; a list of layers where one is asked for.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        named = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        known = signature.replace(parameters=[*named, *keywords])

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            name = getattr(function, "__name__", "the function")
            if several is not None:
                _check_one_layer(name, several, kwargs)
            for keyword in kwargs:
                if keyword not in known.parameters:
                    near = get_close_matches(keyword, known.parameters)
                    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known.parameters)}"
                    raise TypeError(f"{name}() got an unknown keyword {keyword!r}: {hint}")
            return function(*args, **kwargs)

        del call.__wrapped__  # what is called is what is shown
        call.__signature__ = known  # pyright: ignore[reportAttributeAccessIssue] - where `inspect` looks for it
        return call

    return decorate


def _check_one_layer(name: str, several: str, given: dict[str, Any]) -> None:
    layer = given.get("layers", given.get("layer"))
    if "layers" in given or (isinstance(layer, Iterable) and not isinstance(layer, str)):
        raise TypeError(
            f"{name}() takes one layer=, a block's index, and got {layer!r}: a vector at each of several layers comes from "
            f"{several}(model, data, layers=[...])"
        )
