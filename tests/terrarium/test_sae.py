"""The world's autoencoder: the stored files, their reader, and what they promise."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import steerlens
from steerlens import terrarium
from steerlens.analysis import load_sae
from steerlens.terrarium.build import train_sae

FOLDER = terrarium.path().parent / "sae"


@pytest.fixture(scope="module")
def model() -> Any:
    return steerlens.load_model("terrarium")


@pytest.fixture(scope="module")
def quality() -> dict[str, Any]:
    return json.loads((FOLDER / "quality.json").read_text())


def test_the_files_are_small_and_say_where_they_belong(quality: dict[str, Any]) -> None:
    assert {path.name for path in FOLDER.iterdir()} == {"cfg.json", "sae_weights.safetensors", "quality.json"}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2_000_000
    sae = load_sae("terrarium")
    assert (sae.model_name, sae.layer, sae.weight_processing) == ("terrarium", terrarium.LAYER, "raw")
    assert (sae.d_model, sae.d_sae, sae.activation) == (160, train_sae.WIDTH, "jumprelu")
    assert (quality["width"], quality["tokens"], quality["active"]) == (train_sae.WIDTH, train_sae.TOKENS, train_sae.ACTIVE)


def test_the_quality_that_is_promised(quality: dict[str, Any]) -> None:
    held_out = quality["held_out"]
    for group in ("all", "text", "template"):
        assert held_out[group]["explained_variance"] > 0.9
    assert 8 < held_out["text"]["l0"] < 32
    assert quality["dead_latents"] < 0.1 * train_sae.WIDTH
    assert quality["loss_recovered_against"]["mean"] > 0.9


def test_the_reader_computes_what_the_formula_says(model: Any) -> None:
    """SAELens's JumpReLU, written out; the script that made it measured its quality with SAELens."""
    weights = safetensors.torch.load_file(FOLDER / "sae_weights.safetensors")
    config = json.loads((FOLDER / "cfg.json").read_text())
    assert config["architecture"] == "jumprelu" and config["normalize_activations"] == "none"
    hidden = torch.randn(50, 160, generator=torch.Generator().manual_seed(0)) * 4
    minus = weights["b_dec"] if config["apply_b_dec_to_input"] else 0
    before = (hidden - minus) @ weights["W_enc"] + weights["b_enc"]
    wanted = torch.where(before > weights["threshold"], before.relu(), torch.zeros(()))
    sae = load_sae("terrarium")
    assert torch.allclose(sae.encode(hidden), wanted, atol=1e-5)
    assert torch.allclose(sae.decode(wanted), wanted @ weights["W_dec"] + weights["b_dec"], atol=1e-4)


def test_fit_on_held_out_texts_again(model: Any, quality: dict[str, Any]) -> None:
    """The stored numbers hold for other held-out texts, read by steerlens through TransformerLens."""
    texts = train_sae.rows(model.tokenizer, train_sae.held_out_texts(60, seed=99))
    stream = train_sae.residuals(model.original_model, texts)
    fit = train_sae.fit_of(load_sae("terrarium"), stream)
    for group in ("all", "text", "template"):
        stored = quality["held_out"][group]
        assert fit[group]["explained_variance"] == pytest.approx(stored["explained_variance"], abs=0.02)
        assert fit[group]["l0"] == pytest.approx(stored["l0"], rel=0.1)


def test_template_tokens_are_told(model: Any) -> None:
    row = train_sae.rows(model.tokenizer, train_sae.held_out_texts(1, seed=0))[0]
    told = train_sae._template(row.ids)
    words = [model.tokenizer.decode([token]) for token, flag in zip(row.ids, told, strict=True) if flag]
    assert words == ["<bos>", "<start_of_turn>", "user", "\n", "<end_of_turn>", "\n", "<start_of_turn>", "model", "\n",
                     "<end_of_turn>"]  # fmt: skip
    assert row.opening == train_sae.OPENING and told[: row.opening] == [True] * 4


def test_another_model_is_refused(model: Any, tmp_path: Path) -> None:
    vector = steerlens.SteeringVector(torch.ones(160), 1.0, terrarium.LAYER + 1, model_name="terrarium",
                                      provenance={"weight_processing": "raw"})  # fmt: skip
    with pytest.raises(ValueError, match="layer: the SAE has 2, the vector 'vector' 3"):
        steerlens.analysis.compare_to_sae(vector, load_sae("terrarium"))
