"""Files and objects that are damaged, or hold other things than a sparse autoencoder, are refused by words."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sae_files import D, N, flat, live, nested, tensors, write_gemma, write_saelens, write_sparsify

from steerlens.analysis import SAEError, load_sae


def damaged(source: Any, words: str = ":") -> None:
    """The refusal, which names what was read and has no advice to unpickle."""
    with pytest.raises(SAEError, match=words) as caught:
        load_sae(source)
    named = source if isinstance(source, Path) else type(source).__name__
    assert str(named) in str(caught.value) and "pickle" not in str(caught.value)


def test_pickles_and_damage_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", W_enc=np.array([object()], dtype=object))
    with pytest.raises(SAEError, match=r"not an intact params\.npz"):
        load_sae(tmp_path)
    folder = write_saelens(tmp_path / "cut", nested("standard"), tensors())
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(SAEError, match="damaged"):
        load_sae(folder)


def test_damaged_npz(tmp_path: Path) -> None:
    whole = (write_gemma(tmp_path / "whole") / "params.npz").read_bytes()
    middle, inside = len(whole) // 2, whole.index(tensors(4)["W_dec"].numpy().tobytes()) + 9
    flipped = bytes([*whole[:inside], whole[inside] ^ 255, *whole[inside + 1 :]])
    path = tmp_path / "params.npz"
    for content in (b"", whole[:middle], whole[:-30], flipped, b"text", np.lib.format.magic(1, 0)):
        path.write_bytes(content)
        damaged(path, r"not an intact params\.npz")
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    damaged(path, r"not an intact params\.npz")
    for array in (np.array(["a"]), np.array([object()], dtype=object)):
        np.savez(path, W_enc=array)
        damaged(path, r"not an intact params\.npz")
    fine = {name: value.numpy() for name, value in tensors(4, "threshold").items()}
    for array, kind in ((fine["W_enc"].astype(complex), "complex128"), (np.ones((D, N), dtype=np.int8), "int8")):
        # as in sae_files: the checker takes an array for numpy's `allow_pickle`
        np.savez(path, **fine | {"W_enc": array})  # pyright: ignore[reportArgumentType]
        damaged(path, f"W_enc holds {kind}, not real numbers")


@pytest.mark.parametrize("text", [b"[]", b"[1]", b"null", b'"text"', b"3", b"{", b"", b"\xff\xfe{}", b"[" * 100_000])
def test_a_configuration_that_is_none(tmp_path: Path, text: bytes) -> None:
    for folder in (write_saelens(tmp_path / "a", flat(), tensors()), write_sparsify(tmp_path / "layers.1")):
        (folder / "cfg.json").write_bytes(text)
        damaged(folder)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (nested("standard", metadata="text"), ":"),
        (nested("standard", metadata=[1]), ":"),
        (nested("topk", k="many"), "k is 'many', not int"),
        (nested("topk", k=3.7), "k is 3.7, not int"),
        (nested("topk", k=True), "k is True, not int"),
        (flat(activation_fn_str="topk", activation_fn_kwargs="k"), ":"),
        (flat(model_from_pretrained_kwargs=["fold_ln"]), ":"),
        (flat(hook_name=3), "hook_name is 3, not str"),
        (flat(model_name=["a"]), r"model_name is \['a'\], not str"),
        (flat(apply_b_dec_to_input="false"), "apply_b_dec_to_input is 'false', not bool"),
    ],
)
def test_settings_of_another_kind(tmp_path: Path, config: Any, words: str) -> None:
    damaged(write_saelens(tmp_path, config, tensors()), words)


def test_tensors_of_another_shape_or_kind(tmp_path: Path) -> None:
    config = nested("topk", k=3, rescale_acts_by_decoder_norm=True)
    damaged(write_saelens(tmp_path / "shape", config, tensors() | {"W_dec": torch.ones(N + 1, D)}))
    damaged(
        write_saelens(tmp_path / "kind", nested("standard"), tensors() | {"b_enc": torch.ones(N, dtype=torch.complex64)}),
        "b_enc",
    )
    for k in ("many", 3.7):
        damaged(write_sparsify(tmp_path / f"layers.{len(str(k))}", k=k), ", not int")
    folder = write_sparsify(tmp_path / "run" / "layers.2")
    (folder.parent / "config.json").write_text("[]")
    damaged(folder)


def test_objects_whose_settings_are_none() -> None:
    damaged(SimpleNamespace(cfg=3, **tensors()))
    damaged(SimpleNamespace(cfg={"metadata": "text"}, **tensors()))
    damaged(live(encode=lambda x: x.no_such_thing))
