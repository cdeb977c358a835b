"""How much memory is free, and what fits into it."""

import os

import torch

from .bridge import Bridge, device, n_heads, n_layers

SHARE = 0.25
"""Of the free memory that is planned with: the rest is for what a pass needs besides, and for others."""
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


def rows_that_fit(model: Bridge, n_tokens: int) -> int:
    """Rows of so many tokens that can be generated at a time: their keys and values, and the logits of one token each."""
    config, where = model.cfg, device(model)
    heads = int(getattr(config, "n_key_value_heads", None) or n_heads(model))
    cached = 2 * n_layers(model) * heads * int(config.d_head) * config.dtype.itemsize * n_tokens
    logits = int(config.d_vocab) * (config.dtype.itemsize + 3 * 8)  # sampling cumulates in float64
    most = MOST_ROWS["cpu" if where.type == "cpu" else "other"]
    return max(1, min(most, int(SHARE * free_memory(where) / (cached + logits))))
