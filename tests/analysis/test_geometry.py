"""Cosines, seeds and sizes: against formulas, with null laws and planted truths."""

import inspect
import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planted import UNIFORM, distance_to_uniform, lorefted, normal, statistics, stretched, vector
from tiny import WIDTH
from torch import Tensor

from steerlens.analysis.geometry import cosine_map, jackknife, stability
from steerlens.analysis.random_directions import random_rows, spectrum
from steerlens.analysis.vector_norms import sizes
from steerlens.analysis.vector_sets import named_vectors

# --- cosines ------------------------------------------------------------------------------------------------------------


def test_cosines_are_those_of_torch() -> None:
    rows = normal(4, WIDTH) * torch.tensor([1.0, 10.0, 0.1, 3.0])[:, None]
    factors = [1.0, -2.0, 5.0, 0.3]
    named = {name: vector(row, factor=factor) for name, row, factor in zip("abcd", rows, factors, strict=True)}
    result: Any = cosine_map(named, n_random=100)
    signed = F.normalize(rows * torch.tensor(factors).sign()[:, None], dim=-1)
    centered = signed - signed.mean(0)
    pairs = list(combinations(range(4), 2))
    assert [(a, b) for a, b in zip(result.frame["a"], result.frame["b"], strict=True)] == [
        ("abcd"[i], "abcd"[j]) for i, j in pairs
    ]
    for column, of in (("cosine", signed), ("cosine_centered", centered)):
        expected = [float(F.cosine_similarity(of[i], of[j], dim=0)) for i, j in pairs]
        np.testing.assert_allclose(result.frame[column], expected, atol=1e-6)
    mean = np.mean(result.frame["cosine"])
    assert result.shared == pytest.approx((1 + 3 * mean) / 4)
    table: Any = result.matrix()
    assert table.loc["b", "d"] == table.loc["d", "b"] == result.frame.set_index(["a", "b"])["cosine"]["b", "d"]
    assert math.isnan(table.loc["a", "a"])


def test_equal_vectors_have_cosine_one_and_the_smallest_p() -> None:
    row = normal(WIDTH)
    result: Any = cosine_map([vector(row), vector(row, factor=7.0), vector(normal(WIDTH, seed=1))], n_random=500)
    first: Any = result.frame.iloc[0]
    assert first["cosine"] == pytest.approx(1.0) and first["p_corrected"] == 1 / 501 and first["p"] == 1 / 1501
    assert (result.frame["p_corrected"][1:] > 0.05).all()
    opposite = cosine_map([vector(row), vector(row, factor=-1.0)], n_random=500).frame.iloc[0]
    assert opposite["cosine"] == pytest.approx(-1.0) and opposite["p_corrected"] == 1 / 501, "two-sided"


@pytest.mark.parametrize("covariance", [None, stretched()])
def test_p_is_uniform_where_there_is_nothing(covariance: Tensor | None) -> None:
    known = None if covariance is None else statistics(covariance)
    drawn = random_rows(spectrum(vector(normal(WIDTH)), known), 300, seed=3)
    results = [cosine_map([vector(a), vector(b)], statistics=known, n_random=200) for a, b in drawn.view(150, 2, WIDTH)]
    ps = [result.frame["p"][0] for result in results]
    assert distance_to_uniform(ps) < UNIFORM
    if known is not None:
        wrong = [cosine_map([vector(a), vector(b)], n_random=200).frame["p"][0] for a, b in drawn.view(150, 2, WIDTH)]
        assert distance_to_uniform(wrong) > 2 * UNIFORM, "isotropic directions are not a fair null here"


def test_the_correction_holds_for_all_pairs_at_once() -> None:
    drawn = normal(200, 5, WIDTH, seed=4)
    results = [cosine_map([vector(row) for row in rows], n_random=200).frame for rows in drawn]
    for column in ("p_corrected", "p_centered_corrected"):
        assert distance_to_uniform([frame[column].min() for frame in results]) < UNIFORM
    assert np.mean([frame["p"].min() < 0.05 for frame in results]) > 0.2, "without correction"


