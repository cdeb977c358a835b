"""Vectors against features: planted truths, chance levels, naive loops over plain hooks, and what is refused."""

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PROMPTS, RESPONSES, rows_of
from tiny import WIDTH, Bench
from torch import Tensor

import steerlens
from steerlens.analysis import (
    SAE,
    SAEError,
    compare_to_sae,
    effect_recovery,
    feature_effects,
    residual_statistics,
)
from steerlens.analysis.residuals import ResidualStatistics

LAYER, N = 1, 120
KNOWN: dict[str, Any] = {"model_name": "tiny-gemma2", "provenance": {"weight_processing": "raw"}}
FIXED: dict[str, Any] = {"prompts": PROMPTS, "responses": RESPONSES}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def sae() -> Any:
    """Random features whose encoder is not the decoder, for the tiny models."""
    weights = {"W_enc": randn(WIDTH, N, seed=2) / 7, "W_dec": randn(N, WIDTH, seed=1), "b_enc": randn(N, seed=3)}
    place = {"model_name": "someone/Tiny-Gemma2", "layer": LAYER, "weight_processing": "raw", "normalisation": "none"}
    return SAE(**weights, b_dec=randn(WIDTH, seed=4), apply_b_dec_to_input=True, **place, source="random")


@pytest.fixture
def statistics() -> Any:
    """Far from isotropic, as residual streams are."""
    mixing = randn(WIDTH, WIDTH, seed=5) * torch.logspace(0, -1.5, WIDTH)
    return ResidualStatistics(randn(WIDTH, seed=6), mixing @ mixing.T, 5000, LAYER, "tiny-gemma2", "raw")


def vector(direction: Tensor, factor: float = 2.0, **fields: Any) -> Any:
    return steerlens.SteeringVector(direction, factor, LAYER, **{**KNOWN, **fields})


# --- cosines and chance -------------------------------------------------------------------------------------------------


def test_a_planted_feature_is_found(sae: Any, statistics: Any) -> None:
    sv = vector(sae.W_dec[17] + 0.1 * randn(WIDTH, seed=7), concept="planted")
    result = compare_to_sae(sv, sae, statistics=statistics, n_random=999, n_controls=1, k=4)
    first = result.to_frame().iloc[0]
    assert (first["feature"], first["decoder_rank"], first["vector"]) == (17, 1, "planted")
    assert first["decoder_cosine"] == pytest.approx(float(torch.cosine_similarity(sv.vector, sae.W_dec[17], dim=0)), abs=1e-5)
    assert first["decoder_p"] == first["decoder_p_corrected"] == 1 / 1000
    assert "decoder row 17" in result.summary() and "p <= 0.001 corrected for all features" in result.summary()
    read = compare_to_sae(vector(sae.W_enc[:, 30]), sae, statistics=statistics, n_random=999, n_controls=1, k=4).to_frame()
    assert read.loc[read["encoder_rank"] == 1, "feature"].item() == 30


def test_cosines_follow_the_sign_of_the_vector(sae: Any) -> None:
    plus, minus = (compare_to_sae(vector(sae.W_dec[3], factor), sae).to_frame() for factor in (2.0, -2.0))
    assert plus["decoder_cosine"].iloc[0] == pytest.approx(1, abs=1e-5)
    assert minus["decoder_cosine"].iloc[0] == pytest.approx(-1, abs=1e-5)
    assert list(plus["feature"]) == list(minus["feature"])


