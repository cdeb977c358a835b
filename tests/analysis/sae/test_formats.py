"""Readers of sparse autoencoders, on files written here in each format, against the formulas written out."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sae_files import HIDDEN, D, N, flat, live, naive, nested, tensors, write_gemma, write_saelens, write_sparsify

from steerlens.analysis import SAE, SAEError, load_sae

# --- SAELens ------------------------------------------------------------------------------------------------------------


def test_saelens_before_six(tmp_path: Path) -> None:
    weights = tensors()
    sae = load_sae(write_saelens(tmp_path, flat(), weights | {"scaling_factor": torch.ones(N)}))
    assert (sae.activation, sae.apply_b_dec_to_input, sae.model_name) == ("relu", True, "gpt2-small")
    assert (sae.layer, sae.hook_name) == (6, "blocks.7.hook_resid_pre"), "before block 7 is after block 6"
    assert (sae.weight_processing, sae.normalisation) == ("raw", "none")
    assert torch.allclose(sae.encode(HIDDEN), naive(weights, "relu", True), atol=1e-5)
    acts = sae.encode(HIDDEN)
    assert torch.allclose(sae.decode(acts), torch.einsum("abf,fd->abd", acts, weights["W_dec"]) + weights["b_dec"], atol=1e-5)
    assert sae.url(3) == "https://www.neuronpedia.org/gpt2-small/7-res-jb/3"
    with pytest.raises(SAEError, match="feature 10 does not exist: there are features 0 to 9"):
        sae.url(10)


@pytest.mark.parametrize("minus", [True, False])
@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
def test_saelens_six(tmp_path: Path, kind: str, minus: bool) -> None:
    weights = tensors(1, *(["threshold"] if kind == "jumprelu" else []))
    config = nested(
        kind, apply_b_dec_to_input=minus, **({"k": 3, "rescale_acts_by_decoder_norm": False} if kind == "topk" else {})
    )
    sae = load_sae(write_saelens(tmp_path, config, weights) / "cfg.json")
    assert (sae.model_name, sae.layer, sae.d_sae, sae.d_model) == ("gemma-2-2b", 12, N, D)
    assert sae.url(0) is None
    assert torch.allclose(sae.encode(HIDDEN), naive(weights, "relu" if kind == "standard" else kind, minus), atol=1e-5)


def test_topk_that_chooses_by_decoder_norm(tmp_path: Path) -> None:
    """SAELens multiplies by the norms before choosing and divides by them before decoding."""
    weights = tensors(2)
    sae = load_sae(write_saelens(tmp_path, nested("topk", k=3, rescale_acts_by_decoder_norm=True), weights))
    norms = weights["W_dec"].norm(dim=-1)
    before = (HIDDEN @ weights["W_enc"] + weights["b_enc"]) * norms
    kept = before >= before.sort(-1, descending=True).values[..., 2:3]
    acts = before.relu() * kept
    assert torch.allclose(sae.encode(HIDDEN), acts, atol=1e-5)
    assert torch.allclose(sae.decode(acts), acts / norms @ weights["W_dec"] + weights["b_dec"], atol=1e-5)
    plain = load_sae(write_saelens(tmp_path / "plain", nested("topk", k=3), weights))
    assert not torch.allclose(plain.encode(HIDDEN) > 0, acts > 0), "the norms decide nothing here, so nothing is tested"


def test_old_topk_has_its_k_in_the_arguments(tmp_path: Path) -> None:
    config = flat(activation_fn_str="topk", activation_fn_kwargs={"k": 3}, hook_point="blocks.7.hook_resid_post")
    del config["hook_name"]
    sae = load_sae(write_saelens(tmp_path, config, tensors(3)))
    assert (sae.activation, sae.k, sae.layer) == ("topk", 3, 7)
    assert torch.allclose(sae.encode(HIDDEN), naive(tensors(3), "topk", True), atol=1e-5)


@pytest.mark.parametrize(
    ("config", "extra", "message"),
    [
        (nested("gated"), {}, "architecture 'gated' is not read"),
        (nested("transcoder"), {}, "architecture 'transcoder' is not read"),
        (nested("batchtopk", k=3), {}, "BatchTopK in training; save it with save_inference_model"),
        (nested("standard", normalize_activations="layer_norm"), {}, "normalize_activations='layer_norm'"),
        (flat(normalize_activations=True), {}, "normalize_activations='expected_average_only_in'"),
        (nested("standard", reshape_activations="hook_z"), {}, "reshape_activations='hook_z'"),
        (flat(activation_fn_str="tanh-relu"), {}, "activation 'tanh-relu' is not read"),
        (flat(finetuning_scaling_factor=True), {"scaling_factor": torch.full((N,), 1.1)}, "scaling_factor is not 1"),
        (nested("jumprelu"), {}, "missing threshold"),
        (nested("standard"), {"r_mag": torch.ones(N)}, "unknown r_mag"),
        (nested("topk"), {}, "a topk without its k"),
    ],
)
def test_saelens_of_other_kinds_is_refused(tmp_path: Path, config: Any, extra: Any, message: str) -> None:
    with pytest.raises(SAEError, match=message):
        load_sae(write_saelens(tmp_path, config, tensors() | extra))


def test_processed_models_are_told(tmp_path: Path) -> None:
    config = flat(model_from_pretrained_kwargs={"center_writing_weights": True, "fold_ln": False})
    assert load_sae(write_saelens(tmp_path, config, tensors())).weight_processing == "center_writing_weights"


# --- Gemma Scope --------------------------------------------------------------------------------------------------------


def test_gemma_scope(tmp_path: Path) -> None:
    folder = write_gemma(tmp_path / "google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71")
    for source in (folder, str(folder), folder / "params.npz"):
        sae = load_sae(source)
        assert (sae.model_name, sae.layer, sae.hook_name) == ("gemma-2-2b", 20, "blocks.20.hook_resid_post")
        assert (sae.activation, sae.apply_b_dec_to_input, sae.weight_processing) == ("jumprelu", False, "raw")
        assert sae.url(7) == "https://www.neuronpedia.org/gemma-2-2b/20-gemmascope-res-16k/7"
        assert torch.allclose(sae.encode(HIDDEN), naive(tensors(4, "threshold"), "jumprelu", False), atol=1e-5)
    with pytest.raises(SAEError, match="layer is 20 here, 21 was given"):
        load_sae(folder, layer=21)


@pytest.mark.parametrize(
    ("folder", "page"),
    [
        ("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_139", None),
        ("gemma-scope-2b-pt-res/layer_20/width_16k/canonical", "gemma-2-2b/20-gemmascope-res-16k"),
        ("gemma-scope-9b-it-res/layer_20/width_131k/average_l0_81", "gemma-2-9b-it/20-gemmascope-res-131k"),
        ("gemma-scope-9b-it-res/layer_10/width_131k/average_l0_81", None),
        ("somewhere/layer_20/width_16k/average_l0_71", None),
    ],
)
def test_only_what_neuronpedia_shows_gets_a_link(tmp_path: Path, folder: str, page: str | None) -> None:
    assert load_sae(write_gemma(tmp_path / folder)).neuronpedia_id == page


def test_gemma_scope_without_a_telling_path(tmp_path: Path) -> None:
    folder = write_gemma(tmp_path / "downloads")
    unknown = load_sae(folder)
    assert (unknown.model_name, unknown.layer) == (None, None)
    sae = load_sae(folder, model_name="gemma-2-2b", layer=5)
    assert (sae.model_name, sae.hook_name) == ("gemma-2-2b", "blocks.5.hook_resid_post")


def test_gemma_scope_of_other_places_is_refused(tmp_path: Path) -> None:
    for folder, message in (
        ("gemma-scope-2b-pt-mlp/layer_3/width_16k/average_l0_1", "'mlp' is not of the residual stream"),
        ("gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6", "of the embedding"),
    ):
        with pytest.raises(SAEError, match=message):
            load_sae(write_gemma(tmp_path / folder))
    with pytest.raises(SAEError, match="missing threshold"):
        load_sae(write_gemma(tmp_path / "bare", tensors()))


# --- sparsify -----------------------------------------------------------------------------------------------------------


def test_sparsify(tmp_path: Path) -> None:
    folder = write_sparsify(tmp_path / "layers.10")
    assert load_sae(folder).model_name is None
    (tmp_path / "config.json").write_text(json.dumps({"model": "EleutherAI/pythia-160m"}))
    sae = load_sae(folder)
    assert (sae.layer, sae.model_name, sae.k, sae.apply_b_dec_to_input) == (10, "EleutherAI/pythia-160m", 3, True)
    assert torch.allclose(sae.encode(HIDDEN), naive(tensors(5), "topk", True), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("layers.10", {"transcode": True}, "transcode is set"),
        ("layers.10", {"skip_connection": True}, "skip_connection is set"),
        ("layers.10", {"signed": True}, "signed is set"),
        ("layers.10", {"activation": "groupmax"}, "activation 'groupmax' is not read"),
        ("layers.10", {"k": None}, "has no k"),
        ("layers.10.mlp", {}, "not of the residual stream"),
        ("embed_tokens", {}, "not of the residual stream"),
    ],
)
def test_sparsify_of_other_kinds_is_refused(tmp_path: Path, name: str, changes: Any, message: str) -> None:
    with pytest.raises(SAEError, match=message):
        load_sae(write_sparsify(tmp_path / name, **changes))


# --- objects, the hub, and values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["standard", "jumprelu"])
def test_an_object_in_memory(kind: str) -> None:
    sae = load_sae(live(kind))
    assert (sae.model_name, sae.layer, sae.source) == ("gemma-2-2b", 12, "SimpleNamespace")
    wanted = naive(tensors(6, "threshold"), "relu" if kind == "standard" else kind, False)
    assert torch.allclose(sae.encode(HIDDEN), wanted, atol=1e-5)
    assert load_sae(sae).source == sae.source, "an SAE goes through"


def test_an_object_whose_own_encoding_differs_is_refused() -> None:
    t = tensors(6)
    assert load_sae(live(encode=lambda x: (x @ t["W_enc"] + t["b_enc"]).relu())).activation == "relu"
    with pytest.raises(SAEError, match="its own encode gives other activations"):
        load_sae(live(encode=lambda x: ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()))


def test_objects_that_are_none() -> None:
    with pytest.raises(SAEError, match="has no W_dec"):
        load_sae(SimpleNamespace(W_enc=torch.ones(2, 2), b_enc=torch.ones(2), b_dec=torch.ones(2)))
    with pytest.raises(SAEError, match="has no cfg that says how it encodes"):
        load_sae(SimpleNamespace(**tensors()))


def hub(monkeypatch: pytest.MonkeyPatch, root: Path) -> list[str]:
    """A hub whose repository lies in a folder; what is asked of it."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    asked = []

    def download(repo_id: str, filename: str) -> str:
        asked.append(f"{repo_id}:{filename}")
        path = root / repo_id / filename
        if not path.is_file():
            raise EntryNotFoundError("404")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_only_the_files_needed_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch, tmp_path)
    write_gemma(tmp_path / "google/gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_59")
    sae = load_sae("google/gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_59")
    assert (sae.model_name, sae.layer) == ("gemma-2-2b", 3)
    address = "google/gemma-scope-2b-pt-res:layer_3/width_16k/average_l0_59"
    assert asked == [f"{address}/cfg.json", f"{address}/params.npz"]
    write_saelens(tmp_path / "owner/repo/blocks.7.hook_resid_pre", flat(), tensors())
    assert load_sae("owner/repo/blocks.7.hook_resid_pre").layer == 6
    write_sparsify(tmp_path / "owner/other/layers.4")
    (tmp_path / "owner/other/config.json").write_text(json.dumps({"model": "gpt2"}))
    assert load_sae("owner/other/layers.4").model_name == "gpt2"


