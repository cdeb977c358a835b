"""Each objective's value and gradient against formulas written out over naive passes, and its corners by hand."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from conftest import PROMPTS, RESPONSES, rows_of
from oracle import edited_places, phi
from torch import Tensor

import steerlens
from steerlens.model.frozen import frozen
from steerlens.model.numbers import NotFiniteError
from steerlens.training.loop import backward
from steerlens.training.objectives import (
    Logprobs,
    RowLosses,
    TokenLogprobs,
    dpo,
    lang,
    needs,
    reps,
    row_losses,
    simpo,
    simpo_margin,
)
from steerlens.training.settings import Settings
from steerlens.training.setup import prepare

NEUTRALS = ("No idea.", "A town, I think", "Cats eat what they are given.", "Hello", "x and y")
LAYER = 1


@pytest.fixture
def paired() -> Any:
    rows = zip(PROMPTS, RESPONSES, NEUTRALS, strict=True)
    return steerlens.SteeringData([{"prompt": p, "response": r, "neutral": n} for p, r, n in rows], concept="fish")


def null(h: Tensor, v: Tensor) -> Tensor:
    u = v / v.norm()
    return h - torch.outer((h @ u).relu(), u)


class Naive:
    """log p of a response token sequence under p, p_Phi and p_Null, one row at a time."""

    def __init__(self, bench: Any, v: Tensor, alpha: Tensor, positions: str) -> None:
        self.oracle, self.v, self.alpha, self.positions = bench.oracle, v, alpha, positions

    def total(self, row: Any, kind: str) -> Tensor:
        prompt, response = row
        places = edited_places(self.positions, len(prompt), len(prompt) + len(response))
        edits = {"steered": lambda h: phi(h, self.v, self.alpha, "add"), "null": lambda h: null(h, self.v)}
        chosen = [(LAYER, edits[kind], places)] if kind in edits else []
        with self.oracle.hooked(chosen):
            return -self.oracle.surprise(row)


def formula(name: str, steered: Any, other: Any, naive: Naive) -> Tensor:
    """One row's loss, from the definitions in the paper."""
    n_c, n = len(steered[1]), len(other[1])
    sigmoid = torch.nn.functional.logsigmoid
    p_c, p = naive.total(steered, "plain").detach(), naive.total(other, "plain").detach()
    phi_c, phi_n = naive.total(steered, "steered"), naive.total(other, "steered")
    if name == "dpo":
        return -sigmoid(0.1 * (phi_c - p_c - phi_n + p))
    if name == "simpo_margin":
        return -sigmoid(2 * (phi_c / n_c - phi_n / n) - 0.5)
    loss = -sigmoid(max(float(p - p_c), 1.0) / n_c * phi_c - phi_n / n)
    if name == "reps":
        null_c, null_n = naive.total(steered, "null"), naive.total(other, "null")
        loss = loss - sigmoid(max(float(p_c - p), 1.0) / n * null_n - null_c / n_c)
    return loss


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2"])
@pytest.mark.parametrize("name", ["simpo", "reps", "dpo", "simpo_margin"])
@pytest.mark.parametrize("positions", ["p2+s2", "all"])
def test_value_and_gradient_equal_the_formula(benches, paired, architecture, name, positions):
    bench = benches(architecture)
    config = steerlens.TrainConfig(epochs=1, batch_size=len(paired), factor_init=0.5, direction_init=4.0)
    settings = Settings(positions=positions, objective=name, config=config, seed=0)
    (run,) = prepare(bench.model, {"x": paired}, [LAYER], settings=settings).values()
    with frozen(bench.model):
        (loss,) = backward(bench.model, [run], [run.examples])
    (site,) = run.sites
    v = site.direction.detach().clone().requires_grad_()
    alpha = site.factor.detach().clone().requires_grad_()
    naive = Naive(bench, v, alpha, positions)
    swapped = steerlens.SteeringData([steerlens.Example(e.prompt, e.neutral) for e in paired])
    rows = zip(rows_of(bench.model, paired), rows_of(bench.model, swapped), strict=True)
    expected = torch.stack([formula(name, a, b, naive) for a, b in rows]).mean()
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert v.grad is not None and alpha.grad is not None and site.factor.grad is not None
    assert site.direction.grad is not None
    for ours, theirs in ((site.direction.grad, v.grad), (site.factor.grad, alpha.grad)):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
    assert float(v.grad.norm()) > 0


