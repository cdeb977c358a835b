"""Sparse autoencoders written in each format, in files and in memory, and their activations one at a time."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

D, N = 6, 10


def tensors(seed: int = 0, *extra: str) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (D, N), "W_dec": (N, D), "b_enc": (N,), "b_dec": (D,), "threshold": (N,)}
    made = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    made["threshold"] = made["threshold"].abs()
    return {name: made[name].contiguous() for name in ("W_enc", "W_dec", "b_enc", "b_dec", *extra)}


HIDDEN = torch.randn(7, 3, D, generator=torch.Generator().manual_seed(9)) * 2


def naive(t: dict[str, Tensor], kind: str, minus: bool, k: int = 3) -> Tensor:
    """Activations, one residual and one feature at a time."""
    out = torch.zeros(7, 3, N)
    for a in range(7):
        for b in range(3):
            x = HIDDEN[a, b] - (t["b_dec"] if minus else 0)
            before = [float(t["W_enc"][:, f] @ x + t["b_enc"][f]) for f in range(N)]
            kept = set(sorted(range(N), key=lambda f: -before[f])[:k]) if kind == "topk" else set(range(N))
            for f in kept:
                floor = float(t["threshold"][f]) if kind == "jumprelu" else 0.0
                out[a, b, f] = before[f] if before[f] > max(floor, 0.0) else 0.0
    return out


def write_saelens(folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    safetensors.torch.save_file(weights, folder / "sae_weights.safetensors")
    return folder


def flat(**changes: Any) -> dict[str, Any]:
    """A configuration of SAELens before version 6."""
    known = {"architecture": "standard", "d_in": D, "d_sae": N, "dtype": "float32", "activation_fn_str": "relu",
             "apply_b_dec_to_input": True, "normalize_activations": "none", "model_name": "gpt2-small",
             "hook_name": "blocks.7.hook_resid_pre", "hook_layer": 7, "neuronpedia_id": "gpt2-small/7-res-jb",
             "finetuning_scaling_factor": False, "model_from_pretrained_kwargs": {}}  # fmt: skip
    return known | changes


def nested(architecture: str, **changes: Any) -> dict[str, Any]:
    """A configuration of SAELens 6."""
    metadata = {"sae_lens_version": "6.54.12", "model_name": "gemma-2-2b", "hook_name": "blocks.12.hook_resid_post",
                "model_class_name": "HookedTransformer", "neuronpedia_id": None}  # fmt: skip
    known = {"d_in": D, "d_sae": N, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": False,
             "normalize_activations": "none", "reshape_activations": "none", "metadata": metadata,
             "architecture": architecture}  # fmt: skip
    return known | changes


def write_gemma(folder: Path, weights: dict[str, Tensor] | None = None) -> Path:
    folder.mkdir(parents=True)
    arrays = {name: value.numpy() for name, value in (weights or tensors(4, "threshold")).items()}
    # among named arrays numpy declares an `allow_pickle: bool`, for which the checker takes each of them
    np.savez(folder / "params.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return folder


def write_sparsify(folder: Path, **changes: Any) -> Path:
    t = tensors(5)
    folder.mkdir(parents=True)
    config = {"activation": "topk", "k": 3, "d_in": D, "num_latents": N, "normalize_decoder": True, "transcode": False}
    (folder / "cfg.json").write_text(json.dumps(config | changes))
    weights = {"encoder.weight": t["W_enc"].T.contiguous(), "encoder.bias": t["b_enc"]}
    safetensors.torch.save_file(weights | {"W_dec": t["W_dec"], "b_dec": t["b_dec"]}, folder / "sae.safetensors")
    return folder


def live(kind: str = "standard", encode: Any = None, **changes: Any) -> SimpleNamespace:
    config = nested(kind, **changes)
    cfg = SimpleNamespace(**config | {"architecture": lambda: kind, "metadata": SimpleNamespace(**config["metadata"])})
    extra = {} if encode is None else {"encode": encode}
    return SimpleNamespace(cfg=cfg, **tensors(6, "threshold"), **extra)
