"""Frontiers and side effects, against the naive oracle and tables worked out by hand."""

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PROMPTS
from tiny import Bench

import steerlens
from steerlens import PerPrompt, Scores, ScriptedJudge, SteeringPrompt
from steerlens.evaluation import pareto
from steerlens.evaluation.calibration import mean_kl
from steerlens.evaluation.pareto import Frontier, frontier
from steerlens.evaluation.side_effect_measures import SideEffects, per_token, side_effects
from steerlens.intervals import share_interval
from steerlens.model.chat import encode_prompt, stop_tokens


class Asked:
    """Right if the answer has a letter."""

    def __init__(self, prompt: str, letter: str) -> None:
        self.prompt, self.letter = prompt, letter

    def check(self, response: str) -> bool:
        return self.letter in response


QUESTIONS = [Asked(prompt, letter) for prompt in PROMPTS for letter in "ae"]
FAST: dict[str, Any] = {"max_new_tokens": 6, "seed": 2}


def length_judge() -> ScriptedJudge:
    return ScriptedJudge(lambda concept, prompt, response: Scores(len(response) % 3, 2, 1))


def test_a_point_is_the_judged_score_and_the_share_of_right_answers(model: Any, make_vector: Callable[..., Any]) -> None:
    vectors = {"a": make_vector(seed=1), "prompt": SteeringPrompt("Be short.")}
    settings: dict[str, Any] = {"concept": "c", "prompts": PROMPTS[:3], "scales": (1, 0.5)}
    found = frontier(model, vectors, score=length_judge(), utility=QUESTIONS, **settings, **FAST)
    steering = [None, vectors["a"], vectors["a"].scaled(0.5), vectors["prompt"]]
    assert found.frame["vector"].tolist() == ["unsteered", "a", "a", "prompt"]
    assert found.frame["scale"].tolist() == [0, 1, 0.5, 1]
    for (_, row), one in zip(found.frame.iterrows(), steering, strict=True):
        evaluation = steerlens.evaluate(model, one, "c", PROMPTS[:3], length_judge(), **FAST)
        assert row["score"] == evaluation.overall and (row["score_low"], row["score_high"]) == evaluation.interval()
        responses = steerlens.generate(model, [q.prompt for q in QUESTIONS], one, temperature=0, max_new_tokens=6)
        right = [q.letter in text for q, text in zip(QUESTIONS, responses, strict=True)]
        assert row["utility"] == pytest.approx(sum(right) / len(right))
        assert (row["utility_low"], row["utility_high"]) == share_interval(sum(right), len(right))
        assert (row["utility_n"], row["score_n"], row["unscored"]) == (10, 3, 0)


def test_the_score_can_be_that_under_the_attack_or_a_function(model: Any, make_vector: Callable[..., Any]) -> None:
    sv, attacked = make_vector(), [f"{prompt} Not!" for prompt in PROMPTS[:3]]
    settings: dict[str, Any] = {"concept": "c", "prompts": PROMPTS[:3], "attacked": attacked, "scales": (1,)}
    found = frontier(model, {"a": sv}, score=length_judge(), utility=lambda model, one: 0.25, **settings, **FAST)
    expected = steerlens.evaluate(model, sv, "c", attacked, length_judge(), **FAST).overall
    assert found.frame["score"].tolist()[1] == expected
    assert "under the attack" in found.score_name
    assert found.frame["utility"].tolist() == [0.25, 0.25] and found.frame["utility_low"].isna().all()

    def norms(model: Any, one: Any) -> Sequence[float]:
        return [0.0, 0.0] if one is None else [one.norm, one.norm + 2]

    given = frontier(model, {"a": sv}, score=norms, utility=norms, scales=(1,))
    assert given.frame["score"].tolist() == pytest.approx([0.0, sv.norm + 1])
    assert (given.score_name, given.frame["score_n"].tolist()) == ("norms", [2, 2])


def test_unscored_rows_are_those_of_the_score_also_where_the_utility_is_judged(model: Any) -> None:
    def judged(unscored: int) -> steerlens.Evaluation:
        rows = [{"concept": "c", "overall": None if n < unscored else 1.0} for n in range(4)]
        return steerlens.Evaluation(pd.DataFrame(rows).astype({"overall": float}))

    found = frontier(model, {"a": None}, score=lambda *one: judged(2), utility=lambda *one: judged(1), scales=(1,)).frame
    assert found["unscored"].tolist() == [2, 2] and found["utility_unscored"].tolist() == [1, 1]


def test_the_utility_of_several_concepts_is_the_mean_over_their_vectors(model: Any, make_vector: Callable[..., Any]) -> None:
    rows = PerPrompt([make_vector(factor=1.0), make_vector(factor=3.0), make_vector(factor=1.0)])

    def factors(model: Any, one: Any) -> Sequence[float]:
        return [0.0, 0.0] if one is None else [one.factor, 0.0]

    settings: dict[str, Any] = {"concept": ["x", "y", "x"], "prompts": PROMPTS[:3], "scales": (0.5,)}
    found = frontier(model, {"rows": rows}, score=length_judge(), utility=factors, **settings, **FAST)
    assert found.frame["utility"][1] == pytest.approx((0.5 + 1.5) / 2 / 2)


