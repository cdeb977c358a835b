"""Sparse autoencoders as they are published: of which hook point they are, and what their files do not say."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from sae_files import HIDDEN, D, flat, naive, nested, tensors, write_saelens, write_sparsify

from steerlens.analysis import SAE, SAEError, load_sae
from steerlens.analysis.sae.autoencoder import check_coordinates, layer_of
from steerlens.model.numbers import NotFiniteError

BLOCKS = ("layers", "model.layers", "transformer.h", "h", "gpt_neox.layers", "model.decoder.layers",
          "model.language_model.layers", "transformer.blocks", "backbone.layers")  # fmt: skip
INSIDE = ("mlp", "self_attn", "attention", "mlp.down_proj", "input_layernorm", "input", "hook_resid_mid", "anything")


# --- 12: hook points ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", BLOCKS)
def test_case_12_a_blocks_output_under_every_prefix(tmp_path: Path, stack: str) -> None:
    assert layer_of(f"{stack}.3") == layer_of(f"{stack}.3.output") == 3
    for name in (f"{stack}.3", f"{stack}.3/best", f"runs/{stack}.3/checkpoint-500", f"layers.1.mlp/{stack}.3"):
        assert load_sae(write_sparsify(tmp_path / name)).layer == 3
    assert load_sae(write_sparsify(tmp_path / "split" / stack / "12")).layer == 12


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("stack", BLOCKS)
def test_case_12_what_is_inside_a_block_is_refused_by_name(tmp_path: Path, stack: str, inside: str) -> None:
    assert layer_of(f"{stack}.3.{inside}") is None
    for name in [f"{stack}.3.{inside}", f"{stack}.3.{inside}/best", f"{stack}.3/{inside}"]:
        with pytest.raises(SAEError, match=rf"of '{stack}\.3\.{inside}', not of the residual stream after a block"):
            load_sae(write_sparsify(tmp_path / name), layer=3)


@pytest.mark.parametrize("name", ["embed_tokens", "model.embed_tokens", "transformer.wte", "lm_head", "model.norm", "mlp",
                                  "vision_tower.encoder.layers.3", "encoder.layers.3", "visual.blocks.3"])  # fmt: skip
def test_case_12_other_modules_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SAEError, match="not of the residual stream"):
        load_sae(write_sparsify(tmp_path / name), layer=3)


@pytest.mark.parametrize(
    "stack", ["vision_tower/encoder", "encoder", "model/vision_tower", "model.visual", "audio_tower", "mtp"]
)
@pytest.mark.parametrize("block", ["layers/3", "layers.3", "layers/3/best", "layers/3/mlp", "layers/3.mlp"])
def test_case_12_other_stacks_in_folders_of_their_own(tmp_path: Path, stack: str, block: str) -> None:
    with pytest.raises(SAEError, match=r"of '[\w.]*layers\.3[\w.]*', not of the residual stream after a block"):
        load_sae(write_sparsify(tmp_path / stack / block), layer=3)


@pytest.mark.parametrize("inside", [name for name in INSIDE if name != "anything"])
@pytest.mark.parametrize("stack", BLOCKS)
def test_case_12_path_separators_are_dots(tmp_path: Path, stack: str, inside: str) -> None:
    folders = stack.replace(".", "/")
    assert load_sae(write_sparsify(tmp_path / "a" / folders / "3")).layer == 3
    assert load_sae(write_sparsify(tmp_path / "autoencoder" / folders / "3" / "best")).layer == 3
    for name in (f"{folders}/3/{inside}", f"{folders}/3/{inside.replace('.', '/')}/best", f"{folders}/3.{inside}"):
        with pytest.raises(SAEError, match=rf"3\.{inside}', not of the residual stream after a block"):
            load_sae(write_sparsify(tmp_path / "b" / name), layer=3)


@pytest.mark.parametrize(
    "inside", ["moe", "mixer", "Mlp", "mlp_out", "feed-forward", "post_attention", "transcoder", "mlp-transcoder", "resid_mid"]
)
def test_case_12_whatever_is_not_a_state_of_training_is_a_module(tmp_path: Path, inside: str) -> None:
    for name in (f"layers.3/{inside}", f"layers/3/{inside}/best", f"layers.3/step_100/{inside}"):
        with pytest.raises(SAEError, match=rf"of 'layers\.3\.{inside}', not of the residual stream after a block"):
            load_sae(write_sparsify(tmp_path / name), layer=3)
    for state in ("best", "final", "checkpoint-500", "step_100", "seed1", "k=32", "32x", "2048"):
        assert load_sae(write_sparsify(tmp_path / "right" / "layers.3" / state)).layer == 3


@pytest.mark.parametrize("before", ["mlp", "attn_out", "Mlp", "feed-forward", "mlp/model", "mlp_out", "transcoders", "moe"])
def test_case_12_the_folder_before_a_block_may_say_of_which_part(tmp_path: Path, before: str) -> None:
    with pytest.raises(SAEError, match=r"layers\.3', not of the residual stream after a block"):
        load_sae(write_sparsify(tmp_path / before / "layers.3"), layer=3)
    assert layer_of(f"model.layers.2.{before.split('/')[0]}.layers.3") is None
    assert load_sae(write_sparsify(tmp_path / f"{before.split('/')[0]}-of-mine" / "layers.3")).layer == 3


@pytest.mark.parametrize("name", ["sae-layers.3.mlp-32k", "run_layers.3.mlp", "transcoder", "Moe", "feed-forward"])
def test_case_12_modules_within_longer_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(SAEError, match="not of the residual stream"):
        load_sae(write_sparsify(tmp_path / name), layer=3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hook_name": "blocks.3.hook_resid_post", "hook_layer": 5}, "hook_layer is 5, the hook point .* is of block 3"),
        ({"hook_name": "blocks.3.hook_resid_pre", "hook_layer": 2}, "hook_layer is 2, the hook point .* is of block 3"),
        ({"hook_layer": None, "hook_point_layer": 5, "hook_name": "blocks.3.hook_resid_post"}, "hook_layer is 5"),
        ({"metadata": {"hook_name": "blocks.4.hook_resid_post"}}, "in its metadata"),
        ({"hook_name_out": "blocks.7.hook_mlp_out"}, "a transcoder"),
        ({"d_in": 9}, "d_in is 9 in cfg.json, the weights have 6"),
        ({"d_sae": 9}, "d_sae is 9 in cfg.json, the weights have 10"),
    ],
)
def test_case_12_settings_that_contradict_each_other(tmp_path: Path, changes: Any, words: str) -> None:
    config = {name: value for name, value in flat(**changes).items() if value is not None}
    with pytest.raises(SAEError, match=words):
        load_sae(write_saelens(tmp_path, config, tensors()))


def test_case_12_sizes_of_sparsify(tmp_path: Path) -> None:
    assert load_sae(write_sparsify(tmp_path / "layers.1", num_latents=0)).d_sae == 10, "0 stands for the expansion factor"
    for changes in ({"d_in": 5}, {"num_latents": 5}):
        with pytest.raises(SAEError, match=r"is 5 in cfg\.json, the weights have"):
            load_sae(write_sparsify(tmp_path / str(changes) / "layers.1", **changes))


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["relu", "topk", "jumprelu"])
def test_case_12_features_of_no_number(name: str, number: float) -> None:
    needs: Any = {"topk": {"k": 2}, "jumprelu": {"threshold": torch.ones(10)}}.get(name, {})
    sae = SAE(**tensors(), activation=name, **needs)
    with pytest.raises(NotFiniteError, match="residual stream that the SAE is to read is not finite"):
        sae.encode(torch.tensor([1.0, number, 0, 0, 0, 0]))
    with pytest.raises(NotFiniteError, match="activations of the SAE are not finite"):
        sae.encode(torch.full((6,), 3e38))


def test_case_12_hook_points_of_transformer_lens() -> None:
    for name, layer in (("hook_resid_post", 3), ("hook_out", 3), ("hook_resid_pre", 2), ("hook_in", 2), ("hook_mlp_out", None)):
        assert layer_of(f"blocks.3.{name}") == layer_of(f"model.blocks.3.{name}") == layer
    assert layer_of("blocks.3.attn.hook_out") is None and layer_of("blocks.3.mlp.hook_in") is None


def test_case_12_a_path_that_names_none_is_unknown(tmp_path: Path) -> None:
    assert load_sae(write_sparsify(tmp_path / "downloads")).layer is None
    assert load_sae(write_sparsify(tmp_path / "others"), layer=2).layer == 2


# --- 13: what is not said -----------------------------------------------------------------------------------------------


def refusal(sae: SAE) -> str:
    origin = {"model": sae.model_name, "layer": sae.layer, "weight_processing": "raw"}
    with pytest.raises(SAEError) as caught:
        check_coordinates(sae, origin, "the vector", sae.d_model)
    return str(caught.value)


@pytest.mark.parametrize(
    ("missing", "field", "value", "known"),
    [
        ("model_from_pretrained_kwargs", "weight_processing", "raw", "weight_processing"),
        ("normalize_activations", "normalisation", "none", "normalisation"),
    ],
)
def test_case_13_unknown_is_unknown(tmp_path: Path, missing: str, field: str, value: str, known: str) -> None:
    config = {name: setting for name, setting in flat().items() if name != missing}
    folder = write_saelens(tmp_path, config, tensors())
    sae = load_sae(folder)
    assert getattr(sae, field) is None and f"{field}=None" in repr(sae) and "unknown" in sae._repr_html_()
    assert refusal(sae).startswith(f"{field}: the SAE has unknown") and f"load_sae(..., {known}=...)" in refusal(sae)
    given: Any = {known: value}
    assert getattr(load_sae(folder, **given), field) == value
    null = write_saelens(tmp_path / "null", flat(**{missing: None}), tensors())
    assert getattr(load_sae(null), field) is None


def test_case_13_what_is_said_is_kept_and_not_contradicted(tmp_path: Path) -> None:
    for said in (False, "none"):
        assert load_sae(write_saelens(tmp_path, flat(normalize_activations=said), tensors())).normalisation == "none"
    with pytest.raises(SAEError, match="normalisation is 'none' here, 'layer_norm' was given"):
        load_sae(tmp_path, normalisation="layer_norm")
    config = nested("standard")
    assert load_sae(write_saelens(tmp_path / "six", config, tensors())).weight_processing is None
    with pytest.raises(SAEError, match="hook_head_index=2: of one head"):
        load_sae(write_saelens(tmp_path / "head", flat(hook_head_index=2), tensors()))


# --- 21: Gemma Scope 2 --------------------------------------------------------------------------------------------------


def settings(**changes: Any) -> dict[str, Any]:
    hooks = {"hf_hook_point_in": "model.layers.13.output", "hf_hook_point_out": "model.layers.13.output"}
    return {"architecture": "jump_relu", "model_name": "google/gemma-3-1b-v3-it", "width": 16384} | hooks | changes


def write_gemma_2(folder: Path, config: dict[str, Any] | None = None, **further: torch.Tensor) -> Path:
    folder.mkdir(parents=True)
    weights = {name.replace("W_", "w_"): tensor for name, tensor in tensors(4, "threshold").items()}
    safetensors.torch.save_file(weights | further, folder / "params.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


LAYER = "layer_13_width_16k_l0_small"


@pytest.mark.parametrize("kind", ["resid_post", "resid_post_all"])
@pytest.mark.parametrize("config", [None, settings(), settings(hf_hook_point_out=None)])
def test_case_21_gemma_scope_2(tmp_path: Path, kind: str, config: dict[str, Any] | None) -> None:
    folder = write_gemma_2(tmp_path / "google/gemma-scope-2-1b-it" / kind / LAYER, config)
    for source in (folder, str(folder), folder / "params.safetensors"):
        sae = load_sae(source)
        assert (sae.model_name, sae.layer, sae.hook_name) == ("gemma-3-1b-it", 13, "blocks.13.hook_resid_post")
        assert (sae.activation, sae.apply_b_dec_to_input) == ("jumprelu", False)
        assert (sae.weight_processing, sae.normalisation) == ("raw", "none")
        assert torch.allclose(sae.encode(HIDDEN), naive(tensors(4, "threshold"), "jumprelu", False), atol=1e-5)


def test_case_21_what_stands_where(tmp_path: Path) -> None:
    moved = load_sae(write_gemma_2(tmp_path / "moved", settings()))
    assert (moved.model_name, moved.layer) == ("gemma-3-1b-it", 13)
    bare = write_gemma_2(tmp_path / "bare")
    assert (load_sae(bare).model_name, load_sae(bare).layer) == (None, None)
    assert load_sae(bare, model_name="gemma-3-4b-it", layer=5).layer == 5
    small = tmp_path / "gemma-scope-2-270m-pt/resid_post/layer_5_width_16k_l0_big_seed_1"
    assert load_sae(write_gemma_2(small)).model_name == "gemma-3-270m", "the hub has no gemma-3-270m-pt"
    cached = tmp_path / "models--google--gemma-scope-2-4b-pt/snapshots/abc/resid_post" / LAYER
    assert load_sae(write_gemma_2(cached)).model_name == "gemma-3-4b-pt"


@pytest.mark.parametrize(
    ("kind", "config", "words"),
    [
        *(
            (kind, None, f"of '{kind}', not of the residual")
            for kind in ("attn_out", "mlp_out", "transcoder", "transcoder_all")
        ),
        ("resid_post", settings(architecture="gated"), "architecture 'gated' is not read"),
        ("resid_post", settings(hf_hook_point_in="model.layers.13.mlp.output"), "hf_hook_point_in is .*, not the residual"),
        ("resid_post", settings(hf_hook_point_out="model.layers.14.output"), "a transcoder"),
        ("resid_post", settings(hf_hook_point_in="model.layers.9.output", hf_hook_point_out=None), "layer is 9 in config"),
        (
            "resid_post",
            settings(model_name="google/gemma-3-4b-it"),
            "model_name is 'gemma-3-4b-it' in config",
        ),
    ],
)
def test_case_21_other_kinds_are_refused(tmp_path: Path, kind: str, config: Any, words: str) -> None:
    with pytest.raises(SAEError, match=words):
        load_sae(write_gemma_2(tmp_path / "gemma-scope-2-1b-it" / kind / LAYER, config))


def test_case_21_further_tensors_and_damage(tmp_path: Path) -> None:
    with pytest.raises(SAEError, match="unknown affine_skip_connection"):
        load_sae(write_gemma_2(tmp_path / "skip", affine_skip_connection=torch.ones(D, D)))
    folder = write_gemma_2(tmp_path / "cut")
    (folder / "params.safetensors").write_bytes((folder / "params.safetensors").read_bytes()[:-9])
    with pytest.raises(SAEError, match="damaged"):
        load_sae(folder)
    listed = write_gemma_2(tmp_path / "listed")
    (listed / "config.json").write_text("[]")
    with pytest.raises(SAEError, match="holds a list, not settings"):
        load_sae(listed)
