"""Sweeps: what a cell is, that it stands alone, is stored whole, and comes out the same whatever happens on the way."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_layers import imports_of

import steerlens
from steerlens import Scores, ScriptedJudge, Sweep, TrainConfig
from steerlens.data import DataError
from steerlens.generation import row_seeds
from steerlens.sweeps import cells, folders, grids, pools

QUICK = TrainConfig(epochs=1, batch_size=3)
GRID = {"layer": 1, "factor_lr": [0.1, 1], "positions": ["all", "p2+s2"]}
ASKED = {"fish": ["What about fish?", "Hi"], "towns": ["Name a town.", "Why?"]}


def score(concept: str, prompt: str, response: str) -> Scores:
    """Ratings that differ from text to text."""
    return Scores(*(sum(map(ord, concept + response[start::3])) % 5 / 2 for start in range(3)))


class Line:
    """A judge that cannot be reached for some concepts, and is the same judge whether it can or not."""

    def __init__(self, *lost: str) -> None:
        self.lost, self.calls = lost, 0

    def score(self, concept: str, prompt: str, response: str) -> Scores:
        self.calls += 1
        if concept in self.lost or prompt in self.lost:
            raise ConnectionError("no answer")
        return score(concept, prompt, response)


@pytest.fixture
def datasets(data: Any) -> dict[str, Any]:
    other = [{"prompt": f"{example.prompt} And?", "response": example.response[::-1]} for example in data]
    return {"fish": data, "towns": steerlens.SteeringData(other)}


@pytest.fixture
def run(model: Any, datasets: dict[str, Any], tmp_path: Path) -> Callable[..., Sweep]:
    """A small sweep with some arguments changed."""

    def start(out: Any = "sweep", **changes: Any) -> Sweep:
        given = {"model": model, "datasets": datasets, "grid": GRID, "judge": ScriptedJudge(score), "prompts": ASKED}
        given |= {"config": QUICK, "seeds": (7,), "max_new_tokens": 4, "progress": False} | changes
        place = out if "://" in str(out) else tmp_path / out
        return steerlens.sweep(out=place, **given)

    return start


def same(a: pd.DataFrame, b: pd.DataFrame, without: tuple[str, ...] = ("seconds",)) -> None:
    pd.testing.assert_frame_equal(
        a.drop(columns=list(without), errors="ignore"), b.drop(columns=list(without), errors="ignore")
    )


def content(folder: Path) -> dict[str, Any]:
    """What a directory of cells holds, apart from how long it took."""
    found: dict[str, Any] = {}
    for path in (folder / "cells").glob("[!.]*.safetensors"):  # the bytes differ: safetensors writes its header in any order
        sv = steerlens.SteeringVector.load(path)
        assert sv.history is not None
        found[path.name] = (sv, sv.direction.tolist(), sv.factor, dict(sv.provenance), sv.history.to_dict("list"))
    for path in (folder / "cells").glob("[!.]*.json"):
        found[path.name] = {key: value for key, value in json.loads(path.read_bytes()).items() if key != "seconds"}
    return found


# --- the grid ---------------------------------------------------------------------------------------------------------


def test_a_grid_is_all_combinations_with_the_seed_slowest_and_the_settings_fastest() -> None:
    found = grids.cells_of(["a", "b"], {"layer": [2, 3], "epochs": (1, 2)}, [5, 6], None)
    assert len(found) == 2 * 2 * 4
    told = [(cell.seed, cell.concept, cell.settings["layer"], cell.settings["epochs"]) for cell in found]
    assert told == [(s, c, layer, e) for s in (5, 6) for c in "ab" for layer in (2, 3) for e in (1, 2)]
    assert len({cell.key for cell in found}) == len(found)
    listed = grids.cells_of(["a"], [{"layer": 2, "epochs": 1}, {"epochs": 2, "layer": 2}], [5], None)
    assert [cell.key for cell in listed] == [cell.key for cell in found if cell[:2] == ("a", 5)][:2]


def test_a_cell_is_named_by_what_its_settings_mean() -> None:
    def key(**settings: Any) -> str:
        (cell,) = grids.cells_of(["Fish & chips"], [settings], [1], None)
        return cell.key

    one = key(layer=2, factor_init=4, positions="p2+s2")
    assert one == key(positions="f2+l2", factor_init=4.0, layer=np.int64(2))
    assert one.startswith("fish---chips-1-")
    assert (
        len({one, key(layer=2, factor_init=4.5), key(layer=2, factor=[1, 2]), key(layer=2, factor=[2, 1]), key(layer=2)}) == 5
    )


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"layr": [1]}, r"unknown in the grid: 'layr'; known are layer, positions, .*\(of train\) and epochs, batch_size"),
        ([{"layer": 1, "beta": 2}], "unknown in the grid: 'beta'"),
        ({"factor_lr": [1]}, r'no layer: add "layer": \[...\] to the grid'),
        ({"layer": [[1, 2]]}, r"layer \[1, 2\]: a cell has one vector"),
        ({"layer": []}, "layer: there are no values"),
        ([], "the grid is empty"),
        (
            {"layer": 1, "positions": [lambda mask: mask]},
            "positions: .* cannot stand in a grid; a cell is named by its settings",
        ),
        ({"layer": 1, "factor_lr": [-1]}, "factor_lr is -1; it must be a finite number of at least 0"),
        ({"layer": 1, "factor_lr": [float("nan")]}, "factor_lr: nan is not a finite number"),
        ({"layer": 1, "objective": ["lang", "long"]}, "settings .*'objective': 'long'.*: "),
        ({"layer": 1, "positions": ["q2"]}, "settings .*'positions': 'q2'.*: "),
        ({"layer": 1, "factor_init": [4, 4.0]}, "the grid holds the same settings twice"),
        ([{"layer": 1}, {"layer": 1, "positions": "p2+s2"}], "same settings twice.*which differ in what is the default anyway"),
        ([{"layer": 1}, {"layer": 1, "epochs": 1}], "the grid holds the same settings twice"),
        ({"layer": 1, "factor": ["joined"]}, "factor 'joined' is unknown"),
        ({"layer": 1, "rank": 2}, "a steering vector of form 'add' has rank 1"),
        ({"layer": 1, "form": "loreft", "rank": 99}, "rank 99: the residual stream has 48 dimensions"),
        ({"layer": 1, "form": "null", "objective": "reps"}, "is itself the Null intervention"),
    ],
)
def test_what_is_wrong_with_a_grid_is_said_before_any_work(
    grid: Any, words: str, run: Callable[..., Sweep], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        run(grid=grid)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": {"layer": [1, 9]}}, "layer 9 does not exist: .* has blocks 0 to 3"),
        ({"temperature": -1}, "temperature -1 at least 0"),
        ({"batch_size": 0}, "batch_size 0 must be at least 1"),
        ({"seeds": ()}, "must be whole numbers, at least one"),
        ({"seeds": (1, 1)}, "a seed is given twice"),
        ({"prompts": {"fish": ["Hi"]}}, "there are no prompts for 'towns'"),
        ({"datasets": {}}, "there are no data sets"),
        ({"prompts": {"fish": [], "towns": []}}, "there are no prompts"),
    ],
)
def test_other_arguments_are_refused_by_words(changes: Any, words: str, run: Callable[..., Sweep], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        run(**changes)
    assert not (tmp_path / "sweep").exists()


def test_an_objective_without_its_neutral_responses_is_refused(run: Callable[..., Sweep], tmp_path: Path) -> None:
    bare = {"fish": steerlens.SteeringData([{"prompt": "Hi", "response": "Fish"}])}
    with pytest.raises(DataError, match=r"'fish', row 0: no neutral response, .* objective 'simpo'"):
        run(datasets=bare, grid={"layer": 1, "objective": ["lang", "simpo"]}, model=lambda: pytest.fail("loaded"))
    assert not (tmp_path / "sweep").exists()


def test_a_place_that_cannot_be_written_is_refused(run: Callable[..., Sweep], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in ("file", "file/sweep"):
        with pytest.raises(OSError, match=r"cannot hold a sweep: .*file is not a directory"):
            run(out, model=lambda: pytest.fail("loaded"))


# --- cells stand alone ------------------------------------------------------------------------------------------------


def test_a_cell_is_a_vector_trained_and_judged_by_hand(run: Callable[..., Sweep], model: Any, datasets: dict[str, Any]) -> None:
    swept = run()
    assert len(swept.frame) == 2 * 4
    row = swept.frame.iloc[6]
    assert (row["concept"], row["seed"], row["factor_lr"], row["positions"]) == ("towns", 7, 1, "all")
    settings = {"layer": 1, "positions": "all", "seed": 7, "progress": False}
    sv = steerlens.train(model, datasets["towns"], config=TrainConfig(epochs=1, batch_size=3, factor_lr=1), **settings)
    assert swept.vector(row["key"]) == sv
    assert (row["trained_factor"], row["norm"], row["steps"]) == (sv.factor, sv.norm, 2)
    assert sv.history is not None
    assert row["loss"] == pytest.approx(sv.history["loss"].mean())
    texts = steerlens.generate(model, ASKED["towns"], sv, max_new_tokens=4, seed=7)
    given = [score("towns", prompt, text) for prompt, text in zip(ASKED["towns"], texts, strict=True)]
    part = swept.generations[swept.generations["key"] == row["key"]]
    assert part["response"].tolist() == texts
    assert part["sampling_seed"].tolist() == row_seeds(7, 2)
    assert part["overall"].tolist() == [one.overall for one in given]
    assert row["concept_score"] == pytest.approx(np.mean([float(one.concept or 0) for one in given]))
    assert row["overall"] == pytest.approx(np.mean([one.overall for one in given if one.overall is not None]))


def test_the_judge_is_told_the_concept_of_the_data(run: Callable[..., Sweep], data: Any) -> None:
    judge = ScriptedJudge(score)
    named = steerlens.SteeringData(data.examples, concept="fish and chips")
    swept = run(datasets={17: named}, prompts=lambda name: [f"Concept {name}?"], judge=judge, grid={"layer": 1})
    assert judge.calls[0][:2] == ("fish and chips", "Concept 17?")
    assert swept.frame["concept"].tolist() == ["17"]


def test_a_response_can_be_sampled_again_alone(run: Callable[..., Sweep], model: Any) -> None:
    swept = run()
    assert swept.generations["response"].nunique() > 5
    for _, row in swept.generations.iloc[[1, 6, 15]].iterrows():
        sv, prompt = swept.vector(str(row["key"])), str(row["prompt"])
        again = steerlens.generate(model, [prompt], sv, max_new_tokens=4, seed=[int(row["sampling_seed"])])
        assert again == [row["response"]]


def test_a_cell_does_not_depend_on_the_others(run: Callable[..., Sweep], datasets: dict[str, Any], tmp_path: Path) -> None:
    run("whole")
    alone = [{"layer": 1, "factor_lr": 1, "positions": "p2+s2"}]
    run("alone", grid=alone, datasets={"towns": datasets["towns"]})
    run("backwards", grid={axis: values[::-1] if isinstance(values, list) else values for axis, values in GRID.items()})
    whole, part = content(tmp_path / "whole"), content(tmp_path / "alone")
    assert len(part) == 2
    assert part == {name: whole[name] for name in part}
    assert content(tmp_path / "backwards") == whole


# --- going on ---------------------------------------------------------------------------------------------------------


def test_what_is_there_is_not_done_again_and_the_grid_may_grow(run: Callable[..., Sweep], tmp_path: Path) -> None:
    first, judge = run(), ScriptedJudge(score)
    again = run(judge=judge)
    assert not judge.calls
    same(first.frame, again.frame, without=())
    same(first.generations, again.generations)
    more = run(judge=judge, grid={**GRID, "factor_lr": [0.1, 1, 10]}, seeds=(7, 8))
    assert len(more.frame) == 2 * 2 * 6
    assert len(judge.calls) == 2 * (24 - 8)
    opened = Sweep.open(tmp_path / "sweep")
    assert sorted(opened.frame["key"]) == sorted(more.frame["key"])
    assert opened.summary() == "24 of 24 cells finished, 0 failed; 0 of 48 responses unscored"
    fewer = run(judge=judge, grid={"layer": 1, "factor_lr": 10, "positions": "all"})
    assert len(fewer.frame) == 2
    assert len(Sweep.open(tmp_path / "sweep").cells) == 24


def test_an_interrupt_comes_through_and_costs_one_cell(run: Callable[..., Sweep], tmp_path: Path) -> None:
    whole = run("whole")

    class Tired(Line):
        def score(self, concept: str, prompt: str, response: str) -> Scores:
            if self.calls == 5:  # in the third cell
                raise KeyboardInterrupt
            return super().score(concept, prompt, response)

    with pytest.raises(KeyboardInterrupt):
        run(judge=Tired())
    left = Sweep.open(tmp_path / "sweep")
    assert (len(left.frame), len(left.cells)) == (2, 8)
    assert left.summary().startswith("2 of 8 cells finished, 0 failed")
    finished = run(on_mismatch="keep")
    same(finished.frame, whole.frame, without=("seconds", "made_with"))


def test_a_failed_cell_is_recorded_stops_nothing_and_is_retried(run: Callable[..., Sweep], monkeypatch: Any) -> None:
    whole, real, calls = run("whole"), cells.train, []

    def broken(*arguments: Any, **settings: Any) -> Any:
        calls.append(settings)
        if settings["config"].factor_lr == 1 and settings["positions"] == "all":
            raise RuntimeError("out of memory, say")
        return real(*arguments, **settings)

    monkeypatch.setattr(cells, "train", broken)
    swept = run()
    assert len(calls) == 8
    assert swept.failed["positions"].tolist() == ["all", "all"]
    assert all("RuntimeError: out of memory, say" in error and "Traceback" in error for error in swept.failed["error"])
    assert swept.failed[["overall", "norm"]].isna().all(axis=None)
    assert swept.summary() == "6 of 8 cells finished, 2 failed; 0 of 12 responses unscored"
    with pytest.raises(FileNotFoundError):
        swept.vector(str(swept.failed["key"].iloc[0]))
    assert len(run(retry="none").failed) == 2
    assert len(calls) == 8
    monkeypatch.setattr(cells, "train", real)
    same(run().frame, whole.frame)


def test_unscored_responses_alone_are_judged_again_without_training(run: Callable[..., Sweep], monkeypatch: Any) -> None:
    grid = {"layer": 1, "factor_lr": 1}
    whole = run("whole", grid=grid, judge=Line())
    swept = run(judge=Line("towns"), grid=grid)
    assert swept.frame["unscored"].tolist() == [0, 2]
    assert swept.generations["error"].iloc[-1] == "ConnectionError: no answer"
    same(run(judge=Line(), grid=grid).frame, swept.frame, without=())
    monkeypatch.setattr(cells, "train", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("not again")))
    half = run(judge=Line("Why?"), grid=grid, retry="unscored")
    assert half.frame["unscored"].tolist() == [0, 1]
    worse, judge = run(judge=Line("towns"), grid=grid, retry="unscored"), Line()
    same(worse.generations, half.generations)  # the row that is scored is not asked about
    mended = run(judge=judge, grid=grid, retry="unscored")
    assert judge.calls == 1
    same(mended.frame, whole.frame)
    same(mended.generations, whole.generations)


def test_a_worse_judged_cell_replaces_nothing(run: Callable[..., Sweep]) -> None:
    settings: dict[str, Any] = {"grid": {"layer": 1}, "retry": "unscored", "on_mismatch": "keep"}
    first = run(judge=Line("Why?"), **settings)
    other = ScriptedJudge(lambda concept, prompt, response: Scores(None, 1, 1))  # another judge: the cell is made anew
    same(run(judge=other, **settings).frame, first.frame, without=())


def test_files_that_are_not_whole_are_not_read(run: Callable[..., Sweep], tmp_path: Path) -> None:
    whole = run()
    folder = tmp_path / "sweep" / "cells"
    names = whole.frame["key"].tolist()
    cut, lost = folder / f"{names[0]}.json", folder / f"{names[1]}.safetensors"
    cut.write_bytes(cut.read_bytes()[:-40])
    lost.unlink()
    fresh, stale = folder / f".{names[2]}.json.abc", folder / f".{names[3]}.safetensors.abc"
    for path in (fresh, stale):
        path.write_text("{")
    os.utime(stale, (0, 0))
    assert Sweep.open(tmp_path / "sweep").frame["key"].tolist() == names[2:]
    judge = ScriptedJudge(score)
    same(run(judge=judge).frame, whole.frame)
    assert len(judge.calls) == 4
    assert fresh.exists()  # another process may be writing it
    assert not stale.exists()


def test_damaged_files_count_as_not_run(run: Callable[..., Sweep], tmp_path: Path) -> None:
    key = run(grid={"layer": 1}).frame["key"].iloc[0]
    folder, out = tmp_path / "sweep", tmp_path / "sweep" / "cells"
    vector, record, manifest = out / f"{key}.safetensors", out / f"{key}.json", folder / "manifest.json"
    for path, contents in (
        (vector, (b"", vector.read_bytes()[:-3], b"\x05" + bytes(20))),
        (record, (b"", b"{}", b'{"schema": 1, "made_with": "x"}')),
    ):
        intact = path.read_bytes()
        for content in contents:
            path.write_bytes(content)
            assert key not in Sweep.open(folder).frame["key"].tolist()
        path.write_bytes(intact)
        assert key in Sweep.open(folder).frame["key"].tolist()
    for content in (b"", b"{}", b"[]", b'{"schema": 1, "fingerprints": [], "plan": [{}]}'):
        manifest.write_bytes(content)
        for attempt in (lambda: Sweep.open(folder), lambda: run(model=lambda: pytest.fail("loaded"))):
            with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
                attempt()


@pytest.mark.slow
def test_thirty_kills_change_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).parent / "killed.py"), str(tmp_path), "30", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kills"] == 30
    assert report["leftovers"] > 0, "no kill came in the middle of a write"
    assert report["again"] == []
    assert len(set(report["counts"])) > 5  # the kills came at many stages
    whole, killed = content(tmp_path / "whole"), content(tmp_path / "killed")
    assert len(whole) == 2 * 64
    assert killed == whole
    undisturbed, after = Sweep.open(tmp_path / "whole"), Sweep.open(tmp_path / "killed")
    same(after.frame, undisturbed.frame)
    same(after.generations, undisturbed.generations)
    assert after.frame["key"].is_unique
    assert undisturbed.frame["unscored"].sum() > 0


# --- mismatches -------------------------------------------------------------------------------------------------------


class OtherJudge:
    def score(self, concept: str, prompt: str, response: str) -> Scores:
        return Scores(1, 1, 1)


CHANGES: dict[str, tuple[Callable[[Any, Any], dict[str, Any]], str]] = {
    "data": (lambda m, d: {"datasets": {**d, "towns": d["fish"]}}, "made with other data of 'towns'"),
    "prompts": (lambda m, d: {"prompts": {**ASKED, "fish": ["Hm?", "Hi"]}}, "made with other prompts of 'fish'"),
    "judge": (lambda m, d: {"judge": OtherJudge()}, "other judge .*ScriptedJudge.* now .*OtherJudge"),
    "sampling": (lambda m, d: {"temperature": 0.5}, r"other sampling temperature \(1.0, now 0.5\)"),
    "config": (lambda m, d: {"config": TrainConfig(epochs=1, batch_size=2)}, r"other config batch_size \(3, now 2\)"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_made_from_something_else_is_not_mixed(
    name: str, run: Callable[..., Sweep], model: Any, datasets: dict[str, Any], tmp_path: Path
) -> None:
    run(grid={"layer": 1})
    before = (tmp_path / "sweep" / "manifest.json").read_bytes()
    change, words = CHANGES[name]
    with pytest.raises(ValueError, match=words) as refusal:
        run(grid={"layer": 1}, **change(model, datasets))
    assert 'on_mismatch="keep"' in str(refusal.value)
    assert (tmp_path / "sweep" / "manifest.json").read_bytes() == before


def test_other_weights_and_other_code_are_noticed(run: Callable[..., Sweep], model: Any, monkeypatch: Any) -> None:
    run(grid={"layer": 1})
    weight = max(model.original_model.parameters(), key=lambda parameter: parameter.ndim)
    old = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(1.001)
    try:
        with pytest.raises(ValueError, match="made with other model weights"):
            run(grid={"layer": 1})
    finally:
        with torch.no_grad():
            weight.copy_(old)
    monkeypatch.setattr(folders, "code_hash", lambda: "other")
    with pytest.raises(ValueError, match=r"made with other code \('[0-9a-f]+\.\.\., now 'other'\)"):
        run(grid={"layer": 1})


def test_the_rubric_of_a_judge_of_ours_counts(monkeypatch: Any) -> None:
    kind: Any = type("LLM", (), {"__module__": "steerlens.judges.llm", "score": score, "identity": "one"})
    before = folders.of_judge(kind())
    real = folders.hash_of
    monkeypatch.setattr(folders, "hash_of", lambda names: real([name for name in names if name != "judges.rubrics"]))
    assert folders.of_judge(kind()) != before
    assert folders.of_judge(Line()) == steerlens.judging.judge_identity(Line())


def test_kept_cells_stay_and_are_told_apart(run: Callable[..., Sweep], monkeypatch: Any) -> None:
    old = run(grid={"layer": 1})
    monkeypatch.setattr(folders, "code_hash", lambda: "other")
    mixed = run(grid={"layer": [1, 2]}, on_mismatch="keep")
    assert mixed.frame["layer"].tolist() == [1, 2, 1, 2]
    same(mixed.frame[mixed.frame["layer"] == 1].reset_index(drop=True), old.frame, without=())
    assert mixed.frame["made_with"].nunique() == 4
    assert "cells of the same concept were made with different code" in mixed.summary()
    assert "different" not in old.summary()
    run(grid={"layer": [1, 2]})  # what was kept once is agreed


def test_a_new_concept_is_no_mismatch(run: Callable[..., Sweep], datasets: dict[str, Any]) -> None:
    run(datasets={"fish": datasets["fish"]}, grid={"layer": 1})
    run(datasets={"towns": datasets["towns"]}, grid={"layer": 1})
    with pytest.raises(ValueError, match="other data of 'fish'"):
        run(datasets={"fish": datasets["towns"]}, grid={"layer": 1})


def test_the_code_that_decides_is_all_that_cells_import() -> None:
    """Computed from the imports: a module added below must be counted."""
    root = Path(steerlens.__file__).parent
    reached, ahead = set(), ["sweeps.cells"]
    while ahead:
        name = ahead.pop()
        path = root / f"{name.replace('.', '/')}.py"
        if name not in reached and path.exists():
            reached.add(name)
            ahead += [found.internal for found in imports_of(path) if found.internal]
    assert set(folders.DECIDING) == reached


def test_comments_do_not_count_as_code(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "sweeps").mkdir()
    for name in folders.DECIDING:
        path = f"{name.replace('.', '/')}.py"
        shutil.copy(folders.PACKAGE / path, tmp_path / path)
    monkeypatch.setattr(folders, "PACKAGE", tmp_path)
    hashed, target = folders.code_hash.__wrapped__, tmp_path / "training.py"
    before, text = hashed(), target.read_text()
    target.write_text("# a comment\n" + text.replace('"""Adam on every vector', '"""SGD on every vector'))
    assert hashed() == before
    target.write_text(text.replace("PASS_TOKENS = 2048", "PASS_TOKENS = 2049"))
    assert hashed() != before


def test_cells_without_a_manifest_are_not_trusted(run: Callable[..., Sweep], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no sweep"):
        Sweep.open(tmp_path / "nowhere")
    run(grid={"layer": 1})
    (tmp_path / "sweep" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"holds cells but no manifest\.json"):
        run(grid={"layer": 1})


# --- other places and executors ---------------------------------------------------------------------------------------


def test_a_sweep_may_lie_on_any_file_system(run: Callable[..., Sweep]) -> None:
    pytest.importorskip("fsspec")
    here, there = run("here"), run("memory://steerlens-sweep")
    same(here.frame, there.frame)
    key = here.frame["key"].iloc[0]
    assert here.vector(key) == there.vector(key)
    judge = ScriptedJudge(score)
    same(run("memory://steerlens-sweep", judge=judge).frame, there.frame, without=())
    assert not judge.calls
    assert Sweep.open("memory://steerlens-sweep").summary() == here.summary()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        there.vector("no-such-cell")


def test_model_and_judge_may_be_made_by_functions(run: Callable[..., Sweep], model: Any) -> None:
    same(run("made", model=lambda: model, judge=lambda: ScriptedJudge(score)).frame, run("given").frame)
    with pytest.raises(TypeError, match="the judge is int"):
        run("third", judge=lambda: 3)


def test_a_loaded_model_is_not_sent_to_workers(run: Callable[..., Sweep]) -> None:
    with pytest.raises(TypeError, match="loads the model in each worker: give a name, a path, or a function"):
        run(executor="ray")


def test_more_workers_than_the_cluster_has_room_for_are_refused() -> None:
    has = {"CPU": 4.0, "GPU": 1.0}
    assert pools._count(has, pools.Workers(None, 1, 0)) == 4
    assert pools._count(has, pools.Workers(None, 2, 0.25)) == 2
    assert pools._count(has, pools.Workers(3, 1, 0.25)) == 3
    with pytest.raises(ValueError, match=r"2 workers of 1 CPUs and 1 GPUs each do not fit .* has 4 CPUs and 1 GPUs"):
        pools._count(has, pools.Workers(2, 1, 1))


def test_a_worker_that_dies_costs_its_cell_and_is_replaced() -> None:
    class Died(Exception):
        pass

    class Reference:
        def __init__(self, outcome: Any) -> None:
            self.outcome = outcome

    def worker(*deadly: str) -> Any:
        def remote(cell: cells.Cell, past: Any) -> Any:
            outcome = Died("killed by signal 9") if cell.concept in deadly else cells.Result(cell.key, {"error": None}, None)
            return Reference(outcome)

        return SimpleNamespace(run=SimpleNamespace(remote=remote))

    def get(done: Any) -> Any:
        if isinstance(done.outcome, Died):
            raise done.outcome
        return done.outcome

    def wait(refs: list[Any], num_returns: int) -> Any:
        return refs[:num_returns], refs[num_returns:]

    ray = SimpleNamespace(wait=wait, get=get, exceptions=SimpleNamespace(RayError=Died))
    todo = [cells.Cell(concept, 1, {"layer": 1}) for concept in "abcde"]
    started: list[Any] = []

    def start() -> Any:
        started.append(worker("b"))
        return started[-1]

    found = {result.key: result.record["error"] for result in pools._results(ray, [worker("b", "c")], start, todo, {})}
    assert set(found) == {cell.key for cell in todo}
    assert [error for error in found.values() if error] == ["the worker died: killed by signal 9"]
    assert len(started) == 1
    with pytest.raises(RuntimeError, match="3 workers died one after the other: killed by signal 9"):
        list(pools._results(ray, [worker(*"abcde")], lambda: worker(*"abcde"), todo, {}))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_numbers(run: Callable[..., Sweep], tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed")
    from tiny import make_hf, save_tokenizer

    folder = str(tmp_path / "model")
    make_hf("gemma2").save_pretrained(folder)
    save_tokenizer(Path(folder))

    def judge() -> Any:
        from steerlens import Scores, ScriptedJudge

        def rate(concept: str, prompt: str, response: str) -> Scores:
            return Scores(*(sum(map(ord, concept + response[start::3])) % 5 / 2 for start in range(3)))

        return ScriptedJudge(rate)

    settings = {"model": folder, "judge": judge, "seeds": (7, 8)}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        there = run("ray", executor="ray", n_workers=2, **settings)
        assert ray.is_initialized()  # the user's cluster is left alone
    finally:
        ray.shutdown()
    here = run("local", **settings)
    assert len(here.frame) == 16
    assert here.failed.empty
    same(there.frame, here.frame)
    same(there.generations, here.generations)
    assert content(tmp_path / "ray") == content(tmp_path / "local")
    more = run("ray", executor="ray", n_workers=1, **(settings | {"seeds": (7, 8, 9)}))  # goes on, on a cluster of its own
    assert len(more.frame) == 24
    assert not ray.is_initialized()


# --- maps -------------------------------------------------------------------------------------------------------------


def planted(scores: dict[tuple[str, int, int, str], float | None]) -> Sweep:
    """A sweep with given scores by (concept, seed, epochs, positions); None = the cell has not run."""
    listed, rows = [], []
    for (concept, seed, epochs, positions), value in scores.items():
        cell = cells.Cell(concept, seed, {"epochs": epochs, "positions": positions})
        listed.append(cell)
        if value is not None:
            rows.append({"key": cell.key, "concept": concept, "seed": seed, "overall": value, "unscored": 1})
    return Sweep("nowhere", tuple(listed), pd.DataFrame(rows), pd.DataFrame(), ("epochs", "positions"))


def test_a_map_is_the_mean_over_seeds_and_then_over_concepts() -> None:
    swept = planted(
        {("a", 1, 2, "all"): 1.0, ("a", 2, 2, "all"): 2.0, ("b", 1, 2, "all"): 0.0, ("b", 2, 2, "all"): None}
        | {("a", 1, 3, "all"): None, ("a", 2, 3, "all"): None, ("b", 1, 3, "all"): None, ("b", 2, 3, "all"): None}
    )
    table = swept.heatmap("epochs", "positions")
    assert table.columns.tolist()[:5] == ["positions", "epochs", "overall", "low", "high"]
    assert table["overall"].iloc[0] == 0.75  # not the mean over cells, 1.0
    assert table[["concepts", "seeds", "cells", "missing", "unscored"]].iloc[0].tolist() == [2, 2, 3, 1, 3]
    assert table["overall"].isna().tolist() == [False, True]
    assert table["missing"].tolist() == [1, 4]
    # two concepts: a resampled mean is 0, 0.75 or 1.5 with probabilities 1/4, 1/2, 1/4
    assert table[["low", "high"]].iloc[0].tolist() == [0.0, 1.5]
    half = swept.heatmap("epochs", "positions", level=0.4).iloc[0]
    assert (half["low"], half["high"]) == (0.75, 0.75)


def test_the_interval_covers_what_it_says() -> None:
    rng, hits = np.random.default_rng(0), 0
    for trial in range(60):
        true = rng.normal(1.0, 0.2, size=30)  # concepts
        scores = {(f"c{i}", seed, 1, "all"): value + rng.normal(0, 0.05) for i, value in enumerate(true) for seed in (1, 2)}
        row = planted(scores).heatmap("epochs", "positions", seed=trial).iloc[0]
        hits += row["low"] <= 1.0 <= row["high"]
    assert 50 <= hits <= 60  # 95 % of 60 is 57


def test_one_concept_has_an_interval_over_seeds() -> None:
    row = planted({("a", 1, 2, "all"): 1.0, ("a", 2, 2, "all"): 2.0}).heatmap("epochs", "positions").iloc[0]
    assert (row["overall"], row["low"], row["high"], row["concepts"]) == (1.5, 1.0, 2.0, 1)
    alone = planted({("a", 1, 2, "all"): 1.0}).heatmap("epochs", "positions").iloc[0]
    assert alone["overall"] == 1.0
    assert np.isnan(alone["low"])


def test_a_map_hides_no_axis(run: Callable[..., Sweep]) -> None:
    swept = run(grid={**GRID, "epochs": [1, 2]})
    with pytest.raises(
        ValueError, match=r"a mean over positions \(all, p2\+s2\) would hide how much depends on it: name it in by"
    ):
        swept.heatmap("factor_lr", "epochs")
    by = swept.heatmap("factor_lr", "epochs", by=["positions"])
    assert len(by) == 8
    one = swept.heatmap("factor_lr", "epochs", where={"positions": "all"}, score="norm")
    assert len(one) == 4
    cell = swept.frame.query("factor_lr == 1 and epochs == 2 and positions == 'all'")
    place = one.query("factor_lr == 1 and epochs == 2").iloc[0]
    assert place["norm"] == pytest.approx(cell["norm"].mean())
    assert len(cell) == 2
    for arguments, words in (
        (("factor_lr", "beta"), "the grid has no axis 'beta'; it has layer, factor_lr, positions, epochs"),
        (("epochs", "epochs"), "an axis is named twice"),
    ):
        with pytest.raises(ValueError, match=words):
            swept.heatmap(*arguments, by=["positions"])
    with pytest.raises(ValueError, match="score 'style' is unknown; known are"):
        swept.heatmap("factor_lr", "epochs", by=["positions"], score="style")
    with pytest.raises(ValueError, match="no cell has"):
        swept.heatmap("factor_lr", "epochs", where={"positions": "p9"})
