"""The function Phi(h) that edits a residual stream (Bao et al. 2026, Sec. 2 and App.). Pure tensors, no model.

The forms take the hidden states of the edited tokens and one direction and factor per token's row, all float32.
Symbols of the paper: v = direction, alpha = factor, u = v / ||v||.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Intervention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(hidden, direction, factor) -> edited hidden"""


def add(
    hidden: Float[Tensor, "*batch d_model"],
    direction: Float[Tensor, "*#batch d_model"],
    factor: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch d_model"]:
    """AddInv: `h + alpha v`."""
    return hidden + factor[..., None] * direction


def clamp(
    hidden: Float[Tensor, "*batch d_model"],
    direction: Float[Tensor, "*#batch d_model"],
    factor: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch d_model"]:
    """ClampInv: `h + alpha v - u u^T h`: what h had along v is replaced. No gradient flows through ||v||."""
    unit = direction / direction.detach().norm(dim=-1, keepdim=True)
    along = (hidden * unit).sum(-1, keepdim=True)
    return hidden + factor[..., None] * direction - along * unit


def null(
    hidden: Float[Tensor, "*batch d_model"],
    direction: Float[Tensor, "*#batch d_model"],
    factor: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch d_model"]:
    """Null: `h - relu(h.u) u`: what h has along u is taken away (RePS, Wu et al. 2025), `factor` times (1 in the paper)."""
    unit = direction / direction.norm(dim=-1, keepdim=True)
    along = (hidden * unit).sum(-1, keepdim=True)
    return hidden - factor[..., None] * along.relu() * unit


FORMS: dict[str, Intervention] = {"add": add, "clamp": clamp, "null": null}
DIRECTED = frozenset({"clamp", "null"})
"""Forms that divide by the direction's norm, so that a direction of zero has no meaning."""


def intervention(form: str) -> Intervention:
    """The function of a form's name.

    Raises:
        ValueError: the name is not a known form.
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r} is unknown; known forms: {', '.join(FORMS)}")
    return FORMS[form]


def edit_tokens(
    hidden: Float[Tensor, "batch pos d_model"],
    mask: Tensor,
    direction: Float[Tensor, "#batch d_model"],
    factor: Float[Tensor, "#batch"],
    form: str,
) -> Float[Tensor, "batch pos d_model"]:
    """Apply a form at the masked tokens of each row; the others keep their bits.

    The edit is computed in float32 whatever the model's dtype, so that neither the factor nor the gradient is rounded.
    """
    edited = intervention(form)(hidden.float(), direction[:, None, :], factor[:, None])
    return torch.where(mask[..., None], edited.to(hidden.dtype), hidden)
