"""The command line on the embedded model: what it prints, writes and refuses."""

import json
import subprocess
import sys
from dataclasses import fields

import pytest

import steerlens
from steerlens.cli import main
from steerlens.dataclass_options import field_texts
from steerlens.interventions import FORMS


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


def test_every_setting_of_training_is_an_option(tmp_path, rows, capsys):
    """Made from the dataclass: what is given arrives, what is not stays as published."""
    changed = {"epochs": 1, "batch_size": 6, "factor_init": 2.0, "direction_init": 3.0, "factor_lr": 0.5, "direction_lr": 0.01}
    changed |= {"grad_clip": None, "shuffle": False, "max_response_tokens": 9, "append_eos": True, "accumulate": 2}
    changed |= {"init_distribution": "normal", "null_factor_init": None, "null_factor_lr": 0.2}
    assert set(changed) == {field.name for field in fields(steerlens.TrainConfig)}
    arguments = []
    for name, value in changed.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{option}" if value else f"--no-{option}")
        else:
            arguments += [f"--{option}", "none" if value is None else str(value)]
    out = ["--out", str(tmp_path / "v.safetensors")]
    assert main(["train", "--model", "terrarium", "--data", str(rows), "--layer", "2", *out, *arguments]) == 0
    config = steerlens.SteeringVector.load(tmp_path / "v.safetensors").provenance["config"]
    assert config == changed
    assert all(type(config[name]) is type(value) for name, value in changed.items())
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for name, text in field_texts(steerlens.TrainConfig).items():
        assert f"--{name.replace('_', '-')}" in printed and text in printed
    assert all(form in printed for form in FORMS) and "loreft" in FORMS
    with pytest.raises(SystemExit):
        main(["train", "--grad-clip", "much"])
    assert "argument --grad-clip: invalid float or none value: 'much'" in capsys.readouterr().err


def test_several_layers_and_another_form(tmp_path, rows, capsys):
    common = ["train", "--model", "terrarium", "--data", str(rows), "--epochs", "1", "--form", "loreft", "--rank", "2"]
    assert main([*common, "--layer", "2", "--layer", "1", "--out", str(tmp_path / "v.safetensors")]) == 0
    files = [tmp_path / f"v-layer{layer}.safetensors" for layer in (2, 1)]
    assert sorted(tmp_path.glob("*.safetensors")) == sorted(files)
    vectors = [steerlens.SteeringVector.load(path) for path in files]
    assert [(sv.layer, sv.form, sv.rank, sv.provenance["layers_trained_together"]) for sv in vectors] == [
        (2, "loreft", 2, [2, 1]), (1, "loreft", 2, [2, 1]),
    ]  # fmt: skip
    assert main([*common, "--layer", "2", "--out", str(tmp_path / "one.safetensors")]) == 0
    capsys.readouterr()
    given = [part for path in files for part in ("--vector", str(path))]
    asked = ["--max-new-tokens", "8", "--temperature", "0", "Describe a fox."]
    assert main(["generate", "--model", "terrarium", *given, *asked]) == 0
    steered = capsys.readouterr().out.split("[steered] Describe a fox.\n")[1].strip()
    model = steerlens.load_model("terrarium")
    assert steered == steerlens.generate(model, ["Describe a fox."], vectors, max_new_tokens=8, temperature=0)[0].strip()


def test_other_commands_are_read_without_torch():
    read = "c._parser('generate').parse_args(['generate', 'hi', '--model', 'x'])"
    code = f"import sys, steerlens.cli as c; {read}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "torch" not in loaded and not [name for name in loaded if name.startswith("steerlens.training")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--form": "added"}, "form 'added' is unknown; known forms: add, clamp"),
        ({"--rank": "2"}, "a steering vector of form 'add' has rank 1"),
        ({"--epochs": "0"}, "epochs is 0; it must be a whole number"),
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
