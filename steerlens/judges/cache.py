"""Replies of a judge, kept on disk: a file of JSON lines that only ever grows."""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from ..reproducibility import sha256
from .rubrics import parse_rating

SCHEMA = 1
_MARK = b'{"steerlens_judge": '
_APPENDING = threading.Lock()
_TEXT, _COUNT = (str, type(None)), (int, type(None))
_SETTING = {"endpoint": (str,), "model": (str,), "extra": (str,), "rubric": (str,), "max_tokens": _COUNT}
_SETTING |= {"temperature": (float, type(None))}
_REPLY = {"text": (str,), "error": _TEXT, "prompt_tokens": _COUNT, "completion_tokens": _COUNT, "served": _TEXT}


@dataclass(frozen=True)
class Settings:
    """Who replies and how: replies under other settings are other replies."""

    endpoint: str
    """The service's address, or "in process"."""
    model: str
    temperature: int | float | None
    """None = left to the service."""
    max_tokens: int | None
    """Limit of a reply; None = left to the service."""
    extra: str = "{}"
    """Whatever else is sent or matters, as JSON; values under keys that look secret are `***`."""
    rubric: str = ""
    """Digest of the questions (`Rubric.digest`). A cache is not told: replies are kept by the whole message, questions
    included."""

    def __post_init__(self) -> None:
        if self.temperature is not None:
            if not self.temperature >= 0:
                raise ValueError(f"temperature is {self.temperature}; it must be at least 0")
            object.__setattr__(self, "temperature", float(self.temperature))  # 0 and 0.0 are one setting
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 1")


class Request(NamedTuple):
    """One rating asked for."""

    rating: str
    """"concept", "instruct" or "fluency"."""
    text: str
    """The whole message, rubric included."""
    again: bool = False
    """Asked a second time, after a reply that could not be read."""


class Reply(NamedTuple):
    """What came back."""

    text: str | None
    """What the judge wrote; None if nothing came."""
    error: str | None = None
    """Why it is of no use."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    served: str | None = None
    """The model's name in the reply, where the service gives it."""


def usable(reply: Reply) -> bool:
    """Whether there is a rating in it."""
    return reply.error is None and reply.text is not None and parse_rating(reply.text) is not None


class JudgeCache:
    """Replies by settings and question. Only usable replies are put in; a failure is asked for again.

    Each reply is appended as one line in one write, so that a run can be killed at any moment and several processes can
    share a file: at worst a line is damaged, is skipped when read, and its question is asked again.

    Args:
        path: the file; it need not exist.

    Raises:
        ValueError: the file is something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.damaged = 0
        """Lines that could not be read."""
        self._replies: dict[str, Reply] = {}
        self._settings: dict[Settings, None] = {}
        for key, settings, reply in self._read():
            self._add(key, settings, reply)

    def __len__(self) -> int:
        return len(self._replies)

    @property
    def settings(self) -> list[Settings]:
        """Under which settings replies are recorded, in the order of their first."""
        return list(self._settings)

    def get(self, settings: Settings, request: Request) -> Reply | None:
        """The recorded reply; of several the first that has a rating."""
        return self._replies.get(_key(settings, request))

    def put(self, settings: Settings, request: Request, reply: Reply) -> None:
        """Record a reply, at once.

        Raises:
            OSError: it could not be written.
        """
        key, settings = _key(settings, request), replace(settings, rubric="")
        record = {
            "steerlens_judge": SCHEMA,
            "key": key,
            "settings": _kept(settings),
            "rating": request.rating,
            "again": request.again,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        line = json.dumps(record | reply._asdict()).encode() + b"\n"
        with _APPENDING:
            if key in self._replies and usable(self._replies[key]):
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+", buffering=0) as file:
                if file.tell() and file.seek(-1, 2) and file.read(1) != b"\n":
                    line = b"\n" + line  # the last line was never finished
                if file.write(line) != len(line):
                    raise OSError(f"{self.path}: a reply could only be written in part")
            self._add(key, settings, reply)

    def _add(self, key: str, settings: Settings, reply: Reply) -> None:
        known = self._replies.get(key)
        if known is None or (usable(reply) and not usable(known)):  # an older version may have read replies otherwise
            self._replies[key] = reply
            self._settings.setdefault(settings)

    def _read(self) -> Iterator[tuple[str, Settings, Reply]]:
        if self.path.is_dir():
            raise ValueError(f"{self.path} is a folder; the cache of a judge is one file")
        if not self.path.exists():
            return
        if not self.path.is_file():  # a device may never end
            raise ValueError(f"{self.path} is not a file; give another path")
        lines = [line for line in self.path.read_bytes().split(b"\n") if line.strip()]
        unfinished = len(lines) == 1 and _MARK.startswith(lines[0])  # a first write that was killed
        if lines and not unfinished and not any(line.startswith(_MARK) for line in lines):
            raise ValueError(f"{self.path} is not a cache of a judge's replies; give another path")
        for line in lines:
            try:
                yield _record(json.loads(line))
            except (ValueError, KeyError, TypeError, RecursionError):
                self.damaged += 1


def writable_cache(path: str | Path) -> JudgeCache:
    """A cache to be written to: refused here, before anything is asked, if it never could be.

    Raises:
        ValueError: as `JudgeCache`, or the file cannot be written or made.
    """
    path = Path(path)
    nearest = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if nearest != path and not nearest.is_dir():
        raise ValueError(f"the cache of a judge cannot be kept at {path}: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | (0 if nearest == path else os.X_OK)):
        raise ValueError(f"the cache of a judge cannot be kept at {path}: {nearest} cannot be written")
    return JudgeCache(path)


def _kept(settings: Settings) -> dict[str, Any]:
    """What of the settings replies are kept by."""
    return {name: value for name, value in asdict(settings).items() if name != "rubric"}


def _key(settings: Settings, request: Request) -> str:
    return sha256(json.dumps([SCHEMA, _kept(settings), *request]))


def _record(line: Any) -> tuple[str, Settings, Reply]:
    """One line, as JSON values, read.

    Raises:
        KeyError, TypeError, ValueError: it is not a usable one.
    """
    if line["steerlens_judge"] != SCHEMA or not isinstance(line["text"], str) or not isinstance(line["key"], str):
        raise ValueError("not a reply of this version")
    settings, reply = Settings(**line["settings"]), Reply(*(line[name] for name in Reply._fields))
    if wrong := [*_wrong(asdict(settings), _SETTING), *_wrong(reply._asdict(), _REPLY)]:
        raise TypeError(f"of another type than it is written with: {', '.join(wrong)}")
    json.loads(settings.extra)
    return line["key"], settings, reply


def _wrong(values: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]]) -> list[str]:
    return [name for name, value in values.items() if type(value) not in kinds[name]]
