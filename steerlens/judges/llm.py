"""Language models as judges: behind an OpenAI-compatible address, or as recorded from there."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..reproducibility import file_digest
from ..scores import Scores
from .base import Question, Verdict
from .bounded_http import UnusableReplyError, bounded
from .cache import JudgeCache, Reply, Settings, writable_cache
from .client import Failure, Sender, seconds_to_wait
from .llm_base import Asking, Keep, Usage
from .redaction import address_secrets, checked_key, masked, secrets, without
from .rubrics import RUBRIC, Rubric

_RETRIED = frozenset({408, 409, 425, 429})
"""Statuses below 500 that may go away by themselves."""
_UNMET = ("insufficient_quota", "billing_hard_limit_reached")
"""Codes of a 429 that does not go away."""
LONGEST_REPLY = 200_000
"""Characters of a reply that is used and kept."""


class LLMJudge:
    """A judge behind any OpenAI-compatible address, as AxBench asks one: three questions, each answered 0, 1 or 2.

    Needs `pip install "steerlens[judges]"`. A question whose reply has no rating is put once more; what is then missing is
    None, with the reason in its `Verdict`. Repeats requests after 408, 409, 425, 429, 5xx, timeouts, broken connections and
    malformed replies, and waits as long as the service asks. No failure is ever a score, and none is cached. Redirects are not
    followed, and no more than 16 MiB of a reply are read.

    Args:
        model: its name at the service.
        base_url: the service's address; None = OPENAI_BASE_URL, else OpenAI's.
        api_key: None = OPENAI_API_KEY, which a service at another `base_url` then gets to see; a local server needs none.
            Blanks around it are left out.
        client: an `openai.OpenAI` (or Azure) client of your own instead of address and key; it is not closed.
        rubric: the questions.
        temperature, max_tokens: of each reply; None = not sent, for models that refuse them. A reply that reaches the limit
            is not used.
        extra: further fields of each request's body, such as `{"reasoning_effort": "low"}`. Values under keys that look secret
            (key, token, secret, auth, bearer, cookie, password, pwd, session) and texts that look so ("Bearer ...") are sent,
            but shown and cached as `***`, and are taken not to matter to the replies.
        concurrency: requests at a time, for each call of `score_many`.
        timeout: seconds from the start of a request to the end of its reply, after which it is broken off.
        retries: how often a request is repeated.
        backoff: seconds before the first repetition; doubled each time, and shortened by up to half at random.
        cache: a file in which usable replies are kept; what is there is never asked for again. None = no file.
        price: of a million prompt tokens and a million completion tokens, for `usage.cost`.
        progress: show a progress bar.

    Raises:
        ImportError: without the package `openai`.
        ValueError: settings that cannot be used, no key, one that is none, or a cache that cannot be kept at its path.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        client: Any = None,
        rubric: Rubric = RUBRIC,
        temperature: int | float | None = 0.01,
        max_tokens: int | None = 512,
        extra: Mapping[str, Any] | None = None,
        concurrency: int = 8,
        timeout: int | float = 60.0,
        retries: int = 5,
        backoff: int | float = 1.0,
        cache: str | Path | None = None,
        price: tuple[int | float, int | float] | None = None,
        progress: bool = False,
    ) -> None:
        if concurrency < 1 or retries < 0 or not backoff >= 0 or not timeout > 0:
            raise ValueError(
                f"concurrency {concurrency} must be at least 1, retries {retries} and backoff {backoff} at least 0, and "
                f"timeout {timeout} above 0"
            )
        _openai()
        address = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        address = address if client is None else str(getattr(client, "base_url", "a client's own"))
        self._base_url, self._api_key, self._client = address, _key(address, base_url, api_key, client), client
        self._extra, self._timeout = dict(extra or {}), timeout
        self._concurrency, self._retries, self._backoff, self._progress = concurrency, retries, backoff, progress
        shown = json.dumps(_masked_texts(self._known_secrets(), masked(self._extra)), sort_keys=True)
        settings = Settings(_endpoint(address), model, temperature, max_tokens, shown, rubric.digest)
        kept = None if cache is None else writable_cache(cache)
        self._asking = Asking(rubric, settings, kept, Usage(price=price))

    def __repr__(self) -> str:
        return f"LLMJudge({self.settings.model!r}, base_url={self.settings.endpoint!r})"

    @property
    def settings(self) -> Settings:
        """Who replies and how: what replies are cached under, and the rubric's digest. Without secrets."""
        return self._asking.settings

    @property
    def identity(self) -> str:
        """What decides its ratings, without secrets: class, endpoint, model, temperature, max_tokens, extra and rubric."""
        return self._asking.identity(self)

    @property
    def usage(self) -> Usage:
        """Requests, failures, tokens and cost so far."""
        return self._asking.usage

    def score(self, concept: str, prompt: str, response: str) -> Scores:
        """The scores of one response; why one is missing is told by `score_many`.

        Raises:
            JudgeError: as `score_many`.
        """
        return self.score_many([Question(concept, prompt, response)])[0].scores

    def score_many(self, items: Sequence[Question]) -> list[Verdict]:
        """A verdict per question, in order; three requests for each that is not cached.

        An interrupt (Ctrl-C) breaks off what runs, keeps what is done in the cache, and is raised. If the service is out of
        reach for long, the rest is not sent and is unscored with that reason.

        Raises:
            JudgeError: the service refuses key, account or model, or the form of all requests. The rest is not sent; the
                error has the verdicts so far.
        """
        return self._asking.judge(items, self._answer)

    def _answer(self, messages: Sequence[str], keep: Keep) -> None:
        client, close = self._client, False
        if client is None:
            client, close = _openai().OpenAI(api_key=self._api_key, base_url=self._base_url), True
        once = bounded(client, self._timeout) if isinstance(client, _openai().OpenAI) else client
        sender = Sender(
            lambda message: self._send(once, message),
            self.usage,
            self._concurrency,
            self._retries,
            self._backoff,
            self._progress,
        )
        try:
            sender.send_all(messages, keep)
        finally:
            if close and sender.idle:  # else the last request to end closes it
                client.close()

    def _send(self, client: Any, message: str) -> Reply | Failure:
        """One attempt."""
        settings = self.settings
        sampling = {"temperature": settings.temperature, "max_tokens": settings.max_tokens}
        try:
            result = _read(
                client.chat.completions.create(
                    model=settings.model,
                    messages=[{"role": "user", "content": message}],
                    timeout=self._timeout,
                    extra_body=self._extra or None,
                    **{name: value for name, value in sampling.items() if value is not None},
                )
            )
        except Exception as error:
            result = _failure(error)
        return self._without_secrets(result)

    def _without_secrets(self, result: Reply | Failure) -> Reply | Failure:
        """A service may repeat what it was sent, in its errors and in its replies."""
        known = self._known_secrets()
        texts = {name: value for name, value in result._asdict().items() if isinstance(value, str)}
        return result._replace(**{name: without(known, text) for name, text in texts.items()})

    def _known_secrets(self) -> list[str]:
        key = getattr(self._client, "api_key", self._api_key)  # a client may change its own
        headers = getattr(self._client, "_custom_headers", None)
        known = [*secrets(self._extra), *address_secrets(self._base_url)]
        known += secrets(dict(headers)) if isinstance(headers, Mapping) else []
        return [key, *known] if isinstance(key, str) else known


