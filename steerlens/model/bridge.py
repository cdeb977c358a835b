"""The model: loading it, its hook points and sizes, and what it is recognised by.

A model is a `TransformerBridge`. It is used, never changed: every function here leaves it as it came.
"""

import hashlib
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

import torch
from torch import Tensor

from ..files import TERRARIUM_WEIGHTS
from ..reproducibility import sha256

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge as Bridge
else:
    Bridge = Any

HookFunction = Callable[..., Tensor | None]
Hooks = Sequence[tuple[str, HookFunction]]
SAMPLED = 1024
"""Entries of each parameter that the fingerprint of the weights looks at."""


def load_model(name_or_path: str, **boot: Any) -> Bridge:
    """Boot a TransformerLens bridge with raw Hugging Face weights.

    Args:
        name_or_path: a hub name ("google/gemma-2-2b-it"), a local folder in the Hugging Face format, or "terrarium",
            the small model in the package.
        boot: arguments of `TransformerBridge.boot_transformers`, such as `dtype`, `device`, `device_map`, `revision`.
    """
    from transformer_lens.model_bridge import TransformerBridge

    path = name_or_path
    if name_or_path == "terrarium":
        path = str(TERRARIUM_WEIGHTS)
    model = TransformerBridge.boot_transformers(path, **boot)
    if path != name_or_path:
        model.cfg.model_name = name_or_path
    return model


def hook_name(layer: int) -> str:
    """The residual stream after block `layer`."""
    return f"blocks.{layer}.hook_resid_post"


def attention_output_name(layer: int) -> str:
    """What the attention of block `layer` adds to the residual stream."""
    return f"blocks.{layer}.hook_attn_out"


def attention_pattern_name(layer: int) -> str:
    """Attention probabilities of block `layer`, (batch, head, query, key)."""
    return f"blocks.{layer}.attn.hook_pattern"


def n_heads(model: Bridge) -> int:
    return int(model.cfg.n_heads)


def n_layers(model: Bridge) -> int:
    return int(model.cfg.n_layers)


def d_model(model: Bridge) -> int:
    return int(model.cfg.d_model)


def context_length(model: Bridge) -> int:
    return int(model.cfg.n_ctx)


def model_name(model: Bridge) -> str:
    return str(model.cfg.model_name)


def device(model: Bridge) -> torch.device:
    return torch.device(model.cfg.device or "cpu")


def check_model(model: Bridge) -> None:
    """Raise TypeError for anything that is not a TransformerLens bridge."""
    if not all(hasattr(model, name) for name in ("cfg", "hooks", "original_model", "tokenizer")):
        raise TypeError(f"expected a TransformerBridge, as steerlens.load_model gives, got {type(model).__name__}")


def check_layer(model: Bridge, layer: int) -> None:
    """Raise ValueError if the model has no such block."""
    if isinstance(layer, bool) or not isinstance(layer, SupportsIndex) or not 0 <= operator.index(layer) < n_layers(model):
        raise ValueError(
            f"layer {layer!r} does not exist: {model_name(model)} has blocks 0 to {n_layers(model) - 1} (counted from 0)"
        )


def identity(model: Bridge) -> dict[str, Any]:
    """What a saved vector must say about the model it belongs to."""
    config = model.original_model.config
    template = getattr(model.tokenizer, "chat_template", None)
    return {
        "model_name": model_name(model),
        "revision": getattr(config, "_commit_hash", None),
        "architecture": model.cfg.architecture,
        "dtype": str(model.cfg.dtype).removeprefix("torch."),
        "weight_processing": "compatibility_mode" if model.compatibility_mode else "raw",
        "d_model": d_model(model),
        "n_layers": n_layers(model),
        "template_hash": None if template is None else sha256(str(template)),
    }


def weights_hash(model: Bridge) -> str:
    """Fingerprint of the weights: names, shapes, and evenly spaced entries of each parameter."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.original_model.named_parameters()):
        flat = parameter.detach().flatten()
        sample = flat[:: max(1, flat.numel() // SAMPLED)].to("cpu", torch.float32)
        digest.update(f"|{name}|{tuple(parameter.shape)}|".encode() + sample.numpy().tobytes())
    return digest.hexdigest()
