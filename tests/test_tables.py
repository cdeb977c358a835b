"""One reader of tables: every kind, with a byte order mark and without, and what is no table, named."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from steerlens.tables import DataError, read_rows, read_table

ROWS = [{"a": "NA", "b": "x,\u2028y"}, {"a": "", "b": "1.0"}]
MARK = b"\xef\xbb\xbf"


def write(path: Path, mark: bytes = b"") -> Path:
    frame = pd.DataFrame(ROWS)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
        return path
    texts = {
        ".csv": frame.to_csv(index=False),
        ".json": json.dumps(ROWS, ensure_ascii=False),
        ".jsonl": "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n",
    }
    path.write_bytes(mark + texts[path.suffix.lower()].encode())
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.CSV", "t.json", "t.jsonl", "t.parquet"])
@pytest.mark.parametrize("mark", [b"", MARK])
def test_every_kind_holds_the_same_rows(tmp_path: Path, name: str, mark: bytes) -> None:
    path = write(tmp_path / name, mark)
    assert read_rows(path) == read_rows(str(path)) == ROWS
    pd.testing.assert_frame_equal(read_table(path), pd.DataFrame(ROWS))


def test_json_keeps_what_a_table_cannot(tmp_path: Path) -> None:
    rows: list[Any] = [{"prompt": [{"role": "user"}]}, {"other": None}, "text"]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    assert read_rows(tmp_path / "t.json") == rows
    (tmp_path / "columns.json").write_text('{"a": [1, 2]}')
    assert read_table(tmp_path / "columns.json")["a"].tolist() == [1, 2]
    with pytest.raises(DataError, match=r"columns\.json holds a dict, not a list of rows"):
        read_rows(tmp_path / "columns.json")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json", b"[{"), ("b.csv", b""), ("c.parquet", b"PAR1"), ("d.json", b"\xff"), ("e.csv", b'a,b\n1,2\n"')],
)
def test_what_is_no_table_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    for read in (read_table, read_rows):
        with pytest.raises(DataError, match=rf"{name} cannot be read as a table \(\w+Error|{name} cannot .*ArrowInvalid"):
            read(tmp_path / name)


def test_the_line_is_named_and_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n\n{\n')
    with pytest.raises(DataError, match=r"t\.jsonl cannot be read as a table \(t\.jsonl, line 3: not JSON"):
        read_table(tmp_path / "t.jsonl")
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist"):
        read_rows(tmp_path / "none.csv")
    other = write(tmp_path / "t.parquet").rename(tmp_path / "t.pq")
    with pytest.raises(DataError, match=r"t\.pq: files of kind '\.pq' are not read; use jsonl, json, csv or parquet"):
        read_table(other)
    assert len(read_table(other, other=".parquet")) == 2
