"""A judge against a service that misbehaves: what is lost is unscored, and no number is ever wrong."""

import socket
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from service import ONE, RIGHT, Action, Service, fails, judge_at, questions, rates, right, says

from steerlens.evaluation.scoring import evaluate, judge_rows
from steerlens.judges.base import JudgeError, Question, Verdict
from steerlens.judges.client import seconds_to_wait
from steerlens.scores import Scores

# --- failures that pass -----------------------------------------------------------------------------------------------

NOT_JSON = Action(b'{"choices": [{"mess')
TROUBLES = {
    "429": fails(429, "slow down"),
    "500": fails(500),
    "503": fails(503),
    "408": fails(408),
    "connection": right("concept", 0)._replace(cut=True),
    "malformed": NOT_JSON,
    "not even text": Action(b"\xff\xfe\x00", headers={"Content-Type": "application/json"}),
    "a page": Action(b"<html>bad gateway</html>", headers={"Content-Type": "text/html"}),
    "no choices": Action(b'{"choices": [], "error": {"message": "overloaded"}}'),
    "choices of a kind": Action(b'{"choices": "many"}'),
    "content of a kind": Action(b'{"choices": [{"message": {"content": {"rating": 2}}}]}'),
    "a list": Action(b"[1, 2]"),
    "null": Action(b"null"),
    "timeout": right("concept", 0)._replace(delay=0.4),
}
KINDS = {name: name if name in ("429", "500", "503", "408", "connection", "timeout") else "malformed" for name in TROUBLES}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_fails_once_is_repeated(trouble: str) -> None:
    def script(message: str, number: int) -> Action:
        return TROUBLES[trouble] if number == 0 else right(message, number)

    with Service(script) as service:
        judge = judge_at(service, timeout=0.15 if trouble == "timeout" else 5, concurrency=1)
        assert judge.score_many([ONE])[0] == Verdict(
            Scores(1.0, 2.0, 0.5), None, {name: f"Because.\nRating: [[{value}]]" for name, value in RIGHT.items()}
        )
    assert len(service.bodies) == judge.usage.requests == 4
    assert judge.usage.retries == 1
    assert dict(judge.usage.failures) == {KINDS[trouble]: 1}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_always_fails_is_unscored(trouble: str) -> None:
    """One question of three fails for ever: its rating is missing, the others are there, and no more is sent than said."""

    def script(message: str, number: int) -> Action:
        return TROUBLES[trouble] if message.startswith("concept") else right(message, number)

    with Service(script) as service:
        judge = judge_at(service, timeout=0.15 if trouble == "timeout" else 5, retries=2)
        verdict = judge.score_many([ONE])[0]
    assert verdict.scores == Scores(None, 2.0, 0.5)
    assert verdict.scores.overall is None
    assert verdict.error is not None and verdict.error.startswith("concept: ") and "(tried 3 times)" in verdict.error
    assert verdict.replies is not None and set(verdict.replies) == {"instruct", "fluency"}
    assert len(service.bodies) == judge.usage.requests == 2 + 3
    assert dict(judge.usage.failures) == {KINDS[trouble]: 3}


def test_refused_connections_are_unscored() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    judge = judge_at(url, retries=1)
    verdicts = judge.score_many(questions(4))
    assert [verdict.scores for verdict in verdicts] == [Scores(None, None, None)] * 4
    assert all("concept: Connection error" in (verdict.error or "") and verdict.replies is None for verdict in verdicts)
    assert dict(judge.usage.failures) == {"connection": 24}


def test_the_services_wish_to_wait_is_granted() -> None:
    def script(message: str, number: int) -> Action:
        return fails(429, Retry_After="0.3") if number == 0 else right(message, number)

    with Service(script) as service:
        assert judge_at(service, concurrency=1).score(*ONE) == Scores(1.0, 2.0, 0.5)
    assert service.times[1] - service.times[0] >= 0.3
    with Service(script) as service:  # all wait, not only the one that was told
        judge_at(service, concurrency=2).score_many(questions(6))
    assert service.times[3] - service.times[0] >= 0.3


