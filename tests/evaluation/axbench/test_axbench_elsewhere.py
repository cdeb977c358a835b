"""A benchmark's folder on another file system: the same rows, and a run that goes on."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_instructions import INSTRUCTIONS

from steerlens import Scores, ScriptedJudge, SteeringData, SteeringPrompt
from steerlens.evaluation.axbench.benchmark import axbench
from steerlens.evaluation.axbench.results import AxBenchResult


@pytest.fixture
def elsewhere() -> Iterator[str]:
    fsspec = pytest.importorskip("fsspec")
    yield "memory://steerlens-axbench"
    fsspec.filesystem("memory").rm("/steerlens-axbench", recursive=True)


def test_a_benchmark_may_lie_on_any_file_system(
    model: Any, data: Any, make_vector: Callable[..., Any], elsewhere: str, tmp_path: Path
) -> None:
    datasets = {number: SteeringData(data.examples, f"concept {number}", {"concept_id": number}) for number in (4, 7, 9)}
    judge = ScriptedJudge(lambda concept, prompt, response: Scores(len(response) % 3, 2, 1))
    settings: dict[str, Any] = {"vectors": {4: make_vector(), 7: SteeringPrompt("Say fish."), 9: None}, "judge": judge}
    settings |= {"instructions": INSTRUCTIONS, "n_instructions": 2, "max_new_tokens": 4, "progress": False}
    here = axbench(model, datasets, out=tmp_path, **settings)
    axbench(model, datasets, out=elsewhere, concepts=[4, 7], **settings)
    asked = len(judge.calls)
    there = axbench(model, datasets, out=elsewhere, **settings)
    assert len(judge.calls) == asked + 2, "two concepts were finished"
    for found in (there, AxBenchResult.open(elsewhere)):
        pd.testing.assert_frame_equal(found.frame, here.frame)
        assert found.vectors == here.vectors
        assert json.loads(json.dumps(found.settings)) == AxBenchResult.open(tmp_path).settings
    with pytest.raises(
        ValueError, match=r"memory://steerlens-axbench holds a run with other settings \(seed is 42 there and 1"
    ):
        axbench(model, datasets, out=elsewhere, seed=1, **settings)
    with pytest.raises(FileNotFoundError, match="holds no run of the protocol"):
        AxBenchResult.open(f"{elsewhere}/nothing")
