"""Rating a run's responses again, telling concepts and methods apart, and folders that are not what they should be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_instructions import INSTRUCTIONS

from steerlens import Scores, ScriptedJudge, SteeringData, SteeringPrompt
from steerlens.evaluation.axbench.benchmark import axbench
from steerlens.evaluation.axbench.methods import method_identity
from steerlens.evaluation.axbench.results import AxBenchResult, mended
from steerlens.scores import SCORES

FAST: dict[str, Any] = {"n_instructions": 2, "max_new_tokens": 3, "progress": False, "method": "unsteered"}
FAST |= {"instructions": INSTRUCTIONS}


class Named(ScriptedJudge):
    @property
    def identity(self) -> str:
        return "the same judge"


@pytest.fixture
def concepts(data: Any) -> dict[int, SteeringData]:
    return {number: SteeringData(data.examples, f"concept {number}", {"concept_id": number}) for number in (4, 7)}


def table(*scores: Scores, **columns: Any) -> pd.DataFrame:
    rows = [
        {"concept_id": 1, "concept": "sea", "genre": None, "instruction": n, "prompt": "p", "response": str(n), "seed": n}
        | {"concept_score": one.concept, "instruct_score": one.instruct, "fluency_score": one.fluency, "overall": one.overall}
        | {"error": None if one.overall is not None else "lost", "vector_file": None} | columns
        for n, one in enumerate(scores)
    ]  # fmt: skip
    return pd.DataFrame(rows).astype(dict.fromkeys(SCORES, float) | {"error": object})


# --- rating again -----------------------------------------------------------------------------------------------------


def test_a_worse_verdict_replaces_nothing() -> None:
    before = table(Scores(2, 1, None), Scores(1, 1, 1), Scores(None, None, None))
    worse = ScriptedJudge([RuntimeError("down"), Scores(None, 2, 2)])
    after = mended(before, worse)
    assert [response for _, _, response in worse.calls] == ["0", "2"], "what is scored is not asked about"
    assert after["concept_score"].fillna(-1).tolist() == [2, 1, -1] and after["error"][0] == "lost"
    assert after["instruct_score"].tolist() == [1, 1, 2] and after["error"][2] == "the judge left a rating out"
    assert after["instruction"].tolist() == [0, 1, 2] and list(after) == list(before)
    whole = mended(after, ScriptedJudge(lambda *asked: Scores(2, 2, 2)))
    assert whole["overall"].tolist() == [2, 1, 2] and whole["error"].tolist() == [None, None, None]


def test_nothing_to_rate_again_is_the_same_table() -> None:
    scored = table(Scores(1, 1, 1))
    assert mended(scored, ScriptedJudge([])) is scored


def test_another_judge_for_the_same_responses(model: Any, concepts: Any, tmp_path: Path) -> None:
    first = axbench(model, concepts, judge=Named(lambda *asked: Scores(1, 1, 1)), out=tmp_path, **FAST)
    second = first.judged_by(ScriptedJudge(lambda *asked: Scores(2, 2, 2)))
    assert second.evaluation.overall == 2 and first.evaluation.overall == 1
    assert second.frame["response"].tolist() == first.frame["response"].tolist()
    assert second.settings["judge"] != first.settings["judge"] == "the same judge"
    assert AxBenchResult.open(tmp_path).evaluation.overall == 1, "nothing is written"
    with pytest.raises(TypeError, match="the judge is the class ScriptedJudge: give an object of it"):
        first.judged_by(ScriptedJudge)  # type: ignore[arg-type] - the point


# --- one folder, several calls ----------------------------------------------------------------------------------------


def test_the_table_of_all_rows_has_what_other_calls_have_finished(model: Any, concepts: Any, tmp_path: Path) -> None:
    judge = Named(lambda concept, prompt, response: Scores(len(response) % 3, 2, 1))
    whole = axbench(model, concepts, judge=judge, **FAST)
    axbench(model, concepts, judge=judge, concepts=[7], out=tmp_path, **FAST)
    axbench(model, concepts, judge=judge, concepts=[4], out=tmp_path, **FAST)
    stored = pd.read_parquet(tmp_path / "generations.parquet")
    assert stored["concept_id"].tolist() == [4, 4, 7, 7]
    assert stored["response"].tolist() == whole.frame["response"].tolist()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda rows: rows.drop(columns="vector_file"), r"9\.parquet does not hold rows of concept 9: "),
        (lambda rows: rows.head(0), r"9\.parquet does not hold rows of concept 9: "),
        (lambda rows: rows, r"9\.parquet does not hold rows of concept 9: "),
    ],
    ids=["a column is missing", "no row", "another concept"],
)
def test_a_file_of_something_else_is_refused(model: Any, concepts: Any, tmp_path: Path, content: Any, words: str) -> None:
    axbench(model, concepts, judge=Named(lambda *asked: Scores(1, 1, 1)), out=tmp_path, **FAST)
    rows = pd.read_parquet(tmp_path / "concepts" / "4.parquet")
    content(rows).to_parquet(tmp_path / "concepts" / "9.parquet")
    with pytest.raises(ValueError, match=words):
        AxBenchResult.open(tmp_path)


def test_a_manifest_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"plan": []}))
    with pytest.raises(ValueError, match=r"manifest\.json is no manifest of this protocol: it names no method"):
        AxBenchResult.open(tmp_path)


# --- telling apart ----------------------------------------------------------------------------------------------------


def test_functions_are_told_apart_by_the_vectors_they_hold(make_vector: Callable[..., Any]) -> None:
    def giving(sv: Any) -> Any:
        return lambda model, data: sv

    once = method_identity(giving(make_vector(seed=1)))
    assert once == method_identity(giving(make_vector(seed=1)))
    assert once != method_identity(giving(make_vector(seed=2))), "another direction of like norm"
    assert once != method_identity(giving(SteeringPrompt("p"))) != method_identity(giving(SteeringPrompt("q")))


def test_functions_are_told_apart_by_what_they_do() -> None:
    def times(factor: float, seen: list[int]) -> Any:
        return lambda model, data: (factor, seen)

    assert method_identity("prosv") == "prosv"
    once = method_identity(times(1.0, []))
    assert once == method_identity(times(1.0, [3])), "a list that fills while it runs does not count"
    assert once != method_identity(times(9.0, []))
    assert method_identity(lambda model, data: SteeringPrompt("p")) != method_identity(lambda model, data: None)


def test_a_run_with_another_function_of_the_same_name_is_refused(model: Any, concepts: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = FAST | {"judge": Named(lambda *asked: Scores(1, 1, 1)), "out": tmp_path}
    settings["method"] = lambda model, data: None
    axbench(model, concepts, **settings)
    settings["method"] = lambda model, data: [None][0]
    with pytest.raises(ValueError, match=r"other settings .*method is"):
        axbench(model, concepts, **settings)


def test_a_name_that_reads_like_a_number_merges_nothing() -> None:
    frame = pd.concat([
        table(Scores(one, one, one), concept_id=number, concept=name)
        for number, name, one in ((3, "cat", 1), (4, "cat", 2), (5, "cat [3]", 0))
    ], ignore_index=True)  # fmt: skip
    found = AxBenchResult(frame, dict.fromkeys((3, 4, 5)), {"method": "m"}).by_concept()
    assert found["concept_id"].tolist() == [3, 4, 5] and found["overall"].tolist() == [1, 2, 0]


# --- errors -----------------------------------------------------------------------------------------------------------


def test_a_method_that_fails_says_on_which_concept(model: Any, concepts: Any) -> None:
    settings: dict[str, Any] = FAST | {"method": lambda model, data: [][0]}
    with pytest.raises(IndexError) as caught:
        axbench(model, concepts, judge=ScriptedJudge([]), **settings)
    assert caught.value.__notes__ == ["This was the method, on the concept 'concept 4' (id 4)."]


@pytest.mark.parametrize(("number", "words"), [(-1, "this one is -1"), (2.5, "has the concept_id 2.5; it must be a whole")])
def test_ids_that_cannot_be_seeds(model: Any, data: Any, number: Any, words: str) -> None:
    concepts = {"sea": SteeringData(data.examples, "sea", {"concept_id": number})}
    with pytest.raises(ValueError, match=words):
        axbench(model, concepts, judge=ScriptedJudge([]), **FAST)
