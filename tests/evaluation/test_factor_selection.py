"""Choosing factors: tables by hand, noise and a planted winner, and rows that are the same alone and beside others."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

import steerlens
from steerlens.evaluation.factor_selection import best_factor, fair_score, select_factor, select_factors
from steerlens.judges.base import ScriptedJudge
from steerlens.scores import Scores

NAN = math.nan
FACTORS = [0.5, 2, 4]
PROMPTS = ["one", "two", "three", "four"]


def table(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=float)


# --- the pure part ----------------------------------------------------------------------------------------------------


def test_the_best_mean_over_scored_prompts_wins():
    assert best_factor(table([0, 2, 1], [1, 1, 1.5], [0, 0, 2]), [1, 2, 3]) == 2
    assert best_factor(table([0, 2, 1], [1, 1, 1.5], [NAN, NAN, 1.25]), [1, 2, 3]) == 3
    assert best_factor(table([0, 0], [NAN, NAN]), [1, 2]) == 1


def test_ties_go_to_the_factor_nearest_zero():
    assert best_factor(table([1, 1], [1, 1], [0, 2]), [8, -2, 4]) == -2
    assert best_factor(table([1, 1], [1, 1]), [-2, 2]) == 2
    thirds = table([0.1, 0.2, 0.3], [0.3, 0.2, 0.1])
    assert thirds[0].sum() != thirds[1].sum(), "rounding differs, or the next line proves nothing"
    assert [best_factor(rows, [1, 2]) for rows in (thirds, thirds[::-1])] == [1, 1]


def test_nothing_scored_has_no_best():
    with pytest.raises(ValueError, match="no response is scored"):
        best_factor(table([NAN, NAN]), [1])
    assert fair_score(table([NAN, NAN], [NAN, NAN]), [1, 2]) is None


def test_fair_of_two_prompts_by_hand():
    """Whichever way two prompts are split, each is reported with the factor that the other chose."""
    scores = table([2, 0], [1, 1.5])  # prompt 0 chooses the first row: 0 at prompt 1; prompt 1 the second: 1 at prompt 0
    assert fair_score(scores, [1, 2], splits=3) == (pytest.approx(0.5), pytest.approx(0))
    assert best_factor(scores, [1, 2]) == 2  # the oracle says 1.25


def test_fair_of_four_prompts_by_hand():
    """Three ways to halve: 01|23, 02|13, 03|12. The first factor is better at 0 and 1, the second at 2 and 3."""
    scores = table([2, 2, 0, 0.5], [0, 0, 1, 1])
    # 01|23: 0 and 1 choose the first, reported 0, 0.5 at 2 and 3; these choose the second, reported 0, 0 at 0 and 1
    # 02|13: means 1 and 0.5 choose the first for 1 and 3: 2, 0.5; 1.25 and 0.5 choose the first for 0 and 2: 2, 0
    # 03|12: 1.25 and 0.5: the first, 2, 0; 1 and 0.5: the first, 2, 0.5
    apart, together = 0.5 / 4, 4.5 / 4
    once = {round(fair_score(scores, [1, 2], splits=1, seed=seed)[0], 6) for seed in range(40)}  # pyright: ignore - scored, so never None
    assert once == {apart, together}
    many = fair_score(scores, [1, 2], splits=4000)
    assert many is not None
    share = (many.mean - apart) / (together - apart)
    assert share == pytest.approx(2 / 3, abs=0.03)
    assert many.spread == pytest.approx((together - apart) * math.sqrt(share * (1 - share)))


def test_fair_with_unscored_rows_by_hand():
    """Prompt 0 has no score for the second factor, which is best at prompt 1: choosing there, it reports nothing at 0."""
    assert fair_score(table([1, 0.5], [NAN, 2]), [1, 2], splits=2) == (pytest.approx(0.5), 0)
    assert fair_score(table([1, NAN], [0.25, NAN]), [1, 2], splits=2) is None  # the scored half has nothing to report on
    assert fair_score(table([1, NAN, 0.5], [0, NAN, 2]), [1, 2], splits=1) is not None


def test_one_prompt_has_no_fair_score():
    assert fair_score(table([1], [2]), [1, 2]) is None


def test_the_same_seed_splits_alike():
    scores = np.random.default_rng(0).uniform(0, 2, size=(5, 10))
    same = [fair_score(scores, range(5), splits=20, seed=3) for _ in range(2)]
    assert same[0] == same[1] != fair_score(scores, range(5), splits=20, seed=4)


@pytest.mark.parametrize("n_prompts", [10, 11])
def test_noise_the_oracle_flatters_and_the_fair_score_does_not(n_prompts: int):
    """Overall scores without any difference between factors: uniform on 0 to 2, mean 1."""
    rng = np.random.default_rng(1)
    oracles, fairs = [], []
    for number in range(200):
        scores = rng.uniform(0, 2, size=(8, n_prompts))
        fair = fair_score(scores, range(1, 9), splits=20, seed=number)
        assert fair is not None
        oracles.append(scores[int(best_factor(scores, range(1, 9))) - 1].mean())
        fairs.append(fair.mean)
        assert fair.mean <= oracles[-1] + 1e-9
    assert np.mean(fairs) == pytest.approx(1, abs=0.03)
    assert np.mean(oracles) > 1.2


def test_a_planted_factor_is_found():
    rng = np.random.default_rng(2)
    for _ in range(50):
        scores = rng.uniform(0, 1, size=(8, 10))
        scores[5] += 1
        assert best_factor(scores, range(8)) == 5
        fair = fair_score(scores, range(8))
        assert fair is not None
        assert fair.mean == pytest.approx(scores[5].mean(), abs=0.1)


# --- with a model -----------------------------------------------------------------------------------------------------


def by_text(concept: str, prompt: str, response: str) -> Scores:
    """Ratings that depend on every argument and rarely tie."""
    marks = sum(map(ord, concept + prompt + response))
    return Scores(0.5 + marks % 97 / 97, 1 + marks % 13 / 13, 2)


def choose(model: Any, sv: Any, judge: Any = None, prompts: Any = PROMPTS, factors: Any = FACTORS, **settings: Any) -> Any:
    judge = judge or ScriptedJudge(by_text)
    return select_factor(model, sv, "fish", prompts, judge, factors, **{"max_new_tokens": 6, "seed": 3, **settings})


def test_a_selection_is_what_evaluate_gives_for_each_factor(model: Any, make_vector: Callable[..., Any]) -> None:
    sv = make_vector()
    chosen = choose(model, sv)
    means = {}
    for factor, part in chosen.frame.groupby("factor"):
        alone = steerlens.evaluate(
            model, sv.replace(factor=factor), "fish", PROMPTS, ScriptedJudge(by_text), max_new_tokens=6, seed=3
        )
        pd.testing.assert_frame_equal(part.drop(columns="factor").reset_index(drop=True), alone.frame)
        means[factor] = alone.overall
    assert chosen.frame["response"].nunique() > len(PROMPTS), "the factors answer alike, so the comparison proves nothing"
    assert chosen.factor == max(means, key=lambda factor: means[factor])
    assert chosen.oracle == pytest.approx(max(means.values()))
    assert chosen.vector == sv.replace(factor=chosen.factor)
    scores = chosen.frame["overall"].to_numpy().reshape(len(FACTORS), len(PROMPTS))
    assert (chosen.fair, chosen.fair_spread) == fair_score(scores, FACTORS, splits=20, seed=3)
    assert chosen.fair <= chosen.oracle
    assert chosen.n_generations == 12 and chosen.unscored == 0
    assert chosen.by_factor()["overall"].to_dict() == pytest.approx(means)
    assert list(chosen.by_factor().index) == FACTORS


def test_a_factor_that_shows_in_the_text_is_found(model: Any, make_vector: Callable[..., Any]) -> None:
    """The judge likes what the vector writes at factor 2, at temperature 0."""
    sv = make_vector()
    liked = set(steerlens.generate(model, PROMPTS, sv.replace(factor=2), max_new_tokens=6, temperature=0))
    judge = ScriptedJudge(lambda concept, prompt, response: Scores(2, 2, 2 if response in liked else 0.1))
    chosen = choose(model, sv, judge, temperature=0)
    assert (chosen.factor, chosen.oracle, chosen.fair, chosen.fair_spread) == (2, 2, 2, 0)
    assert "factor 2 of 3 tried on 4 prompts" in chosen.summary()
    assert chosen.vector.direction.equal(sv.direction) and chosen.vector.layer == sv.layer


def test_the_same_seed_selects_alike(model: Any, make_vector: Callable[..., Any]) -> None:
    first, second, other = (choose(model, make_vector(), seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first.frame, second.frame)
    for name in ("factor", "vector", "oracle", "fair", "fair_spread", "splits"):
        assert getattr(first, name) == getattr(second, name)
    assert first.frame["response"].tolist() != other.frame["response"].tolist()


def test_every_factor_has_the_same_seeds(model: Any, make_vector: Callable[..., Any]) -> None:
    frame = choose(model, make_vector()).frame
    assert frame.groupby("factor")["seed"].apply(tuple).nunique() == 1
    assert frame["seed"].nunique() == len(PROMPTS)


def test_many_concepts_at_once_are_each_as_alone(model: Any, make_vector: Callable[..., Any]) -> None:
    vectors = {
        "sea": make_vector(seed=1),
        "war": make_vector(seed=2, layer=2, positions="all"),
        "tea": make_vector(seed=3, form="clamp"),
    }
    chat = [{"role": "user", "content": "Hello."}]
    prompts = {"sea": PROMPTS, "war": [*PROMPTS[::-1], chat], "tea": PROMPTS[:1]}
    settings: dict[str, Any] = {"max_new_tokens": 6, "seed": 5, "batch_size": 7, "splits": 9}
    together = select_factors(model, vectors, prompts, ScriptedJudge(by_text), FACTORS, **settings)
    summary = together.to_frame()
    assert summary["concept"].tolist() == list(vectors) and f"{len(vectors)} concepts" in together.summary()
    assert summary["factor"].tolist() == [chosen.factor for chosen in together.values()]
    assert summary["oracle"].tolist() == [chosen.oracle for chosen in together.values()]
    assert list(together) == list(vectors)
    for concept, sv in vectors.items():
        alone = select_factor(model, sv, concept, prompts[concept], ScriptedJudge(by_text), FACTORS, **settings)
        pd.testing.assert_frame_equal(together[concept].frame, alone.frame)
        for name in ("factor", "vector", "oracle", "fair", "fair_spread", "splits"):
            assert getattr(together[concept], name) == getattr(alone, name), name
    assert together["tea"].fair is None and "no fair score from one prompt" in together["tea"].summary()
    assert together["war"].frame["prompt"][4] == "Hello."


def test_unscored_rows_are_in_no_mean(model: Any, make_vector: Callable[..., Any]) -> None:
    good, fail = Scores(1, 1, 1), RuntimeError("no reply")
    script = [good, good, good, good, fail, Scores(2, 2, 2), Scores(2, 2, None), fail, fail, fail, fail, fail]
    chosen = choose(model, make_vector(), ScriptedJudge(script))
    assert (chosen.factor, chosen.oracle, chosen.unscored) == (2, 2, 7)
    assert chosen.by_factor()["scored"].tolist() == [4, 1, 0]
    assert chosen.by_factor()["unscored"].tolist() == [0, 3, 4]
    assert chosen.by_factor()["overall"].tolist()[:2] == [1, 2] and math.isnan(chosen.by_factor()["overall"][4])
    assert chosen.fair == 1, "chosen without the second prompt, the first factor; with it, nothing else is scored"
    assert "7 of 12 unscored" in chosen.summary()
    assert chosen.frame["error"][4] == "RuntimeError: no reply"


def test_a_judge_that_scores_nothing_is_named(model: Any, make_vector: Callable[..., Any]) -> None:
    judge = ScriptedJudge([ConnectionError("refused"), *[RuntimeError("later")] * 11])
    with pytest.raises(ValueError, match=r"fish: none of 12 responses could be scored.*ConnectionError: refused"):
        choose(model, make_vector(), judge)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factors": []}, "no factors"),
        ({"factors": [1, 2.0, 2]}, "factor 2 is given twice"),
        ({"factors": [1, NAN]}, "factor 1 is nan"),
        ({"factors": [math.inf]}, "must be finite"),
        ({"prompts": []}, "no prompts"),
        ({"splits": 0}, "splits is 0"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_refused_before_any_work(model: Any, make_vector: Callable[..., Any], changes: dict[str, Any], message: str) -> None:
    judge = ScriptedJudge(by_text)
    with pytest.raises(ValueError, match=message):
        choose(model, make_vector(), judge, **changes)
    assert not judge.calls


def test_vectors_and_prompts_are_of_the_same_concepts(model: Any, make_vector: Callable[..., Any]) -> None:
    judge, vectors = ScriptedJudge(by_text), {"sea": make_vector()}
    with pytest.raises(ValueError, match=r"\['tea'\] in only one"):
        select_factors(model, vectors, {"sea": PROMPTS, "tea": PROMPTS}, judge, FACTORS)
    with pytest.raises(ValueError, match="no vectors"):
        select_factors(model, {}, {}, judge, FACTORS)
