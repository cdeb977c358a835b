"""Types are checked while tests run: with shapes and without, arguments and returned values."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jaxtyping
import pytest
import torch
import typecheck
from beartype import beartype
from jaxtyping import Float
from torch import Tensor

import steerlens
from steerlens import terrarium
from steerlens.interventions import orthonormal


def checked(function: Any) -> Any:
    return typecheck.jaxtyped(typechecker=beartype)(function)


def test_functions_of_the_package_are_checked() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="concept"):
        terrarium.data(concept=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(jaxtyping.TypeCheckError, match="scale"):
        steerlens.SteeringVector(torch.ones(3), 1.0, 0).scaled("2")  # pyright: ignore[reportArgumentType]
    with pytest.raises(jaxtyping.TypeCheckError, match="rows"):
        orthonormal(torch.ones(3))


def test_returned_values_are_checked() -> None:
    def half(n: int) -> int:
        return n / 2  # pyright: ignore[reportReturnType]

    def first(rows: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
        return rows[:, 0]

    for function, given in ((half, 4), (first, torch.ones(2, 3))):
        with pytest.raises(jaxtyping.TypeCheckError):
            checked(function)(given)


def test_annotations_in_quotes_are_read_and_those_for_type_checkers_alone_are_not() -> None:
    def quoted(n: "int", other: "OnlyForTypeCheckers" = None) -> "int":  # pyright: ignore
        return n

    assert checked(quoted)(3, other="anything") == 3
    assert checked(quoted).__annotations__ == {"n": "int", "other": "OnlyForTypeCheckers", "return": "int"}
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(quoted)("3")


def test_a_shape_is_found_wherever_it_stands() -> None:
    shape: Any = Float[Tensor, "n d"]
    for hint in (shape, shape | None, Sequence[Mapping[str, shape]], Callable[[shape], int], Callable[[int], shape]):
        assert typecheck._has_shape(hint)
    for hint in (int, Tensor, Tensor | None, Callable[..., Tensor], Any, None, "n d"):
        assert not typecheck._has_shape(hint)
