"""How much of a vector's effect its features reproduce: planted truths, a naive loop, and what is refused."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import PROMPTS, rows_of
from random_sae import FIXED, N, randn, vector
from tiny import WIDTH, Bench

from steerlens.analysis import SAEError, compare_to_sae, effect_recovery, feature_effects


@pytest.mark.parametrize("form", ["add", "clamp"])
def test_a_vector_made_of_two_features_is_recovered_by_two(model: Any, sae: Any, form: str) -> None:
    sv = vector(sae.W_dec[3] + 0.8 * sae.W_dec[50], 0.5, form=form)
    result = effect_recovery(model, sv, sae, **FIXED, ks=(1, 2, 8), n_random=2)
    frame: Any = result.to_frame().set_index("k")
    assert frame.loc[2, "kl_recovered"] == pytest.approx(1, abs=1e-3) and frame.loc[2, "norm_explained"] == pytest.approx(1)
    assert frame.loc[8, "n_features"] == 2 and frame.loc[8, "kl_recovered"] == frame.loc[2, "kl_recovered"]
    assert frame.loc[1, "kl_recovered"] < 0.99 and (frame["random_kl_recovered"] < 0.9).all()
    assert "2 features explain 100%" in result.summary()


def test_a_vector_outside_the_span_is_not_recovered(model: Any, sae: Any) -> None:
    flat = sae.W_dec.clone()
    flat[:, -4:] = 0
    direction = torch.zeros(WIDTH)
    direction[-4:] = torch.tensor([1.0, -1.0, 2.0, 0.5])
    frame = effect_recovery(model, vector(direction, 2.0), replace(sae, W_dec=flat), **FIXED, ks=(1, 4), n_random=2).to_frame()
    assert (frame["n_features"] == 0).all() and (frame["norm_explained"] == 0).all()
    for name in ("kl_recovered", "random_kl_recovered"):
        assert frame[name].to_numpy() == pytest.approx(0, abs=1e-9)


def test_recovery_against_a_naive_loop(gemma: Bench, data: Any, sae: Any) -> None:
    sv = vector(randn(WIDTH, seed=30), 0.5, positions="all")
    result = effect_recovery(gemma.model, sv, sae, **FIXED, ks=(3,), n_random=1, batch_size=2)
    steps = compare_to_sae(sv, sae, k=3).parts_frame()
    coefficients, chosen = torch.tensor(steps["coefficient"].tolist()), torch.tensor(steps["feature"].tolist())
    total = torch.einsum("f,fd->d", coefficients, sae.W_dec[chosen])
    part = vector(total, 1.0, positions="all")
    top, bottom, loss, tokens = 0.0, 0.0, [0.0] * 3, 0
    with torch.no_grad():
        for prompt, response in rows_of(gemma.model, data):
            ids = [*prompt, *response]
            runs = [gemma.oracle.logits(ids, len(prompt), vectors).double().log_softmax(-1) for vectors in ([sv], [part], [])]
            for index in range(len(prompt) - 1, len(ids) - 1):
                p, q, plain = (run[index] for run in runs)
                top += float((p.exp() * (p - q)).sum())
                bottom += float((p.exp() * (p - plain)).sum())
                loss = [old - float(run[index, ids[index + 1]]) for old, run in zip(loss, runs, strict=True)]
                tokens += 1
    row = result.to_frame().iloc[0]
    assert row["kl_recovered"] == pytest.approx(1 - top / bottom, abs=1e-3)
    assert result.kl.value == pytest.approx(bottom / tokens, rel=1e-3) and result.n_tokens == tokens
    assert result.loss_change is not None
    assert result.loss_change.value == pytest.approx((loss[2] - loss[0]) / tokens, abs=1e-4)
    if loss[2] > loss[0]:
        assert row["loss_recovered"] == pytest.approx((loss[2] - loss[1]) / (loss[2] - loss[0]), abs=1e-2)
    assert row["kl_recovered_low"] <= row["kl_recovered"] <= row["kl_recovered_high"]


def test_recovery_with_the_models_own_responses(model: Any, sae: Any) -> None:
    result = effect_recovery(model, vector(randn(WIDTH), 1.0), sae, PROMPTS, ks=(2,), n_random=1, max_new_tokens=4)
    assert result.loss_change is None and math.isnan(result.to_frame()["loss_recovered"].item())
    again = effect_recovery(model, vector(randn(WIDTH), 1.0), sae, PROMPTS, ks=(2,), n_random=1, max_new_tokens=4)
    assert again.to_frame().equals(result.to_frame())


def test_recovery_is_refused_where_there_is_nothing(model: Any, sae: Any) -> None:
    with pytest.raises(ValueError, match=r"nats per token, which is rounding in float32 .*: there is no effect to share out"):
        effect_recovery(model, vector(randn(WIDTH), 1e-6), sae, **FIXED)
    with pytest.raises(ValueError, match="no response has a token"):
        effect_recovery(model, vector(randn(WIDTH)), sae, ["Hi"], [""])
    for size in (0, -3):
        with pytest.raises(ValueError, match=f"batch_size is {size}; it must be at least 1"):
            effect_recovery(model, vector(randn(WIDTH)), sae, PROMPTS, batch_size=size)
    wrong: list[dict[str, Any]] = [{"ks": ()}, {"ks": (0,)}, {"ks": (N + 1,)}, {"n_random": 0}]
    for settings in wrong:
        with pytest.raises(ValueError, match="must be 1 to 120"):
            effect_recovery(model, vector(randn(WIDTH)), sae, **FIXED, **settings)
    with pytest.raises(SAEError, match="layer: the SAE has 2, the model with its vector 1"):
        effect_recovery(model, vector(randn(WIDTH)), replace(sae, layer=2, hook_name=None), **FIXED)


def test_the_model_is_left_as_it_came(model: Any, sae: Any) -> None:
    before = {name: len(point.fwd_hooks) for name, point in model.hook_dict.items()}
    effect_recovery(model, vector(randn(WIDTH)), sae, **FIXED, ks=(1,), n_random=1)
    feature_effects(model, vector(randn(WIDTH)), sae, **FIXED)
    assert {name: len(point.fwd_hooks) for name, point in model.hook_dict.items()} == before
    assert all(parameter.requires_grad for parameter in model.original_model.parameters())


@pytest.mark.parametrize(("form", "factor"), [("clamp", 0.0), ("null", 1.0), ("null", -0.5)])
def test_a_direction_that_is_taken_away_is_recovered_too(model: Any, sae: Any, form: str, factor: float) -> None:
    sv = vector(sae.W_dec[3] + 0.8 * sae.W_dec[50], factor, form=form, positions="all")
    frame: Any = effect_recovery(model, sv, sae, **FIXED, ks=(1, 2), n_random=2).to_frame().set_index("k")
    assert frame.loc[2, "kl_recovered"] == pytest.approx(1, abs=1e-3) and frame.loc[2, "norm_explained"] == pytest.approx(1)
    assert frame.loc[1, "kl_recovered"] < 0.99


def test_a_loss_that_does_not_clearly_fall_has_no_share(model: Any, sae: Any) -> None:
    kept = {"clear": 0, "unclear": 0}
    for seed in range(12):
        result = effect_recovery(model, vector(randn(WIDTH, seed=seed), 0.3), sae, **FIXED, ks=(1,), n_random=1)
        assert result.loss_change is not None
        value, low, high = result.loss_change
        if value <= 0:
            continue
        unclear = low <= 0 <= high
        kept["unclear" if unclear else "clear"] += 1
        assert math.isnan(result.steps["loss_recovered"].item()) == unclear
        assert math.isnan(result.steps["random_loss_recovered"].item()) == unclear
        assert ("not clearly above 0, so that has no share" in result.summary()) == unclear
        assert "1 feature explains" in result.summary() and " and reproduces " in result.summary()
    assert kept["unclear"] > 0 and kept["clear"] > 0
