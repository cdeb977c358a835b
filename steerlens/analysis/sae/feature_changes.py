"""Vectors and the features of sparse autoencoders: what a vector consists of, and which features it moves."""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...arguments import checked_call
from ...data import Prompt
from ...intervals import estimate
from ...model.batches import Batch
from ...model.bridge import Bridge, d_model, hook_name
from ...model.identity import identity
from ...model.numbers import NotFiniteError
from ...model.tokenizer import token_strings
from ...result import Result
from ...steering.generation import as_prompts
from ...steering.hooks import Steer, as_list, check_fits
from ...steering.recording import batches, encode, overflow, record
from ..token_groups import token_groups
from ..tokens import edited_tokens
from .autoencoder import SAE, SAEError, check_coordinates, check_sae

if TYPE_CHECKING:
    import plotly.graph_objects as go

ROUNDING = {torch.float32: 1e-4, torch.float16: 3e-3, torch.bfloat16: 2e-2}
"""dtype of the model -> share of the largest activation: a change below it is taken for rounding. About three times the
largest change that vectors too small to matter make on the embedded model in the coarser two (9e-4, 7e-3)."""


@dataclass(frozen=True, repr=False)
class FeatureEffects(Result):
    """How steering changes the activation of each feature, on the same tokens with and without it."""

    features: pd.DataFrame
    """One row per feature: see `to_frame`."""
    tokens: pd.DataFrame
    """One row per token and top feature: see `tokens_frame`."""
    layer: int
    """The block after which the features are read."""
    n_prompts: int
    n_tokens: int
    source: str | None
    """Of the autoencoder."""

    def to_frame(self) -> pd.DataFrame:
        """One row per feature, most changed first.

        Columns: feature, rank (1 = largest mean_abs_change), mean_abs_change (mean over all tokens of |steered - plain|, in
        activation units), change (mean over all tokens, signed) and change_low, change_high (95 % bootstrap over prompts;
        only for the top features), edited_change and response_change (means over edited tokens and over response tokens
        that are not edited; NaN where there are none), active_plain and active_steered (shares of tokens at which it is
        active), changed (share of tokens at which it changes by more than rounding, see `ROUNDING`), url.
        """
        return self.features.copy()

    def tokens_frame(self) -> pd.DataFrame:
        """Columns: row (prompt), position (0-based, padding not counted), token, group (see `token_groups.GROUPS`), edited,
        feature, plain, steered, change (activation units)."""
        return self.tokens.copy()

    def plot(self, row: int = 0) -> "go.Figure":
        """Map of the top features' changes at the tokens of one prompt.

        Raises:
            ValueError: there is no such row.
        """
        from ...figures.sae import plot_feature_effects

        return plot_feature_effects(self.tokens, self.layer, row)

    def summary(self) -> str:
        """The most changed features in two sentences."""
        moved = self.features[self.features["changed"] > 0]
        head = f"After block {self.layer}, over {self.n_tokens} tokens of {self.n_prompts} prompt(s), "
        if moved.empty:
            return f"{head}no feature changes by more than rounding."
        most = ", ".join(_change(row) for row in moved.head(3).to_dict("records"))
        single = " With one prompt there are no intervals." if self.n_prompts == 1 else ""
        return (
            f"{head}{len(moved)} of {len(self.features)} features change by more than rounding. Most changed: {most}.{single}"
        )


def _change(row: Mapping[Hashable, Any]) -> str:
    """One feature's change, in a summary."""
    known = not math.isnan(row["change_low"])
    interval = f", 95 % interval {row['change_low']:.3g} to {row['change_high']:.3g}" if known else ""
    return f"{int(row['feature'])} ({row['change']:+.3g} per token{interval}, at {row['changed']:.0%} of tokens)"


