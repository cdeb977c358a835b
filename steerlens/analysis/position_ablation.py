"""Which edited tokens carry a vector's effect: each slot left out, and each slot edited alone.

A slot is a place that the vector edits: `p1` the prompt's first token, `p2` the second, `s1` its last, `s2` the one before, or
a group of tokens such as "instruction" (see `token_groups.GROUPS`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..arguments import checked_call
from ..data import Prompt
from ..intervals import Estimate, estimate
from ..model.batches import Batch, EncodedExample
from ..model.bridge import Bridge
from ..model.tokenizer import token_strings
from ..positions import PositionFunction, PositionSpec, parse_positions, token_index
from ..result import Result
from ..steering.generation import as_prompts
from ..steering.hooks import check_fits
from ..steering.recording import batches, check_effect, divergence, encode, noise, record
from ..vector import SteeringVector
from .token_groups import GROUPS, token_groups
from .tokens import check_finite

if TYPE_CHECKING:
    import plotly.graph_objects as go

MODES = ("left out", "alone")
"""The vector without this slot, compared with the whole vector; this slot by itself, compared with no vector."""


@dataclass(frozen=True, repr=False)
class PositionEffects(Result):
    """How much of a vector's effect on the response hangs on each slot, over prompts."""

    frame: pd.DataFrame
    """One row per slot and mode: see `to_frame`."""
    by_prompt: pd.DataFrame
    """One row per slot, mode and prompt: n_edited, kl and logprob (sums over the prompt's response tokens, nats), n_tokens."""
    kl: Estimate
    """KL(p_steered || p_plain) of the whole vector, nats per response token, with its interval over prompts."""
    logprob: Estimate
    """How much the whole vector raises the response's log-probability, nats per token."""
    n_prompts: int
    """Prompts with a response to measure on."""
    n_tokens: int
    """Their response tokens."""

    def to_frame(self) -> pd.DataFrame:
        """One row per slot and mode.

        Columns: slot; token (its text, missing where prompts differ); mode (see `MODES`); n_edited (edited tokens of the slot
        over all prompts); kl in nats per response token, left out KL(p_steered || p_without), alone KL(p_alone || p_plain);
        kl_share, of the whole vector's KL(p_steered || p_plain); logprob in nats per response token, left out what the
        response loses without the slot, alone what it gains by it; logprob_share, of the whole vector's gain.

        Each number has its 95 % bootstrap interval over prompts in columns _low and _high (NaN for one prompt). Shares of the
        log-probability are NaN where the whole gain is rounding or its interval holds 0. Slots act together, so shares need
        not add up to 1.
        """
        return self.frame.copy()

    def plot(self) -> "go.Figure":
        """The shares of each slot, left out and alone, with their intervals."""
        from ..figures.tokens import plot_position_effects

        return plot_position_effects(self.frame, self.kl.value, self.n_prompts, self.n_tokens)

    def summary(self) -> str:
        """The slot that matters most, in two sentences."""
        moved = f"{self.n_tokens} response tokens of {self.n_prompts} prompt(s)"
        whole = f"the whole vector moves {moved} by KL {self.kl} nats per token"
        out, alone = (self.frame[self.frame["mode"] == mode].set_index("slot") for mode in MODES)
        first, best = out["kl_share"].idxmax(), alone["kl_share"].idxmax()
        totals = [f"{table['kl_share'].sum():.2f} ({mode})" for mode, table in zip(MODES, (out, alone), strict=True)]
        return (
            f"Leaving out {first} takes away the most, {_share(out, first)} of the effect, and {best} does the most alone, "
            f"{_share(alone, best)}; {whole}. Slots act together: the shares add up to {' and '.join(totals)}, not to 1."
        )


