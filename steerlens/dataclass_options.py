"""Command-line options made from the fields of a dataclass, with the text under each field as their help."""

import argparse
import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

NONE = "none"
"""How None is written on the command line."""


def add_options(parser: argparse.ArgumentParser, kind: type, title: str, description: str) -> None:
    """Add an option for each field: --batch-size for batch_size, --shuffle and --no-shuffle for a bool.

    An option that is not given leaves nothing in the namespace, so that `given` tells what was.

    Args:
        kind: a dataclass whose fields are numbers (or None), bools, or literal texts.
        title, description: of the options in the help; what an option that is not given means.

    Raises:
        TypeError: a field of another type.
    """
    group = parser.add_argument_group(title, description)
    types, texts = get_type_hints(kind), field_texts(kind)
    for field in fields(kind):
        text, option = texts.get(field.name, "").replace("%", "%%"), f"--{field.name.replace('_', '-')}"
        group.add_argument(option, default=argparse.SUPPRESS, help=text, **_reading(field.name, types[field.name]))


def given(options: argparse.Namespace, kind: type) -> dict[str, Any]:
    """Of the fields of a dataclass, those whose options were given, with their values."""
    return {field.name: getattr(options, field.name) for field in fields(kind) if hasattr(options, field.name)}


def field_texts(kind: type) -> dict[str, str]:
    """Field -> the text that stands under it in the source, on one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return found


def _reading(name: str, annotation: Any) -> dict[str, Any]:
    """Arguments of `add_argument` that read a field's type."""
    members = set(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else {annotation}
    numbers = members - {NoneType}
    if members == {bool}:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(annotation) is Literal:
        return {"choices": get_args(annotation)}
    if numbers and numbers <= {int, float}:
        number, metavar = (float, "X") if float in numbers else (int, "N")
        if NoneType in members:
            return {"type": _or_none(number), "metavar": f"{metavar}|{NONE}"}
        return {"type": number, "metavar": metavar}
    raise TypeError(f"the field {name} is of type {annotation}, for which there is no option")


def _or_none(number: Callable[[str], int | float]) -> Callable[[str], int | float | None]:
    def read(text: str) -> int | float | None:
        return None if text.lower() == NONE else number(text)

    read.__name__ = f"{number.__name__} or {NONE}"  # argparse names it in its error
    return read