@checked_call
def feature_effects(
    model: Bridge,
    sv: Steer,
    sae: SAE,
    prompts: Prompt | Sequence[Prompt],
    responses: str | Sequence[str] | None = None,
    *,
    top: int = 20,
    max_new_tokens: int = 32,
    chat: bool = True,
    batch_size: int = 8,
    allow: str | Sequence[str] = (),
) -> FeatureEffects:
    """Change of each feature's activation under steering, on the same tokens with and without it.

    The autoencoder may stand at the edited layer, where only edited tokens can change, or at a later one, where the vector's
    effect has spread.

    Args:
        sv: one vector, or several together.
        responses: one text per prompt; None = the greedy responses of the steered model, without the token that ends them.
        top: features to keep token by token.
        max_new_tokens: length limit of greedy responses.
        chat: put prompts into the model's chat template.
        batch_size: prompts per forward pass.
        allow: coordinates for which the caller takes responsibility, as in `compare_to_sae`.

    Raises:
        TypeError: not an SAE.
        SAEError: the autoencoder is not of this model's residual stream after a block, or does not say so.
        ValueError: no vector, one that does not fit, one that edits only later layers than the autoencoder reads, settings
            out of range, a steered model that overflows, or what `encode` refuses.
    """
    check_sae(sae)
    vectors = as_list(sv)
    for vector in vectors:
        check_fits(model, vector)
    layer = _check(model, vectors, sae, top, allow)
    listed = as_prompts(prompts)
    examples = encode(model, listed, responses, sv=sv, max_new_tokens=max_new_tokens, chat=chat, batch_size=batch_size)
    groups = [token_groups(model, prompt, example, chat) for prompt, example in zip(listed, examples, strict=True)]
    tally = _Tally(len(examples), sae.d_sae, ROUNDING.get(model.cfg.dtype, ROUNDING[torch.float32]))
    seen = []
    for batch in batches(model, examples, batch_size):
        edited = edited_tokens(vectors, batch) & batch.token_mask
        hidden = [_hidden(model, batch, steering, layer) for steering in (vectors, None)]
        _check_finite(hidden[0][batch.token_mask], vectors, layer)
        if not bool(hidden[1][batch.token_mask].isfinite().all()):
            raise NotFiniteError(
                f"the residual stream after block {layer} is not finite without a vector: load the model in bfloat16 or float32"
            )
        seen.append((batch, edited, hidden))
        for index, steered, plain in _rows(batch, hidden, sae):
            tally.add(steered, plain, edited[index], batch.response_mask[index], batch.token_mask[index])
    features = tally.frame(sae, top)
    chosen = torch.tensor(features["feature"].to_numpy()[:top].copy())
    tokens: list[pd.DataFrame] = []
    for batch, edited, hidden in seen:
        for index, steered, plain in _rows(batch, hidden, sae):
            row, here = len(tokens), len(plain)
            text = token_strings(model, batch.tokens[index, :here].tolist())
            known = {"row": row, "position": range(here), "token": text, "group": groups[row]}
            tokens.append(_token_frame(known | {"edited": edited[index, :here].tolist()}, steered, plain, chosen))
    joined = pd.concat(tokens, ignore_index=True)
    return FeatureEffects(features, joined, layer, len(examples), sum(map(len, groups)), sae.source)


def _check(model: Bridge, vectors: Sequence[Any], sae: SAE, top: int, allow: str | Sequence[str]) -> int:
    """The layer that the autoencoder reads, after everything that can be refused at once."""
    if not vectors:
        raise ValueError("there is no vector, so nothing changes: give one, or several")
    if top < 1:
        raise ValueError(f"top {top} must be at least 1")
    if sae.layer is None and sae.hook_name is not None:
        raise SAEError(
            f"the SAE reads at {sae.hook_name!r}, not the residual stream after a block, where features are read: use one of "
            "blocks.N.hook_resid_post or hook_resid_pre"
        )
    known = identity(model)
    origin = {"model": known["model_name"], "weight_processing": known["weight_processing"]}
    check_coordinates(sae, origin, "the model", d_model(model), allow, ignore=("layer",))
    if sae.layer is None:
        raise ValueError("the SAE does not say after which block it reads: load_sae(..., layer=...)")
    if hook_name(sae.layer) not in model.hook_dict:
        raise ValueError(f"the SAE reads after block {sae.layer}, which {known['model_name']} does not have")
    first = min(vector.layer for vector in vectors)
    if first > sae.layer:
        raise ValueError(
            f"the SAE reads after block {sae.layer}, before the first edit (block {first}): nothing can change there"
        )
    return sae.layer


def _check_finite(hidden: Float[Tensor, "token d_model"], vectors: Sequence[Any], layer: int) -> None:
    if not bool(hidden.isfinite().all()):
        raise overflow(f"the residual stream after block {layer} is not finite", vectors)


