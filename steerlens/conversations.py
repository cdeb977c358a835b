"""Conversations in cells of training data: lists of turns, in the forms in which people write them.

A part of a turn that would not be read is refused by its name, as a column is.
"""

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .tables import DataError

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Who may speak in a conversation."""
_NAMES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
"""Other names of a role, where data are read."""
_SPOKEN = ("system", "developer", "user", "assistant")
_MESSAGE_KEYS = {"id", "timestamp", "model"}
_BEGINS = re.compile(r"""\s*(array\(\s*)?\[\s*\{\s*['"]\w+['"]\s*:""")
_ENDS = re.compile(r"\]\s*(,\s*dtype=object\s*)?\)?\s*$")
_SPEAKER = re.compile(r"""['"](role|from)['"]\s*:""")


@dataclass(frozen=True)
class Row:
    """A row and what its errors begin with."""

    cells: Mapping[str, Any]
    """Without the ignored columns."""
    where: str
    ignore: Collection[str] = ()
    """Columns, and keys of turns, that the caller leaves out knowingly."""

    def wrong(self, text: str) -> DataError:
        return DataError(f"{self.where}: {text}")


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, "" or an empty list."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    size = getattr(value, "__len__", None)
    return size is not None and size() == 0


def described(value: Any) -> str:
    """A value in an error's words."""
    if value is None:
        return "missing"
    return "NaN" if isinstance(value, float) and math.isnan(value) else f"{type(value).__name__} {value!r:.40}"


def turns_in(text: str) -> list[Any] | None:
    """The turns that a cell of text, as in a csv, stands for."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def is_written(text: str) -> bool:
    """Whether a text is a list of turns written out, as JSON or as Python prints it."""
    return bool(_BEGINS.match(text) and _ENDS.search(text[-40:]) and _SPEAKER.search(text))


def as_cell(prompt: Any) -> str:
    """A prompt as text that is read again as the same prompt: a conversation as JSON."""
    if isinstance(prompt, str):
        return json.dumps([{"role": "user", "content": prompt}], ensure_ascii=False) if is_written(prompt) else prompt
    return json.dumps([dict(turn) for turn in prompt], ensure_ascii=False)


def given_prompt(row: Row, name: str) -> Any:
    """A prompt as text, or as turns of role and content, which a cell of text may hold as JSON.

    Raises:
        DataError: turns as Python prints them, or with parts that would be left out.
    """
    value = row.cells[name]
    if isinstance(value, str):
        if not is_written(value):
            return value
        if turns_in(value) is None:
            raise row.wrong(
                f"the column {name!r} holds a conversation that is not JSON ({value!r:.40}), such as Python's str() makes: "
                "write json.dumps(turns) into the cell, as SteeringData.to_frame() does"
            )
    elif not _are_turns(value):
        return value  # which is refused as no prompt
    return messages(row, name, ROLES, may_be_empty=True)


def _are_turns(value: Any) -> bool:
    if not (isinstance(value, (list, tuple)) or hasattr(value, "tolist")) or is_empty(value):
        return False
    return all(isinstance(turn, Mapping) and any(not is_empty(turn.get(key)) for key in ("role", "from")) for turn in value)


def messages(row: Row, name: str, roles: Collection[str] = _SPOKEN, may_be_empty: bool = False) -> list[dict[str, str]]:
    """The turns of a column as role and content, whether they are written role/content or from/value."""
    value = row.cells[name]
    turns: Any = turns_in(value) if isinstance(value, str) else value
    turns = turns.tolist() if hasattr(turns, "tolist") else turns
    if not isinstance(turns, (list, tuple)) or not turns:
        raise row.wrong(f"{name!r} is {described(value)}, not a list of turns (role/content or from/value)")
    return [_message(row, turn, f"turn {number} of {name!r}", roles, may_be_empty) for number, turn in enumerate(turns)]


def _message(row: Row, turn: Any, which: str, roles: Collection[str], may_be_empty: bool) -> dict[str, str]:
    if not isinstance(turn, Mapping):
        raise row.wrong(f"{which} is {described(turn)}, not a role/content or from/value dict")
    keys = ("role", "content") if not is_empty(turn.get("role")) else ("from", "value")
    role, content = turn.get(keys[0]), turn.get(keys[1])
    role = _NAMES.get(role, role) if isinstance(role, str) else role
    if role not in roles:
        raise row.wrong(f"{which} is by {described(role)}; only turns by {', '.join(roles)} are read: leave the row out")
    known = {*_MESSAGE_KEYS, *keys, *row.ignore} | ({"weight"} if turn.get("weight") == 1 else set())
    further = [str(key) for key, value in turn.items() if key not in known and not is_empty(value)]
    if further:
        raise row.wrong(
            f"{which} has {', '.join(map(repr, further))}, which would be left out; allow that with ignore={further!r}"
        )
    text = content if isinstance(content, str) else _text_of_parts(content)
    if text is None or not (text.strip() or may_be_empty):
        raise row.wrong(f"{which} has no text ({described(content)})")
    return {"role": str(role), "content": text}


def _text_of_parts(content: Any) -> str | None:
    """The text of [{"type": "text", "text": ...}, ...]; None where there is anything else, such as an image."""
    parts = content.tolist() if hasattr(content, "tolist") else content
    if not isinstance(parts, (list, tuple)):
        return None
    texts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in parts]
    return "".join(text for text in texts if text) if all(isinstance(text, str) for text in texts) else None