def by_hand(points: Sequence[tuple[float, float]]) -> Frontier:
    def score(model: Any, one: Any) -> float:
        return points[0 if one is None else int(one.factor)][0]

    def utility(model: Any, one: Any) -> float:
        return points[0 if one is None else int(one.factor)][1]

    sv = steerlens.SteeringVector(torch.ones(2), 1.0, 0)
    vectors = {f"v{number}": sv.replace(factor=number) for number in range(1, len(points))}
    model: Any = SimpleNamespace(cfg=None, hooks=None, original_model=None, tokenizer=None)  # the measures do not ask it
    return frontier(model, vectors, score=score, utility=utility, scales=(1,))


def test_what_is_not_dominated() -> None:
    nan = math.nan
    found = by_hand([(0, 1), (1, 0.5), (1, 0.4), (0.5, 0.5), (2, 0.1), (nan, 1), (1, 0.5)])
    assert found.frame["efficient"].tolist() == [True, True, False, False, True, False, True]
    assert found.efficient()["score"].tolist() == [0, 1, 1, 2]
    assert "v4 x 1 (score 2.00, utility 0.10)" in found.summary() and "Unsteered: score 0.00" in found.summary()
    figure: Any = found.plot()
    names = [trace.name for trace in figure.data]
    assert names == ["unsteered", *(f"v{number}" for number in range(1, 7)), "not dominated"]
    assert sorted(figure.data[-1].x) == [0, 1, 1, 2]
    assert figure.layout.xaxis.title.text == "score" and figure.layout.title.text


def test_a_measure_may_return_any_kind_of_number() -> None:
    for number in (np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5, requires_grad=True)):
        assert pareto._numbers("score", number) == pytest.approx(
            {"unscored": 0, "score": 0.5, "score_low": math.nan, "score_high": math.nan, "score_n": 1}, nan_ok=True
        )
    assert pareto._numbers("score", np.int64(2))["score"] == 2.0
    assert pareto._numbers("score", torch.tensor([1.0, 2.0]))["score"] == 1.5
    for wrong in ([], np.ones((2, 2))):
        with pytest.raises(ValueError, match="must return one number, or one per item"):
            pareto._numbers("score", wrong)
    assert "score unscored" in by_hand([(math.nan, 1), (1, 0.5)]).summary()


def test_frontier_refused(model: Any, make_vector: Callable[..., Any]) -> None:
    good: dict[str, Any] = {"score": length_judge(), "utility": QUESTIONS, "concept": "c", "prompts": PROMPTS}
    for changes, message in (
        ({"vectors": {}}, "at least one"),
        ({"vectors": {"unsteered": None}}, "none may be called 'unsteered'"),
        ({"prompts": ()}, "a judge needs a concept"),
        ({"score": lambda model, one: 1.0}, "belong to a judge"),
        ({"utility": []}, "no questions"),
        ({"scales": (1, 1)}, "each once"),
    ):
        with pytest.raises(ValueError, match=message):
            frontier(model, **{"vectors": {"a": make_vector()}, **good, **changes})


# --- side effects -----------------------------------------------------------------------------------------------------


def naive(bench: Bench, sv: Any, scale: float) -> tuple[list[float], list[int], list[float], list[int]]:
    """KL sums on unsteered responses, and surprise sums of steered responses, one row at a time."""
    stops, found = set(stop_tokens(bench.model)), ([], [], [], [])
    vectors = [sv.scaled(scale)] if sv is not None else []
    for prompt in PROMPTS:
        ids = encode_prompt(bench.model, prompt)
        plain, steered = bench.oracle.greedy(ids, 6, stops), bench.oracle.greedy(ids, 6, stops, vectors)
        with torch.no_grad():
            p, q = (bench.oracle.logits([*ids, *plain], len(ids), some).double().log_softmax(-1) for some in (vectors, []))
            places = slice(len(ids) - 1, len(ids) + len(plain) - 1)
            found[0].append(float((p.exp() * (p - q)).sum(-1)[places].sum()))
            found[2].append(float(bench.oracle.surprise((ids, steered))))
        found[1].append(len(plain))
        found[3].append(len(steered))
    return found


