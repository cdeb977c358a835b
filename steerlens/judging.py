"""Ratings of a response, and who gives them. Definitions: AxBench (Wu et al. 2025), Bao et al. 2026 Sec. 5."""

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any, NamedTuple, Protocol, runtime_checkable

HIGHEST = 2.0
RATINGS = ("concept", "instruct", "fluency")


@dataclass(frozen=True)
class Scores:
    """Three ratings of one response, each from 0 to 2, or None where the judge gave no usable answer (unscored)."""

    concept: int | float | None
    """Is the concept there: 0 absent, 1 weakly, 2 clearly."""
    instruct: int | float | None
    """Does the response answer the instruction: 0 unrelated, 1 partly, 2 yes."""
    fluency: int | float | None
    """0 broken, 1 stumbling, 2 fluent."""

    def __post_init__(self) -> None:
        for name in RATINGS:
            value = getattr(self, name)
            if isinstance(value, bool) or (value is not None and not 0 <= value <= HIGHEST):
                raise ValueError(f"the {name} rating is {value!r}; ratings go from 0 to 2, or None for unscored")

    @property
    def overall(self) -> float | None:
        """Harmonic mean of the three; 0 if any is 0; None if any is None."""
        ratings = [self.concept, self.instruct, self.fluency]
        known = [rating for rating in ratings if rating is not None]
        if len(known) < len(ratings):
            return None
        return 0.0 if min(known) == 0 else len(known) / sum(1 / rating for rating in known)


UNSCORED = Scores(None, None, None)


@runtime_checkable
class Judge(Protocol):
    """Anything that rates a response. A judge that cannot rate returns None ratings or raises; both are unscored."""

    def score(self, concept: str, prompt: str, response: str) -> Scores: ...


class Question(NamedTuple):
    """What a judge is asked about."""

    concept: str
    prompt: str
    response: str


class Verdict(NamedTuple):
    """What a judge says to one question."""

    scores: Scores
    error: str | None = None
    """Why a rating is missing."""
    replies: Mapping[str, str] | None = None
    """Rating -> what the judge wrote, unread."""


@runtime_checkable
class BatchJudge(Judge, Protocol):
    """A judge that takes many questions at once: one verdict per question, in their order."""

    def score_many(self, items: Sequence[Question]) -> Sequence[Verdict]: ...


@runtime_checkable
class Identified(Protocol):
    """A judge that says what decides its ratings, without secrets: equal texts, equal ratings (or draws from the same)."""

    @property
    def identity(self) -> str: ...


class JudgeError(ValueError):
    """The judge refuses whatever it is asked (a wrong key, an unknown model), so asking stopped.

    `verdicts`: one per question, in order: those given before, and the rest unscored with the reason.
    """

    def __init__(self, message: str, verdicts: Sequence[Verdict] = ()) -> None:
        super().__init__(message)
        self.verdicts = tuple(verdicts)


class ScriptedJudge:
    """A judge for tests and tutorials: replies from a list (in order) or from a function.

    Args:
        script: `Scores`, exceptions to raise, or a function `(concept, prompt, response) -> Scores`.

    `calls` keeps the arguments of every call. Asking beyond the end of a list raises IndexError.
    """

    def __init__(self, script: Callable[[str, str, str], Scores] | Iterable[Scores | Exception]) -> None:
        self._replies = script if callable(script) else list(script)
        self.calls: list[tuple[str, str, str]] = []

    @property
    def identity(self) -> str:
        """Class and digest of the script: of the list, or of the function's code and plain values, not of what it calls."""
        told = function_text(self._replies, plain_text) if callable(self._replies) else repr(self._replies)
        return f"{_name(type(self))} {digest(told)}"

    def score(self, concept: str, prompt: str, response: str) -> Scores:
        """The next reply of the script."""
        self.calls.append((concept, prompt, response))
        if callable(self._replies):
            return self._replies(concept, prompt, response)
        if len(self.calls) > len(self._replies):
            raise IndexError(f"the script has {len(self._replies)} replies, this is call {len(self.calls)}")
        reply = self._replies[len(self.calls) - 1]
        if isinstance(reply, Exception):
            raise reply
        return reply


def check_judge(judge: Any) -> None:
    """Raise TypeError for what cannot score a response."""
    if isinstance(judge, type):
        raise TypeError(f"the judge is the class {judge.__name__}: give an object of it, such as {judge.__name__}(...)")
    if not isinstance(judge, Judge) or not callable(judge.score):
        kind = type(judge).__name__
        raise TypeError(f"the judge is of type {kind} and has no method score(concept, prompt, response) -> Scores")


def judge_identity(judge: Judge) -> str:
    """What tells a judge from others: its `identity`, or else its class and a digest of the file that defines it.

    Two differently set judges of one class look alike unless they have an `identity`. Without source (in a notebook, say) only
    the name of the class is told.
    """
    if isinstance(judge, Identified) and isinstance(judge.identity, str):
        return judge.identity
    kind = type(judge)
    try:
        module = inspect.getmodule(kind)
        source = None if module is None else inspect.getsource(module)
    except (OSError, TypeError):
        source = None
    return _name(kind) if source is None else f"{_name(kind)} {digest(source)}"


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def function_text(function: Callable[..., Any], text: Callable[[Any], str]) -> str:
    """A function's code with the texts of its defaults and of what it holds, the same in every process."""
    inner = inspect.unwrap(function)
    code = getattr(inner, "__code__", None)
    if code is None:
        return _name(type(inner))
    held = [cell.cell_contents for cell in getattr(inner, "__closure__", None) or ()]
    given = [getattr(inner, "__defaults__", None), getattr(inner, "__kwdefaults__", None), *held]
    return repr((_code(code), [text(value) for value in given]))


def _code(code: CodeType) -> str:
    return repr((code.co_code, code.co_names, [plain_text(constant) for constant in code.co_consts]))


def plain_text(value: Any) -> str:
    """A value without the address that the repr of many has, and sets in order."""
    if isinstance(value, CodeType):
        return _code(value)
    if isinstance(value, (set, frozenset)):
        return repr(sorted(map(plain_text, value)))
    if isinstance(value, (list, tuple)):
        return repr([plain_text(one) for one in value])
    if isinstance(value, dict):
        return repr([(plain_text(key), plain_text(one)) for key, one in value.items()])
    return repr(value) if value is None or isinstance(value, (str, bytes, int, float, complex, Scores)) else _name(type(value))
