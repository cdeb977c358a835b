"""The command line on the embedded model: what it prints, writes and refuses."""

import json

import pytest

import steerlens
from steerlens.cli import main


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    data = steerlens.terrarium.data(steerlens.terrarium.concepts("development")[0], n=12)
    path.write_text("\n".join(json.dumps({"prompt": e.prompt, "response": e.response}) for e in data))
    return path


def test_train_then_generate(tmp_path, rows, capsys):
    vector = tmp_path / "v.safetensors"
    common = ["--model", "terrarium"]
    trained = main(
        ["train", *common, "--data", str(rows), "--layer", "2", "--out", str(vector), "--epochs", "2", "--concept", "x"]
    )
    assert trained == 0
    sv = steerlens.SteeringVector.load(vector)
    assert (sv.layer, sv.positions, sv.concept, sv.model_name) == (2, "p2+s2", "x", "terrarium")
    assert sv.provenance["config"]["epochs"] == 2
    capsys.readouterr()
    assert main(["generate", *common, "--vector", str(vector), "--max-new-tokens", "8", "Describe a fox."]) == 0
    printed = capsys.readouterr().out
    assert "[unsteered] Describe a fox." in printed
    assert "[steered] Describe a fox." in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--layer": "99"}, "has blocks 0 to"),
        ({"--positions": "q2"}, "cannot read 'q2'"),
        ({"--factor": "many"}, "--factor 'many'"),
        ({"--out": "v.pt"}, "name the file *.safetensors"),
        ({"--data": "nowhere.jsonl"}, "does not exist"),
        ({"--dtype": "float31"}, "--dtype 'float31'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, rows, capsys, changes, message):
    options = {"--model": "terrarium", "--data": str(rows), "--layer": "2", "--out": str(tmp_path / "v.safetensors")}
    arguments = [part for pair in (options | changes).items() for part in pair]
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert error[-1].startswith("steerlens: ")
    assert not (tmp_path / "v.safetensors").exists()


def test_a_damaged_vector_is_named(tmp_path, capsys):
    path = tmp_path / "v.safetensors"
    path.write_bytes(b"not a vector")
    assert main(["generate", "--model", "terrarium", "--vector", str(path), "hello"]) == 2
    assert "not an intact steerlens vector" in capsys.readouterr().err


def test_module_runs_as_a_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert steerlens.__version__ in capsys.readouterr().out