def test_a_shared_part_is_found_and_taken_away() -> None:
    shared, own = normal(WIDTH), normal(6, WIDTH, seed=1)
    result: Any = cosine_map([vector(shared + 0.4 * row) for row in own])
    assert result.frame["cosine"].min() > 0.6 and (result.frame["p_corrected"] < 0.01).all()
    assert result.frame["cosine_centered"].abs().max() < 0.7 and result.frame["p_centered_corrected"].min() > 0.05
    assert result.frame["cosine_centered"].mean() == pytest.approx(-1 / 5, abs=0.03)
    assert result.shared > 0.75 and result.shared_random == pytest.approx(1 / 6, abs=0.02)
    assert "15 pairs of 6 vectors" in result.summary() and "15 beyond isotropic" in result.summary()
    assert result.summary().endswith(", 0 beyond chance.")


def test_two_vectors_have_nothing_to_be_centred_on() -> None:
    result: Any = cosine_map([vector(normal(WIDTH)), vector(normal(WIDTH, seed=1))], n_random=100)
    centered = ["cosine_centered", "p_centered", "p_centered_corrected"]
    assert result.frame[centered].isna().all(axis=None)
    assert "1 pair of 2 vectors" in result.summary() and "without it" not in result.summary()


def test_order_does_not_matter_and_the_seed_does() -> None:
    rows = normal(4, WIDTH) + 0.5
    forward, backward = (
        cosine_map({i: vector(rows[i]) for i in order}, n_random=100) for order in ([0, 1, 2, 3], [3, 2, 1, 0])
    )
    for column in ("cosine", "p_corrected", "cosine_centered", "p_centered_corrected"):
        there, back = forward.matrix(column), backward.matrix(column)
        np.testing.assert_allclose(there.to_numpy(), back.loc[there.index, there.columns].to_numpy(), rtol=1e-9)
    other = cosine_map({i: vector(rows[i]) for i in range(4)}, n_random=100, seed=1)
    assert other.threshold != forward.threshold


def test_random_directions_have_the_covariance() -> None:
    covariance = stretched(8)
    law = spectrum(vector(normal(8)), statistics(covariance))
    assert law.basis is not None
    drawn = (normal(20_000, 8, seed=2) * law.scale) @ law.basis.T
    torch.testing.assert_close(drawn.T @ drawn / 20_000, covariance, rtol=0, atol=0.02)
    axis = torch.linalg.eigh(covariance).eigenvectors[:, -1]
    along = (random_rows(law, 500, seed=0) @ axis).abs().mean()
    assert along > 0.4, "of unit length, most of them along the longest axis"


def test_names() -> None:
    row = normal(WIDTH)
    named = named_vectors([vector(row, concept="sea"), vector(row), vector(row, concept="sea"), vector(row)])
    assert list(named) == ["sea", "vector", "sea #2", "vector #2"]
    assert list(named_vectors(vector(row))) == ["vector"]
    assert list(named_vectors({3: vector(row)})) == ["3"]
    assert list(named_vectors([vector(row, concept=name) for name in ("a #2", "a", "a")])) == ["a #2", "a", "a #3"]
    with pytest.raises(TypeError, match="'vector' is a str, not a SteeringVector"):
        inspect.unwrap(named_vectors)("x")
    with pytest.raises(TypeError, match="expected several SteeringVectors, in a list or by name, got int"):
        inspect.unwrap(named_vectors)(3)


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        ([], "there are no vectors"),
        ([vector(normal(WIDTH))], "give two or more"),
        ([vector(normal(WIDTH)), vector(normal(WIDTH), factor=0.0)], "'vector #2' has norm 0"),
        ([vector(normal(WIDTH)), lorefted()], "form 'loreft'.*a row of its direction"),
        ([vector(normal(WIDTH)), vector(normal(WIDTH), layer=2)], "different layer .* 'vector' has 1, 'vector #2' has 2"),
        ([vector(normal(WIDTH)), vector(normal(8))], "different width"),
        (
            [vector(normal(8), model_name="a"), vector(normal(8)), vector(normal(8), model_name="b")],
            "different model .*'a'.*'b'",
        ),
        (
            [vector(normal(8), provenance={"weight_processing": name}) for name in ("raw", "compatibility_mode")],
            "different weight processing",
        ),
        ({1: vector(normal(8)), "1": vector(normal(8))}, "two names read the same: 1 and '1'"),
    ],
)
def test_refusals(vectors: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cosine_map(vectors)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layer": 3}, "statistics are of layer 3, the vectors of 1"),
        ({"model_name": "other"}, "statistics are of model 'other', the vectors of 'mine'"),
        ({"weight_processing": "compatibility_mode"}, "statistics are of weight processing 'compatibility_mode'"),
        ({"mean": torch.zeros(8), "covariance": torch.eye(8)}, "statistics are of width 8"),
        ({"covariance": torch.zeros(WIDTH, WIDTH)}, "covariance of the statistics is zero"),
    ],
)
def test_statistics_of_another_place_are_refused(fields: Any, words: str) -> None:
    known = statistics(**({"covariance": torch.eye(WIDTH)} | fields))
    made = {"model_name": "mine", "provenance": {"weight_processing": "raw"}}
    pair = [vector(normal(WIDTH, seed=seed), **made) for seed in (0, 1)]
    for analysis in (cosine_map, stability):
        with pytest.raises(ValueError, match=words):
            analysis(pair, statistics=known)