class ReplayJudge:
    """A judge whose replies were recorded in the cache of another: for tables that can be made again without a service.

    What is not recorded is unscored with the reason "not recorded".

    Args:
        cache: the file.
        model: whose replies; needed if those of several are recorded.
        rubric: the one that was used.
        settings: which of them, if one model's replies are recorded under several settings.

    Raises:
        ValueError: no such file or no such replies, or several that fit.
    """

    def __init__(
        self, cache: str | Path, *, model: str | None = None, rubric: Rubric = RUBRIC, settings: Settings | None = None
    ) -> None:
        if not Path(cache).is_file():
            raise ValueError(f"there is no recorded judge at {cache}")
        recorded = JudgeCache(cache)
        wanted = None if settings is None else replace(settings, rubric="")  # the file does not tell it
        found = [known for known in recorded.settings if model in (None, known.model) and wanted in (None, known)]
        if len(found) != 1:
            there = "\n".join(map(str, recorded.settings)) or "nothing"
            problem = "no replies that fit" if not found else "replies under several settings: give model or settings"
            raise ValueError(f"{cache} has {problem}. Recorded are:\n{there}")
        self._digest = file_digest(cache)
        self._asking = Asking(rubric, replace(found[0], rubric=rubric.digest), recorded, Usage())

    @property
    def settings(self) -> Settings:
        """Under what the replies were recorded, and the rubric's digest."""
        return self._asking.settings

    @property
    def identity(self) -> str:
        """What decides its ratings: class, a digest of the file as it was read, settings and rubric."""
        return self._asking.identity(self, self._digest)

    @property
    def usage(self) -> Usage:
        """How many replies were found (`cached`)."""
        return self._asking.usage

    def score(self, concept: str, prompt: str, response: str) -> Scores:
        """The scores of one response, None where nothing is recorded."""
        return self.score_many([Question(concept, prompt, response)])[0].scores

    def score_many(self, items: Sequence[Question]) -> list[Verdict]:
        """A verdict per question, in order."""
        return self._asking.judge(items, _not_recorded)


