"""What lies below the edited layer does not change in training: it is computed once for all rows and kept."""

import os
import tempfile
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..model.batches import EncodedExample, collate, in_passes
from ..model.bridge import Bridge, d_model, device
from ..model.halves import residual_after, why_whole
from ..model.plain import Structure, structure

SHARE = 0.25
"""Of the free memory that may be kept full: on the model's device first, else beside the CPU, else in a temporary file."""


class Residual(NamedTuple):
    """The residual stream of a batch after a block, before any edit."""

    layer: int
    values: Float[Tensor, "batch pos d_model"]
    """Numbers at padding mean nothing."""


class LowerHalf(NamedTuple):
    """The residual stream of every row of the data after one block, unedited."""

    layer: int
    table: Float[Tensor, "token d_model"]
    starts: dict[tuple[int, ...], int]
    """A row's tokens -> where its own begin in the table."""
    made_with: Structure

    def of(self, model: Bridge, rows: Sequence[EncodedExample]) -> Residual | None:
        """The rows' part, padded on the right; None if the model has changed since."""
        if structure(model) is not self.made_with:
            return None
        texts = [row.prompt + row.response for row in rows]
        first = torch.tensor([self.starts[text] for text in texts])
        index = first[:, None] + torch.arange(max(map(len, texts)))
        chosen = index.clamp(max=len(self.table) - 1).to(self.table.device)
        return Residual(self.layer, self.table[chosen].to(device(model)))


def lower_half(model: Bridge, rows: Iterable[EncodedExample], layer: int, pass_tokens: int) -> LowerHalf | None:
    """Run what is below a layer once for every row, or None where passes cannot be taken to pieces there.

    Args:
        pass_tokens: tokens, padding counted, in a pass.
    """
    if why_whole(model, layer) is not None:
        return None
    unique = sorted({EncodedExample(row.prompt, row.response) for row in rows}, key=lambda row: row.length)
    n_tokens = sum(row.length for row in unique)
    table, starts, end = _room(model, n_tokens), {}, 0
    with torch.no_grad():
        for part in in_passes(unique, pass_tokens, lambda row: row.length):
            batch = collate(model, part)
            values = residual_after(model, batch.tokens, batch.token_mask.long(), layer)
            for row, states in zip(part, values, strict=True):
                starts[row.prompt + row.response] = end
                table[end : end + row.length] = states[: row.length].to(table.device)
                end += row.length
    return LowerHalf(layer, table, starts, structure(model))


def _room(model: Bridge, n_tokens: int) -> Float[Tensor, "token d_model"]:
    """An empty table where there is memory for it."""
    shape, dtype = (n_tokens, d_model(model)), model.cfg.dtype
    size = n_tokens * d_model(model) * dtype.itemsize
    where = device(model)
    if where.type == "cuda" and size < SHARE * torch.cuda.mem_get_info(where)[0]:
        return torch.empty(shape, dtype=dtype, device=where)
    if size < SHARE * _free_memory():
        return torch.empty(shape, dtype=dtype)
    with tempfile.NamedTemporaryFile(prefix="steerlens-") as file:  # its name goes, the mapping stays
        return torch.from_file(file.name, shared=True, size=n_tokens * d_model(model), dtype=dtype).view(shape)


def _free_memory() -> int:
    """Bytes of main memory; without limit where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**63
