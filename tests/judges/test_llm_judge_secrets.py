"""Keys and other secrets of a judge behind an address are sent, but neither shown, stored nor repeated."""

import json
from pathlib import Path
from typing import Any

import pytest
from service import ONE, SHORT, Action, Service, fails, judge_at, right, says

from steerlens.judges.llm import LLMJudge
from steerlens.scores import Scores


def test_secrets_are_not_shown() -> None:
    judge = LLMJudge("small", base_url="https://me:hidden@host.example:8000/v1/?key=hidden", api_key="sk-secret")
    assert repr(judge) == "LLMJudge('small', base_url='https://host.example:8000/v1')"
    assert "hidden" not in str(judge.settings) and "secret" not in str(judge.settings)


SECRETS = {
    "api_key": "sk-in-extra-1",
    "headers": {"Authorization": "Bearer abcdefgh-1", "x": ["plain"]},
    "authToken": ["t-o-k-e-n-1"],
    "password": 12345678,
    "max_completion_tokens": 77,
    "return_token_ids": True,
}


def test_secrets_in_extra_are_sent_but_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with Service(right) as service:
        judge = judge_at(service, cache=path, extra=SECRETS)
        judge.score(*ONE)
        assert {name: service.bodies[0][name] for name in SECRETS} == SECRETS
        judge_at(service, cache=path, extra=SECRETS | {"api_key": "rotated-key"}).score(*ONE)
        assert len(service.bodies) == 3
        judge_at(service, cache=path, extra=SECRETS | {"max_completion_tokens": 78}).score(*ONE)
        assert len(service.bodies) == 6
    for text in (repr(judge), str(judge.settings), judge.identity, path.read_text()):
        assert not any(hidden in text for hidden in ("in-extra", "abcdefgh", "t-o-k", "12345678", "rotated", "sk-secret"))
    assert json.loads(judge.settings.extra) == SECRETS | {
        "api_key": "***",
        "headers": {"Authorization": "***", "x": ["plain"]},
        "authToken": ["***"],
        "password": "***",
    }


ECHOES = {
    "an error": lambda key: fails(400, f"refused {key}!"),
    "a body without a message": lambda key: Action(json.dumps({"choices": [], "error": {"message": f"no {key}!"}}).encode()),
    "a reply": lambda key: says(f"You sent {key}!"),
}


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("own", [False, True])
def test_a_key_that_the_service_repeats_is_masked(echo: str, own: bool) -> None:
    import openai

    service = Service(lambda message, number: ECHOES[echo]("sk-secret") if "sea" in message else right(message, number))
    with service, openai.OpenAI(api_key="sk-secret", base_url=service.url) as client:
        reached: dict[str, Any] = {"client": client} if own else {"base_url": service.url, "api_key": "sk-secret"}
        verdict = LLMJudge("small", **reached, rubric=SHORT, retries=0).score_many([ONE])[0]
    assert "sk-secret" not in str(verdict) and "***!" in (verdict.error or "")
    assert verdict.scores == Scores(None, 2.0, 0.5)


def test_extra_secrets_are_masked_in_reasons_too() -> None:
    with Service(lambda message, number: fails(400, f"bad sk-in-extra-1, abcdefgh-1, none of {number}")) as service:
        verdict = judge_at(service, extra=SECRETS).score_many([ONE])[0]
    assert "in-extra" not in (verdict.error or "") and "abcdefgh" not in (verdict.error or "")


def test_a_placeholder_is_not_masked_as_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Service(lambda message, number: fails(400, "none of it")) as service:
        verdict = judge_at(service, api_key=None).score_many([ONE])[0]
    assert "none of it" in (verdict.error or "") and "***" not in (verdict.error or "")
