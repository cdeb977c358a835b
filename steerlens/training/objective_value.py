"""The value of an objective over data, without training."""

import math
from typing import Any

import torch
from torch import Tensor

from ..arguments import checked_call
from ..data import as_data
from ..interventions import REFT
from ..model.batches import Batch, check_batch_size, encode_data
from ..model.bridge import Bridge, Hooks
from ..model.frozen import frozen
from ..model.numbers import NotFiniteError
from ..steering.hooks import Steer, as_list, check_fits, edit_hooks, edits_for_all, masks_of
from ..vector import SteeringVector
from .logprobs import objective_logprobs, with_reference
from .objectives import NULL, REFERENCE, Objective, needs, objective_function, row_losses


@checked_call
def loss(model: Bridge, sv: Steer, data: Any, objective: str | Objective = "lang", *, batch_size: int = 12) -> float:
    """Mean objective over the data with a vector on (None = unsteered, a list = together), without training.

    The Null intervention of "reps" acts along the vector's `direction`, whatever the sign of its factor, as in training.

    Raises:
        ValueError, DataError: as `train`.
        NotFiniteError: the loss is not a number.
    """
    check_batch_size(batch_size)
    function = objective_function(objective)
    vectors = as_list(sv)
    for vector in vectors:
        check_fits(model, vector)
    needed = needs(function)
    if NULL in needed and any(vector.form in REFT for vector in vectors):
        raise ValueError("a ReFT form has no Null intervention, which this objective needs")
    encoded = encode_data(model, as_data(data), neutral=bool(needed))

    def hooks_for(batch: Batch, example: Tensor, form: str | None) -> Hooks:
        acting = vectors if form is None else [vector.replace(form=form, factor=_null_factor(vector)) for vector in vectors]
        return edit_hooks(edits_for_all(acting), masks_of(batch))

    total = weight = 0.0
    with torch.no_grad(), frozen(model):
        if REFERENCE in needed:
            encoded = with_reference(model, encoded, batch_size)
        for start in range(0, len(encoded), batch_size):
            part = encoded[start : start + batch_size]
            rows = row_losses(function, objective_logprobs(model, part, needed, hooks_for))
            total += float(rows.loss.double().sum())
            weight += float(rows.weight.double().sum())
    if not math.isfinite(total):
        raise NotFiniteError(
            f"the loss is {total} with {len(vectors)} vector(s) on: lower the factor, or load the model in bfloat16 or float32"
        )
    return total / weight


def _null_factor(sv: SteeringVector) -> float:
    """Strength of a vector's Null intervention: what was trained, else 1 (the paper's)."""
    return float(sv.provenance.get("null_factor", 1.0))