def test_too_few_draws_and_other_things_are_refused() -> None:
    with pytest.raises(ValueError, match="n_random is 10; p-values need at least 100"):
        cosine_map([vector(normal(8)), vector(normal(8, seed=1))], n_random=10)


# --- seeds --------------------------------------------------------------------------------------------------------------


def test_stability_by_hand() -> None:
    """Three vectors of the plane at 0, 60 and 90 degrees."""
    rows = torch.zeros(3, WIDTH)
    angles, norms = torch.tensor([0.0, torch.pi / 3, torch.pi / 2]), torch.tensor([1.0, 2.0, 3.0])
    rows[:, 0], rows[:, 1] = norms * angles.cos(), norms * angles.sin()
    named = {seed: vector(row / 2, factor=2.0) for seed, row in enumerate(rows)}
    result: Any = stability(named, n_random=200)
    cosines = [0.5, 0.0, math.sqrt(3) / 2]
    np.testing.assert_allclose(result.pairs["cosine"], cosines, atol=1e-6)
    measures: Any = result.measures.set_index("measure")["value"]
    squared = sum(a * b * c for (a, b), c in zip([(1, 2), (1, 3), (2, 3)], cosines, strict=True)) * 2 + 14
    expected = {"cosine": np.mean(cosines), "shared": squared / 9 / (14 / 3), "norm": 2, "norm_spread": 0.5, "factor": 2}
    for name, value in expected.items():
        assert measures[name] == pytest.approx(value, abs=1e-6), name
    assert measures["factor_spread"] == pytest.approx(0.0)
    np.testing.assert_allclose(result.frame["cosine_to_others"], [0.25, (0.5 + cosines[2]) / 2, cosines[2] / 2], atol=1e-6)
    rest = rows[1] + rows[2]
    assert result.frame["cosine_to_mean"][0] == pytest.approx(float(rest[0] / rest.norm()), abs=1e-6)
    # the jackknife of a mean is Student's interval
    row: Any = result.measures.set_index("measure").loc["norm"]
    assert row["high"] - row["value"] == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_jackknife_covers_the_truth() -> None:
    """Of vectors with a shared part, at 5 seeds each: the interval holds the true mean cosine about as often as it says."""
    shared, truth, inside = F.normalize(normal(WIDTH), dim=0), 0.5, 0
    for trial in range(60):
        noise = F.normalize(normal(5, WIDTH, seed=trial + 1), dim=-1)
        row: Any = (
            stability([vector(shared + part) for part in noise], n_random=100).measures.set_index("measure").loc["cosine"]
        )
        inside += row["low"] <= truth <= row["high"]
    assert 50 <= inside <= 60


def test_random_directions_are_not_stable_and_equal_ones_are() -> None:
    rows = normal(5, WIDTH, seed=9)
    found: Any = stability([vector(row) for row in rows]).measures.set_index("measure")
    assert found.loc["cosine", "value"] < 2 * found.loc["cosine", "random_high"]
    assert found.loc["shared", "random"] == pytest.approx(1 / 5, abs=0.02) and abs(found.loc["cosine", "random"]) < 0.01
    same: Any = stability([vector(rows[0])] * 5).measures.set_index("measure")
    assert same.loc["cosine", ["value", "low", "high"]].tolist() == pytest.approx([1, 1, 1])
    assert same.loc["shared", "value"] == pytest.approx(1) and same.loc["cosine", "random_high"] < 0.3