def test_p_values_against_a_count_by_hand(sae: Any, statistics: Any) -> None:
    """Another stream of random numbers, drawn through a Cholesky factor: equal up to the noise of the draws."""
    sv = vector(randn(WIDTH, seed=8) + 0.4 * sae.W_dec[5])
    frame = compare_to_sae(sv, sae, statistics=statistics, n_random=4000, n_controls=1, k=2).to_frame().set_index("feature")
    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(statistics.covariance.double().numpy() + 1e-9 * np.eye(WIDTH))
    draws = rng.standard_normal((4000, WIDTH)) @ root.T
    draws /= np.linalg.norm(draws, axis=1, keepdims=True)
    for side, rows in (("decoder", sae.W_dec), ("encoder", sae.W_enc.T)):
        unit = torch.nn.functional.normalize(rows, dim=-1).double().numpy()
        chance = np.abs(draws @ unit.T)
        found = frame.sort_index()[f"{side}_cosine"].abs().to_numpy()
        assert frame.sort_index()[f"{side}_p"].to_numpy() == pytest.approx((chance >= found).mean(0), abs=0.04)
        best = (chance.max(1)[:, None] >= found).mean(0)
        assert frame.sort_index()[f"{side}_p_corrected"].to_numpy() == pytest.approx(best, abs=0.05)


def kolmogorov(values: np.ndarray) -> float:
    """Largest distance of the values' distribution from the uniform one."""
    ordered, n = np.sort(values), len(values)
    return float(max((np.arange(1, n + 1) / n - ordered).max(), (ordered - np.arange(n) / n).max()))


def test_p_values_are_uniform_under_the_null(sae: Any, statistics: Any) -> None:
    n = 200
    root = torch.linalg.cholesky(statistics.covariance.double() + 1e-9 * torch.eye(WIDTH)).float()
    nulls = {str(i): vector(row) for i, row in enumerate(randn(n, WIDTH, seed=9) @ root.T)}
    frame = compare_to_sae(nulls, sae, statistics=statistics, n_random=1000, k=1, n_controls=1).to_frame()
    critical = 1.63 / math.sqrt(n)  # 1 % of the time
    for side in ("decoder", "encoder"):
        assert kolmogorov(frame.loc[frame["feature"] == 11, f"{side}_p"].to_numpy()) < critical
        assert kolmogorov(frame.loc[frame[f"{side}_rank"] == 1, f"{side}_p_corrected"].to_numpy()) < critical
    uncorrected = frame.loc[frame["decoder_rank"] == 1, "decoder_p"].to_numpy()
    assert kolmogorov(uncorrected) > 0.5, "the best of many is not chance's only draw"


def test_without_statistics_there_are_no_p_values(sae: Any) -> None:
    result = compare_to_sae(vector(randn(WIDTH)), sae)
    frame = result.to_frame()
    assert frame[["decoder_p", "decoder_p_corrected", "encoder_p", "encoder_p_corrected"]].isna().all().all()
    assert math.isnan(result.null_cosine["decoder"]) and result.n_random == 0
    assert "no p-values" in result.summary() and ", p " not in result.summary()


def test_dead_features_have_no_cosine(sae: Any, statistics: Any) -> None:
    rows = sae.W_dec.clone()
    rows[4] = 0
    frame = compare_to_sae(
        vector(sae.W_dec[5]), replace(sae, W_dec=rows), statistics=statistics, n_random=100, n_controls=1, k=2
    ).to_frame()
    dead: Any = frame.set_index("feature").loc[4]
    assert math.isnan(dead["decoder_cosine"]) and math.isnan(dead["decoder_p"]) and dead["decoder_rank"] == N
    assert frame["encoder_cosine"].notna().all()


def test_several_vectors_and_links(sae: Any) -> None:
    linked = replace(sae, neuronpedia_id="m/1-x")
    one, two = vector(sae.W_dec[1], concept="a"), vector(sae.W_dec[2], concept="a")
    assert set(compare_to_sae([one, two], linked).to_frame()["vector"]) == {"a", "a #2"}
    named = compare_to_sae({"first": one, "second": two}, linked)
    best = named.to_frame().groupby("vector").first()
    assert best["feature"].to_dict() == {"first": 1, "second": 2}
    assert best["url"].to_dict()["second"] == "https://www.neuronpedia.org/m/1-x/2"
    alone = compare_to_sae(two, linked).to_frame().drop(columns="vector")
    together = named.to_frame().query("vector == 'second'").drop(columns="vector").reset_index(drop=True)
    for name in ("decoder_cosine", "encoder_cosine"):
        both = (frame.sort_values("feature")[name].to_numpy() for frame in (together, alone))
        assert next(both) == pytest.approx(next(both), abs=1e-6)


