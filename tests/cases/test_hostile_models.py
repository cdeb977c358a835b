"""Rows of the list of hostile input and faults that a model and the files of an autoencoder meet."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_files import tensors

import steerlens
from steerlens import SteeringError
from steerlens.analysis import SAEError, load_sae

ARRAYS = {name: tensor.numpy() for name, tensor in tensors(0, "threshold").items()}

# --- 13: archives -------------------------------------------------------------------------------------------------------


def zeros(rows: int, columns: int) -> bytes:
    """An array's file of zeros."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": (rows, columns)})
    return content.getvalue() + bytes(4 * rows * columns)


def write_archive(path: Path, **files: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **{name: array for name, array in ARRAYS.items() if name not in files})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.fixture
def nothing_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpacks(*_: Any, **__: Any) -> Any:
        raise AssertionError("it is unpacked before its sizes are looked at")

    monkeypatch.setattr(np, "load", unpacks)


@pytest.mark.usefixtures("nothing_is_unpacked")
@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"W_dec": zeros(2**13, 2**12)}, r"\d+ bytes that unpack to \d+; weights expand less than 20 times"),
        ({"W_dec": zeros(10, 6) + bytes(2**26)}, "W_dec unpacks to 67109232 bytes, 368 by its header"),
        ({"W_dec": zeros(10, 6)[:-8]}, "W_dec unpacks to 360 bytes, 368 by its header"),
        ({"more": zeros(10, 6)}, "holds 'more.npy', which no Gemma Scope autoencoder has"),
    ],
    ids=["a thousandfold", "more than its header says", "less", "another array"],
)
def test_hostile_13_an_archive_is_looked_at_before_it_is_unpacked(tmp_path: Path, files: Any, words: str) -> None:
    path = write_archive(tmp_path / "params.npz", **files)
    assert path.stat().st_size < 2**19
    with pytest.raises(SAEError, match=words):
        load_sae(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_hostile_13_whole_archives_are_read(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "params.npz", **ARRAYS | {"b_dec": np.zeros(6, np.float32)})
    assert load_sae(tmp_path).d_sae == 10


# --- 14: the model after a refused pass ---------------------------------------------------------------------------------


def lengths_that_do_not_fit(model: Any, tokens: torch.Tensor) -> None:
    model(tokens)


def a_pass_that_may_be_another(model: Any, tokens: torch.Tensor) -> None:
    model(torch.cat([tokens, tokens[:, :1]], 1))


def generation(model: Any, tokens: torch.Tensor) -> None:
    model.generate(tokens, max_new_tokens=2, verbose=False)


@pytest.mark.parametrize("refused", [lengths_that_do_not_fit, generation, a_pass_that_may_be_another])
@pytest.mark.parametrize("inside", [True, False])
def test_hostile_14_the_next_pass_may_have_other_rows(
    refused: Callable[..., None], inside: bool, benches: Any, make_vector: Any
) -> None:
    model = benches("gpt2").model
    tokens = torch.randint(6, 60, (3, 5), generator=torch.Generator().manual_seed(0))
    before = model.original_model(tokens[:2]).logits
    known = None if refused is a_pass_that_may_be_another else [2, 2]
    with steerlens.steer(model, make_vector(factor=0.0), prompt_lengths=known):
        if known is None:
            model(tokens)
        with pytest.raises((ValueError, SteeringError)):
            refused(model, tokens)
        if inside:
            assert model.original_model(tokens[:2]).logits.equal(before)
    assert model.original_model(tokens[:2]).logits.equal(before)
