"""Sweeps: what a cell is, that it stands alone, which grids are refused, and maps of what came out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_sweeps import ASKED, GRID, score, stored

import steerlens
from steerlens import ScriptedJudge, Sweep, TrainConfig
from steerlens.data import DataError
from steerlens.reproducibility import row_seeds
from steerlens.sweeps import grid as grids

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
    whole, part = stored(tmp_path / "whole"), stored(tmp_path / "alone")
    assert len(part) == 2
    assert part == {name: whole[name] for name in part}
    assert stored(tmp_path / "backwards") == whole


# --- maps -------------------------------------------------------------------------------------------------------------


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