@pytest.mark.parametrize("positions", ["p2+s2", "all"])
def test_side_effects_agree_with_the_naive_loop(bench: Bench, make_vector: Callable[..., Any], positions: str) -> None:
    sv = make_vector(factor=1.0, positions=positions)
    settings: dict[str, Any] = {"scales": (1, 0.5), "max_new_tokens": 6}
    found = side_effects(bench.model, {"v": sv}, PROMPTS, batch_size=2, **settings)
    assert found.frame["vector"].tolist() == ["unsteered", "v", "v"] and found.frame["scale"].tolist() == [0, 1, 0.5]
    for (_, row), one in zip(found.frame.iterrows(), (None, sv, sv), strict=True):
        kl, n, surprise, said = naive(bench, one, row["scale"])
        assert row["kl"] == pytest.approx(sum(kl) / sum(n), rel=1e-3, abs=1e-6)
        assert row["perplexity"] == pytest.approx(math.exp(sum(surprise) / sum(said)), rel=1e-3)
        assert (row["kl_tokens"], row["perplexity_tokens"], row["n"]) == (sum(n), sum(said), 5)
    assert found.frame["kl"][0] == 0 and found.frame["kl"][1] > 0.01
    assert found.frame["kl"][1] == pytest.approx(mean_kl(bench.model, sv, PROMPTS, max_new_tokens=6), rel=1e-4)
    alone = side_effects(bench.model, {"v": sv}, PROMPTS, batch_size=1, **settings)
    pd.testing.assert_frame_equal(alone.frame, found.frame, rtol=1e-4, atol=1e-6)


def test_intervals_resample_whole_prompts() -> None:
    totals, counts = np.array([4.0, 0.0, 6.0]), np.array([2.0, 1.0, 0.0])
    mean, low, high = per_token(totals[:2], counts[:2])
    assert (mean, low, high) == (pytest.approx(4 / 3), 0.0, 2.0)
    assert per_token(totals, counts)[0] == pytest.approx(4 / 3), "an item without a count is left out"
    assert per_token(totals[:1], counts[:1])[0] == 2.0 and math.isnan(per_token(totals[:1], counts[:1])[1])
    assert all(map(math.isnan, per_token(totals[2:], counts[2:])))


def test_side_effects_told_drawn_and_refused(model: Any, make_vector: Callable[..., Any]) -> None:
    found = side_effects(model, {"a": make_vector(), "b": [make_vector(), make_vector(seed=3)]}, PROMPTS[:2], max_new_tokens=4)
    assert "nats per token" in found.summary() and "over 2 prompts" in found.summary()
    alone = side_effects(model, {"a": make_vector()}, PROMPTS[:1], max_new_tokens=4).summary()
    assert "one prompt, no interval" in alone and "nan" not in alone and "over 1 prompt;" in alone
    figure: Any = found.plot()
    assert [trace.name for trace in figure.data] == ["a", "b", "a", "b"]
    assert [axis.title.text[:10] for axis in figure.select_yaxes()] == ["KL to the ", "perplexity"]
    with pytest.raises(TypeError, match="sv"):
        side_effects(model, {"p": SteeringPrompt("x")}, PROMPTS)  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="none may be called"):
        side_effects(model, {"unsteered": None}, PROMPTS)


def strange(span: float, plain: float = 31.0) -> Any:
    """The perplexity axis of side effects that span so much."""
    rows = [{"vector": name, "scale": scale} for name, scale in (("unsteered", 0.0), ("a", 1.0))]
    frame = pd.DataFrame(rows).assign(kl=[0, 1.0], n=5, perplexity=[plain, 31.0 * span])
    bounds = {f"{name}_{end}": frame[name] for name in ("kl", "perplexity") for end in ("low", "high")}
    return SideEffects(frame.assign(**bounds)).plot()


@pytest.mark.parametrize("span", [1.0, 1.01, 1.3, 2.2, 2.6, 5, 15, 50, 300, 1000, 1e4, 1e6, 1e12, 1 / 30])
def test_a_logarithmic_axis_has_a_few_ticks(span: float) -> None:
    axis = strange(span).layout.yaxis2
    low, high = axis.range
    places = np.log10(axis.tickvals)
    assert 2 <= len(places) <= 8 and len(set(axis.ticktext)) == len(places)
    assert low < math.log10(31 * min(span, 1)) and high > math.log10(31 * max(span, 1)), "all points are inside"
    assert low <= places.min() and places.max() <= high
    assert np.diff(places).min() > 0.05 * (high - low), "names stay apart"
    assert [float(text) for text in axis.ticktext] == pytest.approx(list(axis.tickvals))


def test_no_line_is_drawn_at_a_number_that_is_not_known() -> None:
    assert len(strange(5).layout.shapes) == 1
    figure = strange(5, plain=math.nan)
    assert not figure.layout.shapes and len(figure.layout.yaxis2.tickvals) >= 2
    assert strange(math.nan, plain=math.nan).layout.yaxis2.range is None


@pytest.mark.parametrize(("n", "told"), [(3, True), (4, False)])
def test_the_note_of_many_benchmarks_is_short(n: int, told: bool) -> None:
    row = {"metric": "acc", "filter": "none", "value": 0.5, "stderr": 0.1, "n": 10}
    found = steerlens.HarnessScores(pd.DataFrame([{"task": f"t{number}", **row} for number in range(n)]), pd.DataFrame())
    figure: Any = found.plot()
    note = figure.layout.title.subtitle.text.replace("<br>", " ")
    assert ("t0 acc 0.500" in note) == told and "Bars: 1.96 standard errors" in note