def test_two_seeds_have_no_interval_of_what_needs_two() -> None:
    result: Any = stability([vector(normal(WIDTH)), vector(normal(WIDTH, seed=1))], n_random=100)
    table: Any = result.measures.set_index("measure")
    assert table.loc[["cosine", "shared", "norm_spread"], ["low", "high"]].isna().all(axis=None)
    assert table.loc["norm", ["low", "high"]].notna().all()
    assert "no interval from two seeds" in result.summary()
    with pytest.raises(ValueError, match="one seed says nothing"):
        stability([vector(normal(WIDTH))])


@pytest.mark.parametrize(
    ("field", "values"), [("positions", ("p2", "s2")), ("concept", ("a", "b")), ("form", ("add", "clamp"))]
)
def test_other_trainings_are_not_seeds(field: str, values: tuple[str, str]) -> None:
    pair = [vector(normal(WIDTH, seed=seed), **{field: value}) for seed, value in enumerate(values)]
    with pytest.raises(ValueError, match=f"different {field} do not compare"):
        stability(pair)


def test_jackknife_of_what_one_fewer_does_not_give() -> None:
    def several(kept: np.ndarray) -> np.ndarray:
        return np.array([float(len(kept)) if len(kept) > 1 else np.nan])

    assert np.isnan(jackknife(several, 2)[0, 1:]).all()


# --- sizes --------------------------------------------------------------------------------------------------------------


def test_sizes_by_hand() -> None:
    row = torch.tensor([3.0, 4.0])
    vectors = {
        ("PrOSV", "sea"): vector(row, factor=-2.0, positions="p2+s2"),
        ("PrOSV", "fish"): vector(row, factor=4.0, positions=lambda mask: mask),
        ("PrOSV", "snow"): vector(row, factor=6.0),
        ("FSSV", "sea"): vector(row, factor=0.0, positions="all"),
    }
    known = statistics(torch.diag(torch.tensor([3.0, 6.0])), mean=torch.tensor([4.0, 0.0]))
    result: Any = sizes(vectors, statistics=known)
    frame = result.to_frame()
    assert frame["factor"].tolist() == [-2, 4, 6, 0] and frame["factor_size"].tolist() == [2, 4, 6, 0]
    assert frame["direction_norm"].tolist() == [5.0] * 4 and frame["norm"].tolist() == [10, 20, 30, 0]
    assert frame["relative_norm"].tolist() == pytest.approx([2, 4, 6, 0]), "the root mean square norm is sqrt(9 + 16)"
    assert frame["positions"].tolist() == ["p2+s2", "a function", "p2+s2", "all"]
    groups: Any = result.by_group().set_index(["group", "measure"])
    row_of: Any = groups.loc[("PrOSV", "norm")]
    assert row_of[["n", "median", "lowest", "highest"]].tolist() == [3, 20, 10, 30]
    assert 10 <= row_of["median_low"] <= 20 <= row_of["median_high"] <= 30
    assert math.isnan(groups.loc[("FSSV", "norm"), "median_low"])
    assert "PrOSV (3 vectors)" in result.summary() and "(1 factors are negative)" in result.summary()


def test_sizes_of_one_group_and_refusals() -> None:
    rows = [vector(normal(WIDTH, seed=seed)) for seed in (0, 1)]
    result: Any = sizes(rows)
    assert set(result.frame["group"]) == {"all"} and result.frame["relative_norm"].isna().all()
    assert "residual" not in result.summary().split("Brackets")[0]
    with pytest.raises(ValueError, match="different layer"):
        sizes([rows[0], rows[1].replace(layer=2)])
    with pytest.raises(ValueError, match=r"use \(group, name\)"):
        sizes({("a", "b", "c"): rows[0]})
    with pytest.raises(ValueError, match="statistics are of layer 1, the vectors of 2"):
        sizes([rows[0].replace(layer=2)], statistics=statistics(torch.eye(WIDTH)))
    with pytest.raises(ValueError, match="loreft"):
        sizes([lorefted()])


# --- figures ------------------------------------------------------------------------------------------------------------


def texts(figure: Any) -> list[str]:
    return [annotation.text for annotation in figure.layout.annotations]


def check_words(figure: Any) -> None:
    assert figure.layout.title.text and figure.layout.title.subtitle.text
    assert all(trace.hovertemplate.endswith("<extra></extra>") for trace in figure.data)


