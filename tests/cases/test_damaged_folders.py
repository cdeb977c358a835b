"""Row 12 of the list of hostile input: folders of runs and of data, each of whose files is damaged in many ways."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pytest
from damage import damaged
from small_sweeps import score

import steerlens
from steerlens import AxBenchResult, ScriptedJudge, SteeringData, SteeringPrompt, Sweep

ALLOWED = (ValueError, OSError)


def unclear(folder: Path, name: str, read: Callable[[], Any], seed: int = 0) -> list[str]:
    """What is raised that is no clear error about the file, for each way to damage it; afterwards the file is whole."""
    path, found = folder / name, []
    whole = path.read_bytes()
    try:
        for done, content in damaged(path, Random(seed)):
            path.write_bytes(content)
            try:
                read()
            except Exception as error:
                if not isinstance(error, ALLOWED) or path.name not in str(error):
                    found.append(f"{name} {done}: {type(error).__name__}: {error}"[:300])
    finally:
        path.write_bytes(whole)
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("folders")


def looked_into(result: AxBenchResult) -> None:
    """All that can be said of a result without a model."""
    result.summary()
    result.judged_by(ScriptedJudge(score))


@pytest.fixture
def benchmark(model: Any, data: Any, make_vector: Any, folders: Path) -> Path:
    """A folder of the protocol, of a vector, a steering prompt and the plain model."""
    out = folders / "benchmark"
    if not out.exists():
        sets = {n: SteeringData(data.examples, f"concept {n}", {"concept_id": n, "genre": "text"}) for n in range(3)}
        vectors = {0: make_vector(concept="concept 0"), 1: SteeringPrompt("Say fish.", "fish"), 2: None}
        asked = {number: ["What about fish?", "Hi"] for number in sets}
        run: dict[str, Any] = {"judge": ScriptedJudge(score), "max_new_tokens": 3, "progress": False, "out": out}
        steerlens.axbench(model, sets, vectors=vectors, prompts=asked, **run)
    return out


FILES = ("manifest.json", "vectors/0.safetensors", "vectors/1.json", "concepts/0.parquet", "concepts/2.parquet")


@pytest.mark.parametrize("name", FILES)
def test_hostile_12_a_folder_of_axbench(name: str, benchmark: Path) -> None:
    assert unclear(benchmark, name, lambda: looked_into(AxBenchResult.open(benchmark))) == []


@pytest.mark.parametrize("name", ["cells", "safetensors", "manifest.json"])
def test_hostile_12_a_folder_of_a_sweep(name: str, run: Callable[..., Sweep], tmp_path: Path, folders: Path) -> None:
    kept, out = folders / "sweep", tmp_path / "sweep"
    if kept.exists():
        shutil.copytree(kept, out)
    else:
        run(grid={"layer": 1, "factor_lr": [0.1, 1]})
        shutil.copytree(out, kept)
    cells = sorted((out / "cells").glob("*.json"))
    path = {"cells": cells[0], "safetensors": cells[0].with_suffix(".safetensors")}.get(name, out / name)

    def read() -> None:
        found = Sweep.open(out)
        found.summary()
        if set(found.axes) == {"layer", "factor_lr"} and len(found.frame):
            found.heatmap("factor_lr", "layer")
        for key in found.frame["key"][found.frame["error"].isna()]:
            found.vector(key)

    found = unclear(out, str(path.relative_to(out)), read)
    assert found == []


@pytest.mark.parametrize("name", ["metadata.jsonl", "train_data.parquet"])
def test_hostile_12_data_of_axbench(name: str, tmp_path: Path) -> None:
    rows = [{"concept_id": n, "concept": f"of {n}", "ref": "r", "concept_genres_map": {f"of {n}": ["text"]}} for n in (0, 1)]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    about = {"output": "Sea.", "concept_genre": "text", "dataset_category": "instruction"}
    kinds = (("positive", 0), ("positive", 1), ("negative", -1), ("negative", -1))
    table = [about | {"input": f"Hi {n}", "category": kind, "concept_id": number} for n, (kind, number) in enumerate(kinds)]
    pd.DataFrame(table).to_parquet(tmp_path / "train_data.parquet")

    def read() -> None:
        for data in steerlens.read_axbench(tmp_path).values():
            assert data.hash and data.summary()

    assert unclear(tmp_path, name, read) == []


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "json"])
def test_hostile_12_suppression_prompts(kind: str, tmp_path: Path) -> None:
    rows = [{"original_prompt": f"Hi {n}", "steered_prompt": "No sea.", "concept": "sea", "concept_id": 3} for n in range(2)]
    path, table = tmp_path / f"attack.{kind}", pd.DataFrame(rows)
    if kind == "parquet":
        table.to_parquet(path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)) if kind == "jsonl" else json.dumps(rows))
    assert unclear(tmp_path, path.name, lambda: steerlens.read_suppression(path)) == []
