"""Rows of the list of hostile input that a judge behind an address meets."""

import gzip
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from service import ONE, SHORT, Action, Service, fails, judge_at, rates, right, says

from steerlens.judges.cache import JudgeCache
from steerlens.judges.llm import LLMJudge
from steerlens.judges.rubrics import parse_rating

KEY = "sk-very-secret-0123456789"


@pytest.mark.parametrize("around", ["{}\n", " {}", "\t{}\r\n"])
def test_hostile_01_key_with_newline(around: str, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"

    def echo(message: str, number: int) -> Action:
        return fails(400, f"no {KEY}") if "sea" in message else says(f"{KEY} it is.\nRating: [[1]]")

    with Service(echo) as service:
        judge = judge_at(service, api_key=around.format(KEY), cache=path)
        verdict = judge.score_many([ONE])[0]
        assert {headers["authorization"] for headers in service.headers} == {f"Bearer {KEY}"}
    for text in (str(verdict), repr(judge), judge.identity, str(judge.settings), path.read_text()):
        assert KEY not in text


@pytest.mark.parametrize("key", [f"{KEY}\nX-Evil: 1", f"{KEY} and more", f"{KEY}\x00", f"{KEY}é"])
def test_hostile_01_a_key_that_is_none(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="the API key holds blanks") as refused:
        judge_at("http://127.0.0.1:9/v1", api_key=key)
    assert KEY not in str(refused.value)
    monkeypatch.setenv("OPENAI_API_KEY", key.replace("\x00", "\x01"))
    with pytest.raises(ValueError, match="the API key holds blanks"):
        judge_at("http://127.0.0.1:9/v1", api_key=None)


def test_hostile_01_a_clients_own_key_with_newline() -> None:
    import openai

    with Service(right) as service, openai.OpenAI(api_key=f"{KEY}\n", base_url=service.url) as client:
        verdict = LLMJudge("small", client=client, rubric=SHORT, retries=0).score_many([ONE])[0]
    assert KEY not in str(verdict) and verdict.scores.overall is None


FORMS = [repr, json.dumps, lambda key: json.dumps(key).replace("/", "\\/"), lambda key: key.replace("/", "%2F"),
         lambda key: key.replace("/", "%2F").replace("'", "%27").replace("\\", "%5C").replace("+", "%2B"),
         lambda key: key.replace("'", "&#x27;"), lambda key: json.dumps(json.dumps(key))]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_hostile_01_a_key_quoted_by_the_service(form: Any) -> None:
    key = "sk/very+secret'\\0123"
    with Service(lambda message, number: fails(400, f"no {form(key)}")) as service:
        error = judge_at(service, api_key=key).score_many([ONE])[0].error or ""
    assert "very" not in error and "0123" not in error


NAMES = ("auth", "bearer", "Cookie", "user_pwd", "pwd", "X-Api-Key", "apikey", "oauth", "session_id", "passphrase", "jwt")


@pytest.mark.parametrize("name", NAMES)
def test_hostile_01_secrets_in_extra_under_any_name(name: str, tmp_path: Path) -> None:
    path, secret = tmp_path / "c.jsonl", "hidden-value-42"
    with Service(lambda message, number: rates(1) if number else fails(500, secret)) as service:
        judge = judge_at(service, cache=path, extra={name: secret, "author": "Ada", "headers": [[name, secret]]}, concurrency=1)
        verdict = judge.score_many([ONE])[0]
        assert service.bodies[0][name] == secret and verdict.scores.overall == 1
    assert "Ada" in judge.identity
    for text in (str(verdict), judge.identity, path.read_text(), repr(judge)):
        assert secret not in text


@pytest.mark.parametrize(
    "extra", [{"note": f"Bearer {KEY}"}, {"x": KEY}, {"header": {"name": "Authorization", "value": KEY}}, {"url": f"a?k={KEY}"}]
)
def test_hostile_01_secrets_in_extra_by_what_they_are(extra: Any) -> None:
    assert KEY not in judge_at("http://127.0.0.1:9/v1", api_key=KEY, extra=extra).identity


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("own", [False, True])
def test_hostile_06_redirects_are_not_followed(status: int, own: bool) -> None:
    import openai

    with Service(right) as elsewhere:
        to = elsewhere.url.replace("127.0.0.1", "localhost") + "/chat/completions?token=hidden"
        with Service(lambda message, number: Action(b"", status, {"Location": to})) as service:
            client = openai.OpenAI(api_key=KEY, base_url=service.url)
            reached: dict[str, Any] = {"client": client} if own else {"base_url": service.url, "api_key": KEY}
            judge = LLMJudge("small", **reached, rubric=SHORT, concurrency=1)
            with pytest.raises(ValueError, match="redirects to localhost, which is not followed") as refused:
                judge.score_many([ONE])
        assert not elsewhere.bodies and "hidden" not in str(refused.value)


class Dripping(BaseHTTPRequestHandler):
    """A byte now and then, before or after the headers, or bytes without end."""

    kind = "body"
    stop = threading.Event()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        try:
            self.wfile.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + (b"X: " if self.kind == "head" else b"\r\n")
            )
            while not self.stop.wait(0 if self.kind == "endless" else 0.05):
                self.wfile.write(b" " * (2**16 if self.kind == "endless" else 1))
        except OSError:
            pass

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.parametrize("kind", ["head", "body", "endless"])
def test_hostile_07_a_deadline_in_all_and_a_cap(kind: str) -> None:
    handler = type("Handler", (Dripping,), {"kind": kind, "stop": threading.Event()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        begin = time.monotonic()
        wait = 10 if kind == "endless" else 0.4
        judge = judge_at(f"http://127.0.0.1:{server.server_port}/v1", timeout=wait, retries=0)
        verdict = judge.score_many([ONE])[0]
        assert time.monotonic() - begin < 9
    finally:
        handler.stop.set()
        server.shutdown()
        server.server_close()
    assert verdict.scores.overall is None
    assert dict(judge.usage.failures) == {"too large" if kind == "endless" else "timeout": 3}


def test_hostile_07_a_small_reply_that_unpacks_large() -> None:
    bomb = gzip.compress(b" " * 2**26)
    with Service(lambda message, number: Action(bomb, headers={"Content-Encoding": "gzip"})) as service:
        judge = judge_at(service)
        assert "more than 16777216 bytes" in (judge.score_many([ONE])[0].error or "")


def test_hostile_07_a_packed_reply_is_read_and_another_packing_is_not() -> None:
    def packed(message: str, number: int) -> Action:
        return right(message, number)._replace(
            body=gzip.compress(right(message, number).body), headers={"Content-Encoding": "gzip"}
        )

    with Service(packed) as service:
        assert judge_at(service).score(*ONE).fluency == 0.5
    with Service(lambda message, number: Action(b"x", headers={"Content-Encoding": "br"})) as service:
        assert "packed as 'br'" in (judge_at(service).score_many([ONE])[0].error or "")


def test_hostile_07_a_long_reply_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with Service(lambda message, number: says("x" * 300_000 + "\nRating: [[1]]")) as service:
        verdict = judge_at(service, cache=path).score_many([ONE])[0]
    assert verdict.scores.overall is None and "300014 characters" in (verdict.error or "") and not path.exists()


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Rating: `[[0]]` at first.\nRating: [[2]]", None),
        ("`Rating: [[0]]` at first.\nRating: [[2]]", None),
        ("**Rating**: [[0]]\nRating: [[2]]", None),
        ('{"rating": "[[0]]"}\nRating: [[2]]', None),
        ("Rating: `[[2]]` at first.\nRating: [[2]]", 2.0),
        ("Rating: [[0]]\n</think>\nRating: [[2]]", None),
        ("It is there.\n</think>\nRating: [[2]]", 2.0),
        ("Rating: [[0]]\n<think>Hm.</think>\nRating: [[2]]", None),
        ("<think>Rating: [[0]]?</think>\nRating: [[2]]", 2.0),
        ("<think>a</think>\nRating: [[0]]</think>\nRating: [[2]]", None),
        ("<think>a</think><think>\nRating: [[2]]", None),
        ("Rating: [[2]]\n</think>", None),
    ],
)
def test_hostile_09_ratings(reply: str, rating: float | None) -> None:
    assert parse_rating(reply) == rating


