"""One batch of rows to its responses: left-padded, cached, sampled on the device, finished rows leaving the batch."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..model.bridge import Bridge
from ..model.chat import Stops, response_stops
from ..model.forward import announced, forward_cached, pad
from ..model.frozen import exclusive, frozen
from ..model.numbers import NotFiniteError, not_numbers
from ..model.plain import why_hooked
from ..model.support import keeps_cache
from .hooks import Edit, Recorder, apply_edits, rows_of

LEAVE = 0.25
"""Finished rows leave the batch when they are this part of it."""


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of a batch that are still generated, and where they stand."""

    index: Int[Tensor, " running"]
    """Each row's place in the batch."""
    lengths: Int[Tensor, " running"]
    """Tokens of its prompt; on the CPU."""
    uniform: Float[Tensor, "running step"]
    tokens: Int[Tensor, "running pos"]
    mask: Int[Tensor, "running pos"]
    alive: Bool[Tensor, " running"]
    edits: tuple[Edit, ...]
    cache: Any = None

    def new(self) -> Int[Tensor, "running new"]:
        """What the next pass takes: the last token, or everything where nothing is cached."""
        return self.tokens if self.cache is None else self.tokens[:, -1:]

    def after(self, chosen: Int[Tensor, " running"], alive: Bool[Tensor, " running"], cache: Any) -> "_Rows":
        """One token later."""
        tokens = torch.cat([self.tokens, chosen[:, None]], dim=1)
        mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        return replace(self, tokens=tokens, mask=mask, alive=alive, cache=cache)

    def left(self) -> "_Rows":
        """Without those that have ended."""
        kept = self.alive.nonzero()[:, 0]
        if self.cache is not None:
            self.cache.batch_select_indices(kept)
        return _Rows(
            self.index[kept],
            self.lengths[kept.cpu()],
            self.uniform[kept],
            self.tokens[kept],
            self.mask[kept],
            self.alive[kept],
            tuple(rows_of(edit, kept) for edit in self.edits),
            self.cache,
        )


class _Ends(NamedTuple):
    """`Stops` on the device."""

    tokens: Int[Tensor, " stop"]
    sequences: list[Int[Tensor, " n"]]


def _ends(stops: Stops | Collection[int], device: torch.device) -> _Ends:
    known = stops if isinstance(stops, Stops) else Stops(frozenset(stops))
    single = torch.tensor(sorted(known.tokens), dtype=torch.long, device=device)
    return _Ends(single, [torch.tensor(ids, device=device) for ids in known.sequences])


def _completed(tokens: Int[Tensor, "running pos"], n_new: int, ends: _Ends) -> Bool[Tensor, " running"]:
    """Rows of whose new tokens the last ones are a sequence that ends a response."""
    done = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    for ids in ends.sequences:
        if len(ids) <= n_new:
            done |= (tokens[:, -len(ids) :] == ids).all(-1)
    return done


def _without_end(response: list[int], ends: _Ends) -> list[int]:
    """A response without the longest sequence that ended it."""
    for ids in ends.sequences:
        if response[-len(ids) :] == ids.tolist():
            return response[: -len(ids)]
    return response


def decode(
    model: Bridge,
    rows: Sequence[Sequence[int]],
    edits: Sequence[Edit],
    generators: Sequence[torch.Generator | None],
    max_new_tokens: int,
    temperature: int | float,
    *,
    stops: Stops | Collection[int] | None = None,
    use_cache: bool = True,
    record: Recorder | None = None,
) -> list[list[int]]:
    """Token ids of the responses to one batch of rows, without what ended them (`stops`; None = the model's own).

    A sampled token is where the row's own next uniform number falls in the cumulated probabilities, so that a row's text does
    not depend on the rows beside it.

    Raises:
        NotFiniteError: logits of a row that has not ended are not numbers.
    """
    tokens, mask = pad(model, rows, "left")
    ends = _ends(response_stops(model) if stops is None else stops, tokens.device)
    cached = use_cache and keeps_cache(model)
    running = _Rows(
        torch.arange(len(rows), device=tokens.device),
        torch.tensor([len(row) for row in rows]),
        _uniform(generators, max_new_tokens, temperature, tokens.device),
        tokens,
        mask,
        torch.ones(len(rows), dtype=torch.bool, device=tokens.device),
        tuple(edits),
    )
    produced: list[tuple[Tensor, Tensor]] = []
    with exclusive(model), torch.no_grad(), frozen(model):
        may_leave = record is None and why_hooked(model) is None  # nobody else counts the rows of a pass
        while bool(running.alive.any()) and len(produced) < max_new_tokens:
            if produced:
                running = running.left()
            with announced(model, running.lengths), apply_edits(model, running.edits, None, record):
                running = _advance(model, running, produced, ends, temperature, cached, may_leave)
    return [_without_end(response, ends) for response in _by_row(produced, len(rows))]


