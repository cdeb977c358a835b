"""Phi(h): numbers by hand, invariances, and what must not be touched."""

import pytest
import torch
from jaxtyping import TypeCheckError

from steerlens.interventions import (
    FORMS,
    REFT,
    Weights,
    add,
    clamp,
    direft,
    edit_tokens,
    intervention,
    loreft,
    orthonormal,
    stack,
)

HIDDEN = torch.tensor([[[1.0, 2.0], [0.0, -1.0]]])
DIRECTION = torch.tensor([3.0, 4.0])  # norm 5


def weights(direction: torch.Tensor, factor: float | torch.Tensor) -> Weights:
    """One row's vector."""
    return Weights(direction[None, None], torch.as_tensor(factor)[None])


def rows(directions: torch.Tensor, factors: torch.Tensor) -> Weights:
    """A vector for each row."""
    return Weights(directions[:, None], factors)


def reft(rank: int, d_model: int, form: str, seed: int = 0) -> Weights:
    """Random weights of a ReFT form."""
    g = torch.Generator().manual_seed(seed)
    direction, read = torch.randn(rank, d_model, generator=g), torch.randn(rank, d_model, generator=g)
    direction = orthonormal(direction) if form == "loreft" else direction
    return stack([Weights(direction, torch.tensor(1.5), read, torch.randn(rank, generator=g))])


def test_shapes_are_checked_in_tests() -> None:
    """Else the annotations would be decoration."""
    with pytest.raises(TypeCheckError):
        add(torch.ones(2, 3), weights(torch.ones(3), 1.0))
    with pytest.raises((TypeCheckError, RuntimeError)):
        edit_tokens(torch.ones(2, 3, 4), torch.ones(2, 3).bool(), weights(torch.ones(5), 1.0), "add")


def test_add_by_hand() -> None:
    assert torch.equal(add(HIDDEN, weights(DIRECTION, 2.0)), torch.tensor([[[7.0, 10.0], [6.0, 7.0]]]))


def test_clamp_by_hand() -> None:
    # u = (.6, .8); u.h = 2.2 and -.8; h - (u.h) u = (-.32, .24) and (.48, -.36); + 2 v
    expected = torch.tensor([[[5.68, 8.24], [6.48, 7.64]]])
    torch.testing.assert_close(clamp(HIDDEN, weights(DIRECTION, 2.0)), expected)


def test_reft_by_hand() -> None:
    """Rank 1, u = (.6, .8): u.h = 2.2 and -.8; W = (1, 1), b = 10: W.h + b = 13 and 9."""
    u, read, bias = torch.tensor([[0.6, 0.8]]), torch.ones(1, 2), torch.tensor([10.0])
    given = stack([Weights(u, torch.tensor(1.0), read, bias)])
    expected = HIDDEN + torch.tensor([[[10.8], [9.8]]]) * u
    torch.testing.assert_close(loreft(HIDDEN, given), expected)
    torch.testing.assert_close(direft(HIDDEN, given), HIDDEN + torch.tensor([[[13.0], [9.0]]]) * u)
    half = given._replace(factor=torch.tensor([0.5]))
    torch.testing.assert_close(loreft(HIDDEN, half), HIDDEN + (expected - HIDDEN) / 2)


