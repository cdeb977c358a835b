"""Published settings against the paper's table, typed again by hand, and the rules across widths."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from steerlens import TrainConfig
from steerlens.training import scaling

# model, positions, objective: beta, lr_alpha, lambda, lr_v, epochs, batch, accumulate (Bao et al. 2026, Table 11)
TABLE = {
    ("gemma-2-2b-it", "all", "lang"): (2, 1, 1, 0.04, 12, 12, 1),
    ("gemma-2-2b-it", "all", "simpo"): (2, 0.1, 1, 0.04, 12, 6, 1),
    ("gemma-2-2b-it", "p2+s2", "lang"): (4, 10, 8, 0.04, 12, 12, 1),
    ("gemma-2-2b-it", "p2+s2", "simpo"): (4, 20, 8, 0.04, 12, 6, 1),
    ("gemma-2-9b-it", "all", "lang"): (2, 0.1, 8, 0.04, 18, 12, 1),
    ("gemma-2-9b-it", "all", "simpo"): (2, 0.1, 8, 0.08, 12, 6, 1),
    ("gemma-2-9b-it", "p2+s2", "lang"): (2, 0.1, 8, 0.04, 12, 12, 1),
    ("gemma-2-9b-it", "p2+s2", "simpo"): (4, 20, 8, 0.04, 24, 6, 1),
    ("Qwen2.5-32B-Instruct", "all", "lang"): (1, 0.1, 1, 0.04, 12, 6, 1),
    ("Qwen2.5-32B-Instruct", "all", "simpo"): (1, 0.01, 1, 0.04, 12, 3, 1),
    ("Qwen2.5-32B-Instruct", "p2+s2", "lang"): (2, 10, 8, 0.04, 12, 6, 1),
    ("Qwen2.5-32B-Instruct", "p2+s2", "simpo"): (1, 10, 8, 0.08, 6, 3, 2),
}


@pytest.mark.parametrize("key", TABLE, ids="/".join)
def test_the_published_table(key: tuple[str, str, str]) -> None:
    config = scaling.published(*key)
    got = (config.factor_init, config.factor_lr, config.direction_init, config.direction_lr, config.epochs)
    assert (*got, config.batch_size, config.accumulate) == TABLE[key]
    assert config.max_response_tokens == (128 if key[2] == "simpo" else None)
    assert (config.grad_clip, config.append_eos, config.init_distribution) == (1.0, False, "uniform")


def test_the_defaults_are_the_row_of_gemma_2_2b() -> None:
    assert scaling.published("gemma-2-2b-it", "p2+s2", "lang") == TrainConfig() == scaling.published(None)


def test_the_nearest_row() -> None:
    rows = {place: scaling.published_row("google/Gemma-2-9b-it", place, "lang") for place in ("p4", "s1", "prompt", "response")}
    assert {place: (row.model_name, row.positions) for place, row in rows.items()} == {
        "p4": ("gemma-2-9b-it", "p2+s2"),
        "s1": ("gemma-2-9b-it", "p2+s2"),
        "prompt": ("gemma-2-9b-it", "p2+s2"),
        "response": ("gemma-2-9b-it", "all"),
    }
    unknown = scaling.published_row("someone/else", "all", "reps")
    assert (unknown.model_name, unknown.objective, unknown.d_model) == ("gemma-2-2b-it", "simpo", 2304)


def test_transfer() -> None:
    config = TrainConfig(factor_lr=10, direction_lr=0.04)
    narrow = scaling.transfer(config, 2304, 576)  # a quarter of the width: half and twice
    assert narrow == replace(config, factor_lr=5.0, direction_lr=0.08)
    back = scaling.transfer(narrow, 576, 2304)
    assert (back.factor_lr, back.direction_lr) == pytest.approx((10, 0.04))
    assert scaling.transfer(config, 100, 100) == config
    for width in (48, 3584):
        other = scaling.transfer(config, 2304, width)
        assert other.factor_lr * other.direction_lr == pytest.approx(0.4), "the product of the rates does not change"
    with pytest.raises(ValueError, match="widths must be at least 1, got 0 and 48"):
        scaling.transfer(config, 0, 48)


@pytest.mark.parametrize("width", [256, 2304])
def test_initial_sizes(width: int) -> None:
    config = TrainConfig(factor_init=4, direction_init=8)
    assert scaling.initial_factor(config, width) == 4 * math.sqrt(width)
    bound = 8 / math.sqrt(width)
    draws = torch.stack([scaling.initial_direction(config, width, torch.Generator().manual_seed(s)) for s in range(40)])
    assert draws.abs().max() <= bound and draws.abs().max() > 0.99 * bound
    assert float(draws.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert abs(float(draws.mean())) < 0.05 * bound
    normal = replace(config, init_distribution="normal")
    draws = torch.stack([scaling.initial_direction(normal, width, torch.Generator().manual_seed(s)) for s in range(40)])
    assert float(draws.var()) == pytest.approx(8 / width, rel=0.05)  # N(0, lambda/n)


def test_linear_decay() -> None:
    assert [scaling.learning_rate_scale(step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "epochs is 0; it must be a whole number of at least 1"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"factor_init": math.nan}, "factor_init is nan; it must be a finite number"),
        ({"direction_init": -1.0}, r"direction_init is -1\.0"),
        ({"factor_lr": math.inf}, "factor_lr is inf"),
        ({"direction_lr": -0.1}, r"direction_lr is -0\.1"),
        ({"grad_clip": 0.0}, "grad_clip is 0.0; it must be above 0, or None for no clipping"),
        ({"grad_clip": math.nan}, "grad_clip is nan"),
        ({"max_response_tokens": 0}, "max_response_tokens is 0; it must be at least 1, or None"),
    ],
)
def test_bad_settings_are_refused_in_words(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainConfig(**settings)


def test_an_unknown_distribution_is_refused() -> None:
    config = TrainConfig()
    object.__setattr__(config, "init_distribution", "cauchy")  # past the type checker of the tests
    with pytest.raises(ValueError, match='init_distribution is \'cauchy\'; use "uniform" or "normal"'):
        config.__post_init__()
