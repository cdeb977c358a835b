"""Columns under other spellings, as an index, and of what may be asked; conversations in cells. Read, or refused by name."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from steerlens import Example, SteeringData, generate, read_axbench
from steerlens.data import DataError

GOOD = {"prompt": "Why?", "response": "Because."}
ASKED = {"role": "user", "content": "Why?"}
SAID = {"role": "assistant", "content": "Because."}
TURNS = [{"role": "system", "content": 'Be "brief",\nplease.'}, ASKED]
ALPACA = {"instruction": "Translate.", "input": "good", "output": "gut"}
ALPACA_TEXT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that "
    "appropriately completes the request.\n\n### Instruction:\nTranslate.\n\n### Input:\ngood\n\n### Response:\ngut"
)


def refused(rows: Any, words: str, **options: Any) -> None:
    with pytest.raises(DataError, match=words):
        SteeringData(rows, **options)


# --- spellings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["category", "Category", "CATEGORY", " category ", "Cate-gory"])
def test_a_category_under_any_spelling(name: str, tmp_path: Path) -> None:
    rows = [GOOD, GOOD | {name: "hard negative"}]
    for source in (rows, pd.DataFrame(rows), {key: [row.get(key) for row in rows] for key in (*GOOD, name)}):
        refused(source, "row 1: its category is 'hard negative'")
        assert len(SteeringData(source, ignore=["category"])) == len(SteeringData(source, ignore=[name])) == 2
    assert len(SteeringData([GOOD | {name: "positive"}])) == 1
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    refused(tmp_path / "t.csv", "row 1: its category is 'hard negative'")


@pytest.mark.parametrize(
    "name", ["concept_id", "Concept_ID", "Concept Id", "ConceptID", "Output Concept", "SAE-ID", "sae_link"]
)
def test_several_concepts_under_any_spelling(name: str) -> None:
    refused([GOOD | {name: "1"}, GOOD | {name: "2"}], "names 2 concepts")
    assert len(SteeringData([GOOD | {name: "1"}] * 2)) == 2


def test_columns_are_read_under_any_spelling(tmp_path: Path) -> None:
    assert list(SteeringData([{"Prompt": "Why?", " Response": "Because.", "NEUTRAL": "No."}])) == [
        Example("Why?", "Because.", "No.")
    ]
    (tmp_path / "t.csv").write_text("Prompt, Response, Neutral\nWhy?,Because.,\n")
    assert list(SteeringData(tmp_path / "t.csv")) == [Example("Why?", "Because.")]
    assert SteeringData([GOOD | {"System Prompt": "Be brief."}])[0].prompt[0]["role"] == "system"  # type: ignore[union-attr]


def test_two_columns_of_one_name_are_no_one_column() -> None:
    for first, second in (("category", "Category"), ("Category", "category"), ("Category", "CATEGORY")):
        refused([GOOD | {first: "positive", second: "negative"}], "(would be left out|its category is 'negative')")
    refused([GOOD | {"Response": "x"}], "the column 'Response' would be left out")
    refused([GOOD | {3: "x"}], "the column '3' would be left out")
    assert len(SteeringData([GOOD | {3: "x"}], ignore=["3"])) == 1


def test_axbench_columns_under_any_spelling(tmp_path: Path) -> None:
    row = {"Input": "a", "Output": "b", "Concept_ID": 0, "Category": "positive", "Concept_Genre": "text"}
    others = [row | {"Category": "negative", "Concept_ID": -1, "Concept_Genre": genre} for genre in ("text", "code")]
    pd.DataFrame([row, *others]).to_parquet(tmp_path / "train_data.parquet")
    line = {"Concept_ID": 0, "Concept": "fish", "Concept_Genres_Map": {"fish": ["text"]}}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line))
    data = read_axbench(tmp_path)[0]
    assert (len(data), len(data.negatives), data.metadata["genre"]) == (1, 1, "text")


# --- an index -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"), [("category", "its category is 'negative'"), ("label", "'label' would be left out")]
)
def test_a_named_index_is_a_column(tmp_path: Path, name: str, words: str) -> None:
    frame = pd.DataFrame([GOOD | {name: "positive"}, GOOD | {name: "negative"}])
    for index in (name, [name, "response"]):
        indexed = frame.set_index(index)
        indexed.to_parquet(tmp_path / "t.parquet")
        for source in (indexed, tmp_path / "t.parquet"):
            refused(source, words)
            assert len(SteeringData(source, ignore=[name])) == 2
    refused(frame.set_index(name, drop=False), "one name")
    assert len(SteeringData(frame[list(GOOD)].set_index(pd.Index(["x", "x"])))) == 2


# --- what may be asked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["task", "topic", "language", "lang", "tags", "label", "author", "Task"])
def test_what_may_be_asked_is_no_metadata(name: str) -> None:
    refused([GOOD | {name: "Translate"}], rf"row 0: the column '{name}' would be left out .*ignore=\['{name}'\]")
    assert len(SteeringData([GOOD | {name: "Translate"}], ignore=[name])) == 1


def test_alpaca_text_that_says_something_else() -> None:
    assert list(SteeringData([ALPACA | {"text": ALPACA_TEXT}])) == [Example("Translate.\n\ngood", "gut")]
    for text in (
        "another instruction",
        f"Speak Latin. {ALPACA_TEXT}",
        ALPACA_TEXT.replace("good", "well"),
        ALPACA_TEXT + " And.",
    ):
        refused([ALPACA | {"text": text}], r"row 0: the column 'text' is not .*ignore=\['text'\]")
        assert len(SteeringData([ALPACA | {"text": text}], ignore=["text"])) == 1
    refused([ALPACA | {"instruction": " "}], "row 0: the instruction is empty")


def test_a_blank_system_column_is_empty() -> None:
    assert list(SteeringData([GOOD | {"system": "  "}])) == [Example(**GOOD)]


# --- messages of a prompt -----------------------------------------------------------------------------------------------

FURTHER = {"tool_calls": [{"a": 1}], "images": ["x.png"], "name": "Bob", "reasoning_content": "hm", "value": "b", "text": "c"}


@pytest.mark.parametrize("key", FURTHER)
def test_parts_of_a_message_that_are_not_read(key: str) -> None:
    prompt = [ASKED | {key: FURTHER[key]}]
    for row in ({"prompt": prompt, "response": "x"}, Example(prompt, "x")):
        refused([row], rf"row 0: turn 0 of 'prompt' has '{key}', which would be left out; allow that with ignore=\['{key}'\]")
        assert list(SteeringData([row], ignore=[key])) == [Example([ASKED], "x")]
    refused([{"messages": [*prompt, SAID]}], f"turn 0 of 'messages' has '{key}'")
    for empty in (None, "", []):
        assert list(SteeringData([Example([ASKED | {key: empty}], "x")])) == [Example([ASKED], "x")]


def test_parts_of_text_and_other_names_of_a_role() -> None:
    parts = {"role": "human", "content": [{"type": "text", "text": "Why?"}]}
    assert list(SteeringData([{"prompt": [parts], "response": "x"}])) == [Example([ASKED], "x")]


def test_an_unknown_role_is_refused(model: Any) -> None:
    turns = [{"role": "banana", "content": "Hi"}, ASKED]
    for row in ({"prompt": turns, "response": "x"}, Example(turns, "x")):
        refused([row], "row 0: .*by .*'banana'")
    with pytest.raises(DataError, match="prompt 0: message 0 of the prompt is by 'banana'; roles are system, developer, user"):
        generate(model, turns)


# --- conversations in cells ---------------------------------------------------------------------------------------------


def test_conversations_survive_a_csv(tmp_path: Path) -> None:
    written = json.dumps([ASKED])
    data = SteeringData(
        [{"prompt": TURNS, "response": "r"}, GOOD, Example("[1] and {2}", "r"), {"prompt": [ASKED], "response": "r"}]
    )
    data.to_frame().to_csv(tmp_path / "t.csv", index=False)
    data.to_frame().to_parquet(tmp_path / "t.parquet")
    for source in (tmp_path / "t.csv", tmp_path / "t.parquet", data.to_frame()):
        assert list(SteeringData(source)) == list(data) and SteeringData(source).hash == data.hash
    text = SteeringData([Example(written, "r")])
    assert list(SteeringData(text.to_frame())) == [Example([{"role": "user", "content": written}], "r")]
    for name in ("completion", "chosen"):
        row = {"prompt": written, name: json.dumps([SAID])} | ({"rejected": "No."} if name == "chosen" else {})
        assert SteeringData([row])[0].response == "Because."  # type: ignore[union-attr]


def test_a_conversation_as_python_prints_it_is_refused(tmp_path: Path) -> None:
    pd.DataFrame([{"prompt": TURNS, "response": "r"}]).to_parquet(tmp_path / "t.parquet")
    for frame in (pd.DataFrame([{"prompt": TURNS, "response": "r"}]), pd.read_parquet(tmp_path / "t.parquet")):
        text = io.StringIO()
        frame.to_csv(text, index=False)
        (tmp_path / "t.csv").write_text(text.getvalue())
        refused(tmp_path / "t.csv", r"t\.csv, row 0: the column 'prompt' holds a conversation that is not JSON .*json\.dumps")
    question = f"{TURNS} What does this list hold?"
    assert list(SteeringData([{"prompt": question, "response": "r"}])) == [Example(question, "r")]