@pytest.mark.parametrize("form", sorted(REFT))
@pytest.mark.parametrize("rank", [1, 3])
def test_reft_equals_its_formula_token_by_token(form: str, rank: int) -> None:
    given, hidden = reft(rank, 16, form), torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(9))
    u, w, b = given.direction[0].T, given.read[0].T, given.bias[0]  # pyright: ignore[reportOptionalSubscript] - set just above
    expected = torch.stack([h + 1.5 * u @ (w.T @ h + b - (u.T @ h if form == "loreft" else 0)) for h in hidden[0]])
    torch.testing.assert_close(intervention(form)(hidden, given)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_reft_with_the_bias_alone_is_a_clamp_or_a_sum(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    hidden, v, alpha = torch.randn(1, 7, 16, generator=g), torch.randn(16, generator=g) * 3, torch.tensor(2.5)
    nothing, unit = torch.zeros(1, 16), v / v.norm()
    bias_only = stack([Weights(unit[None], torch.tensor(1.0), nothing, (alpha * v.norm())[None])])
    torch.testing.assert_close(loreft(hidden, bias_only), clamp(hidden, weights(v, alpha)), atol=1e-5, rtol=1e-5)
    plain = stack([Weights(v[None], torch.tensor(1.0), nothing, alpha[None])])
    torch.testing.assert_close(direft(hidden, plain), add(hidden, weights(v, alpha)))


def test_orthonormal_rows_keep_their_order_and_sense() -> None:
    given = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    made = orthonormal(given)
    torch.testing.assert_close(made @ made.T, torch.eye(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(made[0], given[0] / given[0].norm())
    assert bool(((made * given).sum(-1) > 0).all())


@pytest.mark.parametrize("seed", range(10))
def test_clamp_sets_the_component_and_add_moves_it(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden, direction = torch.randn(1, 5, 16, generator=generator), torch.randn(16, generator=generator) * 3
    factor = torch.randn((), generator=generator)
    unit = direction / direction.norm()
    clamped = clamp(hidden, weights(direction, factor))
    torch.testing.assert_close(clamped @ unit, (factor * direction.norm()).expand(1, 5))
    across = torch.eye(16) - torch.outer(unit, unit)
    torch.testing.assert_close(clamped @ across, hidden @ across, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(clamp(clamped, weights(direction, factor)), clamped, atol=1e-5, rtol=1e-5)
    added = add(hidden, weights(direction, factor))
    torch.testing.assert_close(added @ unit, hidden @ unit + factor * direction.norm())


def test_no_gradient_flows_through_the_norm_of_a_clamp() -> None:
    """d/dv of w.(alpha v - (h.v)v / N^2) with N held: alpha w - [(h.v) w + (w.v) h] / N^2."""
    h, w, alpha = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3, 0.2, -1.0]), torch.tensor(1.7)
    v = torch.tensor([2.0, 1.0, -1.0], requires_grad=True)
    (clamp(h[None, None], weights(v, alpha)) @ w).sum().backward()
    d = v.detach()
    held = alpha * w - ((h @ d) * w + (w @ d) * h) / d.norm() ** 2
    torch.testing.assert_close(v.grad, held)
    through = held + 2 * (h @ d) * (w @ d) * d / d.norm() ** 4
    assert not torch.allclose(held, through), "the test could not tell the two apart"


@pytest.mark.parametrize("form", FORMS)
def test_unedited_tokens_keep_their_bits_and_the_dtype_stays(form: str) -> None:
    hidden = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[0, 1] = mask[1, 4] = True
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        given = hidden.to(dtype)
        acting = reft(2, 8, form) if form in REFT else weights(torch.ones(8), 2.0)
        edited = edit_tokens(given, mask, acting, form)
        assert edited.dtype == dtype
        assert torch.equal(edited[~mask], given[~mask])
        assert not (edited[mask] == given[mask]).all()


def test_the_edit_is_computed_in_float32() -> None:
    """In bfloat16, 100.3 would be 100.5 before it is multiplied."""
    hidden = torch.zeros(1, 1, 4, dtype=torch.bfloat16)
    edited = edit_tokens(hidden, torch.ones(1, 1).bool(), weights(torch.full((4,), 100.3), 1 / 100.3), "add")
    assert torch.equal(edited, torch.ones(1, 1, 4, dtype=torch.bfloat16))
    factor = torch.tensor([48.1], requires_grad=True)
    direction = torch.ones(1, 4, requires_grad=True)
    edit_tokens(hidden, torch.ones(1, 1).bool(), rows(direction, factor), "add").float().sum().backward()
    assert direction.grad is not None and direction.grad.dtype == torch.float32
    torch.testing.assert_close(direction.grad, torch.full((1, 4), 48.1))


def test_each_row_has_its_own_direction_and_factor() -> None:
    hidden, mask = torch.zeros(2, 3, 2), torch.tensor([[True, False, False], [False, False, True]])
    edited = edit_tokens(hidden, mask, rows(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([2.0, -3.0])), "add")
    expected = torch.zeros(2, 3, 2)
    expected[0, 0, 0], expected[1, 2, 1] = 2.0, -3.0
    assert torch.equal(edited, expected)


def test_gradients_of_unedited_tokens_do_not_reach_the_vector() -> None:
    hidden, mask = torch.randn(1, 3, 2), torch.tensor([[False, True, False]])
    direction = torch.ones(1, 2, requires_grad=True)
    edit_tokens(hidden, mask, rows(direction, torch.tensor([5.0])), "add").sum().backward()
    assert direction.grad is not None and torch.equal(direction.grad, torch.full((1, 2), 5.0))


def test_an_unknown_form_is_named() -> None:
    with pytest.raises(ValueError, match="form 'rotate' is unknown; known forms: add, clamp"):
        intervention("rotate")
