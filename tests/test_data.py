"""Readers: every form and column name, and every bad row named."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from real_data import CONCEPT10 as AXBENCH

import steerlens
from steerlens import Example, SteeringData, read_axbench
from steerlens.data import DataError

ROWS = [
    {"prompt": "What, now?", "response": 'She said "fish".\nTwice.', "neutral": "Nothing."},
    {"prompt": "Ünïcode", "response": "NA", "neutral": "None"},
]
EXAMPLES = tuple(Example(**row) for row in ROWS)
NAN = math.nan


def renamed(columns: dict[str, str]) -> list[dict[str, Any]]:
    return [{columns[name]: value for name, value in row.items() if name in columns} for row in ROWS]


@pytest.mark.parametrize(
    ("columns", "neutral"),
    [
        ({"prompt": "prompt", "response": "response", "neutral": "neutral"}, True),
        ({"prompt": "prompt", "response": "response"}, False),
        ({"prompt": "input", "response": "output"}, False),
        ({"prompt": "negative_input", "response": "positive_output", "neutral": "negative_output"}, True),
        ({"prompt": "negative_input", "response": "positive_output"}, False),
    ],
)
def test_column_names(columns: dict[str, str], neutral: bool) -> None:
    data = SteeringData(renamed(columns), concept="fish")
    assert data.examples == tuple(Example(e.prompt, e.response, e.neutral if neutral else None) for e in EXAMPLES)
    assert (len(data), data.concept, data[1].prompt) == (2, "fish", "Ünïcode")  # type: ignore[union-attr]


def write(folder: Path, kind: str) -> Path:
    path, frame = folder / f"rows.{kind}", pd.DataFrame(ROWS)
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n", encoding="utf-8")
    elif kind == "json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    elif kind == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_files(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    assert SteeringData(path).examples == SteeringData(str(path)).examples == EXAMPLES
    assert SteeringData(path).hash == SteeringData(ROWS).hash


def test_frames_examples_and_data() -> None:
    frame = pd.DataFrame(ROWS, index=[7, 9])
    for source in (frame, list(EXAMPLES), SteeringData(ROWS), iter(ROWS)):
        assert SteeringData(source).examples == EXAMPLES
    gaps = pd.DataFrame([ROWS[0], ROWS[1] | {"neutral": NAN}])
    assert SteeringData(gaps).examples[1].neutral is None


def test_a_hugging_face_dataset() -> None:
    datasets = pytest.importorskip("datasets")
    assert SteeringData(datasets.Dataset.from_list(ROWS)).examples == EXAMPLES


def test_conversations() -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Go"}]
    data = SteeringData([{"prompt": chat, "response": "on"}])
    assert data.examples[0].prompt == chat
    assert data.hash != SteeringData([{"prompt": "Go", "response": "on"}]).hash


def test_the_hash_sees_every_text_and_the_order() -> None:
    def hash_of(**change: str | None) -> str:
        return SteeringData([ROWS[0] | change, ROWS[1]]).hash

    hashes = [hash_of(), hash_of(prompt="x"), hash_of(response="x"), hash_of(neutral="x"), hash_of(neutral=None)]
    hashes.append(SteeringData(ROWS[::-1]).hash)
    assert len(set(hashes)) == len(hashes)
    assert hash_of() == SteeringData(ROWS, concept="other").hash


def test_a_slice_keeps_the_concept() -> None:
    data = SteeringData(ROWS, "fish", {"genre": "text"})
    part = data[1:]
    assert isinstance(part, SteeringData)
    assert (part.examples, part.concept, part.metadata) == (EXAMPLES[1:], "fish", {"genre": "text"})


GOOD = {"prompt": "Why?", "response": "Because."}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (GOOD | {"response": ""}, "row 2: the response is empty"),
        (GOOD | {"response": " \n\t"}, "row 2: the response is empty"),
        (GOOD | {"response": NAN}, "row 2: the response is NaN, not text"),
        (GOOD | {"response": None}, "row 2: the response is missing, not text"),
        (GOOD | {"response": 3}, "row 2: the response is int 3, not text"),
        (GOOD | {"prompt": ""}, "row 2: the prompt is empty"),
        (GOOD | {"prompt": "  "}, "row 2: the prompt is empty"),
        (GOOD | {"prompt": NAN}, r"row 2: the prompt is missing \(NaN\)"),
        (GOOD | {"prompt": None}, "row 2: the prompt is missing"),
        (GOOD | {"prompt": 5}, "row 2: the prompt is int 5, neither text nor a list"),
        (GOOD | {"prompt": []}, "row 2: the prompt is list"),
        (GOOD | {"prompt": [{"content": "no role"}]}, "row 2: the prompt is list"),
        (GOOD | {"prompt": [{"role": "user", "content": " "}]}, "row 2: the last message of the prompt is empty"),
        (GOOD | {"neutral": ""}, "row 2: the neutral response is"),
        (GOOD | {"neutral": 0}, "row 2: the neutral response is int 0"),
        ({"prompt": "Why?"}, r"row 2: columns \['prompt'\] hold no prompt and response; known: prompt/response"),
        ({"question": "Why?", "answer": "So."}, r"row 2: columns \['answer', 'question'\]"),
        ({"input": "a", "output": "b", "concept_id": -1}, "row 2: a shared negative of AxBench"),
        (["Why?", "Because."], "row 2: expected a dict or an Example, got list"),
        (Example("Why?", ""), "row 2: the response is empty"),
    ],
)
def test_a_bad_row_is_named(bad: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        SteeringData([GOOD, GOOD, bad, GOOD])


def test_bad_rows_in_files_are_named(tmp_path: Path) -> None:
    frame = pd.DataFrame([GOOD, GOOD | {"response": None}])
    for kind, words in (("csv", "row 1: the response is empty"), ("parquet", "row 1: the response is (missing|NaN)")):
        path = tmp_path / f"bad.{kind}"
        frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
        with pytest.raises(DataError, match=words):
            SteeringData(path)
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": \n')
    with pytest.raises(DataError, match=r"broken\.jsonl, line 2: not JSON"):
        SteeringData(tmp_path / "broken.jsonl")


def test_sources_that_hold_no_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").touch()
    with pytest.raises(DataError, match=r"rows\.xlsx: files of kind '\.xlsx' are not read; use jsonl, json, csv or parquet"):
        SteeringData(tmp_path / "rows.xlsx")
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist"):
        SteeringData(tmp_path / "none.csv")
    with pytest.raises(DataError, match="the data have no rows"):
        SteeringData([])
    with pytest.raises(DataError, match="the data are dict; give a list of rows"):
        SteeringData({"prompt": "a", "response": "b"})


def test_a_row_longer_than_the_context_is_named(model: Any, make_vector: Any) -> None:
    rows = [GOOD, GOOD | {"response": "x" * 600}]
    words = r"row 1: \d+ tokens \(\d+ of the prompt\) exceed the context of tiny-gemma2 \(512\): shorten it, or cut responses"
    with pytest.raises(DataError, match=words):
        steerlens.train(model, rows, layer=1, progress=False)
    with pytest.raises(DataError, match=words):
        steerlens.loss(model, make_vector(), rows)
    config = steerlens.TrainConfig(epochs=1, max_response_tokens=20)
    steerlens.train(model, rows, layer=1, config=config, progress=False)


@pytest.mark.parametrize("subset", ["prod_2b_l10_v1", "prod_9b_l20_v1"])
def test_axbench_as_published(subset: str) -> None:
    if not AXBENCH.exists():
        pytest.skip(f"the AxBench files are not at {AXBENCH}")
    concepts = read_axbench(AXBENCH / subset)
    assert concepts == read_axbench(AXBENCH / subset / "generate")
    assert len(concepts) == 10 and list(concepts) == sorted(concepts)
    for number, data in concepts.items():
        assert len(data) == 72 and len(data.negatives) == 72, "the genre's own"
        assert data.concept and data.metadata["concept_id"] == number
        assert data.metadata["ref"].startswith("http") and data.metadata["genre"] in ("text", "code", "math")
    assert len({data.hash for data in concepts.values()}) == 10


def axbench_folder(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "metadata.jsonl").write_text(json.dumps({"concept_id": 0, "concept": "fish", "ref": "r"}) + "\n")
    pd.DataFrame(rows).to_parquet(folder / "train_data.parquet")
    return folder


def test_bad_axbench_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="an AxBench folder holds metadata"):
        read_axbench(tmp_path)
    row = {"input": "a", "output": "b", "concept_id": 0, "category": "positive"}
    with pytest.raises(DataError, match="row 1: the response is empty"):
        read_axbench(axbench_folder(tmp_path, [row, row | {"output": ""}]))
    with pytest.raises(DataError, match=r"concept 0 \('fish'\) has no positive rows"):
        read_axbench(axbench_folder(tmp_path, [row | {"category": "negative", "concept_id": -1}]))
    with pytest.raises(DataError, match=r"lacks the columns \['category'\]"):
        read_axbench(axbench_folder(tmp_path, [{"input": "a", "output": "b", "concept_id": 0}]))


def test_data_are_shown_in_a_sentence_and_a_short_table(data: Any) -> None:
    many = SteeringData([Example("a prompt", "<i>one two</i> three", "x")] * 40, "the sea", negatives=data.examples)
    assert many.summary() == (
        "40 examples of 'the sea', 40 with a neutral response; responses of 3 words (median); 5 shared negatives."
    )
    assert repr(many) == f"<SteeringData: {many.summary()}>"
    assert data.to_frame().columns.tolist() == ["prompt", "response", "neutral"] and len(data.to_frame()) == 5
    page = many._repr_html_()
    assert "&lt;i&gt;one two&lt;/i&gt; three" in page and "<i>" not in page and "8 of 40 rows" in page
    assert len(repr(many)) < 200 and len(page) < 20_000
    assert list(SteeringData(many.to_frame())) == list(many)