# --- decomposition ------------------------------------------------------------------------------------------------------


def test_three_planted_features_are_the_decomposition(sae: Any, statistics: Any) -> None:
    sv = vector(2 * sae.W_dec[3] + sae.W_dec[50] + 1.5 * sae.W_dec[99], 1.0, concept="sum")
    result = compare_to_sae(sv, sae, statistics=statistics, n_random=100, k=8)
    parts, steps = result.parts_frame(), result.steps_frame()
    assert parts.set_index("feature")["coefficient"].to_dict() == pytest.approx({3: 2.0, 99: 1.5, 50: 1.0}, rel=1e-3)
    assert list(parts["contribution"]) == sorted(parts["contribution"], reverse=True)
    assert list(steps["n_features"]) == [0, 1, 2, 3] and set(steps["added"]) == {-1, 3, 50, 99}
    assert steps["explained"].iloc[0] == 0 and steps["explained"].iloc[-1] == pytest.approx(1, abs=1e-5)
    assert (steps["random_explained"].iloc[1:] < 0.9).all() and "3 features add up to 100%" in result.summary()


def test_explained_norm_against_least_squares(sae: Any) -> None:
    """Where all coefficients are above 0 the nonnegative fit is the plain one."""
    sv = vector(randn(WIDTH, seed=12))
    result = compare_to_sae(sv, sae, k=6)
    chosen = result.steps["added"].iloc[1:].tolist()
    for size in range(1, 7):
        atoms = sae.W_dec[chosen[:size]].double().numpy().T
        v = sv.vector.double().numpy()
        coefficients = np.linalg.lstsq(atoms, v, rcond=None)[0]
        if (coefficients > 0).all():
            explained = 1 - ((v - atoms @ coefficients) ** 2).sum() / (v**2).sum()
            assert result.steps["explained"].iloc[size] == pytest.approx(explained, abs=1e-5)
    assert result.steps["explained"].is_monotonic_increasing


# --- coordinates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sae_changes", "sv_changes", "reason", "message"),
    [
        ({"model_name": "gemma-2-2b"}, {}, "model", "model: the SAE has 'gemma-2-2b', the vector .* 'tiny-gemma2'"),
        ({"model_name": None}, {}, "model", "model: the SAE has unknown"),
        ({}, {"model_name": None}, "model", "the vector .* unknown"),
        ({"layer": 2, "hook_name": None}, {}, "layer", "layer: the SAE has 2, the vector .* 1"),
        ({"layer": None, "hook_name": None}, {}, "layer", "layer: the SAE has unknown"),
        ({"layer": None, "hook_name": "blocks.1.hook_mlp_out"}, {}, "hook", "hook: the SAE has 'blocks.1.hook_mlp_out'"),
        ({"weight_processing": "fold_ln"}, {}, "weight_processing", "the SAE has 'fold_ln', the vector .* 'raw'"),
        ({}, {"provenance": {}}, "weight_processing", "weight_processing: the SAE has 'raw', the vector .* unknown"),
        ({"normalisation": "layer_norm"}, {}, "normalisation", "normalisation: the SAE has 'layer_norm'"),
        ({"normalisation": None}, {}, "normalisation", "normalisation: the SAE has unknown"),
    ],
)
def test_other_coordinates_are_refused(
    sae: Any, sae_changes: dict[str, Any], sv_changes: dict[str, Any], reason: str, message: str
) -> None:
    foreign, sv = replace(sae, **sae_changes), vector(randn(WIDTH), **sv_changes)
    with pytest.raises(SAEError, match=message) as caught:
        compare_to_sae(sv, foreign)
    assert f"allow=({reason!r},)" in str(caught.value)
    assert len(compare_to_sae(sv, foreign, allow=reason).to_frame()) == N


