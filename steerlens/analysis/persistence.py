"""How long a push lasts: the effects of a vector at each token of the response, from the end of the prompt on.

A prompt-only vector edits nothing while the response is decoded; what is left of it reaches each token through attention. A
vector of all positions renews its push at every token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..arguments import checked_call
from ..data import Prompt
from ..intervals import Estimate, estimate
from ..model.batches import EncodedExample
from ..model.bridge import Bridge, attention_pattern_name, hook_name, n_layers
from ..model.tokenizer import token_strings
from ..positions import token_index
from ..result import Result
from ..steering.generation import as_prompts
from ..steering.hooks import check_fits
from ..steering.recording import Recording, batches, divergence, encode, record
from ..vector import SteeringVector
from .tokens import check_finite, cosine, edited_tokens
from .vector_sets import Vectors, named_vectors

if TYPE_CHECKING:
    import plotly.graph_objects as go

MEASURES = (
    "kl",
    "change_edited_layer",
    "change_last_layer",
    "relative_last_layer",
    "cosine_edited_layer",
    "cosine_last_layer",
    "attention_steered",
    "attention_plain",
)
"""Columns of the frames; see `Drift.to_frame`."""
SHORTEST = 6
"""Response tokens that a prompt needs for its early and late third to be compared."""


@dataclass(frozen=True, repr=False)
class Drift(Result):
    """Effects of one or several vectors by decoding step."""

    frame: pd.DataFrame
    """One row per vector and step: see `to_frame`."""
    tokens: pd.DataFrame
    """One row per vector, prompt and step: token (text), edited, and the measures themselves."""
    lasting: pd.DataFrame
    """One row per vector: late_to_early_kl and late_to_early_change (relative change after the last block), each the mean over
    the last third of the response's steps by that over the first third, with their 95 % intervals over prompts (_low, _high),
    and n_prompts: those with enough response tokens (`SHORTEST`) to compare. Near 1: the push lasts."""
    on: str
    """Whose greedy responses the steps are: "steered" (each vector's own) or "unsteered"."""

    def to_frame(self) -> pd.DataFrame:
        """One row per vector and step.

        Columns: vector (name); step (0 = the prompt's last token, where the first response token is predicted; k = the k-th
        response token); n_prompts (prompts that still have a token there, the only ones in the mean); and means over prompts
        of what happens AT that token, each with its 95 % bootstrap interval (_low, _high; NaN for one prompt):
        kl = KL(p_steered || p_plain) of its next-token prediction (nats); change_edited_layer and change_last_layer (norm of
        the residual's change after these blocks, in residual units); relative_last_layer (to the unsteered residual's norm);
        cosine_edited_layer and cosine_last_layer (of the change to `sv.vector`, NaN where nothing changed);
        attention_steered and attention_plain (share of its attention, 0 to 1, that goes to edited tokens: mean over heads and
        the layers after the edited one, with the vector and without; NaN if there is no such layer).

        At the edited layer only edited tokens change, so change_edited_layer of a prompt-only vector is exactly 0 from step 1.
        """
        return self.frame.copy()

    def plot(self) -> "go.Figure":
        """KL, relative change, cosine and attention by step, a colour per vector."""
        from ..figures.tokens import plot_drift

        return plot_drift(self.frame, self.on)

    def summary(self) -> str:
        """For each vector, how much of its early effect is left late in the response."""
        return " ".join(self._sentence(row) for row in self.lasting.to_dict(orient="records"))

    def _sentence(self, row: dict[Any, Any]) -> str:
        if row["n_prompts"] == 0:
            return f"{row['vector']}: no response has {SHORTEST} tokens, too few to compare early with late."
        kl, change = (_of(row, f"late_to_early_{name}") for name in ("kl", "change"))
        if np.isnan(kl.value):
            return f"{row['vector']}: nothing changes early in the response, so nothing can last."
        return (
            f"{row['vector']}: from the first to the last third of the {self.on} responses KL changes by a factor of {kl} and "
            f"the relative change after the last block by {change}, over {row['n_prompts']} prompt(s)."
        )


@checked_call
def drift(
    model: Bridge,
    sv: Vectors,
    prompts: Prompt | Sequence[Prompt],
    *,
    on: Literal["steered", "unsteered"] = "steered",
    max_new_tokens: int = 64,
    chat: bool = True,
    batch_size: int = 8,
    seed: int = 0,
) -> Drift:
    """Follow a vector's effects over the steps of a response that stands still.

    Args:
        sv: one vector, or several to compare, in a list or by name.
        prompts: texts or conversations.
        on: whose greedy responses are followed. "steered": each vector's own, what happens in use; vectors then differ in
            their texts too. "unsteered": the same text for all.
        max_new_tokens: length limit of the responses.
        chat: put prompts into the model's chat template.
        batch_size: prompts per forward pass.
        seed: of the bootstrap over prompts.

    Raises:
        TypeError: not a SteeringVector, or a mapping to something else.
        ValueError: no vector, one that does not fit, settings out of range, no response with a token, a context that is too
            short, or a steered model that overflows.
    """
    named = named_vectors(sv, zero=True, reft=True)
    for vector in named.values():
        check_fits(model, vector)
    if on not in ("steered", "unsteered"):
        raise ValueError(f'on is {on!r}; use "steered" or "unsteered"')
    listed = as_prompts(prompts)
    settings: Any = {"max_new_tokens": max_new_tokens, "chat": chat, "batch_size": batch_size}
    shared = encode(model, listed, None, **settings) if on == "unsteered" else None
    parts = []
    for name, vector in named.items():
        examples = encode(model, listed, None, sv=vector, **settings) if shared is None else shared
        if not any(example.response for example in examples):
            raise ValueError(f"{name}: no response has a token, so there are no steps to follow: give other prompts")
        parts.append(_follow(model, vector, examples, batch_size).assign(vector=name))
    tokens = pd.concat(parts, ignore_index=True)
    tokens.insert(0, "vector", tokens.pop("vector"))
    return Drift(_by_step(tokens, seed), tokens, _lasting(tokens, seed), on)


def _follow(model: Bridge, sv: SteeringVector, examples: Sequence[EncodedExample], batch_size: int) -> pd.DataFrame:
    """The measures at each prompt's last token and response tokens; prompts without a response are left out."""
    streams, patterns = _hook_points(model, sv)
    parts, first = [], 0
    for batch in batches(model, examples, batch_size):
        steered, plain = (record(model, batch, vector, [*streams, *patterns]) for vector in (sv, None))
        edited = edited_tokens([sv], batch)
        columns = dict(zip(MEASURES, _measures(steered, plain, sv, edited, streams, patterns), strict=True))
        check_finite(columns["kl"][batch.token_mask], [sv])
        lengths = batch.prompt_mask.sum(-1, keepdim=True)
        step = token_index(batch.token_mask) - (lengths - 1)
        where = batch.token_mask & (step >= 0) & batch.response_mask.any(-1, keepdim=True)
        rows = where.nonzero()[:, 0] + first
        index = {
            "prompt": rows.tolist(),
            "step": step[where].tolist(),
            "token": token_strings(model, batch.tokens[where].tolist()),
        }
        values = {name: value[where].tolist() for name, value in columns.items()}
        parts.append(pd.DataFrame(index | {"edited": edited[where].tolist()} | values))
        first += len(batch.tokens)
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def _hook_points(model: Bridge, sv: SteeringVector) -> tuple[list[str], list[str]]:
    """Residual streams after the edited and the last block, and the attention of the layers between."""
    later = range(sv.layer + 1, n_layers(model))
    return [hook_name(sv.layer), hook_name(n_layers(model) - 1)], [attention_pattern_name(layer) for layer in later]


def _measures(
    steered: Recording,
    plain: Recording,
    sv: SteeringVector,
    edited: Bool[Tensor, "batch pos"],
    streams: Sequence[str],
    patterns: Sequence[str],
) -> Iterator[Float[Tensor, "batch pos"]]:
    """In the order of `MEASURES`."""
    yield divergence(steered.logits, plain.logits).clamp(min=0)  # rounding can end just below 0
    before = [plain.values[name].float() for name in streams]
    changes = [steered.values[name].float() - was for name, was in zip(streams, before, strict=True)]
    yield from (change.norm(dim=-1) for change in changes)
    yield changes[1].norm(dim=-1) / before[1].norm(dim=-1)
    yield from (cosine(change, sv.vector) for change in changes)
    for recording in (steered, plain):
        masses = [_mass(recording.values[name], edited) for name in patterns]
        yield torch.stack(masses).mean(0) if masses else torch.full(edited.shape, torch.nan)


def _mass(pattern: Float[Tensor, "batch head query key"], edited: Bool[Tensor, "batch key"]) -> Float[Tensor, "batch query"]:
    """Attention to edited tokens, mean over heads."""
    return (pattern.float() * edited.to(pattern.device)[:, None, None]).sum(-1).mean(1)


# --- over prompts -------------------------------------------------------------------------------------------------------


def _by_step(tokens: pd.DataFrame, seed: int) -> pd.DataFrame:
    rows = []
    for (name, step), part in tokens.groupby(["vector", "step"], sort=False):
        row: dict[str, Any] = {"vector": name, "step": step, "n_prompts": len(part)}
        for measure in MEASURES:
            row |= estimate(part[measure].dropna().to_numpy(float), seed=seed).columns(measure)
        rows.append(row)
    order = {name: number for number, name in enumerate(dict.fromkeys(tokens["vector"]))}
    frame = pd.DataFrame(rows)
    return frame.sort_values(["vector", "step"], key=lambda c: c.map(order) if c.name == "vector" else c, ignore_index=True)


def _lasting(tokens: pd.DataFrame, seed: int) -> pd.DataFrame:
    rows = []
    for name, mine in tokens[tokens["step"] > 0].groupby("vector", sort=False):
        thirds = [(part, len(part) // 3) for _, part in mine.groupby("prompt") if len(part) >= SHORTEST]
        row: dict[str, Any] = {"vector": name, "n_prompts": len(thirds)}
        for short, measure in (("kl", "kl"), ("change", "relative_last_layer")):
            early, late = (
                np.array([part[measure].to_numpy(float)[cut].mean() for part, cut in _cut(thirds, end)])
                for end in ("early", "late")
            )
            row |= estimate(late, early if len(early) else 1.0, seed).columns(f"late_to_early_{short}")
        rows.append(row)
    return pd.DataFrame(rows)


def _cut(thirds: Sequence[tuple[pd.DataFrame, int]], end: str) -> list[tuple[pd.DataFrame, slice]]:
    return [(part, slice(size) if end == "early" else slice(-size, None)) for part, size in thirds]


def _of(row: dict[Any, Any], name: str) -> Estimate:
    return Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"])