def test_a_wish_to_wait_for_an_hour_is_not() -> None:
    start = time.monotonic()
    with Service(lambda message, number: fails(429, "come back later", Retry_After="3600")) as service:
        verdict = judge_at(service).score_many([ONE])[0]
    assert time.monotonic() - start < 5
    assert "come back later" in (verdict.error or "") and "asks to wait 3600 s" in (verdict.error or "")
    assert len(service.bodies) == 3


def test_what_a_retry_after_header_means() -> None:
    assert seconds_to_wait("7") == 7
    assert seconds_to_wait("0.5") == 0.5
    assert seconds_to_wait(formatdate(time.time() + 30, usegmt=True)) == pytest.approx(30, abs=2)
    assert seconds_to_wait(formatdate(time.time() - 30, usegmt=True)) == 0
    assert [seconds_to_wait(value) for value in (None, "soon", "", "nan")] == [None] * 4


def test_an_outage_ends_the_asking() -> None:
    """After enough failures in a row the rest is not sent, and is unscored with that reason."""
    down = fails(503, "down for repair")
    with Service(lambda message, number: down if "x" in message else right(message, number)) as service:
        verdicts = judge_at(service, retries=1).score_many([ONE, *questions(40)[1:]])
    assert verdicts[0].scores == Scores(1.0, 2.0, 0.5)
    assert all(verdict.scores == Scores(None, None, None) for verdict in verdicts[1:])
    assert "not asked: 24 requests in a row failed" in (verdicts[-1].error or "")
    assert "down for repair" in (verdicts[-1].error or "")
    assert len(service.bodies) <= 3 + (24 + 3) * 2


# --- refusals ---------------------------------------------------------------------------------------------------------