@checked_call
def position_effects(
    model: Bridge,
    sv: SteeringVector,
    prompts: Prompt | Sequence[Prompt],
    responses: str | Sequence[str] | None = None,
    *,
    slots: Sequence[str] | None = None,
    max_new_tokens: int = 32,
    chat: bool = True,
    batch_size: int = 8,
    seed: int = 0,
) -> PositionEffects:
    """Leave each edited slot out, and edit each slot alone: what the response's predictions lose and gain.

    The responses stand still while the edits change; token counts are pooled over prompts.

    Args:
        sv: one vector.
        prompts: texts or conversations.
        responses: one text per prompt; None = the steered model's greedy responses. Prompts whose response has no tokens are
            left out.
        slots: "p1", "p2", ..., "s1", "s2", ... and groups of tokens. None = those of the vector's positions ("p2+s2": p1, p2,
            s2, s1; "prompt": the groups of the prompt). A slot that the vector does not edit has no effect, exactly.
        max_new_tokens: length limit of greedy responses.
        chat: put prompts into the model's chat template.
        batch_size: prompts per forward pass; there are two passes per slot, and four more.
        seed: of the bootstrap over prompts.

    Raises:
        TypeError: not one SteeringVector.
        ValueError: slots unknown, or not given where positions are "all", "response" or a function; a vector that does not
            fit, or whose effect is rounding in the model's dtype (see `steering.recording.NOISE`); no response token; a steered
            model that overflows; or what `token_effects` refuses.
    """
    if not isinstance(sv, SteeringVector):
        raise TypeError(f"position_effects is about one SteeringVector, got {type(sv).__name__}: give them one by one")
    check_fits(model, sv)
    named = _slots(sv.positions, slots)
    listed = as_prompts(prompts)
    encoded = encode(model, listed, responses, sv=sv, max_new_tokens=max_new_tokens, chat=chat, batch_size=batch_size)
    kept = [(prompt, example) for prompt, example in zip(listed, encoded, strict=True) if example.response]
    if not kept:
        raise ValueError("no response has a token to measure on: give responses=..., or other prompts")
    examples = [example for _, example in kept]
    groups = [token_groups(model, prompt, example, chat) for prompt, example in kept]
    if slots is None:
        named = [slot for slot in named if slot not in GROUPS or any(slot in row for row in groups)]

    def measured(slots: Sequence[str]) -> pd.DataFrame:
        parts = []
        for first, batch in zip(range(0, len(examples), batch_size), batches(model, examples, batch_size), strict=True):
            part = _measure(model, sv, batch, groups[first : first + batch_size], slots)
            parts.append(part.assign(prompt=part["prompt"] + first))
        return pd.concat(parts, ignore_index=True)

    whole = measured([])  # before the passes per slot, which would be in vain
    check_effect(model, float(whole["kl"].sum() / whole["n_tokens"].sum()))
    return _result(measured(named), named, _texts(model, sv, examples, named), noise(model), seed)


# --- slots --------------------------------------------------------------------------------------------------------------


def _slots(positions: str | PositionFunction, slots: Sequence[str] | None) -> list[str]:
    """The slots asked for, or those that the positions are made of."""
    if slots is not None:
        named = list(dict.fromkeys([slots] if isinstance(slots, str) else slots))
        for slot in named:
            if slot not in GROUPS and not re.fullmatch(r"[ps][1-9][0-9]*", slot):
                raise ValueError(f"slot {slot!r} is unknown: use p1, p2, ..., s1, s2, ... or {', '.join(GROUPS)}")
        if not named:
            raise ValueError("slots is empty: name at least one, such as p1")
        return named
    spec = PositionSpec(response=True) if callable(positions) else parse_positions(positions)
    if spec.response:
        given = "a function" if callable(positions) else repr(positions)
        raise ValueError(
            f"positions are {given}, which has no slots of its own: say what to leave out, such as "
            'slots=["bos", "instruction", "s1", "response"]'
        )
    if spec.prompt:
        return [group for group in GROUPS if group != "response"]
    return [f"p{n}" for n in range(1, spec.prefix + 1)] + [f"s{n}" for n in range(spec.suffix, 0, -1)]


def _slot_mask(
    slot: str, positions: str | PositionFunction, batch: Batch, groups: Sequence[Sequence[str]]
) -> Bool[Tensor, "batch pos"]:
    """The slot's tokens, edited or not. A token of a short prompt that could be both counts from the start, as in editing."""
    if slot in GROUPS:
        mask = torch.zeros_like(batch.token_mask)
        for row, names in enumerate(groups):
            mask[row, : len(names)] = torch.tensor([name == slot for name in names], device=mask.device)
        return mask
    spec = PositionSpec() if callable(positions) else parse_positions(positions)
    side, number = slot[0], int(slot[1:])
    index = token_index(batch.prompt_mask)
    length = batch.prompt_mask.sum(-1, keepdim=True)
    if not (spec.prefix or spec.suffix):
        return batch.prompt_mask & (index == (number - 1 if side == "p" else length - number))
    if number > (spec.prefix if side == "p" else spec.suffix):
        return torch.zeros_like(batch.token_mask)
    mask = index == number - 1 if side == "p" else (index == length - number) & (index >= spec.prefix)
    return batch.prompt_mask & mask