def test_cosine_figure() -> None:
    row = normal(WIDTH)
    result: Any = cosine_map({"<a>": vector(row), "b": vector(row + 0.1), "c": vector(normal(WIDTH, seed=2))}, n_random=200)
    figure: Any = result.plot()
    check_words(figure)
    assert texts(figure) == ["as they are", "without the shared direction"]
    left, right = figure.data
    assert list(figure.layout.xaxis.ticktext) == ["&lt;a&gt;", "b", "c"]
    assert left.z[0, 1] == result.frame["cosine"][0] and right.z[1, 2] == result.frame["cosine_centered"][2]
    assert (left.zmin, left.zmax) == (-1, 1) and np.isnan(left.z[1, 1])
    assert left.text[0][1].endswith("*") and not left.text[0][2].endswith("*")
    assert "the right unrelated pairs have -0.50" in figure.layout.title.subtitle.text.replace("<br>", " ")
    two: Any = cosine_map([vector(row), vector(row + 1)], n_random=100).plot()
    assert texts(two) == ["as they are"] and len(two.data) == 1


def test_stability_figure() -> None:
    row = normal(WIDTH)
    result: Any = stability(
        [vector(row + 0.2 * normal(WIDTH, seed=seed), factor=1.0 + seed) for seed in (1, 2, 3)], n_random=100
    )
    figure: Any = result.plot()
    check_words(figure)
    assert texts(figure)[:3] == ["Cosine of each pair", "Norm of factor x direction", "Factor (alpha)"]
    pairs, mean, norms, _, factors, _ = figure.data
    assert list(pairs.y) == result.pairs["cosine"].tolist() and list(norms.y) == result.frame["norm"].tolist()
    assert list(factors.y) == [2.0, 3.0, 4.0] and list(pairs.customdata) == ["0 and 1", "0 and 2", "1 and 2"]
    row_of: Any = result.measures.iloc[0]
    assert mean.y == (row_of["value"],) and mean.error_y.array[0] == pytest.approx(row_of["high"] - row_of["value"])
    assert [shape.y0 for shape in figure.layout.shapes] == [row_of["random_high"]]
    assert [axis.title.text for axis in figure.select_yaxes()] == [
        "cosine",
        "residual-stream units",
        "factor (alpha, a number)",
    ]


def test_sizes_figure() -> None:
    vectors = {
        (m, c): vector(normal(WIDTH, seed=i), factor=-2.0) for i, (m, c) in enumerate([("A", "x"), ("A", "y"), ("<B>", "x")])
    }
    figure: Any = sizes(vectors).plot()
    check_words(figure)
    assert texts(figure) == ["|factor|", "Norm of the direction", "Norm of factor x direction"]
    assert len(figure.data) == 6 and list(figure.data[0].y) == [2.0, 2.0] and figure.data[1].name == "&lt;B&gt;"
    assert figure.data[0].customdata[1].tolist() == ["y", "-2.0"]
    assert all(axis.rangemode == "tozero" and axis.title.text for axis in figure.select_yaxes())
    relative: Any = sizes(vectors, statistics=statistics(torch.eye(WIDTH))).plot()
    assert len(texts(relative)) == 4


def test_the_methods_draw() -> None:
    rows = [vector(normal(WIDTH, seed=seed)) for seed in range(3)]
    for result in (cosine_map(rows, n_random=100), stability(rows, n_random=100), sizes(rows)):
        figure: Any = result.plot()
        assert figure.layout.title.text and len(result.to_frame()) == 3


def test_forms_that_add_no_vector_are_refused() -> None:
    away = [vector(normal(WIDTH, seed=seed), form="null") for seed in (0, 1)]
    for analysis in (cosine_map, stability, sizes):
        with pytest.raises(ValueError, match=r"'\w+' has the form 'null', which takes its direction away.*sv\.replace\(form="):
            analysis(away)
    assert list(named_vectors(away, reft=True)) == ["vector", "vector #2"]


def test_sizes_refuses_groups_and_names_that_read_the_same() -> None:
    sv = vector(normal(8))
    with pytest.raises(ValueError, match=r"two names read the same: \('m', 'a / b'\) and \('m / a', 'b'\)"):
        sizes({("m", "a / b"): sv, ("m / a", "b"): sv})


def test_one_vector_has_no_seeds() -> None:
    with pytest.raises(TypeError, match="expected several SteeringVectors, in a list or by name, got SteeringVector"):
        inspect.unwrap(stability)(vector(normal(8)))
