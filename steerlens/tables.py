"""Tables in files: csv, json, json lines and parquet, read in one way and refused in one form of words."""

import codecs
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

KINDS = (".csv", ".json", ".jsonl", ".parquet")
_MARKS = (  # the marks of UTF-32 begin like those of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_REMEDIES = {
    UnicodeDecodeError: "save it as UTF-8, or with a byte order mark that tells its encoding",
    json.JSONDecodeError: "it must hold a list of rows, or a row in each line",
    RecursionError: "it must hold a list of rows, or a row in each line",
}
_ELSE = {
    ".csv": "it must begin with a line of column names, be separated by commas, and have as many cells in each line",
    ".parquet": "write it again, for example with pandas' to_parquet",
}


class DataError(ValueError):
    """A file, row or column that cannot be used; the message names it."""


def read_table(path: str | Path, other: str | None = None) -> "pd.DataFrame":
    """A file as a table. The cells of a csv are text: "None" and "NA" are what they say, and an empty cell is empty text.

    Args:
        path: ends in .csv, .json, .jsonl or .parquet, or holds JSON under another name. A row in each line is read under any
            name. All but parquet are UTF-8, or UTF-8, UTF-16 or UTF-32 with a byte order mark.
        other: the kind, such as ".parquet", that a file with another ending is read as; None refuses it, unless it is JSON.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is of no known kind, or not intact; the message names the file, the line, and what to do.
    """
    import pandas as pd

    file = Path(path)
    kind = _kind(file, other)
    with _named(file, kind):
        if kind == ".parquet":
            return index_as_columns(pd.read_parquet(file))
        if kind != ".csv":
            rows = _json(file, kind)
            return pd.DataFrame(rows)
        table = pd.read_csv(io.StringIO(_text(file), newline=""), keep_default_na=False, dtype=str)
        if not isinstance(table.index, pd.RangeIndex):  # pandas takes what is too much for an index
            raise DataError("its rows have more cells than there are column names: quote cells that hold a comma")
        return table


def index_as_columns(table: "pd.DataFrame") -> "pd.DataFrame":
    """A table whose named index, which holds what a column would, is one."""
    names = [name for name in table.index.names if name is not None]
    if taken := [str(name) for name in names if name in table.columns or names.count(name) > 1]:
        raise DataError(f"the index and a column of the table have one name: {taken}; rename the index or drop it")
    return table.reset_index(level=names) if names else table


def read_rows(path: str | Path) -> list[Any]:
    """A file as its rows: dicts by column, and of json and jsonl whatever stands there.

    Raises:
        FileNotFoundError, DataError: as `read_table`; also json that is no list.
    """
    file = Path(path)
    kind = _kind(file, None)
    if kind in (".csv", ".parquet"):
        return read_table(file).to_dict(orient="records")
    with _named(file, kind):
        rows = _json(file, kind)
    if not isinstance(rows, list):
        raise DataError(
            f"{file.name} holds a {type(rows).__name__}, not a list of rows; write [{{...}}, ...], or a row in each line"
        )
    return rows


def _kind(file: Path, other: str | None) -> str:
    """The ending that says how a file is read; JSON in a csv or under an unknown ending is json lines."""
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist")
    if not file.is_file():
        raise DataError(f"{file} is no file; give a file, or read AxBench's folder with read_axbench")
    kind = file.suffix.lower()
    if kind in KINDS and kind != ".csv":
        return kind
    if kind != ".csv" and other is not None:
        return other
    if _begins_as_json(file):
        return ".jsonl"
    if kind != ".csv":
        raise DataError(f"{file.name}: files of kind {kind or '(none)'!r} are not read; use jsonl, json, csv or parquet")
    return kind


def _begins_as_json(file: Path) -> bool:
    """Whether the first line is a JSON object, or a list begins there."""
    with file.open("rb") as content:
        head = content.read(4)
    if not (head.lstrip()[:1] in (b"{", b"[") or any(head.startswith(mark) for mark, _ in _MARKS)):
        return False
    try:
        first = _text(file).lstrip().partition("\n")[0].strip()
        return first == "[" or isinstance(json.loads(first), (dict, list))
    except (ValueError, RecursionError):
        return False


def _text(file: Path) -> str:
    """The text of a file, in the encoding that its byte order mark tells, else UTF-8."""
    content = file.read_bytes()
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        error.reason = f"line {line}, {error.reason}"
        raise
    if "\0" in text:
        raise DataError("it holds null characters, as UTF-16 without a byte order mark does: save it as UTF-8")
    return text


def _json(file: Path, kind: str) -> Any:
    """What a file of json holds: a value, or one in each line whatever the file is called."""
    text = _text(file)
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        if kind == ".json" and not _is_json(text.lstrip().partition("\n")[0]):
            raise
        return _lines(text, file.name)
    is_row = isinstance(whole, dict) and (kind == ".jsonl" or not all(isinstance(cell, list) for cell in whole.values()))
    return [whole] if is_row or (kind == ".jsonl" and not isinstance(whole, list)) else whole


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _lines(text: str, name: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n")):  # splitlines() breaks at U+2028 too
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(f"{name}, line {number + 1}: not JSON ({error}); each line must hold a row") from error
    return rows


@contextmanager
def _named(file: Path, kind: str) -> Iterator[None]:
    """Whatever a parser stumbles over, as a DataError that names the file and what to do."""
    try:
        yield
    except Exception as error:  # parsers have many ways to stumble over what is no table
        reason = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
        remedy = next((words for type_, words in _REMEDIES.items() if isinstance(error, type_)), _ELSE.get(kind))
        if isinstance(error, DataError):
            remedy = None
        raise DataError(f"{file} cannot be read as a table ({reason}){f'; {remedy}' if remedy else ''}") from error
