"""steerlens against the naive oracle on four architectures: losses and training."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import rows_of
from tiny import Bench

import steerlens
from steerlens import TrainConfig

POSITIONS = ("p2+s2", "p4", "s1", "prompt", "all", "response")
SHORT = TrainConfig(epochs=6, batch_size=3, factor_lr=0.2, direction_lr=0.02, shuffle=False)  # 2 steps an epoch


@pytest.mark.parametrize("form", ["add", "clamp", "null"])
def test_loss_agrees_with_the_oracle(bench: Bench, data: Any, make_vector: Callable[..., Any], form: str) -> None:
    rows = rows_of(bench.model, data)
    bare = bench.oracle.loss(rows)
    assert steerlens.loss(bench.model, None, data) == pytest.approx(bare, rel=1e-5)
    effects = []
    for positions in POSITIONS:
        sv = make_vector(form=form, positions=positions)
        expected = bench.oracle.loss(rows, [sv])
        effects.append(abs(expected - bare) / bare)
        assert steerlens.loss(bench.model, sv, data) == pytest.approx(expected, rel=1e-5), positions
        assert steerlens.loss(bench.model, sv, data, batch_size=2) == pytest.approx(expected, rel=1e-5), positions
    weakest = max(effects) if form == "null" else min(effects)  # null leaves alone what has nothing along the direction
    assert weakest > 1e-4, "the vector does nothing, so the comparison proves nothing"


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative to the whole vector: Adam blows up rounding in single coordinates whose gradient is near zero."""
    return float((a - b).norm() / b.norm())


def check_training(bench: Bench, data: Any, start: Any, config: TrainConfig, factor: Any = "joint") -> None:
    """A whole run of steerlens and of the oracle from the same start end in the same place."""
    place = {"layer": start.layer, "positions": start.positions, "form": start.form}
    sv = steerlens.train(bench.model, data, config=config, init=start, factor=factor, progress=False, **place)
    expected = bench.oracle.train(
        rows_of(bench.model, data),
        start,
        epochs=config.epochs,
        step_rows=config.batch_size * config.accumulate,
        direction_lr=config.direction_lr,
        factor_lr=config.factor_lr if factor == "joint" else 0.0,
        clip=config.grad_clip,
    )
    assert sv.history is not None and len(sv.history) == len(expected.losses) >= 10
    assert sv.history["loss"].to_numpy() == pytest.approx(expected.losses, rel=1e-4)
    assert sv.factor == pytest.approx(expected.factor, rel=1e-4)
    assert distance(sv.direction, expected.direction) < 1e-4
    moved = (sv.direction - start.direction).abs().mean()
    assert moved > 0.02, "the direction hardly moved, so the comparison proves nothing"
    assert (abs(sv.factor - start.factor) > 0.02) == (factor == "joint")


@pytest.mark.parametrize("positions", ["p2+s2", "all"])
def test_joint_training_agrees_with_the_oracle(
    bench: Bench, data: Any, make_vector: Callable[..., Any], positions: str
) -> None:
    check_training(bench, data, make_vector(factor=0.5, positions=positions), SHORT)


def test_training_with_a_clamp_agrees_with_the_oracle(bench: Bench, data: Any, make_vector: Callable[..., Any]) -> None:
    check_training(bench, data, make_vector(factor=0.5, form="clamp"), SHORT)


def test_training_with_a_fixed_factor_agrees_with_the_oracle(bench: Bench, data: Any, make_vector: Callable[..., Any]) -> None:
    check_training(bench, data, make_vector(factor=1.5, positions="prompt"), SHORT, factor=1.5)


def test_accumulation_is_one_large_batch(bench: Bench, data: Any, make_vector: Callable[..., Any]) -> None:
    parts = TrainConfig(epochs=10, batch_size=2, accumulate=2, factor_lr=0.2, direction_lr=0.02, shuffle=False, grad_clip=0.05)
    check_training(bench, data, make_vector(factor=0.5), parts)  # the oracle takes 4 rows, then the 1 that is left


@pytest.mark.parametrize("factor", ["joint", 0.7, [0.5, 1.0, 2.0]])
def test_many_vectors_in_one_pass_are_each_as_alone(gemma: Bench, data: Any, factor: Any) -> None:
    config = TrainConfig(epochs=3, batch_size=2, factor_init=0.1, direction_init=4.0, factor_lr=0.2, direction_lr=0.02)
    parts = {"long": data, "short": data[:3], "other": data[1:4]}
    settings = {"layer": 2, "config": config, "factor": factor, "progress": False}
    together = steerlens.train_many(gemma.model, parts, **settings)
    assert list(together) == list(parts)
    for name, part in parts.items():
        alone = steerlens.train(gemma.model, part, **settings)
        assert together[name].factor == pytest.approx(alone.factor, rel=1e-4)
        assert distance(together[name].direction, alone.direction) < 1e-4
        shared, own = together[name].history, alone.history
        assert shared is not None and own is not None
        assert shared["loss"].to_numpy() == pytest.approx(own["loss"].to_numpy(), rel=1e-4)