def test_width_is_never_allowed(sae: Any) -> None:
    narrow = steerlens.SteeringVector(torch.ones(8), 1.0, LAYER, **KNOWN)
    with pytest.raises(SAEError, match="the SAE has d_model 48, the vector 'vector' 8"):
        compare_to_sae(narrow, sae, allow=("model", "layer", "weight_processing"))
    with pytest.raises(SAEError, match="there are only model, layer"):
        compare_to_sae(vector(randn(WIDTH)), sae, allow=("d_model",))


def test_vectors_without_one_direction_are_refused(model: Any, sae: Any, statistics: Any) -> None:
    read = randn(1, WIDTH)
    reft = steerlens.SteeringVector(read, 1.0, LAYER, form="direft", read=read, bias=torch.ones(1), **KNOWN)
    nothing, away = vector(torch.zeros(WIDTH)), vector(randn(WIDTH), form="null")
    for sv, message in ((reft, "form 'direft'"), (nothing, "norm 0"), (away, r"form 'null'.*sv\.replace\(form=\"add\"\)")):
        with pytest.raises(ValueError, match=message):
            compare_to_sae(sv, sae)
    for sv, message in ((reft, "form 'direft'"), (nothing, "by 0 nats")):
        with pytest.raises(ValueError, match=message):
            effect_recovery(model, sv, sae, **FIXED)
    with pytest.raises(ValueError, match="the statistics are of layer 2, the vectors of 1"):
        compare_to_sae(vector(randn(WIDTH)), sae, statistics=replace(statistics, layer=2))
    wrong: list[dict[str, Any]] = [{"k": 0}, {"k": N + 1}, {"n_random": 5}, {"n_controls": 0}]
    for settings in wrong:
        with pytest.raises(ValueError, match=r"k is|n_random is"):
            compare_to_sae(vector(randn(WIDTH)), sae, **settings)


# --- statistics ---------------------------------------------------------------------------------------------------------


def naive_residuals(bench: Bench, ids: list[int], layer: int, edits: Any = ()) -> Tensor:
    """Hidden states after a block, by a hook of our own."""
    caught: list[Tensor] = []

    def catch(_module: Any, _args: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    # hooks run in the order of their adding: what is caught is what the next block sees
    with torch.no_grad(), bench.oracle.hooked(edits):
        handle = bench.oracle.blocks[layer].register_forward_hook(catch)
        bench.oracle.hf(input_ids=torch.tensor([ids]), use_cache=False)
        handle.remove()
    return caught[0].reshape(len(ids), -1)


def test_statistics_against_a_naive_loop(bench: Bench, data: Any) -> None:
    found = residual_statistics(bench.model, data, 2, batch_size=2)
    tokens = torch.cat([naive_residuals(bench, [*p, *r], 2)[1:] for p, r in rows_of(bench.model, data)]).double()
    assert found.n_tokens == len(tokens)
    assert torch.allclose(found.mean.double(), tokens.mean(0), atol=1e-3)
    wanted = tokens.T.cov()
    assert torch.allclose(found.covariance.double(), wanted, atol=1e-4 * float(wanted.abs().max()))
    whole = residual_statistics(bench.model, list(PROMPTS), 2, responses=list(RESPONSES), batch_size=5)
    assert torch.allclose(whole.covariance, found.covariance, atol=1e-4 * float(wanted.abs().max()))
    assert found.to_frame()["share"].sum() == pytest.approx(1) and f"Over {len(tokens)} tokens" in found.summary()


def test_a_conversation_is_one_text(model: Any) -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Good day"},
        {"role": "user", "content": "Why?" * 20},
    ]
    assert residual_statistics(model, turns, 1).n_tokens == residual_statistics(model, [turns], 1).n_tokens > WIDTH


def test_statistics_that_would_mislead_are_refused(model: Any, data: Any) -> None:
    with pytest.raises(ValueError, match="tokens for a residual stream of 48 dimensions: give more texts"):
        residual_statistics(model, "Hi", 1, chat=False)
    with pytest.raises(ValueError, match="layer 9 does not exist"):
        residual_statistics(model, data, 9)
    with pytest.raises(ValueError, match="the data have responses of their own"):
        residual_statistics(model, data, 1, responses=["x"])


