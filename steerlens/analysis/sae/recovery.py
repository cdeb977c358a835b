"""How much of what a vector does is done by the features it is made of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...arguments import checked_call
from ...data import Prompt
from ...intervals import Estimate, estimate
from ...interventions import REFT
from ...model.batches import Batch, EncodedExample
from ...model.bridge import Bridge
from ...model.identity import identity
from ...result import Result
from ...steering.hooks import check_fits
from ...steering.recording import batches, check_effect, divergence, encode, noise, record
from ...vector import SteeringVector
from ..tokens import check_finite
from .autoencoder import SAE, check_coordinates, check_sae
from .comparison import Dictionary, Fit

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, repr=False)
class EffectRecovery(Result):
    """The share of a vector's effect that its best features reproduce, beside random features."""

    steps: pd.DataFrame
    """One row per number of features: see `to_frame`."""
    kl: Estimate
    """KL(steered || plain) in nats per response token: the effect that is to be reproduced."""
    loss_change: Estimate | None
    """Loss of the given responses without the vector minus with it, in nats per token; None for responses that were not
    given."""
    n_prompts: int
    n_tokens: int
    """Response tokens."""
    n_random: int
    concept: str | None = None

    def to_frame(self) -> pd.DataFrame:
        """One row per number of features.

        Columns: k (asked for), n_features (used: fewer where no further feature helps), norm_explained (1 - |v - sum|^2 /
        |v|^2), kl_recovered (1 - KL(steered || replaced) / KL(steered || plain); 1 = the same distributions, 0 = no better than
        no vector, negative = worse), loss_recovered (share of the change of the responses' loss; NaN if none were given or the
        vector does not clearly lower it: its interval holds 0, or it is rounding), random_norm_explained, random_kl_recovered,
        random_loss_recovered (as many random features, refitted; means over the draws), each *_recovered with _low and _high
        (95 % bootstrap over prompts; NaN for one).
        """
        return self.steps.copy()

    def plot(self) -> "go.Figure":
        """Share recovered against number of features; of several results in one figure see `figures.plot_effect_recovery`."""
        from ...figures.sae import plot_effect_recovery

        return plot_effect_recovery(self.steps)

    def summary(self) -> str:
        """The share at the largest number of features, and the fewest features for half of it."""
        last = self.steps.iloc[-1]
        half = self.steps[self.steps["kl_recovered"] >= 0.5]
        least = f"Half is reached with {int(half['k'].iloc[0])}." if len(half) else "Half is not reached."
        if not math.isnan(last["loss_recovered"]):
            least = f"Of the loss change, {_share(last, 'loss_recovered')}. {least}"
        elif self.loss_change is not None:
            least = f"The loss falls by {self.loss_change}, not clearly above 0, so that has no share. {least}"
        n = int(last["n_features"])
        explain, reproduce = ("feature explains", "reproduces") if n == 1 else ("features explain", "reproduce")
        return (
            f"{n} {explain} {last['norm_explained']:.0%} of the vector's squared norm and "
            f"{reproduce} {_share(last, 'kl_recovered')} of its effect (KL {self.kl} nats per token, {self.n_tokens} tokens of "
            f"{self.n_prompts} prompt(s)); as many random features reproduce {_share(last, 'random_kl_recovered')}. {least}"
        )


def _share(row: Any, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.0%}" + ("" if math.isnan(low) else f" (95 % interval {low:.0%} to {high:.0%})")


