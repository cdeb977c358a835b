"""After steering, however it ended, the model is as it was: same logits, no hooks, same flags."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from model_state import TOKENS, State
from tiny import Bench

import steerlens
from steerlens import TrainConfig

QUICK = TrainConfig(epochs=3, batch_size=2, factor_init=0.1)


@pytest.fixture(params=["eval", "training"])
def watched(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Any]:
    """A model, compared at the end of the test; once in training mode with parameters that learn."""
    model, inner = bench.model, bench.model.original_model
    before = ([m.training for m in inner.modules()], [p.requires_grad for p in inner.parameters()])
    drops = [(module, module.p) for module in inner.modules() if isinstance(module, torch.nn.Dropout)]
    if request.param == "training":
        model.train()
        inner.train()
        for module, _ in drops:
            module.p = 0.0  # so that logits can be compared
    inner.requires_grad_(request.param == "training")
    next(inner.parameters()).requires_grad_(request.param == "eval")  # and one that differs from the rest
    state = State(model)
    yield model
    state.check_same(model)
    for module, mode in zip(inner.modules(), before[0], strict=True):
        module.training = mode
    for parameter, flag in zip(inner.parameters(), before[1], strict=True):
        parameter.requires_grad_(flag)
    for module, share in drops:
        module.p = share


def interrupted_by(error: type[BaseException], seen: list[torch.Tensor]) -> Callable[..., None]:
    def stop(hidden: torch.Tensor, hook: Any) -> None:
        seen.append(hidden)
        raise error("in the middle of a pass")

    return stop


def test_a_normal_exit(watched: Any, make_vector: Callable[..., Any]) -> None:
    with torch.no_grad():
        before = watched(TOKENS)
        with steerlens.steer(watched, [make_vector(positions="all"), make_vector(1, layer=2)]):
            assert not torch.equal(watched(TOKENS), before), "the vector does nothing"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_an_exception_in_the_middle_of_a_pass(
    watched: Any, make_vector: Callable[..., Any], error: type[BaseException]
) -> None:
    """Raised by another hook behind the edited block, in nested contexts."""
    seen: list[torch.Tensor] = []
    sv = make_vector(layer=1)
    with pytest.raises(error), torch.no_grad(), steerlens.steer(watched, sv), steerlens.steer(watched, sv):
        watched.run_with_hooks(TOKENS, fwd_hooks=[("blocks.3.hook_resid_post", interrupted_by(error, seen))])
    assert seen


def test_steering_works_after_a_caught_exception_inside(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    sv = make_vector()
    model = gemma.model
    with torch.no_grad(), steerlens.steer(model, sv):
        expected = model(TOKENS)
        with pytest.raises(RuntimeError):
            model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.3.hook_resid_post", interrupted_by(RuntimeError, []))])
        assert torch.equal(model(TOKENS), expected)


def test_a_body_that_raises_between_passes(watched: Any, make_vector: Callable[..., Any]) -> None:
    with pytest.raises(KeyboardInterrupt), steerlens.steer(watched, make_vector()):
        raise KeyboardInterrupt


def test_the_users_own_hook_stays(gemma: Bench, make_vector: Callable[..., Any]) -> None:
    model = gemma.model
    calls = []
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda hidden, hook: calls.append(hidden.shape))]):
        with torch.no_grad(), steerlens.steer(model, make_vector()):
            model(TOKENS)
        with torch.no_grad():
            model(TOKENS)
    assert len(calls) == 2


def test_everything_that_runs_to_its_end(watched: Any, make_vector: Callable[..., Any], data: Any) -> None:
    sv = make_vector()
    steerlens.generate(watched, ["Hi", "you"], sv, max_new_tokens=3)
    steerlens.audit(watched, ["Hi", "you"], sv, max_new_tokens=3)
    steerlens.loss(watched, sv, data)
    steerlens.train(watched, data, layer=1, config=QUICK, progress=False)
    steerlens.train_many(watched, {"a": data, "b": data}, layer=1, config=QUICK, progress=False)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_everything_interrupted(
    watched: Any, make_vector: Callable[..., Any], data: Any, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a callback of training, and by a block of the model in the middle of everything else."""

    def callback(step: Any) -> None:
        if step.row["step"] == 1:
            raise error

    with pytest.raises(error):
        steerlens.train(watched, data, layer=1, config=QUICK, progress=False, callbacks=[callback])
    sv = make_vector()
    seen: list[torch.Tensor] = []
    for run in (
        lambda: steerlens.generate(watched, ["Hi", "you"], sv, max_new_tokens=3),
        lambda: steerlens.audit(watched, ["Hi", "you"], sv, max_new_tokens=3),
        lambda: steerlens.loss(watched, sv, data),
        lambda: steerlens.train(watched, data, layer=1, config=QUICK, progress=False),
    ):
        seen.clear()
        with watched.hooks(fwd_hooks=[("blocks.2.hook_resid_post", interrupted_by(error, seen))]), pytest.raises(error):
            run()
        assert seen


def test_training_leaves_no_gradient_on_the_model(gemma: Bench, data: Any) -> None:
    inner = gemma.model.original_model
    inner.zero_grad(set_to_none=True)
    steerlens.train(gemma.model, data, layer=1, config=QUICK, progress=False)
    assert all(p.grad is None for p in inner.parameters())
