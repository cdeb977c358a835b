"""A file damaged in many ways: cut off, garbled, and well-formed with something else in it."""

import copy
import io
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd

WRONG_VALUES: tuple[Any, ...] = (None, 7, -1, 1.5, True, "x", "", [], [7], ["x"], {}, {"x": 1})
MOST = 80
"""Changes of one file's JSON values, drawn from all."""
WHOLE = (b"", b"\0", b"null", b"7", b'"text"', b"[]", b"{}", b"[7]", b'[{"x": 1}]', b"[" * 50_000, b'{"a":' * 50_000,
         b"\xff\xfe\xff", b"PAR1PAR1", b"NaN", b"not json\n")  # fmt: skip


def damaged(path: Path, rng: Random) -> Iterator[tuple[str, bytes]]:
    """(what was done, content) of a file of any kind."""
    content = path.read_bytes()
    yield from ((f"is {made[:10]!r}", made) for made in WHOLE)
    yield from ((f"cut at {cut}", content[:cut]) for cut in sorted({1, *(rng.randrange(len(content)) for _ in range(6))}))
    for _ in range(12):
        at = rng.randrange(len(content))
        yield f"byte {at} changed", content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
    if path.suffix == ".json":
        changed = list(_changed(json.loads(content)))
        yield from ((name, json.dumps(value).encode()) for name, value in rng.sample(changed, min(MOST, len(changed))))
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in content.splitlines()]
        yield from (
            (name, "\n".join(map(json.dumps, value)).encode()) for name, value in _changed(rows) if isinstance(value, list)
        )
    if path.suffix == ".parquet":
        yield from _other_tables(pd.read_parquet(io.BytesIO(content)))


def _changed(value: Any) -> Iterator[tuple[str, Any]]:
    """JSON values with one place changed or left out."""
    for place in _places(value):
        for wrong in WRONG_VALUES:
            yield f"{list(place)} = {wrong!r}", _with(value, place, wrong)
        if place:
            yield f"no {list(place)}", _with(value, place)


def _places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield before
    parts = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _places(part, (*before, key))


def _with(value: Any, place: tuple[Any, ...], *wrong: Any) -> Any:
    if not place:
        return wrong[0]
    whole = here = copy.deepcopy(value)
    for key in place[:-1]:
        here = here[key]
    if wrong:
        here[place[-1]] = wrong[0]
    else:
        del here[place[-1]]
    return whole


def _other_tables(table: pd.DataFrame) -> Iterator[tuple[str, bytes]]:
    for column in table:
        yield f"no column {column}", _parquet(table.drop(columns=column))
        for wrong in (None, 7, -1, 1.5, float("nan"), True, "x", "", [7], ["x"], {"x": 1}, b"x", pd.Timestamp(0)):
            other = table.copy()
            other[column] = pd.Series([wrong] * len(table), index=table.index, dtype=object)
            yield f"column {column} = {wrong!r}", _parquet(other.infer_objects())
            if wrong is None or isinstance(wrong, (str, int, float)):
                mixed = pd.Series([*table[column][:-1], wrong], index=table.index, dtype=object)
                try:
                    yield f"last {column} = {wrong!r}", _parquet(table.assign(**{str(column): mixed}).infer_objects())
                except Exception:  # no column can hold both
                    continue
    yield "no rows", _parquet(table[:0])
    yield "rows twice", _parquet(pd.concat([table, table], ignore_index=True))


def _parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
