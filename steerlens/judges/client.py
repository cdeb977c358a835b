"""Many requests to one service, a bounded number at a time: repeated where that can help, given up where it cannot."""

import queue
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import monotonic, sleep, time
from typing import NamedTuple

from tqdm import tqdm

from .base import JudgeError
from .cache import Reply
from .llm_base import Keep, Usage, shortened

LONGEST_WAIT = 120.0
"""Seconds. A service that asks for more patience is not waited for."""
ACCOUNT_REFUSALS = 3
"""Refusals of key, account or model, one after the other, after which the rest is not sent."""
OTHER_FAILURES = 24
"""The same for all other failures."""
_ACCOUNT = frozenset({"401", "402", "404", "no quota", "redirect"})
_GRACE = 0.5
"""Seconds that running requests get to end after an interrupt; then they are left alone, and what they bring is not read."""


class Failure(NamedTuple):
    """Why a request brought nothing."""

    kind: str
    """A status such as "429", or "timeout", "connection", "malformed", ..."""
    text: str
    repeat: bool = False
    """Whether it may work later."""
    wait: float | None = None
    """Seconds to wait before that, where the service says so."""


@dataclass
class Sender:
    """How requests are sent.

    `send` makes one attempt: message -> a reply, or how it failed.
    """

    send: Callable[[str], Reply | Failure]
    usage: Usage
    concurrency: int
    retries: int
    backoff: int | float
    """Seconds before the first repetition; doubled each time, times a random number from 0.5 to 1."""
    progress: bool = False

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._reason = "interrupted"
        self._refused = False
        self._resume_at = 0.0
        self._last, self._in_a_row, self._succeeded = "", 0, False
        self._workers: list[threading.Thread] = []

    @property
    def idle(self) -> bool:
        """No request is running; after an interrupt some may be."""
        return not any(worker.is_alive() for worker in self._workers)

    def send_all(self, messages: Sequence[str], keep: Keep) -> None:
        """Send all; `keep` gets each reply as it comes, in this thread.

        Threads of our own, not a pool: the interpreter waits for a pool's threads when it ends, so that an interrupt would
        not end anything.

        Raises:
            JudgeError: the service refuses everything.
        """
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, Reply]] = queue.SimpleQueue()
        for number in range(len(messages)):
            todo.put(number)

        def work() -> None:
            while not todo.empty():
                try:
                    number = todo.get_nowait()
                except queue.Empty:
                    return
                done.put((number, self._reply(messages[number])))

        self._workers = [threading.Thread(target=work, daemon=True) for _ in range(min(self.concurrency, len(messages)))]
        try:
            for worker in self._workers:
                worker.start()
            for _ in tqdm(messages, desc="judge", disable=not self.progress):
                keep(*_next(done))
        except BaseException:
            self._stop.set()
            end = monotonic() + _GRACE
            while not self.idle and monotonic() < end:
                sleep(0.02)
            while not done.empty():  # what came in the meantime is paid for
                keep(*done.get())
            raise
        for worker in self._workers:
            worker.join()
        if self._refused:
            raise JudgeError(self._reason)

    def _reply(self, message: str) -> Reply:
        """A reply to one message, after as many attempts as it takes or is allowed."""
        for attempt in range(self.retries + 1):
            if self._wait_for_turn():
                return Reply(None, f"not asked: {self._reason}")
            self.usage.add(requests=1, retries=1 if attempt else 0)
            try:
                result = self.send(message)
            except Exception as error:  # nothing that goes wrong in a thread may be lost, or the caller waits for ever
                result = Failure(type(error).__name__, f"{type(error).__name__}: {error}")
            if isinstance(result, Reply):
                self._note_success()
                return result
            self.usage.add(result.kind)
            wait = max(self.backoff * 2**attempt * random.uniform(0.5, 1), result.wait or 0.0)
            last = attempt == self.retries or not result.repeat or wait > LONGEST_WAIT
            self._note_failure(result, final=last)
            if last:
                tried = f" (tried {attempt + 1} times)" if attempt else ""
                asked = f"; the service asks to wait {wait:.0f} s" if result.repeat and wait > LONGEST_WAIT else ""
                return Reply(None, shortened(result.text) + asked + tried)
            if result.wait is not None:
                self._hold(result.wait)
            self._stop.wait(wait)
        raise AssertionError("unreachable")

    def _wait_for_turn(self) -> bool:
        """Wait while the service has asked all to wait; True if nothing more is to be sent."""
        while not self._stop.is_set() and (left := self._resume_at - monotonic()) > 0:
            self._stop.wait(left)
        return self._stop.is_set()

    def _hold(self, seconds: float) -> None:
        with self._lock:
            self._resume_at = max(self._resume_at, monotonic() + seconds)

    def _note_success(self) -> None:
        with self._lock:
            self._in_a_row, self._succeeded = 0, True

    def _note_failure(self, failure: Failure, final: bool) -> None:
        """Stop everything after too many equal failures without a success between them."""
        if not final:
            return
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if failure.kind == self._last else 1
            self._last = failure.kind
            account = failure.kind in _ACCOUNT
            about_the_text = not failure.repeat and not account
            if about_the_text and self._succeeded:  # a filter that refuses texts of one concept, for example
                return
            if self._in_a_row >= (ACCOUNT_REFUSALS if account else OTHER_FAILURES) and not self._stop.is_set():
                self._reason = f"{self._in_a_row} requests in a row failed: {shortened(failure.text)}"
                self._refused = not failure.repeat
                self._stop.set()


def seconds_to_wait(retry_after: str | None) -> float | None:
    """What a Retry-After header says, a number of seconds or a date; None if it says nothing readable."""
    if retry_after is None:
        return None
    try:
        wait = float(retry_after)
    except ValueError:
        try:
            wait = parsedate_to_datetime(retry_after).timestamp() - time()
        except ValueError:
            return None
    return max(wait, 0.0) if wait == wait else None


def _next(done: "queue.SimpleQueue[tuple[int, Reply]]") -> tuple[int, Reply]:
    """The next reply. Waits in turns: on Windows an interrupt does not end a wait."""
    while True:
        try:
            return done.get(timeout=0.5)
        except queue.Empty:
            continue
