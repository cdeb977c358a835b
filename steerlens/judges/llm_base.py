"""Questions to a judge that writes text: three ratings each, what is cached, a second try, and what it all cost."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from ..reproducibility import class_name
from ..scores import RATINGS, Scores
from .base import JudgeError, Question, Verdict
from .cache import JudgeCache, Reply, Request, Settings, usable
from .rubrics import REMINDER, Rubric, parse_rating

Keep = Callable[[int, Reply], None]
"""Takes the reply to the message of that number, as soon as it is there."""
Answer = Callable[[Sequence[str], Keep], None]
"""Gets replies to messages. May raise JudgeError once it sees that nothing will ever come."""
_COUNTING = threading.Lock()
_SHOWN = 160
"""Characters of a reply or an error in a reason."""


@dataclass
class Usage:
    """What a judge has done so far."""

    requests: int = 0
    """Requests sent, those that failed and those sent again included."""
    cached: int = 0
    """Replies taken from the cache, without a request; equal questions asked together count once."""
    retries: int = 0
    """Requests that repeated one that had failed."""
    asked_again: int = 0
    """Questions put a second time because the reply could not be read."""
    failures: Counter[str] = field(default_factory=Counter)
    """What went wrong -> how often: "429", "500", "timeout", "connection", "malformed", "unreadable", "not cached", ...

    "not cached": a reply that counts, but could not be written to the cache (a full disk), so that a later run asks again.
    """
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unmetered: int = 0
    """Replies that came without a count of tokens."""
    price: tuple[int | float, int | float] | None = None
    """Price of a million prompt tokens and of a million completion tokens."""

    @property
    def cost(self) -> float | None:
        """Cost of the replies received, in the currency of `price`; None without a price or if tokens were not counted."""
        if self.price is None or self.unmetered:
            return None
        return (self.prompt_tokens * self.price[0] + self.completion_tokens * self.price[1]) / 1e6

    def add(self, failure: str | None = None, **counts: int) -> None:
        """Count, safely from several threads."""
        with _COUNTING:
            for name, number in counts.items():
                setattr(self, name, getattr(self, name) + number)
            if failure is not None:
                self.failures[failure] += 1

    def summary(self) -> str:
        """It in a sentence."""
        failed = ", ".join(f"{number} x {kind}" for kind, number in self.failures.most_common())
        cost = "" if self.cost is None else f"; cost {self.cost:.4g}"
        return (
            f"{self.requests} requests ({self.retries} repeated), {self.cached} replies from the cache, {self.asked_again} "
            f"questions asked again; failures: {failed or 'none'}; {self.prompt_tokens} + {self.completion_tokens} tokens{cost}"
        )


@dataclass(frozen=True)
class Asking:
    """What all three judges that write text share: rubric, settings, cache and count."""

    rubric: Rubric
    settings: Settings
    cache: JudgeCache | None
    usage: Usage

    def identity(self, judge: object, recorded: str | None = None) -> str:
        """What decides the ratings of the judge that asks so: class, settings, rubric, and the digest of what is recorded."""
        deciding = asdict(self.settings) | {"extra": json.loads(self.settings.extra)}
        deciding |= {} if recorded is None else {"recorded": recorded}
        return f"{class_name(type(judge))} {json.dumps(deciding, sort_keys=True)}"

    def judge(self, items: Sequence[Question], answer: Answer) -> list[Verdict]:
        """A verdict per question, in order. Equal messages are sent once.

        Raises:
            JudgeError: `answer` gave up; it carries the verdicts so far.
        """
        wanted = [[Request(name, self.rubric.fill(name, item)) for name in RATINGS] for item in items]
        known: dict[Request, Reply] = {}
        refused: JudgeError | None = None
        try:
            self._ask(list(dict.fromkeys(request for row in wanted for request in row)), known, answer)
            again = [_second(request) for request, reply in known.items() if reply.text is not None and not usable(reply)]
            self.usage.add(asked_again=len(again))
            self._ask(again, known, answer)
        except JudgeError as error:
            refused = error
        missing = Reply(None, f"not asked: {refused}")
        verdicts = [_verdict([_final(request, known, missing) for request in row]) for row in wanted]
        if refused is not None:
            raise JudgeError(str(refused), verdicts) from refused
        return verdicts

    def _ask(self, requests: Sequence[Request], known: dict[Request, Reply], answer: Answer) -> None:
        """Fill `known` from the cache and then from the judge; what is usable is cached as it comes."""
        left = [request for request in requests if not self._recall(request, known)]

        def keep(number: int, reply: Reply) -> None:
            known[left[number]] = reply
            if usable(reply) and self.cache is not None:
                try:
                    self.cache.put(self.settings, left[number], reply)
                except OSError:  # the reply is there and counts, whether or not it could be kept
                    self.usage.add("not cached")
            if reply.text is not None:
                self._count(reply)

        if left:
            answer([request.text for request in left], keep)

    def _recall(self, request: Request, known: dict[Request, Reply]) -> bool:
        """Take a reply, or that to the second try, from the cache."""
        for attempt in (request, _second(request)):
            reply = None if self.cache is None else self.cache.get(self.settings, attempt)
            if reply is not None and usable(reply):  # an older version may have read replies otherwise
                known[request] = reply
                self.usage.add(cached=1)
                return True
        return False

    def _count(self, reply: Reply) -> None:
        metered = reply.prompt_tokens is not None and reply.completion_tokens is not None
        tokens = {"prompt_tokens": reply.prompt_tokens or 0, "completion_tokens": reply.completion_tokens or 0}
        self.usage.add(None if usable(reply) else "unreadable", unmetered=0 if metered else 1, **tokens)


def shortened(text: str) -> str:
    """On one line, and not too long for a reason."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "..."


def _second(request: Request) -> Request:
    return request if request.again else Request(request.rating, request.text + REMINDER, again=True)


def _final(request: Request, known: dict[Request, Reply], missing: Reply) -> Reply:
    """The reply that counts: the second, if anything came."""
    first, second = known.get(request, missing), known.get(_second(request))
    if second is None:
        return first
    return first._replace(error=f"{_reason(first)}; asked again: {_reason(second)}") if second.text is None else second


def _reason(reply: Reply) -> str:
    if reply.error is not None:
        return reply.error
    return f"no usable rating in the reply {shortened(reply.text or '')!r}"


def _verdict(replies: Sequence[Reply]) -> Verdict:
    named = dict(zip(RATINGS, replies, strict=True))
    ratings = {name: parse_rating(reply.text or "") if usable(reply) else None for name, reply in named.items()}
    reasons = [f"{name}: {_reason(named[name])}" for name in RATINGS if ratings[name] is None]
    texts = {name: reply.text for name, reply in named.items() if reply.text is not None}
    return Verdict(Scores(**ratings), "; ".join(reasons) or None, texts or None)
