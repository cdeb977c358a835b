"""What an earlier version has written opens with the same numbers, and a run goes on in it: tests/data/before/README.md."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import WIDTH

import steerlens
from steerlens import Scores, ScriptedJudge, SteeringData, SteeringPrompt, SteeringVector, Sweep
from steerlens.evaluation.axbench.benchmark import axbench
from steerlens.evaluation.axbench.results import AxBenchResult
from steerlens.model.identity import identity, weights_hash

BEFORE = Path(__file__).parents[1] / "data" / "before"
GRID = {"layer": 1, "positions": ["all", "p2+s2"]}


class Same(ScriptedJudge):
    """The judge of the benchmark, whatever its script."""

    @property
    def identity(self) -> str:
        return "same"


def nobody(concept: str, prompt: str, response: str) -> Scores:
    raise AssertionError("what is there is not judged again")


def test_a_sweep_of_before_opens_with_its_numbers() -> None:
    swept = Sweep.open(BEFORE / "sweep")
    assert swept.summary() == "3 of 4 cells finished, 1 failed; 2 of 6 responses unscored"
    assert swept.axes == ("layer", "positions")
    frame = swept.frame
    assert frame["key"].tolist() == [
        "fish-7-f00f9014e762806f",
        "fish-7-ed0d7c246c93f26a",
        "towns-7-440560f57a626c36",
        "towns-7-4b13041cbed77994",
    ]
    assert frame["norm"].tolist()[1:] == [61.22308349609375, 187.4364471435547, 60.1778678894043]
    assert frame["loss"].tolist()[1:] == [6.485075000666271, 6.131232988532291, 6.406026563216836]
    assert frame["overall"].tolist()[1:] == [1.1013986013986015, 0.0, 0.0]
    assert frame["made_with"].tolist() == ["c6922d62ddf2"] * 2 + ["90a5791da4e8"] * 2
    assert str(swept.failed["error"].iloc[0]).endswith("RuntimeError: out of memory, say\n")
    responses = swept.generations
    assert responses["response"].tolist() == ["pFo", "6ñg5", "pýJ", "6`e=", "pXò\\", "6JÃ"]
    assert responses["error"].tolist().count("ConnectionError: no answer") == responses["overall"].isna().sum() == 2
    for _, row in frame.iloc[1:].iterrows():
        sv = swept.vector(str(row["key"]))
        assert (sv.norm, sv.factor, sv.layer, sv.positions) == (row["norm"], row["trained_factor"], 1, row["positions"])
        assert sv.history is not None and len(sv.history) == row["steps"]


def test_a_sweep_of_before_goes_on(run: Callable[..., Sweep], tmp_path: Path) -> None:
    """Its code is another, so its cells are kept beside new ones; none of them is named or made anew."""
    shutil.copytree(BEFORE / "sweep", tmp_path / "sweep")
    files = {path: path.read_bytes() for path in (tmp_path / "sweep" / "cells").iterdir()}
    with pytest.raises(ValueError, match="holds cells made with other code"):
        run(grid=GRID)
    judge = ScriptedJudge(nobody)
    swept = run(grid=GRID, on_mismatch="keep", retry="none", judge=judge)
    assert not judge.calls and len(swept.frame) == 4
    assert {path: path.read_bytes() for path in (tmp_path / "sweep" / "cells").iterdir()} == files
    grown = run(grid={**GRID, "layer": [1, 2]}, on_mismatch="keep", retry="none")
    assert len(grown.frame) == 8 and grown.frame["made_with"].nunique() == 4


def test_a_benchmark_of_before_opens_with_its_numbers() -> None:
    found = AxBenchResult.open(BEFORE / "axbench")
    assert found.frame["overall"].tolist()[:1] + found.frame["overall"].tolist()[2:] == [1.5, 1.2, 1.2, 1.2, 1.2]
    assert np.isnan(found.frame["overall"][1]) and found.frame["error"][1] == "RuntimeError: no reply"
    assert found.frame["response"].tolist() == ["j;$2", "ÁÛÖØ", "6A.|", "13ÿë", "2p4Ã", "U+ÐÖ"]
    assert found.frame["seed"].tolist()[::5] == [48461078900346811, 19554537199237379]
    assert found.vectors == {4: given(), 7: SteeringPrompt("Say fish.", "fish"), 9: None}
    assert found.settings["method"] == "given vectors" and found.settings["judge"] == "same"
    assert found.summary().startswith("given vectors: overall 1.30 of 2 (95 % interval 1.20 to 1.50 over 3 concepts")


def test_a_benchmark_of_before_goes_on(model: Any, data: Any, tmp_path: Path) -> None:
    """Its settings and the fingerprints of its concepts are what this code finds; no concept is run again.

    What it cannot know is how the prompts were rendered: it is refused until the manifest says so.
    """
    shutil.copytree(BEFORE / "axbench", tmp_path / "axbench")
    manifest = tmp_path / "axbench" / "manifest.json"
    settings = json.loads(manifest.read_text())
    assert {*settings["model"], "template_form"} == {*identity(model), "weights"}
    settings["model"]["weights"] = weights_hash(model)  # random weights may differ between versions of torch
    manifest.write_text(json.dumps(settings))
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file() and path.name != "generations.parquet"}
    genres = {4: "text", 7: "code", 9: "text"}
    datasets = {
        number: SteeringData(data.examples[number % 3 :], f"concept {number}", {"concept_id": number, "genre": genre})
        for number, genre in genres.items()
    }
    chosen: dict[str, Any] = {"instructions": [f"Instruction {i}?" for i in range(30)], "n_instructions": 2}
    chosen |= {"vectors": {4: given(), 7: SteeringPrompt("Say fish.", "fish"), 9: None}, "max_new_tokens": 4}
    judge = Same(nobody)
    with pytest.raises(ValueError, match=r"other settings.*model template_form is None there"):
        axbench(model, datasets, judge=judge, out=tmp_path / "axbench", progress=False, **chosen)
    settings["model"]["template_form"] = identity(model)["template_form"]
    manifest.write_text(json.dumps(settings))
    files[manifest] = manifest.read_bytes()
    found = axbench(model, datasets, judge=judge, out=tmp_path / "axbench", progress=False, **chosen)
    assert not judge.calls
    assert {path: path.read_bytes() for path in files} == files
    assert found.frame.equals(AxBenchResult.open(BEFORE / "axbench").frame)


def given() -> SteeringVector:
    """The vector that the benchmark was given."""
    return SteeringVector(torch.randn(WIDTH, generator=torch.Generator().manual_seed(4)), 3.0, 1)


def test_a_vector_of_before_loads_with_its_numbers() -> None:
    sv = steerlens.SteeringVector.load(BEFORE / "vector.safetensors")
    assert (sv.form, sv.rank, sv.layer, sv.positions, sv.concept, sv.model_name) == (
        "loreft", 2, 1, "all", "fish", "tiny-gemma2",
    )  # fmt: skip
    assert sv.bias is not None and sv.bias.tolist() == pytest.approx([134.2303, 49.4388], abs=1e-4)
    assert sv.direction[:, :2].flatten().tolist() == pytest.approx([-7.1195e-02, 3.3081e-02, 1.1252e-04, 6.0596e-02], abs=1e-6)
    assert sv.history is not None and sv.history["loss"].tolist() == [6.338345577842311, 6.162846274997877]
    assert (sv.provenance["seed"], sv.provenance["config"]["batch_size"], sv.provenance["objective"]) == (42, 3, "lang")