REFUSALS = {
    "401": fails(401, "wrong key sk-secret"),
    "402": fails(402, "pay first"),
    "404": fails(404, "no such model"),
    "no quota": fails(429, "quota used up", code="insufficient_quota"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refused_account_stops_the_asking(kind: str, model: Any) -> None:
    with Service(lambda message, number: REFUSALS[kind]) as service:
        judge = judge_at(service)
        with pytest.raises(JudgeError, match="3 requests in a row failed") as caught:
            judge.score_many(questions(1000))
        assert len(service.bodies) < 3 + 3  # the limit, and what was on its way
        assert judge.usage.retries == 0
        assert "sk-secret" not in f"{caught.value} {caught.value.verdicts}"
        assert len(caught.value.verdicts) == 1000
        assert all(verdict.scores.overall is None and verdict.error for verdict in caught.value.verdicts)
        with pytest.raises(JudgeError):
            judge.score(*ONE)
        evaluation = evaluate(model, None, "sea", ["one", "two"], judge, max_new_tokens=2)
    assert evaluation.unscored == 2
    assert "in a row failed" in evaluation.frame["error"][0] or "concept" in evaluation.frame["error"][0]
    assert evaluation.overall is None and "the first reason" in evaluation.summary()


def test_a_refusal_midway_keeps_what_was_judged(tmp_path: Path) -> None:
    with Service(lambda message, number: right(message, number) if number < 6 else fails(401)) as service:
        judge = judge_at(service, concurrency=1, cache=tmp_path / "c.jsonl")
        with pytest.raises(JudgeError) as caught:
            judge.score_many([ONE, ONE._replace(response="other", prompt="also"), *questions(50)])
        told = [verdict.scores for verdict in caught.value.verdicts]
        assert told[:2] == [Scores(1.0, 2.0, 0.5)] * 2 and set(told[2:]) == {Scores(None, None, None)}
        rows = judge_rows(judge, ["sea"] * 2, [ONE.prompt, "new"], [ONE.response, "new"], [0, 1])
    assert rows[0]["overall"] == pytest.approx(3 / (1 + 1 / 2 + 2)) and rows[0]["error"] is None
    assert rows[1]["overall"] is None and "401" in rows[1]["error"]


def test_a_filter_against_one_concept_costs_only_its_rows() -> None:
    """Thirty refusals in a row of the text itself, between successes."""

    def script(message: str, number: int) -> Action:
        return fails(400, "flagged") if "violent" in message else right(message, number)

    items = [ONE, *(Question("c", f"violent {i}", f"violent {i}") for i in range(15)), ONE._replace(response="z", prompt="z")]
    with Service(script) as service:
        verdicts = judge_at(service, concurrency=1).score_many(items)
    assert [verdicts[0].scores, verdicts[-1].scores] == [Scores(1.0, 2.0, 0.5)] * 2
    for verdict in verdicts[1:-1]:
        assert verdict.scores == Scores(None, None, None) and "flagged" in (verdict.error or "")
    assert len(service.bodies) == 3 * 17


def test_a_form_that_is_never_accepted_stops_the_asking() -> None:
    service = Service(lambda message, number: fails(400, "max_tokens is not supported"))
    with service, pytest.raises(JudgeError, match=r"24 requests in a row failed: .*max_tokens is not supported"):
        judge_at(service).score_many(questions(100))
    assert len(service.bodies) < 24 + 3


# --- replies without a rating -----------------------------------------------------------------------------------------

USELESS = {
    "nonsense": says("I like it."),
    "a seven": rates(7),
    "in words": rates("two"),
    "empty": says(""),
    "nothing": says(None),
    "two ratings": says("Rating: [[1]]\nRating: [[2]]"),
    "half": says("Rating: [[2"),
    "cut at the limit": says("Rating: [[2]]", finish="length"),
    "cut by a filter": says("Rating: [[2]]", finish="content_filter"),
}


@pytest.mark.parametrize("useless", USELESS)
def test_a_reply_without_a_rating_is_asked_for_once_more(useless: str, tmp_path: Path) -> None:
    def script(message: str, number: int) -> Action:
        return USELESS[useless] if message.startswith("instruct") else right(message, number)

    with Service(script) as service:
        judge = judge_at(service, cache=tmp_path / "c.jsonl")
        verdict = judge.score_many([ONE])[0]
        assert verdict.scores == Scores(1.0, None, 0.5) and verdict.scores.overall is None
        assert (verdict.error or "").startswith("instruct: ")
        asked = [message for message in service.messages if message.startswith("instruct")]
        assert len(asked) == 2 and asked[1].startswith(asked[0]) and "could not be read" in asked[1]
        assert dict(judge.usage.failures) == {"unreadable": 2} and judge.usage.asked_again == 1
        assert len((tmp_path / "c.jsonl").read_text().splitlines()) == 2
        judge_at(service, cache=tmp_path / "c.jsonl").score(*ONE)
    assert len(service.bodies) == 4 + 2  # what was of no use was not kept


@pytest.mark.parametrize("useless", USELESS)
def test_the_second_reply_counts(useless: str, tmp_path: Path) -> None:
    def script(message: str, number: int) -> Action:
        first = message.startswith("instruct") and "could not be read" not in message
        return USELESS[useless] if first else right(message, number)

    with Service(script) as service:
        for _ in range(2):
            verdict = judge_at(service, cache=tmp_path / "c.jsonl").score_many([ONE])[0]
            assert verdict.scores == Scores(1.0, 2.0, 0.5) and verdict.error is None
    assert len(service.bodies) == 4  # the second run found all, the second reply included


def test_a_second_try_that_fails_says_both() -> None:
    def script(message: str, number: int) -> Action:
        if not message.startswith("concept"):
            return right(message, number)
        return fails(400, "enough") if "could not be read" in message else says("Hm.")

    with Service(script) as service:
        verdict = judge_at(service).score_many([ONE])[0]
    assert verdict.scores == Scores(None, 2.0, 0.5)
    assert verdict.error is not None and "in the reply 'Hm.'; asked again: " in verdict.error and "enough" in verdict.error
    assert verdict.replies is not None and verdict.replies["concept"] == "Hm."


def test_uncounted_tokens_are_no_cost_of_zero() -> None:
    with Service(lambda message, number: says("Rating: [[1]]", tokens=None)) as service:
        judge = judge_at(service, price=(1, 1))
        assert judge.score(*ONE) == Scores(1.0, 1.0, 1.0)
    assert judge.usage.unmetered == 3 and judge.usage.cost is None
