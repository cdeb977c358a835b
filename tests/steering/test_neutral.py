"""Neutral responses: the model's own answers, each prompt once, whatever the other rows are."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import PROMPTS

import steerlens
from steerlens import DataError, SteeringData, TrainConfig, with_neutral
from steerlens.steering import neutral

SHORT: dict[str, Any] = {"max_new_tokens": 6}
SAMPLED: dict[str, Any] = SHORT | {"temperature": 1.0}


@pytest.fixture
def counted(monkeypatch: Any) -> list[str]:
    """The prompts that are answered, in their order."""
    asked: list[str] = []
    real = steerlens.generate

    def generate(model: Any, prompts: Any, *args: Any, **kwargs: Any) -> list[str]:
        asked.extend(prompts)
        return real(model, prompts, *args, **kwargs)

    monkeypatch.setattr(neutral, "generate", generate)
    return asked


def test_greedy_answers_are_those_of_generate(model: Any, data: SteeringData) -> None:
    filled = with_neutral(model, data, **SHORT)
    answers = steerlens.generate(model, list(PROMPTS), temperature=0, **SHORT)
    assert [example.neutral for example in filled] == answers
    assert [(e.prompt, e.response) for e in filled] == [(e.prompt, e.response) for e in data]
    assert (filled.concept, filled.metadata, filled.negatives) == (data.concept, data.metadata, data.negatives)
    assert all(example.neutral is None for example in data), "what was given stays as it was"


@pytest.mark.parametrize("size", [1, 3, None])
def test_an_answer_depends_on_its_prompt_alone(model: Any, data: SteeringData, size: int | None) -> None:
    whole = with_neutral(model, data, **SAMPLED)
    backwards = with_neutral(model, SteeringData(data.examples[::-1]), batch_size=size, **SAMPLED)
    assert [example.neutral for example in backwards][::-1] == [example.neutral for example in whole]
    alone = with_neutral(model, SteeringData(data.examples[2:3]), **SAMPLED)
    assert alone.examples[0] == whole.examples[2]
    other = with_neutral(model, data, seed=1, **SAMPLED)
    assert [example.neutral for example in other] != [example.neutral for example in whole]


def test_each_prompt_is_answered_once(model: Any, counted: list[str]) -> None:
    conversation = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "?"},
    ]
    rows = [{"prompt": p, "response": r} for p in ("Hi", conversation, "Hi", conversation) for r in ("a",)]
    filled = with_neutral(model, rows, **SAMPLED)
    assert len(counted) == 2
    first, second, third, fourth = (example.neutral for example in filled)
    assert (first, second) == (third, fourth) and first != second


def test_rows_keep_what_they_have(model: Any, data: SteeringData, counted: list[str]) -> None:
    rows = [{"prompt": e.prompt, "response": e.response, "neutral": "mine" if n == 1 else None} for n, e in enumerate(data)]
    filled = with_neutral(model, rows, **SHORT)
    assert filled.examples[1].neutral == "mine" and PROMPTS[1] not in counted
    anew = with_neutral(model, rows, replace=True, **SHORT)
    assert anew.examples[1].neutral != "mine" and anew.examples[0] == filled.examples[0]
    counted.clear()
    assert with_neutral(model, filled, **SHORT).hash == filled.hash
    assert not counted


def test_the_cache_answers_again(model: Any, data: SteeringData, counted: list[str], tmp_path: Path) -> None:
    path = tmp_path / "kept" / "neutral.jsonl"
    filled = with_neutral(model, data, cache=path, **SAMPLED)
    assert len(counted) == len(PROMPTS)
    counted.clear()
    assert with_neutral(model, data, cache=path, **SAMPLED).hash == filled.hash
    assert with_neutral(model, data, cache=str(path), replace=True, **SAMPLED).hash == filled.hash
    assert not counted
    with path.open("ab") as file:
        file.write(b'{"steerlens_neutral": 1, "key": "ab')  # killed while it wrote
    more = SteeringData([*data.examples, {"prompt": "New?", "response": "Yes"}])
    with_neutral(model, more, cache=path, **SAMPLED)
    assert counted == ["New?"]
    counted.clear()
    with_neutral(model, more, cache=path, **SAMPLED)
    assert not counted
    assert {json.loads(line)["prompt"] for line in path.read_text().splitlines() if line.endswith("}")} == {*PROMPTS, "New?"}


@pytest.mark.parametrize("change", [{"seed": 5}, {"max_new_tokens": 5}, {"temperature": 0.5}])
def test_other_settings_are_other_answers(
    model: Any, data: SteeringData, counted: list[str], tmp_path: Path, change: dict[str, Any]
) -> None:
    path = tmp_path / "neutral.jsonl"
    with_neutral(model, data, cache=path, **SAMPLED)
    counted.clear()
    with_neutral(model, data, cache=path, **(SAMPLED | change))
    assert len(counted) == len(PROMPTS)


def test_other_weights_are_another_model(benches: Any, data: SteeringData, counted: list[str], tmp_path: Path) -> None:
    from tiny import make_bench

    path, one = tmp_path / "neutral.jsonl", make_bench("llama", tmp_path / "m").model
    with_neutral(one, data, cache=path, **SHORT)
    with_neutral(one, data, cache=path, seed=3, **SHORT)  # greedy: the seed changes nothing
    assert len(counted) == len(PROMPTS)
    one.original_model.model.layers[0].mlp.down_proj.weight.data.mul_(2.0)
    with_neutral(one, data, cache=path, **SHORT)
    assert len(counted) == 2 * len(PROMPTS)


def test_what_was_answered_survives_a_stop(model: Any, data: SteeringData, monkeypatch: Any, tmp_path: Path) -> None:
    path, real, calls = tmp_path / "neutral.jsonl", steerlens.generate, []

    def stops(*args: Any, **kwargs: Any) -> list[str]:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(neutral, "PART", 2)
    monkeypatch.setattr(neutral, "generate", stops)
    with pytest.raises(KeyboardInterrupt):
        with_neutral(model, data, cache=path, **SHORT)
    assert len(neutral.read_answers(path)) == 2
    with_neutral(model, data, cache=path, **SHORT)
    assert len(calls) == 4, "two of five were kept: two calls for the three that were left"


def test_a_cache_that_is_none_is_refused(model: Any, data: SteeringData, tmp_path: Path) -> None:
    for content in ('{"a": 1}\n', '{"a": 1}\n{"b": 2}\n', "text"):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(ValueError, match="is not a cache of neutral responses"):
            with_neutral(model, data, cache=tmp_path / "other.json", **SHORT)
        assert (tmp_path / "other.json").read_text() == content
    with pytest.raises(ValueError, match="is not a file"):
        with_neutral(model, data, cache=tmp_path, **SHORT)


def test_an_empty_answer_is_told(model: Any, data: SteeringData, monkeypatch: Any) -> None:
    monkeypatch.setattr(neutral, "generate", lambda model, prompts, **_: [" " if p == "Hi" else "text" for p in prompts])
    with pytest.raises(DataError, match=r"answers 'Hi' with nothing: sample \(temperature=1.0"):
        with_neutral(model, data)


@pytest.mark.parametrize("objective", ["simpo", "dpo"])
def test_preference_objectives_train_on_them(model: Any, data: SteeringData, objective: str) -> None:
    config = TrainConfig(epochs=1, batch_size=5, factor_lr=0.1, direction_lr=0.01)
    settings: dict[str, Any] = {"layer": 1, "objective": objective, "config": config, "progress": False}
    with pytest.raises(DataError, match="neutral"):
        steerlens.train(model, data, **settings)
    history = steerlens.train(model, with_neutral(model, data, **SHORT), **settings).history
    assert history is not None and len(history) == 1


# --- AxBench's files, which have none ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "axbench"
    made.mkdir()
    rows = [(p, f"{p} {c}", c, "positive") for c in (0, 1) for p in PROMPTS[:3]]
    pd.DataFrame(rows, columns=["input", "output", "concept_id", "category"]).to_parquet(made / "train_data.parquet")
    lines = [json.dumps({"concept_id": number, "concept": f"concept {number}"}) for number in (0, 1)]
    (made / "metadata.jsonl").write_text("\n".join(lines))
    return made


def neutrals(sets: dict[int, SteeringData]) -> list[list[str | None]]:
    return [[example.neutral for example in data] for data in sets.values()]


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv", "frame"])
def test_read_axbench_takes_a_table(folder: Path, tmp_path: Path, form: str) -> None:
    frame = pd.DataFrame({"prompt": PROMPTS, "neutral": [f"neutral {number}" for number in range(len(PROMPTS))]})
    path = tmp_path / f"neutral.{form}"
    if form == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif form != "frame":
        getattr(frame, f"to_{form}")(path, index=False)
    sets = steerlens.read_axbench(folder, neutral=frame if form == "frame" else path)
    assert neutrals(sets) == [["neutral 0", "neutral 1", "neutral 2"]] * 2
    assert [data.concept for data in sets.values()] == ["concept 0", "concept 1"] and sets[1].metadata["concept_id"] == 1


def test_responses_tell_rows_of_one_prompt_apart(folder: Path) -> None:
    rows = [(p, f"{p} {c}", f"to {p} of {c}") for c in (0, 1) for p in PROMPTS[:3]]
    frame = pd.DataFrame(rows, columns=["prompt", "response", "neutral"])
    assert neutrals(steerlens.read_axbench(folder, neutral=frame)) == [[f"to {p} of {c}" for p in PROMPTS[:3]] for c in (0, 1)]
    with pytest.raises(DataError, match=r"there are two neutral responses to 'Why is the sky blue\?'"):
        steerlens.read_axbench(folder, neutral=frame.drop(columns="response"))


def test_read_axbench_takes_a_function(folder: Path, model: Any, counted: list[str], tmp_path: Path) -> None:
    cache = tmp_path / "neutral.jsonl"
    sets = steerlens.read_axbench(folder, neutral=lambda data: with_neutral(model, data, cache=cache, **SHORT))
    assert neutrals(sets)[0] == neutrals(sets)[1] == steerlens.generate(model, list(PROMPTS[:3]), temperature=0, **SHORT)
    assert sorted(counted) == sorted(PROMPTS[:3]), "the cache answers for the second concept"
    assert neutrals(steerlens.read_axbench(folder)) == [[None] * 3] * 2


def test_a_table_that_does_not_cover_the_rows_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"few.csv: there is no neutral response to 'Name a town.'"):
        pd.DataFrame({"prompt": PROMPTS[:1], "neutral": ["a"]}).to_csv(tmp_path / "few.csv", index=False)
        steerlens.read_axbench(folder, neutral=tmp_path / "few.csv")
    with pytest.raises(DataError, match=r"lacks the columns \['neutral'\]"):
        steerlens.read_axbench(folder, neutral=pd.DataFrame({"prompt": PROMPTS}))
    with pytest.raises(DataError, match="row 2: the neutral response is"):
        steerlens.read_axbench(folder, neutral=pd.DataFrame({"prompt": PROMPTS, "neutral": ["a", "b", " ", "c", "d"]}))
    wrong: Any = 3
    with pytest.raises(TypeError, match="it must be a table, its path, or a function of data"):
        steerlens.read_axbench(folder, neutral=wrong)
