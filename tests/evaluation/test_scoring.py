"""Means, intervals and unscored rows, against tables worked out by hand."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

import steerlens
from steerlens.evaluation.scoring import Evaluation, accuracy, evaluate, judge_rows
from steerlens.judges.base import BatchJudge, JudgeError, Question, ScriptedJudge, Verdict, judge_identity
from steerlens.reproducibility import prompt_seeds, row_seeds
from steerlens.scores import UNSCORED, Scores


def frame(rows: Sequence[tuple[str, float | None, float | None, float | None]]) -> pd.DataFrame:
    built = []
    for concept, *ratings in rows:
        scores = Scores(*ratings)
        built.append(
            {"concept": concept, "prompt": "p", "response": "r", "seed": 0, "error": None, "overall": scores.overall}
            | dict(zip(("concept_score", "instruct_score", "fluency_score"), ratings, strict=True))
        )
    return pd.DataFrame(built).astype(dict.fromkeys(("concept_score", "instruct_score", "fluency_score", "overall"), float))


HAND = [
    ("sea", 2, 2, 2),  # overall 2
    ("sea", 1, 2, 2),  # 3 / (1 + 1/2 + 1/2) = 1.5
    ("sea", 0, 2, 2),  # 0
    ("sea", None, 2, 2),  # unscored
    ("war", 1, 1, 1),  # 1
]


def test_means_are_over_scored_rows_then_over_concepts():
    evaluation = Evaluation(frame(HAND))
    assert evaluation.overall == pytest.approx(((2 + 1.5 + 0) / 3 + 1) / 2)
    assert evaluation.mean("concept_score") == pytest.approx(((2 + 1 + 0) / 3 + 1) / 2)
    assert evaluation.unscored == 1
    table = evaluation.by_concept()
    assert table.loc["sea", "overall"] == pytest.approx(3.5 / 3)
    spread = math.sqrt(((2 - 3.5 / 3) ** 2 + (1.5 - 3.5 / 3) ** 2 + (3.5 / 3) ** 2) / 2)
    assert table.loc["sea", "overall_error"] == pytest.approx(spread / math.sqrt(3))
    assert table["n"].tolist() == [4, 1]
    assert table["unscored"].tolist() == [1, 0]


def test_each_concept_has_the_interval_over_its_responses():
    evaluation = Evaluation(frame(HAND))
    table: Any = evaluation.by_concept()
    alone = Evaluation(evaluation.frame[evaluation.frame["concept"] == "sea"])
    assert tuple(table.loc["sea", ["overall_low", "overall_high"]]) == alone.interval()
    assert table.loc["war", ["overall_low", "overall_high"]].isna().all(), "a single response says nothing of its spread"


def test_the_figure_has_the_mean_over_concepts_and_then_each_the_weakest_first():
    evaluation = Evaluation(frame(HAND))
    figure: Any = evaluation.plot()
    assert [trace.name for trace in figure.data] == ["overall", "concept", "instruct", "fluency"]
    assert list(figure.layout.yaxis.ticktext) == ["mean of 2 concepts", "war", "sea"]
    assert list(figure.data[0].x) == pytest.approx([evaluation.overall, 1, 3.5 / 3])
    assert list(figure.data[1].x) == pytest.approx([evaluation.mean("concept_score"), 1, 1])
    mean, (low, high) = evaluation.overall or 0, evaluation.interval() or (0, 0)
    bars = figure.data[0].error_x
    assert (bars.arrayminus[0], bars.array[0]) == pytest.approx((mean - low, high - mean))
    alone: Any = Evaluation(frame(HAND[-1:])).plot()
    assert list(alone.layout.yaxis.ticktext) == ["war"] and evaluation.summary()[:20] in figure.layout.title.subtitle.text
    nothing: Any = Evaluation(frame([("sea", None, 2, 2)])).plot()
    assert list(nothing.layout.yaxis.ticktext) == ["sea (unscored)"]
    many: Any = Evaluation(frame([(f"c{number}", 1, 1, 1) for number in range(30)])).plot()
    assert len(many.layout.yaxis.ticktext) == 21


def test_nothing_scored_is_none_not_zero():
    evaluation = Evaluation(frame([("sea", None, 2, 2), ("sea", None, None, None)]))
    assert evaluation.overall is None
    assert evaluation.interval() is None
    assert evaluation.unscored == 2
    assert "none of 2" in evaluation.summary()


def test_interval_is_over_concepts_when_there_are_several():
    """Within-concept spread alone must not widen it: two concepts of equal means give an interval without width."""
    rows = [("a", 2, 2, 2), ("a", 0, 2, 2), ("b", 2, 2, 2), ("b", 0, 2, 2)]
    assert Evaluation(frame(rows)).interval() == (1.0, 1.0)
    low, high = Evaluation(frame(rows[:2])).interval() or (None, None)
    assert (low, high) == (0.0, 2.0)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [("a", 2, 2, 2), ("a", 2, 2, 2), ("a", None, 2, 2)],
            "2.00 to 2.00 over 2 responses to one concept, too few to trust it)",
        ),
        (
            [("a", 2, 2, 2), ("a", 2, 2, 2), ("b", None, 2, 2), ("c", None, 2, 2)],
            "interval 2.00 to 2.00 over 2 responses to one concept, too few to trust it; 2 concepts unscored)",
        ),
        (
            [("a", 2, 2, 2), ("b", 2, 2, 2), ("b", 2, 2, 2), ("c", None, 2, 2)],
            "interval 2.00 to 2.00 over 2 concepts, too few to trust it; 1 concept unscored)",
        ),
        ([(name, 2, 2, 2) for name in "abcde"], "interval 2.00 to 2.00 over 5 concepts); "),
        ([("a", 2, 2, 2)] * 5, "interval 2.00 to 2.00 over 5 responses to one concept); "),
        ([("a", 2, 2, 2)], "overall 2.00 of 2 (one response, no interval); "),
        ([("a", 2, 2, 2), ("b", None, 2, 2)], "(one response, no interval; 1 concept unscored); "),
    ],
)
def test_the_summary_counts_what_the_interval_is_over(rows: list[Any], words: str):
    told = Evaluation(frame(rows)).summary()
    assert words in told and told.endswith(f"{sum(row[1] is None for row in rows)} of {len(rows)} unscored")


def test_one_scored_row_has_no_interval():
    one = Evaluation(frame([("a", 2, None, 2), ("a", 1, 2, 2), ("b", None, 2, 2)]))
    assert one.overall == 1.5 and one.interval() is None
    assert one.interval("concept_score") == (1.0, 2.0)


def test_interval_covers_about_as_often_as_it_says():
    """400 samples of 30 coin flips with mean 1: the 95 % interval holds the mean in about 93 to 96 of 100."""
    draws = np.random.default_rng(1).integers(0, 2, size=(400, 30)) * 2
    hits = 0
    for row in draws:
        low, high = Evaluation(frame([("a", int(value), 2, 2) for value in row])).interval("concept_score") or (9, 9)
        hits += low <= 1 <= high
    assert 0.90 <= hits / len(draws) <= 0.98


def test_evaluate_asks_the_judge_for_each_response_and_survives_its_failures(model):
    prompts = ["one", "two", "three", "four"]
    judge = ScriptedJudge([Scores(2, 2, 2), RuntimeError("no reply"), Scores(1, 1, None), Scores(0, 2, 2)])
    evaluation = evaluate(model, None, "fish", prompts, judge, max_new_tokens=4, seed=5)
    assert [call[:2] for call in judge.calls] == [("fish", prompt) for prompt in prompts]
    assert [call[2] for call in judge.calls] == evaluation.frame["response"].tolist()
    assert evaluation.frame["response"].tolist() == steerlens.generate(model, prompts, max_new_tokens=4, seed=5)
    assert evaluation.unscored == 2
    assert evaluation.overall == pytest.approx((2 + 0) / 2)
    errors = evaluation.frame["error"].tolist()
    assert errors[1] == "RuntimeError: no reply"
    assert errors[2] == "the judge left a rating out"
    assert pd.isna(errors[0])


def test_a_judge_that_returns_something_else_is_unscored(model):
    judge = ScriptedJudge(lambda concept, prompt, response: 2.0)  # pyright: ignore[reportArgumentType] - the point
    with pytest.raises(Exception, match="type"):  # the checked call names it in tests
        judge.score("a", "b", "c")

    class Wrong:
        def score(self, concept: str, prompt: str, response: str):
            return 2.0

    evaluation = evaluate(model, None, "fish", ["one"], Wrong(), max_new_tokens=2)  # pyright: ignore[reportArgumentType] - the point
    assert evaluation.unscored == 1


def test_an_interrupt_is_not_swallowed(model):
    def interrupted(concept: str, prompt: str, response: str) -> Scores:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, None, "fish", ["one"], ScriptedJudge(interrupted), max_new_tokens=2)


def test_one_row_can_be_redone_alone(model, make_vector):
    prompts, sv = ["one", "two", "three"], make_vector()
    judge = ScriptedJudge(lambda concept, prompt, response: Scores(2, 2, 2))
    row = evaluate(model, sv, "fish", prompts, judge, max_new_tokens=6, seed=3).frame.iloc[2]
    again = steerlens.generate(model, row["prompt"], sv, max_new_tokens=6, seed=[int(row["seed"])])
    assert again == [row["response"]]


def test_seeds_of_any_integer_type(model):
    """One per prompt in an array is not one for the batch."""
    judge = ScriptedJudge(lambda concept, prompt, response: Scores(2, 2, 2))
    plain = evaluate(model, None, "fish", ["one", "two"], judge, max_new_tokens=6, seed=[3, 4]).frame
    assert prompt_seeds(np.array([3, 4]), 2) == plain["seed"].tolist() == [3, 4]
    assert prompt_seeds(np.int64(3), 2) == prompt_seeds(3, 2) == row_seeds(3, 2)


def test_what_is_missing_is_nan_among_scores_and_none_among_texts(model):
    judge = ScriptedJudge([Scores(2, 2, 2), RuntimeError("no reply")])
    found = evaluate(model, None, "fish", ["one", "two"], judge, max_new_tokens=2).frame
    assert found["error"].tolist() == [None, "RuntimeError: no reply"] and found["overall"].isna().tolist() == [False, True]


def test_what_cannot_be_judged_is_refused_before_generating(model, monkeypatch):
    monkeypatch.setattr("steerlens.evaluation.scoring.generate", None)
    with pytest.raises(TypeError, match="the judge is the class ScriptedJudge: give an object of it"):
        evaluate(model, None, "fish", ["one"], ScriptedJudge)  # type: ignore[arg-type] - the point
    with pytest.raises(ValueError, match="concept 1 is ' ': a judge needs words to look for"):
        evaluate(model, None, ["fish", " "], ["one", "two"], ScriptedJudge([]))


def test_a_truth_value_is_no_rating():
    with pytest.raises(ValueError, match="the fluency rating is True"):
        Scores(2, 2, True)


def test_accuracy_counts_right_answers(model):
    class Asked:
        def __init__(self, prompt: str, right: bool) -> None:
            self.prompt, self.right = prompt, right

        def check(self, response: str) -> bool:
            return self.right

    questions = [Asked("a", True), Asked("b", False), Asked("c", True), Asked("d", True)]
    assert accuracy(model, None, questions, max_new_tokens=2) == 0.75


# --- which judge it was ----------------------------------------------------------------------------------------------


def rating(value: float) -> ScriptedJudge:
    return ScriptedJudge(lambda concept, prompt, response: Scores(value, 2, 2))


def test_scripts_are_told_apart():
    listed = [ScriptedJudge([Scores(2, 2, last)]) for last in (2, 1)] + [ScriptedJudge([RuntimeError("a")])]
    held = [rating(1.0), rating(2.0), ScriptedJudge(lambda concept, prompt, response: Scores(1, 1, 1))]
    coded = [ScriptedJudge(lambda concept, prompt, response: Scores(2, 2, len(prompt) % 2))]
    told = [judge.identity for judge in listed + held + coded]
    assert len(set(told)) == 7 and all("ScriptedJudge" in one for one in told)
    assert rating(1.0).identity == held[0].identity and ScriptedJudge([Scores(2, 2, 2)]).identity == told[0]
    assert judge_identity(held[0]) == held[0].identity


SCRIPT = """
from steerlens import Scores, ScriptedJudge
words = {"b", "a", "c"}
judge = ScriptedJudge(lambda concept, prompt, response: Scores(2, 2, float(response in {"x", "y", "z"}) + len(words)))
print(judge.identity)
"""


def test_a_script_has_one_identity_in_all_processes():
    told = set()
    for seed in ("1", "2"):
        ran = subprocess.run([sys.executable, "-c", SCRIPT], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True)
        told.add(ran.stdout)
    assert len(told) == 1 and b"ScriptedJudge" in told.pop()


def test_any_judge_has_an_identity():
    class Plain:
        def score(self, concept: str, prompt: str, response: str) -> Scores:
            return UNSCORED

    class Named(Plain):
        identity = "mine, version 3"

    class Wrong(Plain):
        identity = 3

    assert judge_identity(Named()) == "mine, version 3"
    assert judge_identity(Plain()) == judge_identity(Plain()) != judge_identity(Wrong())
    name, digest = judge_identity(Plain()).rsplit(" ", 1)
    assert name.endswith("Plain") and len(digest) == 12
    made = type("Made", (Plain,), {"__module__": "nowhere"})  # as in a notebook: no source to be had
    assert judge_identity(made()) == "nowhere.Made"


# --- judges that take many questions at once --------------------------------------------------------------------------


class Batched:
    """A batch judge that does what a test says."""

    def __init__(self, reply: Callable[[Sequence[Question]], Any]) -> None:
        self.reply, self.asked = reply, list[list[Question]]()

    def score(self, concept: str, prompt: str, response: str) -> Scores:
        raise AssertionError("one by one")

    def score_many(self, items: Sequence[Question]) -> Any:
        self.asked.append(list(items))
        return self.reply(items)


def rows_from(reply: Callable[[Sequence[Question]], Any]) -> list[dict[str, Any]]:
    return judge_rows(Batched(reply), ["sea", "war"], ["p", [{"role": "user", "content": "last"}]], ["r", "s"], [7, 8])


def test_a_batch_judge_is_asked_once(model):
    judge = Batched(lambda items: [Verdict(Scores(2, 2, len(item.response) % 3)) for item in items])
    assert isinstance(judge, BatchJudge) and not isinstance(ScriptedJudge([]), BatchJudge)
    evaluation = evaluate(model, None, ["sea", "war"], ["one", "two"], judge, max_new_tokens=4)
    frame = evaluation.frame
    assert judge.asked == [[Question(*row) for row in frame[["concept", "prompt", "response"]].itertuples(index=False)]]
    assert frame["fluency_score"].tolist() == [len(response) % 3 for response in frame["response"]]
    one_by_one = ScriptedJudge(lambda concept, prompt, response: Scores(2, 2, len(response) % 3))
    pd.testing.assert_frame_equal(
        evaluate(model, None, ["sea", "war"], ["one", "two"], one_by_one, max_new_tokens=4).frame, frame
    )


def test_rows_carry_scores_reasons_and_replies():
    rows = rows_from(lambda items: [Verdict(Scores(1, 1, 2), None, {"concept": "é [[1]]"}), Verdict(Scores(None, 0, 2))])
    told = {"concept": "sea", "prompt": "p", "response": "r", "seed": 7, "error": None, "replies": '{"concept": "é [[1]]"}'}
    scores = {"concept_score": 1, "instruct_score": 1, "fluency_score": 2, "overall": pytest.approx(1.2)}
    assert rows[0] == told | scores
    assert rows[1]["prompt"] == "last" and rows[1]["overall"] is None and rows[1]["concept_score"] is None
    assert rows[1]["error"] == "the judge left a rating out" and rows[1]["replies"] is None
    assert "replies" not in rows_from(lambda items: [Verdict(Scores(2, 2, 2))] * 2)[0]
    assert json.loads(rows[0]["replies"]) == {"concept": "é [[1]]"}


def failing(error: Exception) -> Callable[[Sequence[Question]], Any]:
    def reply(items: Sequence[Question]) -> Any:
        raise error

    return reply


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (failing(RuntimeError("no memory")), "RuntimeError: no memory"),
        (failing(JudgeError("wrong key")), "wrong key"),
        (lambda items: [Verdict(Scores(2, 2, 2))], "the judge returned 1 verdicts for 2 questions"),
        (lambda items: [Verdict(Scores(2, 2, 2))] * 3, "the judge returned 3 verdicts for 2 questions"),
        (lambda items: None, "TypeError: 'NoneType' object is not iterable"),
        (lambda items: [2.0, 2.0], "the judge returned float, not a Verdict with Scores"),
        (lambda items: [Scores(2, 2, 2)] * 2, "the judge returned Scores, not a Verdict with Scores"),
    ],
)
def test_a_batch_judge_that_fails_costs_rows_not_the_run(reply, reason: str):
    for row in rows_from(reply):
        assert row["overall"] is None and row["error"] == reason


def test_what_was_judged_before_a_refusal_is_kept():
    verdicts = [Verdict(Scores(2, 2, 2)), Verdict(UNSCORED, "not asked: wrong key")]
    rows = rows_from(failing(JudgeError("wrong key", verdicts)))
    assert [row["overall"] for row in rows] == [2.0, None]
    assert [row["error"] for row in rows] == [None, "not asked: wrong key"]


def test_an_interrupt_of_a_batch_is_not_swallowed(model):
    def interrupted(items: Sequence[Question]) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, None, "fish", ["one"], Batched(interrupted), max_new_tokens=2)


def test_nothing_scored_tells_why():
    table = frame([("sea", None, 2, 2)])
    table["error"] = "concept: no usable rating"
    assert Evaluation(table).summary() == "none of 1 responses could be scored; the first reason: concept: no usable rating"
