"""Vectors beside the features of an SAE: cosines against chance, the decomposition, what is refused, and the figures."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from random_sae import FIXED, KNOWN, LAYER, N, randn, vector
from tiny import WIDTH

import steerlens
from steerlens.analysis import SAEError, compare_to_sae, effect_recovery, feature_effects
from steerlens.analysis.residual_covariance import ResidualStatistics


@pytest.fixture
def statistics() -> Any:
    """Far from isotropic, as residual streams are."""
    mixing = randn(WIDTH, WIDTH, seed=5) * torch.logspace(0, -1.5, WIDTH)
    return ResidualStatistics(randn(WIDTH, seed=6), mixing @ mixing.T, 5000, LAYER, "tiny-gemma2", "raw")


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
    first, second = vector(sae.W_dec[1], concept="a"), vector(sae.W_dec[2], concept="a")
    assert set(compare_to_sae([first, second], linked).to_frame()["vector"]) == {"a", "a #2"}
    named = compare_to_sae({"first": first, "second": second}, linked)
    best = named.to_frame().groupby("vector").first()
    assert best["feature"].to_dict() == {"first": 1, "second": 2}
    assert best["url"].to_dict()["second"] == "https://www.neuronpedia.org/m/1-x/2"
    alone = compare_to_sae(second, linked).to_frame().drop(columns="vector")
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


def test_one_feature_adds_up(sae: Any) -> None:
    assert "; 1 feature adds up to" in compare_to_sae(vector(sae.W_dec[3]), sae, k=1).summary()


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


# --- figures ------------------------------------------------------------------------------------------------------------


def test_figures(model: Any, sae: Any, statistics: Any) -> None:
    sv = vector(sae.W_dec[3] + 0.2 * randn(WIDTH), 1.0, concept="<b>bold</b>")
    result = compare_to_sae([sv, -sv], sae, statistics=statistics, n_random=200, k=6)
    figure: Any = result.plot(top=7)
    assert "&lt;b&gt;bold" in figure.layout.title.text and [len(bar.x) for bar in figure.data] == [7, 7]
    assert len(figure.layout.shapes) == 2 and "cosine" in figure.layout.xaxis.title.text
    plain: Any = compare_to_sae(sv, sae, k=2).plot()
    assert not plain.layout.shapes, "no band without statistics"
    with pytest.raises(ValueError, match="there is no vector 'x'"):
        result.plot("x")
    lines: Any = result.plot_decomposition()
    assert [trace.name for trace in lines.data[:2]] == ["random directions, mean", "random directions, 95 % quantile"]
    assert len(lines.data) == 4 and "explained" in lines.layout.yaxis.title.text
    heat: Any = feature_effects(model, sv, sae, **FIXED, top=5).plot(1)
    assert heat.data[0].z.shape[0] == 5 and heat.data[0].zmin == -heat.data[0].zmax
    assert any("↵" in text for text in heat.layout.xaxis.ticktext) and "&lt;bos&gt;" in heat.layout.xaxis.ticktext[0]
    with pytest.raises(ValueError, match="there is no row 9"):
        feature_effects(model, sv, sae, **FIXED, top=5).plot(9)
    shares: Any = effect_recovery(model, sv, sae, **FIXED, ks=(1, 2), n_random=1).plot()
    assert {"effect recovered (KL)", "random features (KL)", "squared norm explained"} <= {t.name for t in shares.data}
    assert shares.data[0].error_y.array is not None and shares.layout.xaxis.type == "log"
    spread: Any = statistics.plot()
    assert len(spread.data) == 2
    for drawn in (figure, lines, heat, shares, spread):
        assert drawn.layout.title.text and drawn.layout.title.subtitle.text
        assert all(trace.hovertemplate.endswith("<extra></extra>") for trace in drawn.data)
