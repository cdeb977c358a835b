"""The function Phi(h) that edits a residual stream (Bao et al. 2026, Sec. 2 and App.). Pure tensors, no model.

Forms take the hidden states of a batch and one set of `Weights` per row, all float32.
Symbols of the paper: v = direction, alpha = factor, u = v / ||v||; of ReFT (Wu et al. 2024): U or V = direction, W = read,
b = bias.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Weights(NamedTuple):
    """What a form computes with; leading dimensions stack vectors or rows."""

    direction: Float[Tensor, "*vector rank d_model"]
    """v, with rank 1; the rows of U^T (LoReFT, orthonormal) or V^T (DiReFT)."""
    factor: Float[Tensor, "*vector"]
    """alpha; for the ReFT forms a number that multiplies the whole edit (1 as trained)."""
    read: Float[Tensor, "*vector rank d_model"] | None = None
    """W^T of the ReFT forms."""
    bias: Float[Tensor, "*vector rank"] | None = None
    """b of the ReFT forms."""

    def each(self, function: Callable[[Tensor], Tensor]) -> "Weights":
        """The same function of every tensor."""
        read, bias = (None if tensor is None else function(tensor) for tensor in (self.read, self.bias))
        return Weights(function(self.direction), function(self.factor), read, bias)


def stack(listed: Sequence[Weights]) -> Weights:
    """Several weights of one form and rank as one, along a new first dimension."""
    reads = [weights.read for weights in listed if weights.read is not None]
    biases = [weights.bias for weights in listed if weights.bias is not None]
    return Weights(
        torch.stack([weights.direction for weights in listed]),
        torch.stack([weights.factor for weights in listed]),
        torch.stack(reads) if reads else None,
        torch.stack(biases) if biases else None,
    )


Intervention = Callable[[Tensor, Weights], Tensor]
"""(hidden, weights) -> edited hidden"""


def add(hidden: Float[Tensor, "batch pos d_model"], weights: Weights) -> Float[Tensor, "batch pos d_model"]:
    """AddInv: `h + alpha v`."""
    return hidden + _vector(weights)


def clamp(hidden: Float[Tensor, "batch pos d_model"], weights: Weights) -> Float[Tensor, "batch pos d_model"]:
    """ClampInv: `h + alpha v - u u^T h`: what h had along v is replaced. No gradient flows through ||v||."""
    unit = weights.direction / weights.direction.detach().norm(dim=-1, keepdim=True)
    return hidden + _vector(weights) - (hidden * unit).sum(-1, keepdim=True) * unit


def null(hidden: Float[Tensor, "batch pos d_model"], weights: Weights) -> Float[Tensor, "batch pos d_model"]:
    """Null: `h - relu(h.u) u`: what h has along u is taken away (RePS, Wu et al. 2025), `factor` times (1 in the paper)."""
    unit = weights.direction / weights.direction.norm(dim=-1, keepdim=True)
    return hidden - weights.factor[:, None, None] * (hidden * unit).sum(-1, keepdim=True).relu() * unit


def loreft(hidden: Float[Tensor, "batch pos d_model"], weights: Weights) -> Float[Tensor, "batch pos d_model"]:
    """LoReFT: `h + U (W^T h + b - U^T h)`, U with orthonormal columns (Wu et al. 2024): what h had along U is replaced."""
    along = hidden @ weights.direction.mT
    return hidden + weights.factor[:, None, None] * (_target(hidden, weights) - along) @ weights.direction


def direft(hidden: Float[Tensor, "batch pos d_model"], weights: Weights) -> Float[Tensor, "batch pos d_model"]:
    """DiReFT: `h + V (W^T h + b)` (Wu et al. 2024)."""
    return hidden + weights.factor[:, None, None] * _target(hidden, weights) @ weights.direction


def _vector(weights: Weights) -> Float[Tensor, "batch 1 d_model"]:
    return weights.factor[:, None, None] * weights.direction


def _target(hidden: Tensor, weights: Weights) -> Float[Tensor, "batch pos rank"]:
    """W^T h + b."""
    assert weights.read is not None and weights.bias is not None
    return hidden @ weights.read.mT + weights.bias[:, None]


FORMS: dict[str, Intervention] = {"add": add, "clamp": clamp, "null": null, "loreft": loreft, "direft": direft}
DIRECTED = frozenset({"clamp", "null"})
"""Forms that divide by the direction's norm, so that a direction of zero has no meaning."""
REFT = frozenset({"loreft", "direft"})
"""Forms of a rank of their own, whose edit depends on h through `read`."""


def intervention(form: str) -> Intervention:
    """The function of a form's name.

    Raises:
        ValueError: the name is not a known form.
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r} is unknown; known forms: {', '.join(FORMS)}")
    return FORMS[form]


def orthonormal(rows: Float[Tensor, "rank d_model"]) -> Float[Tensor, "rank d_model"]:
    """The rows orthonormalised one after the other (Gram-Schmidt, by a QR decomposition), differentiably."""
    q, r = torch.linalg.qr(rows.mT)
    return (q * r.diagonal().sign()).mT


def edit_tokens(
    hidden: Float[Tensor, "batch pos d_model"], mask: Tensor, weights: Weights, form: str
) -> Float[Tensor, "batch pos d_model"]:
    """Apply a form at the masked tokens of each row; the others keep their bits.

    The edit is computed in float32 whatever the model's dtype, so that neither the factor nor the gradient is rounded.
    """
    edited = intervention(form)(hidden.float(), weights)
    return torch.where(mask[..., None], edited.to(hidden.dtype), hidden)
