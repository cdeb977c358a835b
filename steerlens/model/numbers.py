"""Numbers that are not numbers: found where they arise, before they become a token, a score or a mean."""

import torch
from jaxtyping import Bool
from torch import Tensor


class NotFiniteError(RuntimeError, ValueError):
    """A model's numbers are NaN or infinite; the message says where, and what to do."""


def not_numbers(logits: Tensor) -> Bool[Tensor, "*rows"]:
    """Rows of logits from which nothing can be read: one is NaN or +infinity, or all are -infinity.

    Single entries of -infinity are how a model forbids a word.
    """
    return ~torch.isfinite(logits.amax(-1))  # NaN wins a maximum
