"""The one-file format: nothing lost, nothing wrong loaded, nothing unpickled."""

import json
import os
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
import torch

import steerlens
from steerlens import SteeringVector, TrainConfig, VectorFileError
from steerlens.files import write_atomically


@pytest.fixture(autouse=True)
def nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("something was unpickled")

    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, fail)
    yield


@pytest.fixture(scope="module")
def trained(benches: Callable[..., Any]) -> SteeringVector:
    rows = [{"prompt": "Why?", "response": "It is só."}, {"prompt": "When?", "response": "Now"}]
    settings = {"layer": 1, "progress": False, "config": TrainConfig(epochs=4, factor_init=0.1, batch_size=1)}
    return steerlens.train(benches("gemma2").model, steerlens.SteeringData(rows, concept="ünïcode, 雨"), **settings)


def same(a: SteeringVector, b: SteeringVector) -> bool:
    """Equal in everything, not only in what they do."""
    if (a.history is None) != (b.history is None) or dict(a.provenance) != dict(b.provenance):
        return False
    if a.history is not None and b.history is not None:
        pd.testing.assert_frame_equal(a.history, b.history, check_exact=True)
    return a == b and torch.equal(a.direction, b.direction) and (a.factor, a.concept) == (b.factor, b.concept)


def test_round_trip(trained: SteeringVector, make_vector: Callable[..., Any], tmp_path: Path) -> None:
    assert trained.history is not None and len(trained.history) == 8 and trained.provenance["seed"] == 42
    vectors = [trained, make_vector(), make_vector(form="clamp", positions="s3", concept="sea", model_name="m", layer=3)]
    for sv in vectors:
        path = sv.save(tmp_path / "deep" / "er" / "v.safetensors")
        assert same(SteeringVector.load(path), sv)
        assert same(SteeringVector.load(str(path)), sv)
    assert [file.name for file in (tmp_path / "deep" / "er").iterdir()] == ["v.safetensors"], "no temporary file is left"


def test_the_header_is_plain_json(trained: SteeringVector, tmp_path: Path) -> None:
    """Other programs can read the file without steerlens."""
    path = trained.save(tmp_path / "v.safetensors")
    with safetensors.safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("direction"), trained.direction)
        header = json.loads(file.metadata()["steerlens"])
    facts = header["provenance"]
    assert (header["schema"], header["layer"], header["positions"], header["concept"]) == (1, 1, "p2+s2", trained.concept)
    known = {"model_name", "revision", "dtype", "weight_processing", "d_model", "layer", "hook_point", "positions"}
    known |= {"template_hash", "data_hash", "objective", "config", "config_source", "seed", "versions", "form", "factor"}
    assert known <= set(facts)
    assert facts["hook_point"] == "blocks.1.hook_resid_post" and facts["weight_processing"] == "raw"
    assert facts["config"]["epochs"] == 4 and facts["d_model"] == 48
    assert set(facts["versions"]) == {"steerlens", "torch", "transformer-lens", "transformers"}


def test_a_thousand_mutations(trained: SteeringVector, tmp_path: Path) -> None:
    """Each loads as the very same vector or is refused; the same again for truncations and lengthenings."""
    path = tmp_path / "v.safetensors"
    content = trained.save(path).read_bytes()
    rng, refused = random.Random(0), 0
    for number in range(1000):
        mutated = bytearray(content)
        if number % 5 == 0:
            mutated = mutated[: rng.randrange(len(mutated))]
        elif number % 50 == 1:
            mutated += rng.randbytes(rng.randint(1, 9))
        else:
            place = rng.randrange(len(mutated)) if number % 2 else rng.randrange(200)
            mutated[place] ^= rng.randint(1, 255)
        path.write_bytes(mutated)
        try:
            assert same(SteeringVector.load(path), trained), number
        except VectorFileError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 950


def test_every_byte_of_the_tensors_is_guarded(trained: SteeringVector, tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    content = trained.save(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for place in range(start, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(VectorFileError, match="the checksum does not match: the file was damaged after it was saved"):
            SteeringVector.load(path)


def test_an_edited_header_is_refused(trained: SteeringVector, tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    content = trained.save(path).read_bytes()
    for old, new in (
        (b'\\"layer\\": 1', b'\\"layer\\": 2'),
        (b"p2+s2", b"p2+s3"),
        (b'\\"form\\": \\"add\\"', b'\\"form\\": \\"abd\\"'),
    ):
        assert old in content
        path.write_bytes(content.replace(old, new, 1))
        with pytest.raises(VectorFileError, match="checksum"):
            SteeringVector.load(path)


def test_other_kinds_of_files(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    with pytest.raises(FileNotFoundError):
        SteeringVector.load(path)
    torch.save({"direction": torch.ones(3)}, tmp_path / "pickled.pt")
    others = {
        "empty": b"",
        "short": b"abc",
        "text": b"direction: 1, 2, 3\n" * 40,
        "json": json.dumps({"direction": [1, 2]}).encode(),
        "zeros": bytes(1000),
        "huge header": (2**63).to_bytes(8, "little") + b"{}",
        "header is a list": (2).to_bytes(8, "little") + b"[]",
        "pickle": (tmp_path / "pickled.pt").read_bytes(),
    }
    for name, content in others.items():
        path.write_bytes(content)
        with pytest.raises(VectorFileError, match=r"v\.safetensors: "):
            SteeringVector.load(path)
            raise AssertionError(name)
    path.write_bytes(safetensors.torch.save({"direction": torch.ones(3)}, {"format": "pt"}))
    with pytest.raises(VectorFileError, match="a safetensors file without a steerlens header"):
        SteeringVector.load(path)


def test_a_later_schema_is_named(make_vector: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerlens.vector_file.SCHEMA", 7)
    path = make_vector().save(tmp_path / "v.safetensors")
    monkeypatch.undo()
    with pytest.raises(VectorFileError, match="schema 7, this steerlens reads up to 1: upgrade steerlens"):
        SteeringVector.load(path)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file(
    make_vector: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, step: str
) -> None:
    old, path = make_vector(1), tmp_path / "v.safetensors"
    old.save(path)

    def fail(*_args: Any) -> None:
        raise error

    monkeypatch.setattr(*((os, "fsync", fail) if step == "fsync" else (Path, "replace", fail)))
    with pytest.raises(type(error)):
        make_vector(2).save(path)
    monkeypatch.undo()
    assert SteeringVector.load(path) == old
    assert list(tmp_path.iterdir()) == [path], "no temporary file is left"


def test_what_no_file_can_hold(make_vector: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="positions are a function, which a file cannot hold"):
        make_vector(positions=lambda prompt_mask: prompt_mask).save(tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match=r"v\.pt: name the file \*\.safetensors"):
        make_vector().save(tmp_path / "v.pt")
    assert not list(tmp_path.iterdir())
    write_atomically(tmp_path / "a" / "b", b"x")
    assert (tmp_path / "a" / "b").read_bytes() == b"x"