@checked_call
def effect_recovery(
    model: Bridge,
    sv: SteeringVector,
    sae: SAE,
    prompts: Prompt | Sequence[Prompt],
    responses: str | Sequence[str] | None = None,
    *,
    ks: Sequence[int] = (1, 2, 4, 8, 16, 32),
    n_random: int = 5,
    max_new_tokens: int = 32,
    chat: bool = True,
    batch_size: int = 8,
    seed: int = 0,
    allow: str | Sequence[str] = (),
) -> EffectRecovery:
    """Replace a vector by the sum of its k best features, at the same positions, and measure how much of its effect is left.

    The features are those of the nonnegative decomposition (`compare_to_sae`). The sum is shorter than the vector, as a
    projection is. Beside it stand sums of k random features fitted to the vector in the same way: what any k directions
    would do. Of a vector that takes its direction away (form "null", or a clamp with factor 0) the direction is decomposed.

    Args:
        responses: one text per prompt, whose loss is measured too; None = the greedy responses of the steered model.
        ks: numbers of features.
        n_random: draws of random features at each k.
        max_new_tokens, chat, batch_size: as `feature_effects`.
        seed: of the random features.
        allow: coordinates for which the caller takes responsibility, as in `compare_to_sae`.

    Raises:
        SAEError: the autoencoder is of other coordinates than the vector, or does not say of which.
        TypeError: not one SteeringVector, or not an SAE.
        ValueError: a vector of a ReFT form, one that does not fit or whose effect is rounding in the model's dtype (see
            `steering.recording.NOISE`), settings out of range, or no response token.
    """
    if not isinstance(sv, SteeringVector):
        raise TypeError(f"effect_recovery is about one SteeringVector, got {type(sv).__name__}: give them one by one")
    check_sae(sae)
    check_fits(model, sv)
    _check(model, sv, sae, ks, n_random, allow)
    examples = encode(model, prompts, responses, sv=sv, max_new_tokens=max_new_tokens, chat=chat, batch_size=batch_size)
    examples = [example for example in examples if example.response]
    if not examples:
        raise ValueError("no response has a token to measure on: give responses=..., or other prompts")
    effects = _measure(model, sv, [], examples, batch_size)
    total = estimate(effects.plain_kl, effects.n_tokens, seed)
    check_effect(model, total.value)
    change = estimate(effects.plain_loss - effects.steered_loss, effects.n_tokens, seed) if responses is not None else None
    lowered = change is not None and change.value > noise(model) and not change.low <= 0 <= change.high
    plan = _plan(_factor(sv) * sv.direction, Dictionary(sae), sorted(set(ks)), n_random, seed)
    effects = _measure(model, sv, [fit for fits in plan.values() for fit in fits], examples, batch_size)
    rows, start = [], 0
    for k, fits in plan.items():
        own, start = slice(start, start + 1), start + len(fits)
        rows.append(_row(k, fits, effects, own, slice(own.stop, start), lowered, seed))
    tokens = int(effects.n_tokens.sum())
    return EffectRecovery(pd.DataFrame(rows), total, change, len(examples), tokens, n_random, sv.concept)


def _check(model: Bridge, sv: SteeringVector, sae: SAE, ks: Sequence[int], n_random: int, allow: str | Sequence[str]) -> None:
    if sv.form in REFT:
        raise ValueError(f"the form {sv.form!r} writes another vector at every token: there is no one vector to decompose")
    if not ks or min(ks) < 1 or max(ks) > sae.d_sae or n_random < 1:
        raise ValueError(f"ks {list(ks)} must be 1 to {sae.d_sae}, n_random ({n_random}) at least 1")
    known = identity(model)
    origin = {"model": known["model_name"], "layer": sv.layer, "weight_processing": known["weight_processing"]}
    check_coordinates(sae, origin, "the model with its vector", sv.d_model, allow)


def _plan(
    vector: Float[Tensor, " d_model"], dictionary: Dictionary, ks: Sequence[int], n_random: int, seed: int
) -> dict[int, list[Fit]]:
    """For each k the fit of the best features, then those of the random ones; a larger k has all features of a smaller one."""
    path = dictionary.pursue(vector, max(ks))
    generator = torch.Generator().manual_seed(seed)
    orders = [dictionary.features[torch.randperm(len(dictionary.features), generator=generator)] for _ in range(n_random)]
    plan = {}
    for k in ks:
        plan[k] = [path[min(k, len(path) - 1)], *(dictionary.fit(vector, order[:k]) for order in orders)]
    return plan


def _factor(sv: SteeringVector) -> float:
    """What the direction is decomposed times: 1 where the edit takes it away, whatever the factor."""
    return 1.0 if sv.form == "null" or sv.factor == 0 else sv.factor


