"""Tables in files: csv, json, jsonl and parquet, read in one way and refused in one form of words."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


class DataError(ValueError):
    """A file, row or column that cannot be used; the message names it."""


def read_table(path: str | Path, other: str | None = None) -> "pd.DataFrame":
    """A file as a table. The cells of a csv are text: "None" and "NA" are what they say, and an empty cell is empty text.

    Args:
        path: ends in .csv, .json, .jsonl or .parquet; all but the last may begin with a byte order mark.
        other: the kind, such as ".parquet", that a file with another ending is read as; None refuses it.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is of no known kind, or not intact; the message names the file, and of jsonl the line.
    """
    import pandas as pd

    file = Path(path)
    kind = _kind(file, other)
    with _named(file):
        if kind == ".csv":
            return pd.read_csv(file, keep_default_na=False, dtype=str, encoding="utf-8-sig")
        return pd.read_parquet(file) if kind == ".parquet" else pd.DataFrame(_json(file, kind))


def read_rows(path: str | Path) -> list[Any]:
    """A file as its rows: dicts by column, and of json and jsonl whatever stands there.

    Raises:
        FileNotFoundError, DataError: as `read_table`; also json that is no list.
    """
    file = Path(path)
    kind = _kind(file, None)
    if kind in (".csv", ".parquet"):
        return read_table(file).to_dict(orient="records")
    with _named(file):
        rows = _json(file, kind)
    if not isinstance(rows, list):
        raise DataError(f"{file.name} holds a {type(rows).__name__}, not a list of rows")
    return rows


def _kind(file: Path, other: str | None) -> str:
    """The ending that says how a file is read."""
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist")
    kind = file.suffix.lower()
    if kind in (".csv", ".json", ".jsonl", ".parquet"):
        return kind
    if other is None:
        raise DataError(f"{file.name}: files of kind {kind or '(none)'!r} are not read; use jsonl, json, csv or parquet")
    return other


def _json(file: Path, kind: str) -> Any:
    """What a json file holds, or the lines of a jsonl file."""
    text = file.read_text(encoding="utf-8-sig")
    if kind == ".json":
        return json.loads(text)
    rows = []
    for number, line in enumerate(text.split("\n")):  # splitlines() breaks at U+2028 too
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(f"{file.name}, line {number + 1}: not JSON ({error})") from error
    return rows


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Whatever a parser stumbles over, as a DataError that names the file."""
    try:
        yield
    except Exception as error:  # parsers have many ways to stumble over what is no table
        reason = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
        raise DataError(f"{file} cannot be read as a table ({reason})") from error