def _advance(
    model: Bridge,
    rows: _Rows,
    produced: list[tuple[Tensor, Tensor]],
    ends: _Ends,
    temperature: int | float,
    cached: bool,
    may_leave: bool,
) -> _Rows:
    """Token after token, each appended to `produced` with its row, until all have ended or enough of them shall leave.

    Raises:
        NotFiniteError: logits of a row that has not ended are not numbers.
    """
    for step in range(len(produced), rows.uniform.shape[1]):
        logits, cache = forward_cached(model, rows.new(), rows.mask, rows.cache)
        if temperature == 0:
            best, chosen = logits.max(-1)
            bad = ~torch.isfinite(best) & rows.alive
        else:
            bad = not_numbers(logits) & rows.alive
            chosen = _draw(logits, rows.uniform[:, step], temperature)
        rows = rows.after(chosen, rows.alive & ~torch.isin(chosen, ends.tokens), cache if cached else None)
        goes_on = rows.alive if not ends.sequences else rows.alive & ~_completed(rows.tokens, step + 1, ends)
        n_bad, n_alive = torch.stack([bad.sum(), goes_on.sum()]).tolist()
        if n_bad:
            raise NotFiniteError(_overflow(step, int(rows.index[bad.nonzero()[0, 0]]), rows.edits, model))
        produced.append((rows.index, torch.where(rows.alive, chosen, -1)))
        rows = replace(rows, alive=goes_on)
        enough = len(rows.alive) - n_alive >= LEAVE * len(rows.alive)
        if not n_alive or (may_leave and enough and _selectable(rows.cache)):
            break
    return rows


def _uniform(
    generators: Sequence[torch.Generator | None], n: int, temperature: int | float, device: torch.device
) -> Float[Tensor, "row step"]:
    """Numbers from [0, 1) of each row's own generator, one per token; 0 where the most likely token is taken."""
    if temperature == 0:
        return torch.zeros(len(generators), n, device=device)
    drawn = torch.stack([torch.rand(n, generator=own, dtype=torch.float64) for own in generators])
    return (drawn.float() if device.type == "mps" else drawn).to(device)  # Apple's devices have no float64


def _draw(
    logits: Float[Tensor, "batch d_vocab"], uniform: Float[Tensor, " batch"], temperature: int | float
) -> Int[Tensor, " batch"]:
    """The next token of each row: the one in which its number falls among the cumulated probabilities."""
    sums = (logits.float() / temperature).softmax(-1).cumsum(-1, dtype=uniform.dtype)
    return torch.searchsorted(sums, uniform[:, None] * sums[:, -1:], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def _selectable(cache: Any) -> bool:
    """Whether rows can be taken out of a cache: those of keys and values, row by row."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    return cache is None or all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def _by_row(produced: Sequence[tuple[Tensor, Tensor]], n: int) -> list[list[int]]:
    """Tokens of each row of the batch, from those of each step (-1 once a row has ended)."""
    responses: list[list[int]] = [[] for _ in range(n)]
    for index, chosen in produced:
        for row, token in zip(index.tolist(), chosen.tolist(), strict=True):
            if token >= 0:
                responses[row].append(token)
    return responses


def _overflow(step: int, row: int, edits: Sequence[Edit], model: Bridge) -> str:
    where = ", ".join(map(str, sorted({edit.layer for edit in edits})))
    cause = f"the edit after layer {where} is too large for" if edits else "the model overflows"
    kind = str(model.cfg.dtype).removeprefix("torch.")
    remedy = "lower the factor, or load the model in bfloat16 or float32" if edits else "load it in bfloat16 or float32"
    return f"logits that are not numbers at token {step} of row {row} of the batch: {cause} {kind}: {remedy}"
