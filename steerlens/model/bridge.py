"""The model: its hook points and sizes.

A model is a `TransformerBridge`. It is used, never changed: every function here leaves it as it came.
"""

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arguments import check_bridge, is_whole
from .support import check_supported

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge as Bridge
else:
    Bridge = Any

HookFunction = Callable[..., Tensor | None]
Hooks = Sequence[tuple[str, HookFunction]]


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
    """Raise TypeError for what is no TransformerLens bridge, UnsupportedModelError for a model that cannot be steered."""
    check_bridge(model)
    check_supported(model)


def check_tokens(model: Bridge, row: Sequence[int], where: str) -> None:
    """Raise ValueError for a token that the model's embedding does not have, as where a tokenizer is another model's.

    Args:
        where: the row's name in the message, such as "prompt 3".
    """
    size = int(model.cfg.d_vocab)
    if row and not 0 <= min(row) <= max(row) < size:
        outside = next(token for token in row if not 0 <= token < size)
        raise ValueError(
            f"{where} has the token {outside}, and {model_name(model)} has embeddings for 0 to {size - 1} only: its "
            "tokenizer has more tokens than the model; load the model with its own"
        )


def check_layer(model: Bridge, layer: int) -> None:
    """Raise ValueError if the model has no such block."""
    if not is_whole(layer) or not 0 <= operator.index(layer) < n_layers(model):
        raise ValueError(
            f"layer {layer!r} does not exist: {model_name(model)} has blocks 0 to {n_layers(model) - 1} (counted from 0)"
        )