def _not_recorded(messages: Sequence[str], keep: Keep) -> None:
    for number in range(len(messages)):
        keep(number, Reply(None, "not recorded"))


# --- a service's errors and replies, as they may come -----------------------------------------------------------------


def _openai() -> Any:
    """The package, imported on use."""
    try:
        import openai
    except ImportError as error:
        raise ImportError('LLMJudge needs the package openai: pip install "steerlens[judges]"') from error
    return openai


def _masked_texts(known: Sequence[str], value: Any) -> Any:
    """JSON values with the secrets masked in their texts."""
    if isinstance(value, Mapping):
        return {key: _masked_texts(known, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked_texts(known, item) for item in value]
    return without(known, value) if isinstance(value, str) else value


def _failure(error: Exception) -> Failure:
    """What an exception of the client means."""
    openai: Any = _openai()
    if isinstance(error, UnusableReplyError):
        return Failure(error.kind, str(error))
    if isinstance(error, (openai.APITimeoutError, TimeoutError)):
        return Failure("timeout", "the request timed out", repeat=True)
    if isinstance(error, openai.APIConnectionError):
        return Failure("connection", f"{error} ({error.__cause__})", repeat=True)
    if isinstance(error, openai.APIStatusError):
        refused: Any = error
        status = refused.status_code
        if status == 429 and refused.code in _UNMET:
            return Failure("no quota", str(error))
        wait = seconds_to_wait(refused.response.headers.get("retry-after"))
        return Failure(str(status), str(error), status in _RETRIED or status >= 500, wait)
    malformed = isinstance(error, (json.JSONDecodeError, UnicodeDecodeError, openai.APIResponseValidationError))
    return Failure("malformed" if malformed else type(error).__name__, f"{type(error).__name__}: {error}", repeat=malformed)


def _read(completion: Any) -> Reply | Failure:
    """The reply in what the service sent, which may be anything."""
    choices: Any = getattr(completion, "choices", None)
    first = choices[0] if isinstance(choices, Sequence) and len(choices) else None
    message = getattr(first, "message", None)
    text = getattr(message, "content", None)
    if message is None or not (text is None or isinstance(text, str)):
        sent = getattr(completion, "error", None) or completion
        return Failure("malformed", f"the service's reply has no message: {sent!r}", repeat=True)
    counted = getattr(completion, "usage", None)
    tokens = (getattr(counted, name, None) for name in ("prompt_tokens", "completion_tokens"))
    prompt_tokens, completion_tokens = (number if isinstance(number, int) else None for number in tokens)
    served = getattr(completion, "model", None)
    finish = getattr(first, "finish_reason", None)
    cut = {"length": "the reply was cut off at max_tokens", "content_filter": "the service's filter cut the reply off"}
    error = cut.get(finish) if isinstance(finish, str) else None
    if text is not None and len(text) > LONGEST_REPLY:
        text, error = text[:LONGEST_REPLY], f"the reply has {len(text)} characters; {LONGEST_REPLY} are the most that is used"
    return Reply(text or "", error, prompt_tokens, completion_tokens, served if isinstance(served, str) else None)


def _key(address: str, base_url: str | None, api_key: str | None, client: Any) -> str | None:
    """The key to use; a server that checks none still needs something in its place."""
    if client is not None:
        if base_url is not None or api_key is not None:
            raise ValueError("give either a client of your own or base_url and api_key")
        return None
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"base_url is {address!r}; it must begin with http:// or https://")
    key = checked_key(api_key or os.environ.get("OPENAI_API_KEY") or "")
    if not key and urlsplit(address).hostname == "api.openai.com":
        raise ValueError("there is no API key: set OPENAI_API_KEY or give api_key (or base_url for a server of your own)")
    return key or "none"


def _endpoint(address: str) -> str:
    """The address without what may be secret in it, and without a slash at its end."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}".rstrip("/") if host else address
