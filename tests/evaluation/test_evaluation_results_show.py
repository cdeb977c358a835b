"""Every result of an evaluation says what it is: a sentence, a frame, a figure, and a small view that is safe to show."""

import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

import steerlens
from steerlens import Evaluation, Frontier, HarnessScores, LayerScan, Selection, SideEffects, SteeringVector, Suppression, Sweep
from steerlens.evaluation.axbench.results import AxBenchResult
from steerlens.evaluation.factor_selection import Selections
from steerlens.result import Result
from steerlens.scores import SCORES
from steerlens.sweeps.cell import Cell

HOSTILE = "<script>alert('a concept')</script> & " + "words without an end " * 30
VECTOR = SteeringVector(torch.ones(4), 1.0, 0)


def judged(concepts: list[str], n: int, **columns: Any) -> pd.DataFrame:
    """Rows as a judge leaves them, the last of each concept unscored, with long texts in every column that has one."""
    rows = [
        {"concept": concept, "prompt": HOSTILE, "response": HOSTILE * 9, "seed": k}
        | dict.fromkeys(SCORES, math.nan if k == n - 1 else k % 3)
        | {"error": HOSTILE if k == n - 1 else None}
        | columns
        for concept in concepts
        for k in range(n)
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(SCORES, float) | {"error": object})


def selection(concept: str) -> Selection:
    frame = pd.concat([judged([concept], 4, factor=float(factor)) for factor in range(1, 30)], ignore_index=True)
    return Selection(frame, 2.0, VECTOR.replace(factor=2.0), 1.0, 0.9, 0.1, 20)


def scan() -> LayerScan:
    frame = pd.DataFrame({"layer": range(30), "held_out_loss": 1.0, "unsteered_loss": 2.0, "train_loss": 1.0, "norm": 1.0})
    scores = dict.fromkeys((*SCORES, "overall_low", "overall_high"), 1.0)
    frame = frame.assign(**scores, n=9, unscored=1)
    frame.attrs["objective"] = HOSTILE
    return LayerScan(frame, {})


def suppression() -> Suppression:
    parts = [
        judged([HOSTILE, "b"], 3, vector=f"{HOSTILE} {number}", scale=1.0, attack=attack)
        for number in range(9)
        for attack in (False, True)
    ]
    return Suppression(pd.concat(parts, ignore_index=True))


def points(*names: str) -> pd.DataFrame:
    """One row per vector, the unsteered model first, with an interval of each name."""
    vectors = ["unsteered", *(f"{HOSTILE} {number}" for number in range(20))]
    frame = pd.DataFrame({"vector": vectors, "scale": 1.0})
    for name in names:
        values = np.linspace(1.0, 2.0, len(vectors))
        frame = frame.assign(**{name: values, f"{name}_low": values - 0.1, f"{name}_high": values + 0.1})
    return frame


def frontier() -> Frontier:
    frame = points("score", "utility").assign(score_n=9, utility_n=9, unscored=0, efficient=True)
    return Frontier(frame, HOSTILE, "share of questions answered rightly (0 to 1)")


def side_effects() -> SideEffects:
    return SideEffects(points("kl", "perplexity").assign(kl_tokens=90, perplexity_tokens=90, empty=0, n=9))


def harness() -> HarnessScores:
    row = {"metric": "acc", "filter": "none", "value": 0.5, "stderr": 0.1, "n": 10, "higher_is_better": True, "num_fewshot": 0}
    return HarnessScores(pd.DataFrame([{"task": f"{HOSTILE} {number}", **row} for number in range(20)]), pd.DataFrame())


def benchmark() -> AxBenchResult:
    names = [f"{HOSTILE} {number}" for number in range(9)]
    frame = judged(names, 3, genre=HOSTILE, vector_file=None)
    frame.insert(0, "concept_id", [names.index(name) for name in frame["concept"]])
    frame.insert(3, "instruction", frame["seed"])
    return AxBenchResult(frame, dict.fromkeys(range(9), VECTOR), {"method": "prosv"})


