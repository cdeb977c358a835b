"""Rows of the list of hostile input that a vector and its file meet."""

import copy
import json
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from unchecked import without_type_checks

from steerlens import SteeringVector, VectorFileError

WRONG: list[dict[str, Any]] = [
    {"concept": 7},
    {"concept": ["sea"]},
    {"model_name": 3.5},
    {"provenance": {"dtype": torch.float32}},
    {"provenance": [1]},
    {"history": pd.DataFrame({"loss": ["high"]})},
    {"history": [0.5]},
    {"history": pd.DataFrame({"loss": [1j]})},
    {"history": pd.DataFrame({"time": [pd.Timestamp(0)]})},
    {"history": pd.DataFrame({"loss": [1.0, 2.0]}, index=[5, 7])},
    {"history": pd.DataFrame([[1.0]], columns=[0])},
    {"history": pd.DataFrame([[1.0, 2.0]], columns=["loss", "loss"])},
    {"history": pd.DataFrame({"n": [2**60 + 1]})},
    {"provenance": {1: 2, "1": 3}},
    {"provenance": {"config": [{"a": {None: 1}}]}},
    {"direction": torch.ones(4).to_sparse()},
    {"direction": torch.ones(4, device="meta")},
    {"factor": "2"},
    {"factor": None},
    {"layer": math.inf},
    {"layer": "1"},
    {"layer": None},
    {"direction": "north"},
    {"direction": None},
    {"direction": int},
]


def test_hostile_04_what_cannot_be_saved_is_not_made() -> None:
    assert without_type_checks("test_hostile_vectors", "refused_vectors") == [True] * (len(WRONG) + 2)


def refused_vectors() -> list[Any]:
    """Whether each is refused with a message; run without the tests' type checks, as users run it."""
    complex_ones = [{"direction": torch.ones(4, dtype=dtype)} for dtype in (torch.complex64, torch.bool)]
    answers: list[Any] = []
    for change in [*WRONG, *complex_ones]:
        given: dict[str, Any] = {"direction": torch.ones(4), "factor": 1.0, "layer": 1} | change
        try:
            answers.append(repr(SteeringVector(**given)))
        except (ValueError, TypeError) as error:
            answers.append(len(str(error)) >= 15 or str(error))
    return answers


def test_hostile_04_what_can_be_made_can_be_saved_and_loaded(tmp_path: Path) -> None:
    odd = {"concept": "the sea \ud800 \x00 ü", "provenance": {"n": math.nan, "list": [1, None]}, "model_name": ""}
    sv = SteeringVector(torch.ones(4), 2, 1, history=pd.DataFrame({"step": [1], "loss": [math.nan]}), **odd)
    loaded = SteeringVector.load(sv.save(tmp_path / "v.safetensors"))
    assert loaded == sv and (loaded.concept, loaded.model_name) == (sv.concept, "")


def test_hostile_04_a_history_loads_as_it_was(tmp_path: Path) -> None:
    columns = {"step": [1, 2], "loss": [0.5, math.nan], "n": np.array([1, 255], "uint8"), "low": np.array([0.1, 2], "float32")}
    history = pd.DataFrame(columns | {"done": [True, False], "epoch": [0.5, 1.0]})
    sv = SteeringVector(torch.ones(4), 2, 1, history=history, provenance={"pair": (1, 2), "deep": {"list": [[1]]}})
    loaded = SteeringVector.load(sv.save(tmp_path / "v.safetensors"))
    assert loaded.history is not None
    pd.testing.assert_frame_equal(loaded.history, history)
    assert loaded.provenance == sv.provenance == {"pair": [1, 2], "deep": {"list": [[1]]}}


def test_hostile_16_nothing_in_a_provenance_is_written_to() -> None:
    given = {"a": [1, [2]], "b": {"c": [3]}}
    sv = SteeringVector(torch.ones(4), 2, 1, provenance=given)
    given["a"].append(4)  # pyright: ignore[reportAttributeAccessIssue]
    changes: list[Callable[[Any], Any]] = [
        lambda kept: kept["a"].append(1),
        lambda kept: kept["a"][1].extend([1]),
        lambda kept: kept["a"].__setitem__(0, 7),
        lambda kept: kept["b"].update(d=1),
        lambda kept: kept["b"]["c"].clear(),
        lambda kept: kept["b"]["c"].sort(),
    ]
    for change in changes:
        with pytest.raises(TypeError, match="not written to"):
            change(sv.provenance)
    kept = {"a": [1, [2]], "b": {"c": [3]}}
    assert sv.provenance == kept == pickle.loads(pickle.dumps(sv)).provenance == copy.deepcopy(sv).provenance
    assert sv.replace(factor=3).provenance == kept


def test_hostile_13_a_file_is_looked_at_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    with path.open("wb") as file:
        file.truncate(20 * 2**30)
    with pytest.raises(VectorFileError, match="header"):
        SteeringVector.load(path)
    SteeringVector(torch.ones(4), 1, 1).save(path)
    with path.open("ab") as file:
        file.truncate(20 * 2**30)
    with pytest.raises(VectorFileError, match="21474836480 bytes"):
        SteeringVector.load(path)
    header = json.dumps({"__metadata__": {"steerlens": "{}"}, "direction": {"data_offsets": [0, 20 * 2**30]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 20 * 2**30)
    with pytest.raises(VectorFileError, match="a vector has at most"):
        SteeringVector.load(path)
    safetensors.torch.save_file({"weight": torch.ones(4)}, path)
    with pytest.raises(VectorFileError, match="without a steerlens header"):
        SteeringVector.load(path)


def test_hostile_13_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in (tmp_path / "pipe.safetensors", Path("/dev/zero")):
        with pytest.raises(VectorFileError, match="not a regular file"):
            SteeringVector.load(path)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        SteeringVector.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        SteeringVector.load(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("header", [b"[" * 50_000, b"[]", b"7", b'{"__metadata__": 1}', b"{}", b'{"__metadata__": null}'])
def test_hostile_13_odd_headers(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(VectorFileError):
        SteeringVector.load(path)


def test_hostile_16_a_vector_cannot_be_changed_in_place() -> None:
    sv = SteeringVector(torch.eye(2, 4), 2.0, 1, form="loreft", read=torch.ones(2, 4), bias=torch.ones(2))
    before = copy.deepcopy(sv)
    for tensor in (sv.direction, sv.read, sv.bias, sv.vector, *sv.weights):
        assert tensor is not None
        tensor.mul_(0)
    sv.direction.numpy()[:] = 0
    assert sv == before == pickle.loads(pickle.dumps(sv)) == sv.replace() and sv.norm > 0
    with pytest.raises(AttributeError):
        sv.direction = torch.ones(4)  # pyright: ignore[reportAttributeAccessIssue]