def _texts(
    model: Bridge, sv: SteeringVector, examples: Sequence[EncodedExample], slots: Sequence[str]
) -> dict[str, str | None]:
    """The token that stands in each slot, where it is the same in all prompts."""
    texts: dict[str, str | None] = {}
    for slot in slots:
        index = _index(slot)
        fits = index is not None and all(-len(e.prompt) <= index < len(e.prompt) for e in examples)
        ids = {example.prompt[index] for example in examples} if fits and index is not None else set()
        texts[slot] = token_strings(model, list(ids))[0] if len(ids) == 1 else None
    return texts


def _index(slot: str) -> int | None:
    """Where a slot stands in a prompt, below 0 counted from its end; None for a group of tokens."""
    if slot in GROUPS:
        return None
    number = int(slot[1:])
    return number - 1 if slot[0] == "p" else -number


# --- measuring ----------------------------------------------------------------------------------------------------------


def _measure(
    model: Bridge, sv: SteeringVector, batch: Batch, groups: Sequence[Sequence[str]], slots: Sequence[str]
) -> pd.DataFrame:
    """Sums over each prompt's response tokens: one row per slot, mode and prompt, and per prompt one of the whole vector."""
    edited = batch.edited(sv.positions)
    plain, whole = _read(model, batch, None), _read(model, batch, sv)
    parts = [_compare("", "whole", whole, plain, edited, sv, batch)]
    for slot in slots:
        mine = _slot_mask(slot, sv.positions, batch, groups) & edited
        without, alone = (_read(model, batch, sv.replace(positions=_exactly(mask))) for mask in (edited & ~mine, mine))
        parts.append(_compare(slot, "left out", whole, without, mine, sv, batch))
        parts.append(_compare(slot, "alone", alone, plain, mine, sv, batch))
    return pd.concat(parts, ignore_index=True)


def _exactly(mask: Bool[Tensor, "batch pos"]) -> PositionFunction:
    """Positions that are these tokens of this batch."""
    return lambda prompt_mask: mask.to(prompt_mask.device)


class _Predicted(NamedTuple):
    """The predictions of a batch's response tokens."""

    logits: Float[Tensor, "token d_vocab"]
    own: Float[Tensor, " token"]
    """Log-probability of the token that is there."""


def _read(model: Bridge, batch: Batch, sv: SteeringVector | None) -> _Predicted:
    where = batch.response_mask[:, 1:]
    logits = record(model, batch, sv).logits[:, :-1][where]
    targets = batch.tokens[:, 1:][where]
    return _Predicted(logits, logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0])


def _compare(
    slot: str,
    mode: str,
    more: _Predicted,
    less: _Predicted,
    edited: Bool[Tensor, "batch pos"],
    sv: SteeringVector,
    batch: Batch,
) -> pd.DataFrame:
    """What the first has that the second lacks."""
    kl = divergence(more.logits, less.logits).clamp(min=0)
    check_finite(kl, [sv])
    rows, n = batch.response_mask[:, 1:].nonzero()[:, 0], len(batch.tokens)
    sums = {"kl": kl, "logprob": more.own - less.own, "n_tokens": torch.ones_like(kl)}
    columns = {name: torch.bincount(rows, values.double(), minlength=n).tolist() for name, values in sums.items()}
    return pd.DataFrame({"slot": slot, "mode": mode, "prompt": range(n), "n_edited": edited.sum(-1).tolist()} | columns)


def _result(
    rows: pd.DataFrame, slots: Sequence[str], texts: dict[str, str | None], rounding: float, seed: int
) -> PositionEffects:
    whole = rows[rows["mode"] == "whole"]
    counts = whole["n_tokens"].to_numpy(float)
    kl, logprob = (estimate(whole[name].to_numpy(float), counts, seed) for name in ("kl", "logprob"))
    has_share = {"kl": True, "logprob": not logprob.low <= 0 <= logprob.high and abs(logprob.value) > rounding}
    table = []
    for slot in slots:
        for mode in MODES:
            mine = rows[(rows["slot"] == slot) & (rows["mode"] == mode)]
            row = {"slot": slot, "token": texts[slot], "mode": mode, "n_edited": int(mine["n_edited"].sum())}
            for name, shared in has_share.items():
                sums, of = mine[name].to_numpy(float), whole[name].to_numpy(float)
                row |= estimate(sums, counts, seed).columns(name)
                row |= estimate(sums, of if shared else np.full(len(of), np.nan), seed).columns(f"{name}_share")
            table.append(row)
    parts = rows[rows["mode"] != "whole"].reset_index(drop=True)
    return PositionEffects(pd.DataFrame(table), parts, kl, logprob, len(whole), int(counts.sum()))


def _share(table: pd.DataFrame, slot: Any) -> str:
    row = table.loc[slot]
    return str(Estimate(float(row["kl_share"]), float(row["kl_share_low"]), float(row["kl_share_high"])))
