"""A chat service on the loopback that behaves as a test wants, badly above all; judges that ask it, and questions."""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from steerlens.judges.base import Question
from steerlens.judges.llm import LLMJudge
from steerlens.judges.rubrics import Rubric
from steerlens.scores import Scores

SHORT = Rubric(
    concept="concept {concept}\n{response}\nRating: [[n]]",
    instruct="instruct {prompt}\n{response}\nRating: [[n]]",
    fluency="fluency\n{response}\nRating: [[n]]",
)
"""Questions that tell which they are."""


class Action(NamedTuple):
    """What the service does with one request."""

    body: bytes
    status: int = 200
    headers: dict[str, str] | None = None
    delay: float = 0.0
    cut: bool = False
    """Promise more than is sent, and close."""


def says(text: str | None, finish: str = "stop", delay: float = 0.0, tokens: tuple[int, int] | None = (100, 10)) -> Action:
    """A well-formed reply."""
    message = {"role": "assistant", "content": text}
    told: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 1, "model": "served-1"}
    told["choices"] = [{"index": 0, "message": message, "finish_reason": finish}]
    if tokens is not None:
        told["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return Action(json.dumps(told).encode(), delay=delay)


def rates(value: float | str) -> Action:
    return says(f"Because.\nRating: [[{value}]]")


def fails(status: int, message: str = "no", code: str | None = None, **headers: str) -> Action:
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    return Action(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


Script = Callable[[str, int], Action]
"""The message and the number of the request (from 0) -> what to do."""


class Service:
    """The running service, with what it saw."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.running = self.most = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "Service":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def messages(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.bodies]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet per reply, or each waits for an acknowledgement

            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"]))
                if not sent:  # the client has gone
                    self.close_connection = True
                    return
                body = json.loads(sent)
                with service._lock:
                    number = len(service.bodies)
                    service.bodies.append(body)
                    service.headers.append({name.lower(): value for name, value in self.headers.items()})
                    service.times.append(time.monotonic())
                    service.running += 1
                    service.most = max(service.most, service.running)
                try:
                    action = service.script(body["messages"][0]["content"], number)
                    time.sleep(action.delay)
                finally:
                    with service._lock:
                        service.running -= 1
                self.answer(action)

            def answer(self, action: Action) -> None:
                try:
                    self.send_response(action.status)
                    told = {"Content-Type": "application/json", **(action.headers or {})}
                    for name, value in told.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(action.body) + (100 if action.cut else 0)))
                    self.end_headers()
                    self.wfile.write(action.body)
                    self.wfile.flush()
                    self.close_connection = action.cut
                except OSError:  # the client has gone
                    self.close_connection = True

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):  # the client has gone
                    super().handle()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


RIGHT = {"concept": "1", "instruct": "2", "fluency": "0.5"}
ONE = Question("sea", "Where?", "On the waves.")


def judge_at(service: Service | str, **changes: Any) -> LLMJudge:
    url = service if isinstance(service, str) else service.url
    settings = {"api_key": "sk-secret", "rubric": SHORT, "backoff": 0.005, "timeout": 5, "concurrency": 3}
    return LLMJudge("small", **{"base_url": url, **settings, **changes})


def right(message: str, number: int) -> Action:
    return rates(RIGHT[message.split()[0]])


def by_length(message: str, number: int) -> Action:
    """Ratings that depend on the response, later ones sooner: n x letters, rated n % 3."""
    letters = message.count("x")
    rating = {"concept": letters % 3, "instruct": 2, "fluency": letters % 2}[message.split()[0]]
    return rates(rating)._replace(delay=0.4 if number < 3 else 0.02 if letters % 2 else 0.001)


def questions(n: int) -> list[Question]:
    return [Question("sea", f"prompt {i}", "x" * i) for i in range(n)]


def expected(n: int) -> list[Scores]:
    return [Scores(float(i % 3), 2.0, float(i % 2)) for i in range(n)]
