"""Sweeps that go on: after kills, failures and damage nothing is lost, and what was made from something else is refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_sweeps import ASKED, GRID, Line, same, score, stored
from test_layers import imports_of

import steerlens
from steerlens import Scores, ScriptedJudge, Sweep, TrainConfig
from steerlens.sweeps import cell as cells
from steerlens.sweeps import run_folder as folders

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
    command = [sys.executable, str(Path(__file__).parents[1] / "killed.py"), str(tmp_path), "30", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kills"] == 30
    assert report["leftovers"] > 0, "no kill came in the middle of a write"
    assert report["again"] == []
    assert len(set(report["counts"])) > 5  # the kills came at many stages
    whole, killed = stored(tmp_path / "whole"), stored(tmp_path / "killed")
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
    assert folders.of_judge(Line()) == steerlens.judges.base.judge_identity(Line())


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
    reached, ahead = set(), ["sweeps.cell"]
    while ahead:
        name = ahead.pop()
        path = root / f"{name.replace('.', '/')}.py"
        if name not in reached and path.exists():
            reached.add(name)
            ahead += [found.internal for found in imports_of(path) if found.internal]
    assert set(folders.DECIDING) == reached


def test_comments_do_not_count_as_code(tmp_path: Path, monkeypatch: Any) -> None:
    for name in folders.DECIDING:
        path = f"{name.replace('.', '/')}.py"
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folders.PACKAGE / path, tmp_path / path)
    monkeypatch.setattr(folders, "PACKAGE", tmp_path)
    hashed, target = folders.code_hash.__wrapped__, tmp_path / "training" / "loop.py"
    before, text = hashed(), target.read_text()
    target.write_text("# a comment\n" + text.replace('"""Adam on every vector', '"""SGD on every vector'))
    assert hashed() == before
    target.write_text(text.replace("is not finite", "is odd").replace("step < run.n_steps", "step <= run.n_steps"))
    assert hashed() != before


def test_cells_without_a_manifest_are_not_trusted(run: Callable[..., Sweep], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no sweep"):
        Sweep.open(tmp_path / "nowhere")
    run(grid={"layer": 1})
    (tmp_path / "sweep" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"holds cells but no manifest\.json"):
        run(grid={"layer": 1})