def _replaced(sv: SteeringVector, fit: Fit) -> SteeringVector | None:
    """The vector with another direction; None where nothing is left of it."""
    if not bool(fit.reconstruction.any()):
        return None
    return sv.replace(direction=fit.reconstruction / _factor(sv))


# --- the effect ---------------------------------------------------------------------------------------------------------


class _Effects(NamedTuple):
    """Sums over the response tokens of each prompt."""

    n_tokens: Float[np.ndarray, " prompt"]
    plain_kl: Float[np.ndarray, " prompt"]
    """KL(steered || plain), nats."""
    plain_loss: Float[np.ndarray, " prompt"]
    steered_loss: Float[np.ndarray, " prompt"]
    kl: Float[np.ndarray, "fit prompt"]
    """KL(steered || replaced), nats."""
    loss: Float[np.ndarray, "fit prompt"]


def _measure(
    model: Bridge, sv: SteeringVector, fits: Sequence[Fit], examples: Sequence[EncodedExample], batch_size: int
) -> _Effects:
    parts: list[list[np.ndarray]] = []
    for batch in batches(model, examples, batch_size):
        rows, targets = _targets(batch)
        n = len(batch.tokens)
        steered, plain = _predictions(model, batch, sv), _predictions(model, batch, None)
        plain_kl = divergence(steered, plain)
        check_finite(plain_kl, [sv])
        kl, loss = [], []
        for fit in fits:
            replaced = _replaced(sv, fit)
            found = plain if replaced is None else _predictions(model, batch, replaced)
            distance = divergence(steered, found)
            check_finite(distance, [sv if replaced is None else replaced])
            kl.append(_by_prompt(distance.clamp(min=0), rows, n))
            loss.append(_by_prompt(_loss(found, targets), rows, n))
        own = (torch.ones_like(plain_kl), plain_kl.clamp(min=0), _loss(plain, targets), _loss(steered, targets))
        of_fits = [np.array(sums).reshape(len(fits), n) for sums in (kl, loss)]
        parts.append([*(_by_prompt(values, rows, n) for values in own), *of_fits])
    return _Effects(*(np.concatenate(values, axis=-1) for values in zip(*parts, strict=True)))


def _targets(batch: Batch) -> tuple[Int[Tensor, " token"], Int[Tensor, " token"]]:
    """The row of each response token, and the token."""
    mask = batch.response_mask[:, 1:]
    return mask.nonzero()[:, 0], batch.tokens[:, 1:][mask]


def _predictions(model: Bridge, batch: Batch, sv: SteeringVector | None) -> Float[Tensor, "token d_vocab"]:
    """Logits where the response tokens are predicted."""
    return record(model, batch, sv).logits[:, :-1][batch.response_mask[:, 1:]]


def _loss(logits: Float[Tensor, "token d_vocab"], targets: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")


def _by_prompt(values: Float[Tensor, " token"], rows: Int[Tensor, " token"], n: int) -> Float[np.ndarray, " prompt"]:
    sums = torch.zeros(n, dtype=torch.float64, device=values.device)
    return sums.index_add(0, rows, values.double()).cpu().numpy()


def _row(k: int, fits: Sequence[Fit], effects: _Effects, own: slice, random: slice, known: bool, seed: int) -> dict[str, Any]:
    """One row of the result."""
    columns: dict[str, Any] = {"k": k, "n_features": fits[0].n_features, "norm_explained": fits[0].explained}
    columns["random_norm_explained"] = float(np.mean([fit.explained for fit in fits[1:]]))
    lowered = effects.plain_loss - effects.steered_loss
    for prefix, which in (("", own), ("random_", random)):
        saved = effects.plain_kl - effects.kl[which].mean(0)
        columns |= estimate(saved, effects.plain_kl, seed).columns(f"{prefix}kl_recovered")
        gained = effects.plain_loss - effects.loss[which].mean(0)
        share = estimate(gained, lowered, seed) if known else Estimate(math.nan, math.nan, math.nan)
        columns |= share.columns(f"{prefix}loss_recovered")
    return columns