def tokens(*rows: list[float]) -> TokenLogprobs:
    width = max(map(len, rows))
    values = torch.tensor([row + [0.0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    return TokenLogprobs(values, mask)


def sigmoid_loss(x: float) -> float:
    return math.log1p(math.exp(-x))


def test_by_hand():
    """Two tokens of -1 and -3 (sum -4) against one of -2; the reference finds the response 5 nats less likely."""
    given = Logprobs(
        tokens([-1.0, -3.0]),
        tokens([-2.0]),
        torch.tensor([-9.0]),
        torch.tensor([-4.0]),
        tokens([-5.0, -5.0]),
        tokens([-1.0]),
    )
    assert float(simpo(given)) == pytest.approx(sigmoid_loss(5 / 2 * -4 + 2))
    assert float(reps(given)) == pytest.approx(sigmoid_loss(-8) + sigmoid_loss(1 * -1 + 10 / 2))
    assert float(dpo(given)) == pytest.approx(sigmoid_loss(0.1 * ((-4 + 9) - (-2 + 4))))
    assert float(simpo_margin(given)) == pytest.approx(sigmoid_loss(2 * (-2 + 2) - 0.5))
    assert lang(given).loss.tolist() == [4.0]
    assert lang(given).weight.tolist() == [2.0]


def test_scaled_weight_is_never_below_one_and_carries_no_gradient():
    reference = torch.tensor([-1.0], requires_grad=True)
    response = tokens([-1.0])._replace(values=torch.tensor([[-1.0]], requires_grad=True))
    loss = simpo(Logprobs(response, tokens([-1.0]), reference, torch.tensor([-7.0])))
    assert float(loss.detach()) == pytest.approx(sigmoid_loss(1 * -1 + 1))
    loss.sum().backward()
    assert reference.grad is None


def test_null_half_prefers_the_neutral_response():
    """The likelier the neutral response under Null, the smaller the loss; the likelier the response, the larger."""
    base = Logprobs(tokens([-1.0]), tokens([-1.0]), torch.tensor([-2.0]), torch.tensor([-2.0]), tokens([-2.0]), tokens([-2.0]))
    start = float(reps(base))
    assert float(reps(base._replace(neutral_null=tokens([-1.0])))) < start
    assert float(reps(base._replace(response_null=tokens([-1.0])))) > start


def test_needs_of_functions_of_your_own(model, paired):
    def doubled(logprobs: Logprobs) -> Tensor:
        return 2 * lang(logprobs).loss / lang(logprobs).weight

    def against_neutral(logprobs: Logprobs) -> Tensor:
        assert logprobs.neutral is not None
        return logprobs.neutral.total - logprobs.response.total

    against_neutral.needs = {"neutral"}  # pyright: ignore[reportFunctionMemberAccess]
    assert needs(doubled) == frozenset()
    assert needs(partial(dpo, beta=1.0)) == {"neutral", "reference"}
    one_row = paired[:1]
    plain = steerlens.loss(model, None, one_row)
    assert steerlens.loss(model, None, one_row, doubled) == pytest.approx(2 * plain, rel=1e-6)
    assert math.isfinite(steerlens.loss(model, None, paired, against_neutral))
    against_neutral.needs = {"everything"}  # pyright: ignore[reportFunctionMemberAccess]
    with pytest.raises(ValueError, match="needs \\['everything'\\]"):
        needs(against_neutral)


def test_a_missing_neutral_response_is_named(model, paired):
    rows = [*paired.examples[:2], steerlens.Example("who?", "me"), *paired.examples[2:]]
    with pytest.raises(ValueError, match="row 2 has no neutral response"):
        steerlens.train(model, steerlens.SteeringData(rows), layer=1, objective="simpo", progress=False)


def test_wrong_results_are_refused():
    given = Logprobs(tokens([-1.0], [-1.0]))
    with pytest.raises(ValueError, match="one loss per row"):
        row_losses(lambda logprobs: logprobs.response.values.sum(), given)
    result = row_losses(lambda logprobs: logprobs.response.total, given)
    assert isinstance(result, RowLosses)
    assert result.weight.tolist() == [1.0, 1.0]


def test_accumulated_passes_give_the_gradient_of_one_batch(model, paired):
    settings = {"layer": LAYER, "objective": "simpo", "progress": False}
    whole = steerlens.TrainConfig(epochs=3, batch_size=4, shuffle=False, factor_lr=0.1)
    parts = steerlens.TrainConfig(epochs=3, batch_size=2, accumulate=2, shuffle=False, factor_lr=0.1)
    a, b = (steerlens.train(model, paired, config=config, **settings) for config in (whole, parts))
    torch.testing.assert_close(a.vector, b.vector, rtol=1e-4, atol=1e-4)


def test_a_loss_that_is_no_number_is_refused(model, data, make_vector) -> None:
    def broken(hidden: torch.Tensor, hook: object) -> torch.Tensor:
        return hidden * float("inf")

    hooks = model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", broken)])
    with hooks, pytest.raises(NotFiniteError, match="the loss is nan with 1 vector"):
        steerlens.loss(model, make_vector(), data)
