"""The AxBench protocol: running, resuming, refusing, and real files; with a scripted judge and small models."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from real_data import AXBENCH
from test_instructions import INSTRUCTIONS

import steerlens
from steerlens import Scores, ScriptedJudge, SteeringData, SteeringPrompt, TrainConfig
from steerlens.evaluation.axbench.benchmark import axbench, generation_seeds
from steerlens.evaluation.axbench.concepts import find_concepts
from steerlens.evaluation.axbench.results import AxBenchResult
from steerlens.judges.base import JudgeError, Question, Verdict, check_judge

FAST: dict[str, Any] = {"n_instructions": 3, "max_new_tokens": 4, "progress": False}
QUICK = TrainConfig(epochs=1, factor_init=1.0, factor_lr=0.1, direction_lr=0.1)


class Same(ScriptedJudge):
    """Passes for the same judge whatever its script, so that a run goes on with another one."""

    @property
    def identity(self) -> str:
        return "same"


def length_judge() -> ScriptedJudge:
    return Same(lambda concept, prompt, response: Scores(len(response) % 3, 2, 1))


@pytest.fixture
def datasets(data: Any) -> dict[int, SteeringData]:
    def about(number: int, genre: str) -> SteeringData:
        metadata = {"concept_id": number, "genre": genre}
        return SteeringData(data.examples[number % 3 :], f"concept {number}", metadata)

    return {number: about(number, genre) for number, genre in ((4, "text"), (7, "code"), (9, "text"))}


# --- the protocol -----------------------------------------------------------------------------------------------------


def test_each_concept_gets_its_vector_its_instructions_and_its_seeds(model: Any, datasets: Any) -> None:
    judge = length_judge()
    settings: dict[str, Any] = {"layer": 1, "config": QUICK, "instructions": INSTRUCTIONS, "seed": 5}
    result = axbench(model, datasets, judge=judge, method="fssv", **settings, **FAST)
    for number, rows in datasets.items():
        sv = steerlens.train(model, rows, layer=1, positions="all", config=QUICK, seed=5, progress=False)
        assert result.vectors[number] == sv
        mine = result.frame[result.frame["concept_id"] == number]
        prompts = pd.Series(INSTRUCTIONS).sample(3, random_state=number).tolist()
        assert mine["prompt"].tolist() == prompts and mine["instruction"].tolist() == [0, 1, 2]
        assert mine["seed"].tolist() == generation_seeds(5, number, 3)
        expected = steerlens.generate(model, prompts, sv, max_new_tokens=4, seed=generation_seeds(5, number, 3))
        assert mine["response"].tolist() == expected
        assert mine["concept_score"].tolist() == [len(text) % 3 for text in expected]
    assert len(set(result.frame["seed"])) == 9
    assert result.redo(model, 7) == result.frame["response"][7]
    table = result.by_concept()
    assert table["norm"].tolist() == [sv.norm for sv in result.vectors.values() if isinstance(sv, steerlens.SteeringVector)]


def test_a_concept_does_not_depend_on_the_others(model: Any, datasets: Any) -> None:
    settings: dict[str, Any] = {"judge": length_judge(), "method": "diffmean", "layer": 1, "instructions": INSTRUCTIONS, **FAST}
    contrast = {n: SteeringData(d.examples, d.concept, d.metadata, d.examples[:1]) for n, d in datasets.items()}
    whole = axbench(model, contrast, **settings).frame
    alone = axbench(model, contrast, concepts=[7], batch_size=1, **settings).frame
    pd.testing.assert_frame_equal(alone, whole[whole["concept_id"] == 7].reset_index(drop=True))


def test_names_and_prompts_of_ones_own(model: Any, data: Any, make_vector: Callable[..., Any]) -> None:
    prompts: dict[str, Any] = {"sea": ["a", "b"], "war": "hello"}
    named = {"sea": data.examples, "war": data.examples}
    vectors = {"sea": make_vector(seed=1), "war": None}
    result = axbench(model, named, judge=length_judge(), prompts=prompts, vectors=vectors, **FAST)
    assert result.frame["concept"].tolist() == ["sea", "sea", "war"] and result.frame["concept_id"].tolist() == [0, 0, 1]
    assert result.frame["prompt"].tolist() == ["a", "b", "hello"], "one text is one prompt"
    assert result.settings["method"] == "given vectors"
    asked = axbench(model, named, judge=length_judge(), prompts=prompts, method="prompt", concepts=["war"], **FAST)
    (steering,) = asked.vectors.values()
    assert isinstance(steering, SteeringPrompt) and "war" in steering.text and asked.by_concept()["norm"].isna().all()


# --- files ------------------------------------------------------------------------------------------------------------


def counted(calls: list[str], make_vector: Callable[..., Any]) -> Callable[..., Any]:
    def method(model: Any, data: SteeringData) -> Any:
        calls.append(str(data.concept))
        return make_vector(seed=len(str(data.concept)), concept=data.concept)

    return method


def test_a_killed_run_goes_on(model: Any, datasets: Any, make_vector: Callable[..., Any], tmp_path: Path) -> None:
    calls: list[str] = []
    settings: dict[str, Any] = {"method": counted(calls, make_vector), "instructions": INSTRUCTIONS, **FAST}
    whole = axbench(model, datasets, judge=length_judge(), out=tmp_path / "whole", **settings)

    def dying(concept: str, prompt: str, response: str) -> Scores:
        if concept == "concept 7":
            os.kill(os.getpid(), signal.SIGKILL)
        return Scores(len(response) % 3, 2, 1)

    child = os.fork()
    if child == 0:
        axbench(model, datasets, judge=Same(dying), out=tmp_path / "killed", **settings)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    calls.clear()
    resumed = axbench(model, datasets, judge=length_judge(), out=tmp_path / "killed", **settings)
    assert calls == ["concept 7", "concept 9"], "the first concept was finished"
    pd.testing.assert_frame_equal(resumed.frame, whole.frame)
    assert resumed.vectors == whole.vectors
    assert sorted(path.name for path in (tmp_path / "killed" / "concepts").iterdir()) == ["4.parquet", "7.parquet", "9.parquet"]
    calls.clear()
    judge = length_judge()
    again = axbench(model, datasets, judge=judge, out=tmp_path / "killed", **settings)
    assert not calls and not judge.calls
    pd.testing.assert_frame_equal(again.frame, whole.frame)
    assert again.redo(model, 4) == whole.frame["response"][4]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "killed" / "generations.parquet"), whole.frame, check_dtype=False)


def test_a_folder_is_read_without_a_model(model: Any, datasets: Any, make_vector: Callable[..., Any], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"method": counted([], make_vector), "instructions": INSTRUCTIONS, **FAST}
    whole = axbench(model, datasets, judge=length_judge(), out=tmp_path, **settings)
    found = AxBenchResult.open(tmp_path)
    pd.testing.assert_frame_equal(found.frame, whole.frame)
    assert found.vectors == whole.vectors and found.settings == whole.settings and found.summary() == whole.summary()
    (tmp_path / "concepts" / "7.parquet").unlink()
    assert AxBenchResult.open(tmp_path).frame["concept_id"].unique().tolist() == [4, 9], "what is finished, of a killed run"
    for number in (4, 9):
        (tmp_path / "concepts" / f"{number}.parquet").unlink()
    with pytest.raises(ValueError, match=r"no concept is finished in .* yet"):
        AxBenchResult.open(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no run of the protocol: there is no manifest\.json"):
        AxBenchResult.open(tmp_path / "concepts")


def test_judging_again_is_of_a_folder(model: Any, datasets: Any) -> None:
    with pytest.raises(ValueError, match="rejudge is for the finished concepts of an out="):
        axbench(model, datasets, judge=length_judge(), method="unsteered", instructions=INSTRUCTIONS, rejudge=True, **FAST)


def test_another_run_is_refused(model: Any, datasets: Any, make_vector: Callable[..., Any], tmp_path: Path) -> None:
    vectors = {number: make_vector(seed=number) for number in datasets}
    settings: dict[str, Any] = {
        "vectors": vectors,
        "instructions": INSTRUCTIONS,
        "out": tmp_path,
        "judge": length_judge(),
        **FAST,
    }
    axbench(model, datasets, concepts=[4], **settings)
    with pytest.raises(ValueError, match=r"other settings .*temperature is 1\.0 there and 0\.5 here"):
        axbench(model, datasets, **dict(settings, temperature=0.5))
    with pytest.raises(ValueError, match=r"4\.parquet was made from other data, prompts or vectors"):
        axbench(model, datasets, **dict(settings, instructions=INSTRUCTIONS[:-1]))
    with pytest.raises(ValueError, match="other data, prompts or vectors"):
        changed: dict[str, Any] = {"vectors": {**vectors, 4: vectors[7]}}
        axbench(model, datasets, **dict(settings, **changed))
    assert len(axbench(model, datasets, **settings).frame) == 9, "more concepts may be added"
    folder = axbench(model, datasets, **dict(settings, vectors=tmp_path / "vectors", out=None))
    assert folder.vectors == vectors


def test_unscored_rows_can_be_judged_again(model: Any, datasets: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"method": "unsteered", "instructions": INSTRUCTIONS, "out": tmp_path, **FAST}
    failing = Same([Scores(2, 2, 2), RuntimeError("no reply"), *[Scores(1, 1, 1)] * 7])
    first = axbench(model, datasets, judge=failing, **settings)
    assert first.evaluation.unscored == 1 and first.frame["error"][1] == "RuntimeError: no reply"
    judge = length_judge()
    second = axbench(model, datasets, judge=judge, rejudge=True, **settings)
    assert len(judge.calls) == 1 and second.evaluation.unscored == 0 and second.frame["error"][1] is None
    assert second.frame["response"].tolist() == first.frame["response"].tolist()
    third = axbench(model, datasets, judge=length_judge(), **settings)
    assert third.frame["overall"].tolist() == second.frame["overall"].tolist()


class Writing:
    """A judge that writes; `up` says whether it can be reached, `identity` what it asks with."""

    def __init__(self, up: bool = True, identity: str = "a") -> None:
        self.up, self.identity = up, identity

    def __repr__(self) -> str:
        return f"Writing(key='secret', up={self.up})"

    def score(self, concept: str, prompt: str, response: str) -> Scores:
        raise NotImplementedError

    def score_many(self, items: Any) -> list[Verdict]:
        if not self.up:
            raise JudgeError("the key is wrong")
        assert all(isinstance(item, Question) for item in items)
        return [Verdict(Scores(1, 1, 1), None, {"concept": item.response}) for item in items]


def test_a_judge_that_was_down_leaves_rows_to_be_judged_and_its_replies_are_kept(
    model: Any, datasets: Any, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"method": "unsteered", "instructions": INSTRUCTIONS, "out": tmp_path, **FAST}
    axbench(model, datasets, judge=Writing(up=False), **settings)
    assert "secret" not in (tmp_path / "manifest.json").read_text()
    again = axbench(model, datasets, judge=Writing(), **settings)
    assert again.evaluation.unscored == 9
    assert "9 of 9 rows are unscored: rejudge=True" in again.summary() and "the key is wrong" in again.summary()
    judged = axbench(model, datasets, judge=Writing(), rejudge=True, **settings)
    assert judged.evaluation.unscored == 0 and "rejudge" not in judged.summary()
    kept = axbench(model, datasets, judge=Writing(), **settings).frame
    at_once = axbench(model, datasets, judge=Writing(), **dict(settings, out=tmp_path / "at_once")).frame
    pd.testing.assert_frame_equal(kept, at_once)
    assert kept["replies"].tolist() == [json.dumps({"concept": text}, ensure_ascii=False) for text in kept["response"]]
    with pytest.raises(ValueError, match=r"other settings .*judge is"):
        axbench(model, datasets, judge=Writing(identity="b"), **settings)


def test_other_weights_are_refused(model: Any, datasets: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"judge": length_judge(), "method": "unsteered", "instructions": INSTRUCTIONS, **FAST}
    axbench(model, datasets, out=tmp_path, **settings)
    weight = next(iter(model.original_model.parameters()))
    with torch.no_grad():
        before = weight.clone()
        weight.mul_(1.5)
    try:
        with pytest.raises(ValueError, match=r"other settings .*model weights is"):
            axbench(model, datasets, out=tmp_path, **settings)
    finally:
        weight.data.copy_(before)


def test_files_that_are_not_intact_are_named_with_the_remedy(
    model: Any, datasets: Any, make_vector: Callable[..., Any], tmp_path: Path
) -> None:
    made: list[str] = []
    settings: dict[str, Any] = {"judge": length_judge(), "method": counted(made, make_vector), "instructions": INSTRUCTIONS}
    settings |= {"out": tmp_path, "concepts": [4, 7], **FAST}
    whole = axbench(model, datasets, **settings)

    def refused(error: type[Exception], message: str, **changes: Any) -> None:
        made.clear()
        with pytest.raises(error, match=message):
            axbench(model, datasets, **(settings | changes))
        assert not made

    rows, vector, manifest = tmp_path / "concepts/7.parquet", tmp_path / "vectors/7.safetensors", tmp_path / "manifest.json"
    remedy = r"delete .*concepts/7\.parquet, and concept 7 is made again"
    for path, name in ((rows, "7.parquet"), (vector, "7.safetensors")):
        content = path.read_bytes()
        for broken in (b"", content[: len(content) // 2]):
            path.write_bytes(broken)
            refused(ValueError, rf"{name} is not intact .*{remedy}", concepts=None)
        path.write_bytes(content)
    vector.unlink()
    refused(ValueError, rf"7\.safetensors is not there any more: {remedy}")
    rows.unlink()
    pd.testing.assert_frame_equal(axbench(model, datasets, **settings).frame, whole.frame)
    content = manifest.read_bytes()
    for broken in ("", "[]", content[:40].decode()):
        manifest.write_text(broken)
        refused(ValueError, r"manifest\.json (is not intact|holds a list).*give another folder, or delete this one")
    manifest.unlink()
    refused(ValueError, r"holds concepts but no manifest\.json")
    (tmp_path / "file").write_text("")
    refused(OSError, r"file/manifest\.json cannot be written .*give out=", out=tmp_path / "file")


def test_a_steering_prompt_that_is_not_intact(model: Any, datasets: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"judge": length_judge(), "method": "prompt", "instructions": INSTRUCTIONS, "out": tmp_path}
    axbench(model, datasets, **settings, **FAST)
    for broken in ("", "[]", '{"words": 3}', "3"):
        (tmp_path / "vectors/9.json").write_text(broken)
        with pytest.raises(ValueError, match=r"9\.json is not intact .*concept 9 is made again"):
            axbench(model, datasets, **settings, **FAST)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "prosw"}, "method 'prosw' is unknown; use prosv"),
        ({"layer": None}, "needs a layer"),
        ({"method": "prosv-simpo"}, "concept 4: row 0 has no neutral response"),
        ({"method": "diffmean", "config": None}, "concept 4: there is nothing to compare"),
        ({"method": "diffmean"}, "trains nothing: leave config out"),
        ({"concepts": [5]}, r"no concept \[5\]"),
        ({"prompts": {4: ["x"]}}, "give one of the two"),
        ({"prompts": {4: ["x"]}, "instructions": None}, "no prompts for concept 7"),
        ({"prompts": {4: "x", 7: [], 9: "x"}, "instructions": None}, "concept 7: .*there are no prompts"),
        (
            {"prompts": {4: "x", 7: ["x " * 900], 9: "x"}, "instructions": None},
            "concept 7: prompt 0 has .* exceeds the context",
        ),
        ({"vectors": {4: None}, "layer": None, "config": None}, "no vectors for concept 7"),
        ({"vectors": "/nowhere", "layer": None, "config": None}, "no vector for concept 4"),
        ({"vectors": "/nowhere"}, "nothing is made of layer and config: leave out"),
        ({"vectors": "/nowhere", "method": "pca", "layer": None, "config": None}, "nothing is made of method"),
        ({"layer": 9}, "layer 9 does not exist"),
        ({"temperature": -1}, "temperature -1 must be at least 0"),
        ({"temperature": float("nan")}, "temperature nan must"),
        ({"temperature": float("inf")}, "temperature inf must"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"concepts": "concept 4"}, r"concepts is 'concept 4': give a list"),
    ],
)
def test_refused_before_any_work(
    model: Any, datasets: Any, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerlens.evaluation.axbench.methods.train", None)  # nothing is trained
    settings: dict[str, Any] = {"layer": 1, "config": QUICK, "instructions": INSTRUCTIONS} | FAST | changes
    judge = length_judge()
    with pytest.raises(ValueError, match=message):
        axbench(model, datasets, judge=judge, **settings)
    assert not judge.calls


def test_a_steering_prompt_counts_in_the_length_of_a_prompt(model: Any, datasets: Any) -> None:
    settings: dict[str, Any] = {"judge": length_judge(), "concepts": [4], **FAST}
    long = SteeringPrompt("word " * 900)
    with pytest.raises(ValueError, match=r"concept 4: prompt 0 has .* exceeds the context"):
        axbench(model, datasets, vectors={4: long}, prompts={4: "x"}, **settings)


def test_what_cannot_judge_or_steer_or_be_a_list_is_refused_by_words(
    model: Any, datasets: Any, make_vector: Callable[..., Any]
) -> None:
    made: list[str] = []
    settings: dict[str, Any] = {"method": counted(made, make_vector), "instructions": INSTRUCTIONS, **FAST}
    with pytest.raises(TypeError, match=r"the judge is the class ScriptedJudge: give an object of it"):
        axbench(model, datasets, judge=ScriptedJudge, **settings)  # pyright: ignore[reportArgumentType] - the point
    assert not made
    for wrong, kind in ((None, "NoneType"), (3, "int"), (SimpleNamespace(score=2), "SimpleNamespace")):
        with pytest.raises(TypeError, match=f"the judge is of type {kind} and has no method score"):
            check_judge(wrong)
    with pytest.raises(ValueError, match=r"concepts is 1: give a list of ids or names, such as \[1\]"):
        find_concepts(datasets, 1, {4: ["x"]}, None, 1, None)
    number: Any = lambda model, data: 3  # noqa: E731 - typed, so that the checker lets a wrong method pass
    with pytest.raises(TypeError, match="concept 4: the method gave int"):
        axbench(model, datasets, judge=length_judge(), method=number, instructions=INSTRUCTIONS, **FAST)


# --- real files -------------------------------------------------------------------------------------------------------


def run_real(model: Any, n: int) -> AxBenchResult:
    if not AXBENCH.exists():
        pytest.skip(f"the AxBench files are not at {AXBENCH}")
    config = TrainConfig(epochs=1, batch_size=24, max_response_tokens=8, factor_init=1.0, factor_lr=0.1, direction_lr=0.1)
    clean = {}
    for number, rows in steerlens.read_axbench(AXBENCH).items():
        short = [{"prompt": str(e.prompt)[:60], "response": e.response[:60]} for e in rows]
        clean[number] = SteeringData(short, rows.concept, rows.metadata, rows.negatives)
    settings: dict[str, Any] = {**FAST, "n_instructions": 10, "instructions": INSTRUCTIONS, "config": config}
    return axbench(model, clean, judge=length_judge(), layer=1, concepts=list(range(n)), **settings)


@pytest.mark.parametrize("n", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_concept10(model: Any, n: int) -> None:
    result = run_real(model, n)
    assert len(result.frame) == 10 * n and set(result.frame["genre"]) <= {"text", "code", "math"}
    assert result.by_concept()["n"].tolist() == [10] * n
    assert result.frame["concept_score"].tolist() == [len(text) % 3 for text in result.frame["response"]]
    for number in range(n):
        drawn = pd.Series(INSTRUCTIONS).sample(10, random_state=number).tolist()
        assert result.frame.loc[result.frame["concept_id"] == number, "prompt"].tolist() == drawn


@pytest.mark.slow
def test_on_terrarium() -> None:
    from steerlens import terrarium

    model, names = steerlens.load_model("terrarium"), terrarium.concepts("test")[:2]
    data = {name: terrarium.data(name, 24) for name in names}
    prompts = {name: terrarium.test_prompts(name, 4) for name in names}
    settings: dict[str, Any] = {"judge": terrarium.Judge(), "prompts": prompts, "max_new_tokens": 60, "temperature": 0.7}
    plain = axbench(model, data, method="unsteered", progress=False, **settings)
    config = terrarium.settings("p2+s2")
    steered = axbench(model, data, method="prosv", layer=terrarium.LAYER, config=config, progress=False, **settings)
    assert (steered.evaluation.mean("concept_score") or 0) > (plain.evaluation.mean("concept_score") or 0) + 0.3
    assert steered.evaluation.unscored == 0