def test_errors_say_what_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, tmp_path)
    looked = "params.npz, or cfg.json with sae_weights.safetensors or sae.safetensors"
    with pytest.raises(SAEError, match=f"the top of owner/repo at the hub has no {looked}"):
        load_sae("owner/repo")
    with pytest.raises(SAEError, match=f"looked for {looked}"):
        load_sae(tmp_path)
    with pytest.raises(SAEError, match="no sparse autoencoder here"):
        load_sae("/nowhere/at/all")


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_: Any) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(SAEError, match=r"the hub cannot be reached, and cfg\.json is not in the cache"):
        load_sae("owner/repo/folder")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b_dec": torch.full((D,), torch.nan)}, "b_dec holds NaN"),
        ({"activation": "gelu"}, "activation 'gelu' is unknown"),
        ({"activation": "topk"}, "'topk' needs k"),
        ({"k": 3}, "'relu' has no k"),
        ({"activation": "topk", "k": 11}, "k is 11; there are 10 features"),
        ({"activation": "jumprelu"}, "'jumprelu' needs threshold"),
        ({"layer": 2, "hook_name": "blocks.3.hook_resid_post"}, "layer 2 contradicts .* after block 3"),
        ({"layer": 2, "hook_name": "blocks.2.hook_mlp_out"}, "layer 2 contradicts .* not after a block"),
    ],
)
def test_values_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SAEError, match=message):
        SAE(**{**tensors(), **changes})


def test_layer_and_hook_name_say_the_same() -> None:
    assert SAE(**tensors(), layer=4).hook_name == "blocks.4.hook_resid_post"
    for name, layer in (("blocks.4.hook_resid_pre", 3), ("model.layers.4", 4), ("blocks.0.hook_resid_pre", None)):
        assert SAE(**tensors(), hook_name=name).layer == layer
    assert "10 features of d_model=6, relu" in repr(SAE(**tensors()))


@pytest.mark.parametrize("layer", [-4, -1])
def test_layers_below_0(tmp_path: Path, layer: int) -> None:
    with pytest.raises(SAEError, match=f"layer is {layer}; it must be a block's index, counted from 0"):
        load_sae(write_gemma(tmp_path / "downloads"), layer=layer)
