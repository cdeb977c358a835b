"""Training data as people have them: read as their own format means them, or refused by file, row and column."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import steerlens
from steerlens import Example, SteeringData, read_axbench
from steerlens.data import DataError

GOOD = {"prompt": "Why?", "response": "Because."}
ASKED = {"role": "user", "content": "Why?"}
SAID = {"role": "assistant", "content": "Because."}
BAD = {"role": "assistant", "content": "No."}
SYSTEM = {"role": "system", "content": "Be brief."}
BEFORE = [SYSTEM, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, ASKED]


def share(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[turn["role"]], "value": turn["content"]} for turn in turns]


def only(row: Any, **options: Any) -> Example:
    (example,) = SteeringData([row], **options)
    return example


ALPACA_TEXT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that "
    "appropriately completes the request.\n\n### Instruction:\nTranslate into German.\n\n### Input:\ngood morning\n\n"
    "### Response:\nGuten Morgen"
)

# --- 1: columns ---------------------------------------------------------------------------------------------------------


def test_case_01_alpaca_rows_and_a_system_column() -> None:
    row = {"instruction": "Translate into German.", "input": "good morning", "output": "Guten Morgen"}
    assert only(row) == Example("Translate into German.\n\ngood morning", "Guten Morgen")
    assert only(row | {"text": ALPACA_TEXT}) == only(row)
    for empty in ("", " ", None):
        assert only(row | {"input": empty}).prompt == "Translate into German."
    del row["input"]
    assert only(row).prompt == "Translate into German."
    assert only(GOOD | {"system": "Be brief."}).prompt == [SYSTEM, ASKED]
    assert only(GOOD | {"system": ""}).prompt == "Why?"
    assert only({"prompt": [ASKED], "response": "x", "system": "Be brief."}).prompt == [SYSTEM, ASKED]
    with pytest.raises(DataError, match="row 0: the column 'system' stands beside a conversation that has a system message"):
        only({"prompt": BEFORE, "response": "x", "system": "Be brief."})


def test_case_01_dolly_rows() -> None:
    row = {"instruction": "Who?", "context": "A text.", "response": "He.", "category": "closed_qa"}
    with pytest.raises(DataError, match=r"its category is 'closed_qa'.*ignore=\['category'\]"):
        only(row)
    assert only(row, ignore=["category"]) == Example("Who?\n\nA text.", "He.")


@pytest.mark.parametrize(
    "column", ["instruction", "context", "label", "weight", "history", "input", "neutral_response", "Prompt"]
)
def test_case_01_a_column_that_would_be_left_out_is_named(column: str) -> None:
    rows = [GOOD, GOOD | {column: "x"}]
    with pytest.raises(DataError, match=rf"row 1: the column '{column}' would be left out .*ignore=\['{column}'\]"):
        SteeringData(rows)
    with pytest.raises(DataError, match=f"row 0: the column '{column}' would be left out"):
        SteeringData(pd.DataFrame([GOOD | {column: "x"}]))
    assert SteeringData(rows, ignore=[column]).examples == SteeringData([GOOD, GOOD]).examples


def test_case_01_metadata_and_empty_cells_are_no_loss() -> None:
    metadata = {"id": 1, "concept": "fish", "concept_id": 3, "genre": "text", "category": "positive", "source": "here"}
    assert only(GOOD | metadata | {"unheard of": None, "tools": []}) == Example(**GOOD)


# --- 2: categories and concepts -----------------------------------------------------------------------------------------

AXBENCH = {"input": "a", "output": "b", "output_concept": "fish", "concept_genre": "text", "category": "positive",
           "dataset_category": "instruction", "concept_id": 0, "sae_link": "x", "sae_id": 4}  # fmt: skip


def in_every_form(rows: list[dict[str, Any]], folder: Path) -> list[Any]:
    datasets = pytest.importorskip("datasets")
    frame = pd.DataFrame(rows)
    frame.to_parquet(folder / "t.parquet")
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_json(folder / "t.json", orient="records", lines=True)
    files = [folder / name for name in ("t.parquet", "t.csv", "t.json")]
    return [rows, frame, datasets.Dataset.from_list(rows), frame.to_dict(orient="list"), *files]


@pytest.mark.parametrize("category", ["negative", "hard negative", "anything"])
def test_case_02_only_positive_examples_are_trained_on(tmp_path: Path, category: str) -> None:
    for source in in_every_form([AXBENCH, AXBENCH | {"category": category}], tmp_path):
        with pytest.raises(DataError, match=f"row 1: its category is '{category}'.*read_axbench"):
            SteeringData(source)


def test_case_02_one_concept_in_one_set(tmp_path: Path) -> None:
    for column, value in (("concept_id", 7), ("output_concept", "bird")):
        for source in in_every_form([AXBENCH, AXBENCH | {column: value}], tmp_path):
            with pytest.raises(DataError, match=rf"the column '{column}' names 2 concepts .*{value}.*read_axbench"):
                SteeringData(source)
            assert len(SteeringData(source, ignore=[column])) == 2
    assert SteeringData([AXBENCH, AXBENCH]).examples == (Example("a", "b"),) * 2
    shared = AXBENCH | {"category": "negative", "concept_id": -1}
    for source in in_every_form([shared], tmp_path):
        with pytest.raises(DataError, match=r"row 0: (a shared negative of AxBench|its category).*read_axbench"):
            SteeringData(source)


# --- 17: files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["r.json", "r.jsonl", "r.ndjson", "r.txt", "r", "r.csv"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_case_17_json_lines_under_any_name_and_encoding(tmp_path: Path, name: str, encoding: str) -> None:
    rows = [GOOD | {"response": "Weil é\u2028雨"}, GOOD]
    for count in (1, 2):
        text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows[:count]) + "\n"
        mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
        (tmp_path / name).write_bytes((mark + text).encode(encoding))
        assert SteeringData(tmp_path / name).examples == SteeringData(rows[:count]).examples


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_case_17_a_list_and_a_csv_with_a_mark(tmp_path: Path, encoding: str) -> None:
    rows = [GOOD | {"response": "é, 雨"}, GOOD]
    (tmp_path / "r.jsonl").write_text(json.dumps(rows, indent=1), encoding=encoding)
    pd.DataFrame(rows).to_csv(tmp_path / "r.csv", index=False, encoding=encoding)
    for name in ("r.jsonl", "r.csv"):
        assert SteeringData(tmp_path / name).examples == SteeringData(rows).examples


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "r.json",
            b'{"prompt": "a", "response": "b"}\n{"prompt": \n',
            r"r\.json, line 2: not JSON .*each line must hold a row",
        ),
        ("r.json", b"{", "cannot be read as a table .*line 1.*a list of rows, or a row in each line"),
        ("r.jsonl", '{"prompt": "é"}'.encode("latin-1"), "r.jsonl cannot be read .*line 1.*save it as UTF-8"),
        ("r.csv", "prompt,response\na,b\né,b\n".encode("latin-1"), "r.csv cannot be read .*line 3.*save it as UTF-8"),
        ("r.json", json.dumps([GOOD]).encode("utf-16-le"), "r.json .*UTF-16 without a byte order mark.*save it as UTF-8"),
        ("r.csv", b"prompt,response\na,b,c\nd,e,f\n", "r.csv .*more cells than there are column names"),
        ("r.parquet", b"PAR1", "r.parquet cannot be read .*write it again"),
        ("r.csv", b"prompt,response\na,b\nc,\n", "^r.csv, row 1: the response is empty"),
        ("r.csv", b"prompt,response,extra\na,b,\nc,d,e\n", "^r.csv, row 1: the column 'extra' would be left out"),
        ("r.json", b"{}", "r.json holds a dict, not a list of rows; write"),
        ("r.jsonl", b"", "r.jsonl"),
        ("r.json", b"[" * 100_000, "r.json cannot be read"),
        ("r.json", b"[1]", "^r.json, row 0: expected a dict"),
    ],
)
def test_case_17_errors_name_file_row_and_remedy(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        SteeringData(tmp_path / name)


def test_case_17_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no file; .*read_axbench"):
        SteeringData(tmp_path)


# --- 18: formats --------------------------------------------------------------------------------------------------------

SHORT = Example("Why?", "Because.")
WHOLE = Example("Why?", "Because.", "No.")


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"messages": [ASKED, SAID]}, Example("Why?", "Because.")),
        ({"messages": [*BEFORE, SAID]}, Example(BEFORE, "Because.")),
        ({"messages": [ASKED, SAID | {"name": None, "tool_calls": None}]}, Example("Why?", "Because.")),
        (
            {"messages": [m | {"content": [{"type": "text", "text": m["content"]}]} for m in (ASKED, SAID)]},
            Example("Why?", "Because."),
        ),
        ({"messages": [ASKED, SAID], "prompt": "Why?", "prompt_id": "x"}, Example("Why?", "Because.")),
        ({"messages": json.dumps([ASKED, SAID])}, Example("Why?", "Because.")),
        ({"conversations": share([ASKED, SAID]), "id": "a"}, Example("Why?", "Because.")),
        ({"conversations": share([*BEFORE, SAID])}, Example(BEFORE, "Because.")),
        ({"conversations": share([ASKED, SAID]), "system": "Be brief."}, Example([SYSTEM, ASKED], "Because.")),
        ({"prompt": "Why?", "chosen": "Because.", "rejected": "No."}, WHOLE),
        ({"prompt": [ASKED], "chosen": [SAID], "rejected": [BAD]}, Example([ASKED], "Because.", "No.")),
        ({"chosen": [ASKED, SAID], "rejected": [ASKED, BAD], "score_chosen": 9.0}, WHOLE),
        ({"prompt": "Why?", "chosen": [ASKED, SAID], "rejected": [ASKED, BAD]}, WHOLE),
        ({"prompt": "Why?", "positive": "Because.", "negative": "No."}, WHOLE),
        ({"prompt": "Why?", "completion": "Because."}, Example("Why?", "Because.")),
        ({"prompt": [ASKED], "completion": [SAID]}, Example([ASKED], "Because.")),
        ({"question": "Why?", "answer_matching_behavior": "Because.", "answer_not_matching_behavior": "No."}, WHOLE),
    ],
)
def test_case_18_formats(tmp_path: Path, row: dict[str, Any], wanted: Example) -> None:
    datasets = pytest.importorskip("datasets")
    (tmp_path / "r.json").write_text(json.dumps([row]))
    pd.DataFrame([row]).to_parquet(tmp_path / "r.parquet")
    sources = (
        [row],
        pd.DataFrame([row]),
        datasets.Dataset.from_list([row]),
        tmp_path / "r.json",
        {k: [v] for k, v in row.items()},
    )
    for source in sources:
        assert SteeringData(source).examples == (wanted,)
    assert SteeringData(tmp_path / "r.parquet").hash == SteeringData([wanted]).hash


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": [ASKED]}, "'messages' ends with the user; its last turn must be the assistant's"),
        ({"messages": [SAID]}, "'messages' holds an answer and nothing before it"),
        ({"messages": []}, "'messages' is list .*, not a list of turns"),
        ({"messages": "Why?"}, "'messages' is str 'Why\\?', not a list of turns"),
        ({"messages": [ASKED, {"role": "tool", "content": "x"}, SAID]}, "turn 1 of 'messages' is by str 'tool'"),
        ({"messages": [ASKED, SAID | {"content": None, "tool_calls": [1]}]}, "turn 1 of 'messages' has 'tool_calls'"),
        ({"messages": [ASKED, SAID | {"reasoning_content": "hm"}]}, "turn 1 of 'messages' has 'reasoning_content'"),
        ({"messages": [ASKED, SAID | {"weight": 0}]}, "turn 1 of 'messages' has 'weight'"),
        ({"messages": [ASKED | {"content": [{"type": "image"}]}, SAID]}, "turn 0 of 'messages' has no text"),
        ({"messages": [ASKED, SAID], "prompt": "Else?"}, "'prompt' is not the first question in 'messages'"),
        ({"messages": [*BEFORE, SAID], "system": "Else."}, "'system' stands beside a conversation that has a system"),
        ({"conversations": [{"from": "observation", "value": "x"}, *share([SAID])]}, "turn 0 of 'conversations' is by"),
        ({"chosen": [ASKED, SAID], "rejected": [ASKED | {"content": "Else?"}, BAD]}, "the turns before the last differ"),
        ({"chosen": "Human: a", "rejected": "Human: b"}, "whole texts without a prompt; add a column 'prompt'"),
        ({"prompt": "Why?", "chosen": "Why? Because.", "rejected": "Why? No."}, "repeat the prompt; leave it out"),
        ({"positive": "a", "negative": "b"}, "hold whole texts and no prompt; add a column 'prompt'"),
        (("a", "b"), "a pair is prompt and response or positive and negative cannot be told; write"),
        ({"prompt": "Why?", "chosen": "a", "rejected": "b", "label": True}, "the column 'label' would be left out"),
    ],
)
def test_case_18_what_cannot_be_told_is_refused(row: Any, words: str) -> None:
    with pytest.raises(DataError, match=f"row 1: .*{words}"):
        SteeringData([GOOD, row])


def test_case_18_tables_of_other_kinds() -> None:
    with pytest.raises(DataError, match=r"a dict of data sets \(train\); give one of them"):
        SteeringData({"train": pytest.importorskip("datasets").Dataset.from_list([GOOD])})
    with pytest.raises(DataError, match="equally long lists"):
        SteeringData({"prompt": ["a"], "response": ["b", "c"]})
    with pytest.raises(DataError, match="two columns of the table have one name"):
        SteeringData(pd.DataFrame([["a", "b", "c"]], columns=["prompt", "response", "response"]))
    with pytest.raises(DataError, match="the data are int; give a list of rows"):
        SteeringData(5)


# --- arguments, and folders that are damaged ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"concept": 7}, "concept"),
        ({"concept": ["fish"]}, "concept"),
        ({"metadata": "x"}, "metadata"),
        ({"negatives": [1]}, "negatives"),
        ({"ignore": "label"}, "ignore is str 'label'; it must be a list of column names"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        SteeringData([GOOD], **options)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("3", "metadata.jsonl, row 0: expected a dict"),
        ("{}", "row 0: the concept_id is missing, not a whole number"),
        ('{"concept_id": "x", "concept": "fish"}', "the concept_id is str 'x'"),
        ('{"concept_id": 0}', "the concept is missing, not text"),
        ('{"concept_id": 0, "concept": "fish", "concept_genres_map": [1]}', "concept_genres_map is list"),
        ('{"concept_id": 0, "concept": "fish", "concept_genres_map": {"fish": []}}', "concept_genres_map is dict"),
        ('{"concept_id": 0, "concept": "fish"}\n{"concept_id": 0, "concept": "fish"}', "row 1: the concept_id 0 occurs twice"),
        ("{", "line 1: not JSON"),
    ],
)
def test_damaged_axbench_folders(tmp_path: Path, line: str, words: str) -> None:
    pd.DataFrame([AXBENCH]).to_parquet(tmp_path / "train_data.parquet")
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(DataError, match=words):
        read_axbench(tmp_path)


# --- half characters ----------------------------------------------------------------------------------------------------

HALF: dict[str, tuple[Any, str]] = {
    "prompt": ({"prompt": "Hi \udc80"}, "the prompt"),
    "response": ({"response": "Sea\ud800"}, "the response"),
    "neutral": ({"neutral": "\udfff"}, "the neutral response"),
    "message": ({"prompt": [{"role": "user", "content": "Hi \udc80"}]}, "message 0 of the prompt"),
}


@pytest.mark.parametrize("name", HALF)
@pytest.mark.parametrize("kind", ["rows", "jsonl", "json"])
def test_half_characters_are_refused_where_they_stand(name: str, kind: str, tmp_path: Path) -> None:
    changed, words = HALF[name]
    whole = {"prompt": "Hi", "response": "Sea", "neutral": "Hills"}
    rows: Any = [whole, whole | changed]
    if kind != "rows":
        path = tmp_path / f"data.{kind}"
        path.write_text("\n".join(map(json.dumps, rows)) if kind == "jsonl" else json.dumps(rows))
        rows, words = path, f"{path.name}, row 1: {words}"
    with pytest.raises(DataError, match=f"{words} holds .* half a character"):
        SteeringData(rows)


def test_half_characters_elsewhere(model: Any, make_vector: Any, tmp_path: Path) -> None:
    rows = [{"prompt": "Hi", "response": "Sea"}]
    judge = steerlens.ScriptedJudge([])
    half: dict[str, Callable[[], Any]] = {
        "the concept": lambda: SteeringData(rows, concept="\udc80"),
        "prompt 0: the prompt": lambda: steerlens.generate(model, ["\udc80"]),
        "concept 0": lambda: steerlens.evaluate(model, None, "\udc80", ["Hi"], judge),
        "the steering prompt": lambda: steerlens.SteeringPrompt("\udc80"),
    }
    for words, call in half.items():
        with pytest.raises(DataError, match=f"{words} holds .* half a character"):
            call()
    sweep = {"prompts": {"sea": ["Hi", "\udc80"]}, "out": tmp_path / "out"}
    with pytest.raises(DataError, match="prompt 1: the prompt holds"):
        steerlens.sweep(model, {"sea": rows}, {"layer": 1}, judge, **sweep)
    assert not (tmp_path / "out").exists()
