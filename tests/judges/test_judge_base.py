"""Ratings and their harmonic mean; the scripted judge."""

import math

import pytest

from steerlens import Judge, Scores, ScriptedJudge


@pytest.mark.parametrize(
    ("ratings", "overall"),
    [
        ((2, 2, 2), 2.0),
        ((1, 1, 1), 1.0),
        ((1, 2, 2), 1.5),
        ((1, 1, 2), 1.2),
        ((0.5, 1, 2), 6 / 7),
        ((0, 2, 2), 0.0),
        ((2, 2, 0), 0.0),
        ((None, 2, 2), None),
        ((0, None, 2), None),
        ((None, None, None), None),
    ],
)
def test_overall_is_the_harmonic_mean(ratings: tuple[float | None, ...], overall: float | None) -> None:
    assert Scores(*ratings).overall == (None if overall is None else pytest.approx(overall))


@pytest.mark.parametrize("bad", [-0.1, 2.1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["concept", "instruct", "fluency"])
def test_ratings_out_of_range_are_refused(bad: float, name: str) -> None:
    with pytest.raises(ValueError, match=f"the {name} rating is .*; ratings go from 0 to 2, or None"):
        Scores(**{"concept": 1.0, "instruct": 1.0, "fluency": 1.0, name: bad})


def test_a_script_is_read_in_order_and_kept() -> None:
    judge = ScriptedJudge([Scores(2, 2, 2), RuntimeError("no connection"), Scores(0, 1, 2)])
    assert isinstance(judge, Judge)
    assert judge.score("fish", "a", "b") == Scores(2, 2, 2)
    with pytest.raises(RuntimeError, match="no connection"):
        judge.score("fish", "c", "d")
    assert judge.score("fish", "e", "f").overall == 0
    assert judge.calls == [("fish", "a", "b"), ("fish", "c", "d"), ("fish", "e", "f")]
    with pytest.raises(IndexError, match="the script has 3 replies, this is call 4"):
        judge.score("fish", "g", "h")


def test_a_script_can_be_a_function() -> None:
    judge = ScriptedJudge(lambda concept, prompt, response: Scores(2 if concept in response else 0, 2, 2))
    assert judge.score("fish", "?", "fish and more fish").overall == 2
    assert judge.score("fish", "?", "bread").overall == 0
    assert not isinstance(object(), Judge)
