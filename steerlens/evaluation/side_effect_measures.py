"""What steering does to unrelated prompts, without a judge: KL to the unsteered model, surprise of the responses."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from ..arguments import checked_call
from ..data import Prompt
from ..intervals import Estimate, estimate, warning
from ..model.batches import EncodedExample
from ..model.bridge import Bridge
from ..model.frozen import frozen
from ..result import Result
from ..steering.generation import as_prompts
from ..steering.hooks import Steer, as_list
from ..steering.recording import batches, divergence, encode, overflow, record
from ..training.logprobs import response_logprobs
from .scales import UNSTEERED, check_scales, scaled

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)
class SideEffects(Result):
    """How far vectors move the model, and how strange to it what they make it say is. No judge is asked."""

    frame: pd.DataFrame
    """One row per vector and scale, the unsteered model first (scale 0): vector, scale, kl (mean KL(p_steered || p_unsteered)
    on the unsteered model's greedy responses, nats per token), perplexity (of the steered greedy responses under the
    unsteered model, per token), each with `_low` and `_high` (95 % bootstrap interval over prompts) and `_tokens`; empty
    (steered responses without a token, which are in no perplexity); n (prompts)."""

    def to_frame(self) -> pd.DataFrame:
        """One row per vector and scale; see `frame`."""
        return self.frame.copy()

    def summary(self) -> str:
        """The strongest vector's effects beside the unsteered model's perplexity, in a sentence."""
        plain, steered = self.frame.iloc[0], self.frame.iloc[1:]
        if steered["kl"].isna().all():
            return "No KL could be measured."
        row = steered.sort_values("kl", ascending=False, kind="stable").iloc[0]
        kl, perplexity = (Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in ("kl", "perplexity"))
        said = "its responses are empty" if np.isnan(perplexity.value) else f"its responses have perplexity {perplexity}"
        return (
            f"Farthest from the unsteered model: {row['vector']} x {row['scale']:g}, KL {kl} in nats per token, over "
            f"{row['n']} prompt{'s' if row['n'] != 1 else ''}{warning(int(row['n']))}; {said} under the unsteered model, whose "
            f"own have {plain['perplexity']:.3g}."
        )

    def plot(self) -> "go.Figure":
        """KL and perplexity against scale, one line per vector."""
        from ..figures import plot_side_effects

        return plot_side_effects(self.frame)


@checked_call
def side_effects(
    model: Bridge,
    sv: Steer | Mapping[str, Steer],
    prompts: Prompt | Sequence[Prompt],
    *,
    scales: Sequence[int | float] = (1.0,),
    max_new_tokens: int = 64,
    chat: bool = True,
    batch_size: int = 16,
) -> SideEffects:
    """Measure how far vectors move the model on prompts that have nothing to do with their concept.

    The KL is taken where the unsteered model's greedy responses are predicted (as `mean_kl`). The perplexity is that of the
    steered greedy responses, read by the unsteered model: text that falls apart has a high one; text that repeats itself has
    a low one, so look below the unsteered row too.

    Args:
        sv: a vector, several together, or name -> such, to compare.
        scales: multiply every factor.
        max_new_tokens: length limit of the responses; the token that ends them is in no number.

    Raises:
        ValueError: nothing to measure on, a scale twice, a vector that does not fit, or logits that are not finite.
    """
    named = dict(sv) if isinstance(sv, Mapping) else {"vector": sv}
    if not named or UNSTEERED in named:
        raise ValueError(f"vectors must be at least one, and none may be called {UNSTEERED!r}: that row is always there")
    factors = check_scales(scales)
    batch = as_prompts(prompts)
    settings = {"max_new_tokens": max_new_tokens, "chat": chat, "batch_size": batch_size}
    points: list[tuple[str, float, Any]] = [(UNSTEERED, 0.0, None)]
    points += [(name, scale, steered) for name, each in named.items() for scale, steered in scaled(each, factors).items()]
    for _, _, steered in points:
        as_list(steered)  # a steering prompt has other tokens than the unsteered pass
    plain = encode(model, batch, None, **settings)
    rows = []
    for name, scale, steered in points:
        kl, tokens = _kl_sums(model, steered, plain, batch_size)
        spoken = plain if steered is None else encode(model, batch, None, sv=steered, **settings)
        surprise, said = _surprise_sums(model, spoken, batch_size)
        moved, strange = per_token(kl, tokens), per_token(surprise, said)
        row = {"vector": name, "scale": scale} | moved.columns("kl") | {"kl_tokens": int(tokens.sum())}
        perplexity = Estimate(math.exp(strange.value), math.exp(strange.low), math.exp(strange.high))
        row |= perplexity.columns("perplexity") | {"perplexity_tokens": int(said.sum())}
        rows.append(row | {"empty": int((said == 0).sum()), "n": len(batch)})
    return SideEffects(pd.DataFrame(rows))


def per_token(totals: Float[np.ndarray, " prompt"], counts: Float[np.ndarray, " prompt"]) -> Estimate:
    """Sum of totals over sum of counts, over the prompts that have a count; see `intervals.estimate`."""
    kept = counts > 0
    return estimate(totals[kept], counts[kept])


def _kl_sums(
    model: Bridge, sv: Steer, examples: Sequence[EncodedExample], batch_size: int
) -> tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, " prompt"]]:
    """KL summed over each response's tokens, and their number."""
    sums, counts = [], []
    for batch in batches(model, examples, batch_size):
        steered, plain = record(model, batch, sv).logits, record(model, batch, None).logits
        mask = batch.response_mask[:, 1:]  # the token before predicts
        moved = divergence(steered[:, :-1], plain[:, :-1])
        sums += moved.where(mask, torch.zeros(())).sum(-1, dtype=torch.float64).tolist()
        counts += mask.sum(-1).tolist()
    if not np.isfinite(sums).all():
        raise overflow("the KL is not finite", as_list(sv))
    if not sum(counts):
        raise ValueError("no response has a token to measure on: give other prompts")
    return np.maximum(np.asarray(sums, float), 0.0), np.asarray(counts, float)


def _surprise_sums(
    model: Bridge, examples: Sequence[EncodedExample], batch_size: int
) -> tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, " prompt"]]:
    """-log p of each response under the unsteered model, summed, and the number of its tokens."""
    sums, counts = [], []
    with torch.no_grad(), frozen(model):
        for batch in batches(model, examples, batch_size):
            logprobs = response_logprobs(model, batch)
            sums += (-logprobs.values.sum(-1, dtype=torch.float64)).tolist()
            counts += logprobs.mask.sum(-1).tolist()
    return np.asarray(sums, float), np.asarray(counts, float)
