"""Effects of a vector on features, against a naive loop over plain hooks, and what is refused."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import PROMPTS, RESPONSES, rows_of
from naive import naive_residuals
from random_sae import FIXED, LAYER, randn, vector
from tiny import WIDTH, Bench

import steerlens
from steerlens.analysis import SAE, SAEError, compare_to_sae, effect_recovery, feature_effects


@pytest.mark.parametrize("layer", [1, 3])
def test_changes_of_activation_against_a_naive_loop(bench: Bench, data: Any, sae: Any, layer: int) -> None:
    here = replace(sae, model_name=bench.model.cfg.model_name, layer=layer, hook_name=None)
    sv = steerlens.SteeringVector(randn(WIDTH, seed=20), 3.0, LAYER, positions="p2+s2")
    rows = rows_of(bench.model, data)
    changes, edited = [], []
    for prompt, response in rows:
        ids = [*prompt, *response]
        places = [0, 1, len(prompt) - 2, len(prompt) - 1]
        edit = (LAYER, lambda h: h + 3.0 * sv.direction, places)
        states = [naive_residuals(bench, ids, layer, edits) for edits in ([edit], [])]
        acts = [((h - here.b_dec) @ here.W_enc + here.b_enc).relu() for h in states]
        changes.append(acts[0] - acts[1])
        edited.append([index in places for index in range(len(ids))])
    every = torch.cat(changes)
    result = feature_effects(bench.model, sv, here, list(PROMPTS), list(RESPONSES), batch_size=2, top=5)
    frame = result.to_frame().set_index("feature").sort_index()
    scale = float(every.abs().max())
    assert scale > 0.1
    assert frame["change"].to_numpy() == pytest.approx(every.mean(0).numpy(), abs=1e-4 * scale)
    assert frame["mean_abs_change"].to_numpy() == pytest.approx(every.abs().mean(0).numpy(), abs=1e-4 * scale)
    mask = torch.tensor([flag for row in edited for flag in row])
    assert frame["edited_change"].to_numpy() == pytest.approx(every[mask].mean(0).numpy(), abs=1e-3 * scale)
    tokens = result.tokens_frame()
    assert list(result.features["feature"][:5]) == list(dict.fromkeys(tokens["feature"]))
    own = tokens[(tokens["row"] == 2) & (tokens["feature"] == tokens["feature"].iloc[0])]
    assert own["change"].to_numpy() == pytest.approx(changes[2][:, int(tokens["feature"].iloc[0])].numpy(), abs=1e-3 * scale)
    assert list(own["edited"]) == edited[2] and own["group"].iloc[-1] == "response"
    if layer == LAYER:
        assert (frame["response_change"] == 0).all() and (tokens.loc[~tokens["edited"], "change"] == 0).all()
    else:
        assert frame["response_change"].abs().max() > 1e-3


def test_effects_do_not_depend_on_the_batch(model: Any, make_vector: Callable[..., Any], sae: Any) -> None:
    small, large = (feature_effects(model, make_vector(), sae, **FIXED, batch_size=n).to_frame() for n in (1, 16))
    for name in ("change", "edited_change", "active_steered"):
        assert small.set_index("feature")[name].sort_index().to_numpy() == pytest.approx(
            large.set_index("feature")[name].sort_index().to_numpy(), abs=1e-4
        )
    head = small.iloc[0]
    assert head["change_low"] <= head["change"] <= head["change_high"]


def test_effects_that_cannot_be_are_refused(model: Any, make_vector: Callable[..., Any], sae: Any) -> None:
    for call, message in (
        (lambda: feature_effects(model, make_vector(layer=2), sae, **FIXED), "after block 1, before the first edit"),
        (lambda: feature_effects(model, [], sae, **FIXED), "there is no vector"),
        (
            lambda: feature_effects(model, make_vector(), replace(sae, model_name="gpt2"), **FIXED),
            "the SAE has 'gpt2', the model",
        ),
        (lambda: feature_effects(model, make_vector(), replace(sae, layer=7, hook_name=None), **FIXED), "does not have"),
        (lambda: feature_effects(model, make_vector(), sae, **FIXED, top=0), "top 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_vector_that_does_nothing_moves_no_feature(model: Any, make_vector: Callable[..., Any], sae: Any) -> None:
    result = feature_effects(model, make_vector(factor=0.0), sae, **FIXED)
    assert (result.to_frame()["mean_abs_change"] == 0).all() and "no feature changes" in result.summary()


def test_the_autoencoder_must_read_after_a_block(model: Any, make_vector: Callable[..., Any], sae: Any) -> None:
    """No remedy is told that would be refused next."""
    elsewhere = replace(sae, layer=None, hook_name="blocks.1.hook_mlp_out")
    for allow in ((), "hook"):
        with pytest.raises(SAEError, match=r"reads at .*, not the residual stream after a block") as caught:
            feature_effects(model, make_vector(), elsewhere, **FIXED, allow=allow)
        assert "allow=" not in str(caught.value) and "layer=" not in str(caught.value)


def test_rounding_of_a_coarse_dtype_is_no_change() -> None:
    model = steerlens.load_model("terrarium", dtype=torch.bfloat16)
    origin = {"model_name": "terrarium", "layer": 7, "weight_processing": "raw", "normalisation": "none"}
    weights = {"W_enc": randn(160, 40, seed=1), "W_dec": randn(40, 160, seed=2), "b_enc": torch.zeros(40)}
    sv = steerlens.SteeringVector(randn(160, seed=3), 0.01, 2, "all")
    result = feature_effects(model, sv, SAE(**weights, b_dec=torch.zeros(160), **origin), "Name a town.", "Rome it is.")
    assert result.features["mean_abs_change"].max() > 0 and "no feature changes by more than rounding" in result.summary()


def test_a_residual_stream_that_overflows_is_named() -> None:
    model = steerlens.load_model("terrarium", dtype=torch.float16)
    sv = steerlens.SteeringVector(randn(160, seed=3), 1e6, 2)
    with pytest.raises(ValueError, match="the residual stream after block 2 is not finite: the model overflows under a vector"):
        feature_effects(model, sv, steerlens.analysis.load_sae("terrarium"), "Hi", "Ho")


def test_tokens_without_a_text_have_their_name() -> None:
    """A character of several bytes is several tokens, none of which is text by itself."""
    model, sae = steerlens.load_model("terrarium"), steerlens.analysis.load_sae("terrarium")
    sv = steerlens.SteeringVector(randn(160, seed=3), 1.0, 2)
    tokens = feature_effects(model, sv, sae, "\u65e5", "\u65e5", top=1).tokens_frame()["token"].to_list()
    assert len(tokens) > 4 and not any("\ufffd" in token for token in tokens) and all(tokens)


def test_other_things_are_named(model: Any, sae: Any) -> None:
    """As a user meets it, without the type checks of the tests."""
    sv: Any = vector(randn(WIDTH))
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: inspect.unwrap(effect_recovery)(model, [sv], sae, **FIXED), "about one SteeringVector, got list"),
        (
            lambda: inspect.unwrap(effect_recovery)(model, sv, "terrarium", **FIXED),
            "expected an SAE, got str: load it with load_sae",
        ),
        (lambda: inspect.unwrap(compare_to_sae)(sv, "terrarium"), "expected an SAE, got str: load it with load_sae"),
        (lambda: inspect.unwrap(feature_effects)(model, sv, "terrarium", **FIXED), "expected an SAE, got str"),
    ]
    for call, message in calls:
        with pytest.raises(TypeError, match=message):
            call()