def _hidden(model: Bridge, batch: Batch, sv: Steer, layer: int) -> Float[Tensor, "batch pos d_model"]:
    return record(model, batch, sv, [hook_name(layer)]).values[hook_name(layer)].float().cpu()


def _rows(batch: Batch, hidden: Sequence[Tensor], sae: SAE) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(index in the batch, activations steered, activations plain) of each prompt's tokens; one prompt in memory at a time."""
    for index, length in enumerate(batch.token_mask.sum(-1).tolist()):
        steered, plain = (sae.encode(states[index, :length]).cpu() for states in hidden)
        if not bool(steered.isfinite().all() and plain.isfinite().all()):
            raise NotFiniteError("activations of the SAE are not finite: its weights or the residual stream are too large")
        yield index, steered, plain


class _Sums(NamedTuple):
    """Per prompt and feature, sums over tokens."""

    change: Float[Tensor, "prompt d_sae"]
    absolute: Float[Tensor, "prompt d_sae"]
    edited: Float[Tensor, "prompt d_sae"]
    response: Float[Tensor, "prompt d_sae"]
    active_plain: Float[Tensor, "prompt d_sae"]
    active_steered: Float[Tensor, "prompt d_sae"]
    changed: Float[Tensor, "prompt d_sae"]


class _Tally:
    """Sums and numbers of tokens, prompt by prompt."""

    def __init__(self, n_prompts: int, d_sae: int, rounding: float) -> None:
        self.sums = _Sums(*(torch.zeros(n_prompts, d_sae, dtype=torch.float64) for _ in _Sums._fields))
        self.counts = np.zeros((n_prompts, 3))
        self.rounding, self.row = rounding, 0

    def add(
        self,
        steered: Float[Tensor, "pos d_sae"],
        plain: Float[Tensor, "pos d_sae"],
        edited: Bool[Tensor, " padded"],
        response: Bool[Tensor, " padded"],
        token: Bool[Tensor, " padded"],
    ) -> None:
        """The next prompt."""
        here = int(token.sum())
        edited, later = edited[:here].cpu(), (response & ~edited)[:here].cpu()
        change = (steered - plain).double()
        noise = self.rounding * max(float(plain.abs().max()), float(steered.abs().max()))
        changed = change.abs() > noise
        parts = (change, change.abs(), change[edited], change[later], plain > 0, steered > 0, changed)
        for total, part in zip(self.sums, parts, strict=True):
            total[self.row] = part.double().sum(0)
        self.counts[self.row] = here, int(edited.sum()), int(later.sum())
        self.row += 1

    def frame(self, sae: SAE, top: int) -> pd.DataFrame:
        """One row per feature, most changed first."""
        n_tokens, n_edited, n_later = self.counts.sum(0)
        totals = {name: value.sum(0).numpy() for name, value in self.sums._asdict().items()}
        with np.errstate(invalid="ignore"):
            columns = {
                "feature": np.arange(sae.d_sae),
                "mean_abs_change": totals["absolute"] / n_tokens,
                "change": totals["change"] / n_tokens,
                "change_low": math.nan,
                "change_high": math.nan,
                "edited_change": totals["edited"] / n_edited,
                "response_change": totals["response"] / n_later,
                "active_plain": totals["active_plain"] / n_tokens,
                "active_steered": totals["active_steered"] / n_tokens,
                "changed": totals["changed"] / n_tokens,
            }
        frame = pd.DataFrame(columns).sort_values("mean_abs_change", ascending=False, kind="stable", ignore_index=True)
        for index, feature in enumerate(frame["feature"].iloc[:top]):
            found = estimate(self.sums.change[:, feature].numpy(), self.counts[:, 0])
            frame.loc[index, ["change_low", "change_high"]] = [found.low, found.high]
        frame.insert(1, "rank", np.arange(1, len(frame) + 1))
        frame["url"] = [sae.url(feature) for feature in frame["feature"]]
        return frame


def _token_frame(known: dict[str, Any], steered: Tensor, plain: Tensor, chosen: Tensor) -> pd.DataFrame:
    """The tokens of one prompt, once per chosen feature."""
    own = pd.DataFrame(known)
    parts = []
    for feature in chosen.tolist():
        before, after = plain[:, feature], steered[:, feature]
        numbers = {"plain": before.tolist(), "steered": after.tolist(), "change": (after - before).tolist()}
        parts.append(own.assign(feature=feature, **numbers))
    return pd.concat(parts, ignore_index=True)
