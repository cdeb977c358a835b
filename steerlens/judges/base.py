"""Ratings of a response, and who gives them. Definitions: AxBench (Wu et al. 2025), Bao et al. 2026 Sec. 5."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..arguments import check_ordered
from ..reproducibility import class_name, digest, function_text, plain_text
from ..scores import Scores


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

    Raises:
        TypeError: the script is neither a function nor a list of replies.
    """

    def __init__(self, script: Callable[[str, str, str], Scores] | Iterable[Scores | Exception]) -> None:
        if isinstance(script, (str, bytes, Mapping, Scores, type)) or not (callable(script) or isinstance(script, Iterable)):
            raise TypeError(f"the script is {script!r:.60}; it must be a function or a list of Scores")
        check_ordered(script, "the replies")
        self._replies = script if callable(script) else list(script)
        self.calls: list[tuple[str, str, str]] = []

    @property
    def identity(self) -> str:
        """Class and digest of the script: of the list, or of the function's code and plain values, not of what it calls."""
        script = function_text(self._replies, plain_text) if callable(self._replies) else repr(self._replies)
        return f"{class_name(type(self))} {digest(script)}"

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
    the name of the class is given.
    """
    if isinstance(judge, Identified) and isinstance(judge.identity, str):
        return judge.identity
    kind = type(judge)
    try:
        module = inspect.getmodule(kind)
        source = None if module is None else inspect.getsource(module)
    except (OSError, TypeError):
        source = None
    return class_name(kind) if source is None else f"{class_name(kind)} {digest(source)}"