# --- effects on features ------------------------------------------------------------------------------------------------


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
        edited.append([place in places for place in range(len(ids))])
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
    one = tokens[(tokens["row"] == 2) & (tokens["feature"] == tokens["feature"].iloc[0])]
    assert one["change"].to_numpy() == pytest.approx(changes[2][:, int(tokens["feature"].iloc[0])].numpy(), abs=1e-3 * scale)
    assert list(one["edited"]) == edited[2] and one["group"].iloc[-1] == "response"
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
    place = {"model_name": "terrarium", "layer": 7, "weight_processing": "raw", "normalisation": "none"}
    weights = {"W_enc": randn(160, 40, seed=1), "W_dec": randn(40, 160, seed=2), "b_enc": torch.zeros(40)}
    sv = steerlens.SteeringVector(randn(160, seed=3), 0.01, 2, "all")
    result = feature_effects(model, sv, SAE(**weights, b_dec=torch.zeros(160), **place), "Name a town.", "Rome it is.")
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


# --- recovery -----------------------------------------------------------------------------------------------------------


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
            runs = [gemma.oracle.logits(ids, len(prompt), some).double().log_softmax(-1) for some in ([sv], [part], [])]
            for place in range(len(prompt) - 1, len(ids) - 1):
                p, q, plain = (run[place] for run in runs)
                top += float((p.exp() * (p - q)).sum())
                bottom += float((p.exp() * (p - plain)).sum())
                loss = [old - float(run[place, ids[place + 1]]) for old, run in zip(loss, runs, strict=True)]
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


def test_one_feature_adds_up(sae: Any) -> None:
    assert "; 1 feature adds up to" in compare_to_sae(vector(sae.W_dec[3]), sae, k=1).summary()


# --- figures ------------------------------------------------------------------------------------------------------------


def test_figures(model: Any, sae: Any, statistics: Any) -> None:
    sv = vector(sae.W_dec[3] + 0.2 * randn(WIDTH), 1.0, concept="<b>bold</b>")
    result = compare_to_sae([sv, -sv], sae, statistics=statistics, n_random=200, k=6)
    figure = result.plot(top=7)
    assert "&lt;b&gt;bold" in figure.layout.title.text and [len(bar.x) for bar in figure.data] == [7, 7]
    assert len(figure.layout.shapes) == 2 and "cosine" in figure.layout.xaxis.title.text
    assert not compare_to_sae(sv, sae, k=2).plot().layout.shapes, "no band without statistics"
    with pytest.raises(ValueError, match="there is no vector 'x'"):
        result.plot("x")
    lines = result.plot_decomposition()
    assert [trace.name for trace in lines.data[:2]] == ["random directions, mean", "random directions, 95 % quantile"]
    assert len(lines.data) == 4 and "explained" in lines.layout.yaxis.title.text
    heat = feature_effects(model, sv, sae, **FIXED, top=5).plot(1)
    assert heat.data[0].z.shape[0] == 5 and heat.data[0].zmin == -heat.data[0].zmax
    assert any("↵" in text for text in heat.layout.xaxis.ticktext) and "&lt;bos&gt;" in heat.layout.xaxis.ticktext[0]
    with pytest.raises(ValueError, match="there is no row 9"):
        feature_effects(model, sv, sae, **FIXED, top=5).plot(9)
    shares = effect_recovery(model, sv, sae, **FIXED, ks=(1, 2), n_random=1).plot()
    assert {"effect recovered (KL)", "random features (KL)", "squared norm explained"} <= {t.name for t in shares.data}
    assert shares.data[0].error_y.array is not None and shares.layout.xaxis.type == "log"
    assert len(statistics.plot().data) == 2
    for drawn in (figure, lines, heat, shares, statistics.plot()):
        assert drawn.layout.title.text and drawn.layout.title.subtitle.text
        assert all(trace.hovertemplate.endswith("<extra></extra>") for trace in drawn.data)
