"""Where tokens look, steered minus unsteered: attention per head, on the same tokens (Bao et al. 2026, Finding 5)."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from ..arguments import checked_call
from ..data import Prompt
from ..intervals import LEVEL, RESAMPLES, Estimate, estimate, tails
from ..model.batches import Batch
from ..model.bridge import Bridge, attention_pattern_name, check_layer, model_name, n_layers
from ..model.tokenizer import token_strings
from ..result import Result
from ..steering.generation import as_prompts
from ..steering.hooks import Steer, as_list, check_fits
from ..steering.recording import batches, encode, overflow, record
from .token_groups import GROUPS, token_groups
from .tokens import edited_tokens

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..figures.token_views import View

EDITED = "edited"
"""The group of all edited tokens; "edited <group>" are those of a group of which only a part is edited."""
ALL_GROUPS = (*GROUPS, EDITED, *(f"{EDITED} {group}" for group in GROUPS))
VARYING = GROUPS[GROUPS.index("instruction") :]
"""Groups whose tokens, or the tokens before them, differ between prompts."""
LAYERS_ABOVE = 3
"""Layers looked at unless others are asked for."""


@dataclass(frozen=True, eq=False, repr=False)
class AttentionEffects(Result):
    """Attention between groups of tokens with and without a vector, per layer and head."""

    plain: Float[np.ndarray, "prompt layer head query_group key_group"]
    """Attention mass, 0 to 1, of the unsteered model: the sum over a key group's tokens, mean over a query group's tokens. NaN
    where the prompt has no token in the query group."""
    change: Float[np.ndarray, "prompt layer head query_group key_group"]
    """Steered minus unsteered mass."""
    groups: tuple[str, ...]
    """Names along the last two axes. Those of `token_groups.GROUPS` come first and part the tokens; "edited" and
    "edited <group>" are made of the same tokens again, where a part of all tokens, or of the group, is edited."""
    edited_share: dict[str, float]
    """group -> share of its tokens, over all prompts, that are edited."""
    layers: tuple[int, ...]
    edited_layers: tuple[int, ...]
    tokens: tuple[str, ...]
    """Of the first prompt and its response."""
    token_groups: tuple[str, ...]
    """The group of each of these tokens."""
    edited: tuple[bool, ...]
    """Whether each of these tokens is edited."""
    patterns: Float[Tensor, "layer head query key"]
    """Of the first prompt: steered minus unsteered attention."""
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """One row per layer, head, query group and key group: layer, head, query_group, key_group, overlaps (whether the key
        group's tokens are counted in one of the five groups too), n_prompts (with such queries), unsteered (mass), change
        (steered minus unsteered), change_low, change_high (95 %, bootstrap over prompts; NaN from one prompt)."""
        return self._frame(self.plain, self.change, list(range(self.plain.shape[2])))

    def by_layer(self) -> pd.DataFrame:
        """As `to_frame`, for the mean over heads (head is -1)."""
        return self._frame(self.plain.mean(2, keepdims=True), self.change.mean(2, keepdims=True), [-1])

    def mass(self, query_group: str, key_group: str) -> Estimate:
        """Change of the mass from a query group to a key group, with its interval over prompts: mean over heads and over the
        layers after the first edited block (over all if there are none).

        Raises:
            ValueError: there is no such group of tokens.
        """
        return estimate(self._cell(self.change, query_group, key_group), seed=self.seed)

    def summary(self) -> str:
        """The result in a few sentences."""
        n, layers = len(self.plain), [self.layers[index] for index in self._after]
        where = f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"
        text = f"attention in {where} over {n} prompt{'s' * (n > 1)}, mean over heads: "
        if not np.nan_to_num(self.change).any():
            return f"{text}steering changes nothing there (exactly 0)."
        keys = ("instruction", EDITED, f"{EDITED} template suffix", "bos")
        wanted = [(query, key) for query in ("response", "template suffix") for key in keys]
        parts = []
        for query, key in wanted:
            if {query, key} <= set(self.groups):
                before = float(self._cell(self.plain, query, key).mean())
                parts.append(f"{query} to {key} {before:.3f} unsteered, change {self.mass(query, key)}")
        return f"{text}{'; '.join(parts)}. {self._largest()}"

    def plot(self, layer: int | None = None) -> "go.Figure":
        """Maps of the changes between groups: one per layer, mean over heads, or one per head of a layer.

        Raises:
            ValueError: attention of this layer was not recorded.
        """
        from ..figures.attention import plot_attention

        if layer is not None and layer not in self.layers:
            raise ValueError(f"layer {layer} was not recorded; there are {', '.join(map(str, self.layers))}")
        frame = self.by_layer() if layer is None else self.to_frame().query("layer == @layer")
        wholly = [group for group, share in self.edited_share.items() if share == 1.0]
        return plot_attention(frame, len(self.plain), wholly)

    def view(self, most: int = 12) -> "View":
        """The heads whose attention changes most on the first prompt, from token to token: HTML for Jupyter or a page.

        Args:
            most: heads shown; fewer where the prompt is so long that a page would not hold them.

        Raises:
            ValueError: the first prompt is too long to draw even one head.
        """
        from ..figures.token_views import view_attention_heads

        return view_attention_heads(self.patterns.numpy(), self.tokens, self.layers, most)

    @property
    def _after(self) -> list[int]:
        """Indices of the layers that steering can reach, or of all."""
        everything = range(len(self.layers))
        return [index for index in everything if self.layers[index] > self.edited_layers[0]] or list(everything)

    def _cell(self, masses: np.ndarray, query: str, key: str) -> Float[np.ndarray, " prompt"]:
        for group in (query, key):
            if group not in self.groups:
                raise ValueError(f"there are no tokens of the group {group!r}; there are {', '.join(self.groups)}")
        here = masses[..., self.groups.index(query), self.groups.index(key)]
        values = here[:, self._after].mean((1, 2))
        return values[~np.isnan(values)]

    def _largest(self) -> str:
        """The head that moves most, and how many heads move beyond chance."""
        frame = self.to_frame()
        frame = frame[~frame["overlaps"] & frame["query_group"].isin(VARYING)]
        top = frame.iloc[int(frame["change"].abs().to_numpy().argmax())]
        largest = Estimate(top["change"], top["change_low"], top["change_high"])
        beyond = int(((frame["change_low"] > 0) | (frame["change_high"] < 0)).sum())
        moved = int(frame["change"].ne(0).sum())
        text = (
            f"Of one head the largest is layer {top['layer']} head {top['head']}, {top['query_group']} to {top['key_group']}: "
        )
        if len(self.plain) == 1:
            return f"{text}{largest}."
        return (
            f"{text}{largest}; {beyond} of {moved} changes (heads x group pairs) have an interval without 0, "
            f"{1 - LEVEL:.0%} would by chance."
        )

    def _frame(self, plain: np.ndarray, change: np.ndarray, heads: list[int]) -> pd.DataFrame:
        low, high = _intervals(change, self.seed)
        counts = (~np.isnan(change)).sum(0)
        with np.errstate(invalid="ignore"):
            before, mean = (np.nansum(values, 0) / counts for values in (plain, change))
        index = pd.MultiIndex.from_product(
            [self.layers, heads, self.groups, self.groups], names=["layer", "head", "query_group", "key_group"]
        )
        columns = {"n_prompts": counts, "unsteered": before, "change": mean, "change_low": low, "change_high": high}
        frame = pd.DataFrame({name: values.ravel() for name, values in columns.items()}, index=index).reset_index()
        frame.insert(4, "overlaps", ~frame["key_group"].isin(GROUPS))
        return frame[frame["n_prompts"] > 0].reset_index(drop=True)


@checked_call
def attention_effects(
    model: Bridge,
    sv: Steer,
    prompts: Prompt | Sequence[Prompt],
    responses: str | Sequence[str] | None = None,
    *,
    layers: Sequence[int] | None = None,
    max_new_tokens: int = 32,
    chat: bool = True,
    batch_size: int = 16,
    seed: int = 0,
) -> AttentionEffects:
    """Attention patterns of the steered model minus those of the unsteered one, per head, on the same tokens.

    For each prompt the mass from a query group to a key group is the sum over the keys, averaged over the queries. The five
    groups of `token_groups.GROUPS` part the tokens, so the masses from a query group to them sum to 1 and their changes to 0.
    The edited tokens are a group of their own beside them, and cross them where only a part of a group is edited.

    Mass says where a head looks, not what it brings from there. A head that finds nothing to look at rests on BOS, so a
    change towards BOS most often means "does less". With few prompts the intervals are too narrow, and of queries before the
    instruction, which are the same tokens in all prompts, they have no width.

    Args:
        sv: a vector, or several together.
        prompts: texts or conversations.
        responses: one text per prompt; None = the steered model's greedy responses, so that the response's queries stand where
            they do in use. For comparing vectors give all of them the same responses.
        layers: blocks whose attention is looked at. None = the next three after the first edited block, or as many as there
            are. Blocks up to the edited one change by exactly 0.
        max_new_tokens: length limit of greedy responses.
        chat: put prompts into the model's chat template.
        batch_size: prompts per forward pass.
        seed: of the bootstrap.

    Raises:
        ValueError: no vector, a vector that does not fit, a layer that does not exist, no layer after the edited one, rows
            longer than the context, a model that does not show its attention, or one that is not finite under the vector.
    """
    vectors = as_list(sv)
    if not vectors:
        raise ValueError("there is no vector: attention is compared with and without one")
    for vector in vectors:
        check_fits(model, vector)
    edited_layers = tuple(sorted({vector.layer for vector in vectors}))
    chosen = _chosen(model, layers, edited_layers[0])
    listed = as_prompts(prompts)
    examples = encode(model, listed, responses, sv=sv, max_new_tokens=max_new_tokens, chat=chat, batch_size=batch_size)
    groups = [token_groups(model, prompt, example, chat) for prompt, example in zip(listed, examples, strict=True)]
    rows: list[_Row] = []
    for batch in batches(model, examples, batch_size):
        rows += _compare(model, sv, batch, groups[len(rows) : len(rows) + len(batch.tokens)], chosen, keep=not rows)
    kept, shares = _present(np.stack([row.counts for row in rows]).sum(0))
    tokens = token_strings(model, [*examples[0].prompt, *examples[0].response])
    return AttentionEffects(
        plain=np.stack([row.plain[..., kept, :][..., kept] for row in rows]),
        change=np.stack([row.change[..., kept, :][..., kept] for row in rows]),
        groups=tuple(ALL_GROUPS[index] for index in kept),
        edited_share=shares,
        layers=chosen,
        edited_layers=edited_layers,
        tokens=tuple(tokens),
        token_groups=tuple(groups[0]),
        edited=rows[0].edited,
        patterns=rows[0].pattern,
        seed=seed,
    )


class _Row(NamedTuple):
    """One prompt."""

    plain: Float[np.ndarray, "layer head group group"]
    change: Float[np.ndarray, "layer head group group"]
    counts: Float[np.ndarray, " group"]
    """Tokens of each of `ALL_GROUPS`."""
    edited: tuple[bool, ...]
    pattern: Float[Tensor, "layer head query key"]
    """Steered minus unsteered attention; of the first prompt alone, else without layers."""


def _compare(
    model: Bridge, sv: Steer, batch: Batch, groups: Sequence[Sequence[str]], layers: Sequence[int], keep: bool
) -> list[_Row]:
    """Attention with and without the vector, in groups; `keep` the first row's patterns."""
    names = [attention_pattern_name(layer) for layer in layers]
    steered, plain = (_patterns(record(model, batch, vectors, names).values, names, model) for vectors in (sv, None))
    if not bool(torch.isfinite(steered).all()):
        raise overflow("the attention is not finite", as_list(sv))
    edited = edited_tokens(as_list(sv), batch).cpu()
    rows = []
    for index, own in enumerate(groups):
        n, here = len(own), edited[index, : len(own)]
        before, change = plain[:, index, :, :n, :n], (steered - plain)[:, index, :, :n, :n]
        members = _members(own, here)
        masses, moved = (_mass(values, members).numpy() for values in (before, change))
        kept = change.clone() if keep and index == 0 else change[:0].clone()
        rows.append(_Row(masses, moved, members.sum(0).numpy(), tuple(here.tolist()), kept))
    return rows


def _patterns(values: dict[str, Tensor], names: Sequence[str], model: Bridge) -> Float[Tensor, "layer batch head query key"]:
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(
            f'{model_name(model)} does not show its attention at {missing[0]!r}: boot it with attn_implementation="eager"'
        )
    return torch.stack([values[name].float().cpu() for name in names])


def _members(groups: Sequence[str], edited: Bool[Tensor, " pos"]) -> Float[Tensor, "pos group"]:
    """1 where a token belongs to one of `ALL_GROUPS`."""
    own = torch.tensor([[name == group for group in GROUPS] for name in groups])
    return torch.cat([own, edited[:, None], own & edited[:, None]], 1).double()


def _mass(
    pattern: Float[Tensor, "layer head query key"], members: Float[Tensor, "key group"]
) -> Float[Tensor, "layer head group group"]:
    """Sum over the keys of a group, mean over the queries of a group; NaN without queries."""
    queries = members / members.sum(0)
    return einsum(pattern.double(), queries, members, "l h query key, query q, key k -> l h q k")


def _present(counts: Float[np.ndarray, " group"]) -> tuple[list[int], dict[str, float]]:
    """Indices in `ALL_GROUPS` of what there is and says something of its own, and the share of each group that is edited."""
    n = len(GROUPS)
    inside, edited = counts[:n], counts[n + 1 :]
    part = (edited > 0) & (edited < inside)
    part_of_all = 0 < counts[n] < inside.sum()
    kept = np.concatenate([inside > 0, [part_of_all], part])
    shares = {group: float(edited[index] / inside[index]) for index, group in enumerate(GROUPS) if inside[index]}
    return np.flatnonzero(kept).tolist(), shares


def _chosen(model: Bridge, layers: Sequence[int] | None, edited: int) -> tuple[int, ...]:
    """The blocks to look at."""
    if layers is None:
        last = n_layers(model) - 1
        if edited == last:
            raise ValueError(f"the edited block {edited} is the last: no attention comes after it")
        return tuple(range(edited + 1, min(edited + LAYERS_ABOVE, last) + 1))
    for layer in layers:
        check_layer(model, layer)
    if not layers:
        raise ValueError("layers is empty: name at least one block")
    return tuple(dict.fromkeys(map(operator.index, layers)))


def _intervals(
    values: Float[np.ndarray, "prompt layer head group group"], seed: int
) -> tuple[Float[np.ndarray, "layer head group group"], Float[np.ndarray, "layer head group group"]]:
    """Bootstrap of the mean over prompts of every cell, the same draws for all; NaN from one prompt."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    n = len(values)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)
    bounds = []
    for layer in range(values.shape[1]):  # one at a time: there are many draws of many cells
        top, bottom = (np.tensordot(weights, part[:, layer].astype(float), 1) for part in (filled, known))
        draws = np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
        single = known[:, layer].sum(0) < 2
        draws[:, single] = 0.0
        found = np.nanquantile(draws, tails(n), axis=0) if n > 1 else np.full((2, *draws.shape[1:]), np.nan)
        found[:, single] = np.nan
        bounds.append(found)
    low, high = np.stack(bounds, 1)
    return low, high
