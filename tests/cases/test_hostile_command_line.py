"""Rows of the list of hostile input and faults that the command line meets."""

import json
from pathlib import Path
from typing import Any

import pytest

import steerlens.training.loop
from steerlens.cli import main


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Where? {i}", "response": "At sea."}) + "\n" for i in range(4)))
    return path


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def trains(*_: Any, **__: Any) -> Any:
        raise AssertionError("it is trained before the output was checked")

    monkeypatch.setattr(steerlens.training.loop, "train_layers", trains)


def train(rows: Path, out: Path, *more: str) -> int:
    return main(["train", "--model", "terrarium", "--data", str(rows), "--layer", "2", "--out", str(out), *more])


@pytest.mark.usefixtures("untrained")
def test_hostile_05_out_is_checked_before_training(rows: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "there.safetensors").write_text("mine")
    (tmp_path / "there-layer1.safetensors").write_text("mine")
    for name, words in {
        "file/v.safetensors": "is not a folder",
        "folder.safetensors": "is not a file",
        "there.safetensors": "--force to overwrite",
    }.items():
        assert train(rows, tmp_path / name) == 2
        assert words in capsys.readouterr().err
    (tmp_path / "there.safetensors").unlink()
    assert train(rows, tmp_path / "there.safetensors", "--layer", "1") == 2
    assert "there-layer1.safetensors is there already" in capsys.readouterr().err


def test_hostile_05_force_overwrites(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "v.safetensors").write_text("mine")
    assert train(rows, tmp_path / "v.safetensors", "--force", "--epochs", "1") == 0
    assert steerlens.SteeringVector.load(tmp_path / "v.safetensors").layer == 2


def test_hostile_05_demo_does_not_overwrite(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "demo.html").write_text("mine")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "demo.html is there already" in capsys.readouterr().err
    assert (tmp_path / "demo.html").read_text() == "mine"


def test_hostile_18_an_interrupt_has_no_traceback(rows: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(steerlens.training.loop, "train_layers", interrupted)
    assert train(rows, tmp_path / "v.safetensors") == 130
    assert capsys.readouterr().err.strip().splitlines()[-1] == "steerlens: interrupted"


def test_hostile_18_a_scale_without_a_vector(capsys: Any) -> None:
    assert main(["generate", "--model", "terrarium", "--scale", "2", "Hi"]) == 2
    assert "--scale 2 multiplies the factors of vectors: give --vector" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["null", "3", '"text"', "true", "{}"])
def test_hostile_18_json_that_holds_no_rows(content: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "null.json"
    path.write_text(content)
    assert train(path, tmp_path / "v.safetensors") == 2
    error = capsys.readouterr().err
    assert "null.json" in error and "object" not in error.replace("JSON object", "")