def swept() -> Sweep:
    cells = [
        Cell(concept, 1, {"layer": layer, "form": form, "factor": factor})
        for concept in (HOSTILE, "b")
        for layer in (1, 2, 3)
        for form in ("add", HOSTILE)
        for factor in (1.0, 2.0)
    ]
    numbers = dict.fromkeys(("trained_factor", "norm", "loss", "steps", "seconds"), 1.0)
    rows = [
        {"key": cell.key, "concept": cell.concept, "seed": 1}
        | dict(cell.settings)
        | dict.fromkeys(SCORES, 1.0)
        | numbers
        | {"n": 4, "unscored": 1, "made_with": "x", "error": None}
        for cell in cells
    ]
    return Sweep("nowhere", tuple(cells), pd.DataFrame(rows), pd.DataFrame(), ("layer", "form", "factor"))


RESULTS: dict[str, Any] = {
    "Evaluation": lambda: Evaluation(judged([HOSTILE, "b"], 30)),
    "Selection": lambda: selection(HOSTILE),
    "Selections": lambda: Selections({f"{HOSTILE} {number}": selection("sea") for number in range(3)}),
    "LayerScan": scan,
    "Suppression": suppression,
    "Frontier": frontier,
    "SideEffects": side_effects,
    "HarnessScores": harness,
    "AxBenchResult": benchmark,
    "Sweep": swept,
}
NAMED_NOWHERE = {"Selection", "LayerScan"}
"""Results of one concept, which stands neither in their sentence nor in their frame."""


def classes() -> Iterator[type]:
    """The classes of the evaluation and of sweeps."""
    for package in ("evaluation", "evaluation.axbench", "evaluation.harness", "sweeps"):
        folder = Path(steerlens.__file__).parent / package.replace(".", "/")
        for info in pkgutil.iter_modules([str(folder)]):
            module = importlib.import_module(f"steerlens.{package}.{info.name}")
            yield from (kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__)


def test_no_result_is_forgotten() -> None:
    methods = ("summary", "to_frame", "plot")
    found = {kind.__name__: kind for kind in classes() if any(hasattr(kind, method) for method in methods)}
    assert set(found) == set(RESULTS)
    for kind in found.values():
        assert issubclass(kind, Result)
        assert all(getattr(kind, method) is not getattr(Result, method) for method in methods), "each says it for itself"
        assert kind.__repr__ is Result.__repr__ and kind._repr_html_ is Result._repr_html_


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_says_what_it_is(name: str) -> None:
    result = RESULTS[name]()
    assert isinstance(result.summary(), str) and result.summary()
    table = result.to_frame()
    assert isinstance(table, pd.DataFrame) and len(table)
    figure: Any = result.plot()
    assert isinstance(figure, go.Figure) and figure.data
    assert "<script" not in str(figure.to_json())
    assert repr(result).startswith(f"<{name}: ") and len(repr(result)) < 400


@pytest.mark.parametrize("name", RESULTS)
def test_the_view_in_jupyter_is_small_and_safe_and_takes_the_colours_of_the_page(name: str) -> None:
    view = RESULTS[name]()._repr_html_()
    assert len(view) < 8000
    assert "<script" not in view and ("&lt;script&gt;" in view or name in NAMED_NOWHERE)
    assert name in view and "<table" in view
    assert set(re.findall(r"background[a-z-]*:\s*([^;\"']+)", view)) <= {"transparent", "none", "inherit"}
    assert "bgcolor" not in view


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_writes_into_no_frame_that_it_was_given(name: str) -> None:
    result = RESULTS[name]()
    held: list[Any] = list(result.values()) if name == "Selections" else [result]
    before = [(part.frame.copy(), dict(part.frame.attrs)) for part in held]
    for method in (result.summary, result.plot, result._repr_html_):
        method()
    table = result.to_frame()
    table.insert(0, "mine", 1)
    table[table.columns[1]] = "mine"
    table.attrs["mine"] = True
    for part, (frame, attributes) in zip(held, before, strict=True):
        pd.testing.assert_frame_equal(part.frame, frame)
        assert part.frame.attrs == attributes
