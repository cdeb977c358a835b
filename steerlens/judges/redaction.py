"""Keeping keys out of what is shown and written."""

import base64
import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

MASK = "***"
SHORTEST = 8
"""Characters of a secret that is masked in texts; a shorter one, such as "none", may be a word of them."""
_SECRET = re.compile(
    r"(?i:secret|auth(?!or)|authoriz|passw|passphrase|passcode|pwd|credential|bearer|cookie|session|signature|jwt)"
    r"|(?i:keys?|token|pass)(?![a-z])"
)
_COUNTED = re.compile(r"(?i:token)")
"""Numbers under keys such as max_token are settings."""
_LOOKS_SECRET = re.compile(r"(?:(?i:bearer|basic)\s+\S{8,}|sk-\S{8,}|eyJ[\w-]{8,}\.[\w.-]+|gh[pousr]_\w{16,}|hf_\w{16,})\s*")
"""Texts that are a secret under any name."""
_NAMED = ("name", "key", "header", "field", "k")
_VALUED = ("value", "val", "content", "v")


def checked_key(key: str) -> str:
    """A key without blanks around it.

    Raises:
        ValueError: it has something in it that no header can hold; the message does not repeat it.
    """
    key = key.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError("the API key holds blanks, control characters or letters beyond ASCII: it is not a key (is it whole?)")
    return key


def masked(value: Any, path: str = "") -> Any:
    """The same with texts and numbers under keys that look secret masked; switches, None and numbers of tokens stay."""
    if isinstance(value, Mapping):
        return {key: masked(item, name) for key, item, name in _items(value, path)}
    if isinstance(value, (list, tuple)):
        return [masked(item, name) for item, name in _listed(value, path)]
    return MASK if _is_secret(value, path) else value


def secrets(value: Any, path: str = "") -> Iterator[str]:
    """The texts that `masked` masks, and those numbers as texts."""
    if isinstance(value, Mapping):
        for _, item, name in _items(value, path):
            yield from secrets(item, name)
    elif isinstance(value, (list, tuple)):
        for item, name in _listed(value, path):
            yield from secrets(item, name)
    elif _is_secret(value, path):
        text = str(value)
        yield from (text, re.sub(r"^(?i:bearer|basic|token)\s+", "", text))
        if ":" in text:  # name:password
            yield text.partition(":")[2]


def _is_secret(value: Any, path: str) -> bool:
    if value is None or isinstance(value, bool):
        return False
    if isinstance(value, str) and _LOOKS_SECRET.fullmatch(value):
        return True
    if not _SECRET.search(path):
        return False
    return not isinstance(value, (int, float)) or bool(_SECRET.search(_COUNTED.sub("", path)))


def _items(value: Mapping[Any, Any], path: str) -> Iterator[tuple[Any, Any, str]]:
    """Key, item, and the item's path; `{"name": "Authorization", "value": ...}` names its value."""
    named = next((value[key] for key in _NAMED if isinstance(value.get(key), str)), None)
    for key, item in value.items():
        names_itself = key in _NAMED and item is named and any(other in value for other in _VALUED)
        name = named if named and key in _VALUED else key
        yield key, item, path if names_itself else f"{path}.{name}"


def _listed(value: Sequence[Any], path: str) -> Iterator[tuple[Any, str]]:
    """Item and its path; the second of a pair of a name and a value is named by the first."""
    pair = len(value) == 2 and isinstance(value[0], str) and bool(_SECRET.search(value[0]))
    for number, item in enumerate(value):
        yield item, f"{path}.{value[0]}" if pair and number else path


def address_secrets(address: str) -> Iterator[str]:
    """Password and secret-looking parameters of an address."""
    parts = urlsplit(address)
    if parts.password:
        yield from (parts.password, unquote(parts.password))
    yield from (value for name, value in parse_qsl(parts.query) if _SECRET.search(name))


def without(known: Iterable[str], text: str) -> str:
    """The text with the secrets masked that are long enough to be no word of it, as they are and as texts quote them."""
    bare = {form for secret in known for form in (secret, secret.strip(), unquote(secret)) if len(form) >= SHORTEST}
    for secret in sorted(bare, key=len, reverse=True):
        encoded = base64.b64encode(secret.encode(errors="replace")).decode().rstrip("=")
        text = re.sub("".join(map(_written, secret)), MASK, text.replace(secret, MASK)).replace(encoded, MASK)
    return text


def _written(letter: str) -> str:
    """A pattern for a letter of a secret as it is, or as repr, JSON, addresses and pages write it, also one within another."""
    code, percent = ord(letter), "".join(f"%{byte:02x}" for byte in letter.encode(errors="replace"))
    short = repr(letter)[1:-1].lstrip("\\")
    forms = [
        rf"\\*{re.escape(letter)}",
        f"(?i:{percent})",
        rf"(?i:\\+(?:u{code:04x}|x{code:02x}))",
        rf"(?i:&#(?:0*{code}|x0*{code:x});)",
    ]
    forms += [rf"\\+{re.escape(short)}"] if not letter.isprintable() else []
    forms += [re.escape(html.escape(letter))] if html.escape(letter) != letter else []
    forms += [r"\+"] if letter == " " else []
    return f"(?:{'|'.join(forms)})"
