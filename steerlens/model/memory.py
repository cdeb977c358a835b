"""How much memory is free, and what fits into it."""

import math
import os

import torch

from .bridge import Bridge, device, n_heads, n_layers

SHARE = 0.25
"""Of the free memory that is planned with: the rest is for what a pass needs besides, and for others."""
CPU_PASS_TOKENS = 2048
"""Tokens of a training pass on a CPU, where a larger one is no faster."""
MOST_PASS_TOKENS = 2**16
MOST_ROWS = {"cpu": 64, "other": 256}
"""Rows beyond which a larger batch gains nothing, by kind of device."""


def free_memory(where: torch.device) -> int:
    """Bytes that are free on a device; without limit where the system does not say."""
    if where.type == "cuda":
        return int(torch.cuda.mem_get_info(where)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**63


def pass_tokens(model: Bridge, layer: int) -> int:
    """Tokens, padding counted, of one forward and backward pass above a layer: a power of two, the same on the same machine.

    A token keeps in each block above the layer about 14 vectors of d_model in the model's dtype and 8 in float32, 4 of the
    MLP's width, and its attention to 512 others; a quarter of the device's whole memory is filled with them.
    """
    config, where = model.cfg, device(model)
    if where.type != "cuda":
        return CPU_PASS_TOKENS
    width, size = int(config.d_model), config.dtype.itemsize
    inner = int(getattr(config, "d_mlp", None) or 4 * width)
    per_block = width * (14 * size + 8 * 4) + inner * 4 * size + n_heads(model) * 512 * 3 * size
    fitting = SHARE * torch.cuda.get_device_properties(where).total_memory / (per_block * max(1, n_layers(model) - layer))
    return int(min(MOST_PASS_TOKENS, max(CPU_PASS_TOKENS, 2 ** int(math.log2(max(1.0, fitting))))))


def rows_that_fit(model: Bridge, n_tokens: int) -> int:
    """Rows of so many tokens that can be generated at a time: their keys and values, and the logits of one token each."""
    config, where = model.cfg, device(model)
    heads = int(getattr(config, "n_key_value_heads", None) or n_heads(model))
    cached = 2 * n_layers(model) * heads * int(config.d_head) * config.dtype.itemsize * n_tokens
    logits = int(config.d_vocab) * (config.dtype.itemsize + 3 * 8)  # sampling cumulates in float64
    most = MOST_ROWS["cpu" if where.type == "cpu" else "other"]
    return max(1, min(most, int(SHARE * free_memory(where) / (cached + logits))))
