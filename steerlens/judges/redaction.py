"""Keeping keys out of what is shown and written."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

MASK = "***"
SHORTEST = 8
"""Characters of a secret that is masked in texts; a shorter one, such as "none", may be a word of them."""
_SECRET = re.compile(r"(?i:secret|authorization|passw|credential)|(?i:keys?|token)(?![a-z])")
_COUNTED = re.compile(r"(?i:token)")
"""Numbers under keys such as max_token are settings."""


def masked(value: Any, path: str = "") -> Any:
    """The same with texts and numbers under keys that look secret masked; switches, None and numbers of tokens stay."""
    if isinstance(value, Mapping):
        return {key: masked(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(item, path) for item in value]
    if value is None or isinstance(value, bool) or not _SECRET.search(path):
        return value
    number = isinstance(value, (int, float))
    return value if number and not _SECRET.search(_COUNTED.sub("", path)) else MASK


def secrets(value: Any, path: str = "") -> Iterator[str]:
    """The texts that `masked` masks."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from secrets(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from secrets(item, path)
    elif isinstance(value, str) and _SECRET.search(path):
        yield from (value, value.removeprefix("Bearer "))


def address_secrets(address: str) -> Iterator[str]:
    """Password and secret-looking parameters of an address."""
    parts = urlsplit(address)
    if parts.password:
        yield from (parts.password, unquote(parts.password))
    yield from (value for name, value in parse_qsl(parts.query) if _SECRET.search(name))


def without(known: Iterable[str], text: str) -> str:
    """The text with the secrets masked that are long enough to be no word of it."""
    for secret in sorted({secret for secret in known if len(secret) >= SHORTEST}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text