@pytest.mark.parametrize("filler", [" ", "\n", "```", "</a>", "rating:", "Rating: [[", "`", "<", "</"])
def test_hostile_09_ratings_are_read_in_linear_time(filler: str) -> None:
    begin = time.monotonic()
    parse_rating(f"Rating: [[1]]{filler * 32_000}x")
    parse_rating(f"{filler * 32_000}\nRating: [[1]]{filler * 32_000}")
    assert time.monotonic() - begin < 2


ODD = [{"model": {}}, {"endpoint": []}, {"extra": "{"}, {"extra": None}, {"temperature": "hot"}, {"max_tokens": []}, {"new": 1}]
ODD_REPLIES = [{"error": {}}, {"served": []}, {"prompt_tokens": "9"}, {"text": 3}, {"settings": []}, {"key": {}}]


@pytest.mark.parametrize("change", [*({"settings": odd} for odd in ODD), *ODD_REPLIES])
def test_hostile_11_one_odd_line_in_a_cache(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    with Service(right) as service:
        judge_at(service, cache=path).score(*ONE)
        lines = path.read_text().splitlines()
        record = json.loads(lines[0])
        settings = change.get("settings")
        record |= change if not isinstance(settings, dict) else {"settings": record["settings"] | settings}
        path.write_text("\n".join([json.dumps(record), "[" * 100_000, *lines[1:]]) + "\n")
        cache = JudgeCache(path)
        assert (len(cache), cache.damaged) == (2, 2)
        asked = len(service.bodies)
        assert judge_at(service, cache=path).score(*ONE).fluency == 0.5
        assert len(service.bodies) == asked + 1
