"""The instructions of the AxBench protocol: how they are read, and which a concept draws."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from steerlens.evaluation.axbench.instructions import draw_instructions, read_instructions

INSTRUCTIONS = [f"Instruction {number}?" for number in range(30)]


@pytest.mark.parametrize("concept_id", [0, 7, 499])
def test_instructions_are_drawn_as_pandas_draws_rows_of_the_table(concept_id: int) -> None:
    table = pd.DataFrame({"dataset": "x", "instruction": INSTRUCTIONS, "output": "y"})
    expected = table.sample(10, random_state=int(concept_id))["instruction"].tolist()
    assert draw_instructions(INSTRUCTIONS, concept_id) == expected
    places = np.random.RandomState(concept_id).choice(30, size=10, replace=False)
    assert expected == [INSTRUCTIONS[place] for place in places]


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
def test_instructions_are_read_as_text(tmp_path: Path, kind: str) -> None:
    texts = ["2020-01-01", "12", "None", "a, b"]
    table, path = pd.DataFrame({"instruction": texts}), tmp_path / f"alpaca.{kind}"
    if kind in ("json", "jsonl"):
        table.to_json(path, orient="records", lines=kind == "jsonl")
    else:
        (table.to_csv if kind == "csv" else table.to_parquet)(path, index=False)
    assert read_instructions(path) == texts


def test_instructions_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no column 'instruction'"):
        read_instructions(pd.DataFrame({"text": ["x"]}))
    with pytest.raises(ValueError, match="instruction 1 is ' ', not a text"):
        read_instructions(["a", " "])
    with pytest.raises(ValueError, match="31 instructions are to be drawn from 30"):
        draw_instructions(INSTRUCTIONS, 0, 31)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_instructions(tmp_path / "none.json")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RuntimeError, match=r"pip install datasets, or download alpaca_eval\.json"):
        read_instructions(None)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json", b"[{"), ("b.jsonl", b'{"a": "x"}\n{'), ("c.csv", b""), ("d.parquet", b"PAR1")],
)
def test_a_file_that_is_no_table_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} cannot be read as a table"):
        read_instructions(tmp_path / name)


def test_one_object_is_a_table_of_one_row(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match=r"e\.json: the instructions have the columns \['a'\] and no column 'instruction'"):
        read_instructions(tmp_path / "e.json")


def test_ids_beyond_what_a_seed_can_be_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 4294967295; this one is 4294967296"):
        draw_instructions(INSTRUCTIONS, 2**32, 3)
