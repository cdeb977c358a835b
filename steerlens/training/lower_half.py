"""What lies below the edited layer does not change in training: it is computed once for all rows and kept."""

import tempfile
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..model.batches import EncodedExample, collate, in_passes
from ..model.bridge import Bridge, d_model, device
from ..model.frozen import exclusive
from ..model.halves import residual_after, why_whole
from ..model.memory import SHARE, free_memory
from ..model.plain import Structure, structure


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
    with exclusive(model), torch.no_grad():
        for part in in_passes(unique, pass_tokens, lambda row: row.length):
            batch = collate(model, part)
            values = residual_after(model, batch.tokens, batch.token_mask.long(), layer)
            for row, states in zip(part, values, strict=True):
                starts[row.prompt + row.response] = end
                table[end : end + row.length] = states[: row.length].to(table.device)
                end += row.length
    return LowerHalf(layer, table, starts, structure(model))


def _room(model: Bridge, n_tokens: int) -> Float[Tensor, "token d_model"]:
    """An empty table: on the model's device, else beside the CPU, else in a temporary file, where there is memory for it."""
    shape, dtype = (n_tokens, d_model(model)), model.cfg.dtype
    size = n_tokens * d_model(model) * dtype.itemsize
    where = device(model)
    for home in (where, torch.device("cpu")):
        if size < SHARE * free_memory(home):
            return torch.empty(shape, dtype=dtype, device=home)
    with tempfile.NamedTemporaryFile(prefix="steerlens-") as file:  # its name goes, the mapping stays
        return torch.from_file(file.name, shared=True, size=n_tokens * d_model(model), dtype=dtype).view(shape)
