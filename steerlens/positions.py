"""Which tokens are edited: a specification such as "p2+s2" becomes a boolean mask.

The grammar (Bao et al. 2026, Sec. 3): `p2+s2` edits the first two and the last two tokens of the prompt,
`p4` the first four, `s1` the last one; `prompt` every prompt token, `response` every generated token, `all` both.
The letters `f` and `l` (first, last) of the released code and of pyreft mean the same as `p` and `s` (prefix, suffix).
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

PositionFunction = Callable[[Tensor], Tensor]
"""prompt mask (batch, pos) -> mask of the tokens to edit (batch, pos)"""

_SIDE = {"p": "prefix", "f": "prefix", "s": "suffix", "l": "suffix"}
_WORDS = ("prompt", "response", "all")
_HELP = 'use for example "p2+s2", "p4", "s1", "prompt", "response", "all", or a function of the prompt mask'


class PositionSpec(NamedTuple):
    """A parsed specification: how many prompt tokens at either end, or whole regions."""

    prefix: int = 0
    suffix: int = 0
    prompt: bool = False
    response: bool = False

    def __str__(self) -> str:
        if self.prompt and self.response:
            return "all"
        if self.prompt or self.response:
            return "prompt" if self.prompt else "response"
        sides = (("p", self.prefix), ("s", self.suffix))
        return "+".join(f"{letter}{count}" for letter, count in sides if count)


def parse_positions(spec: str) -> PositionSpec:
    """Read a specification; `str()` of the result is its canonical form ("l2+f2" -> "p2+s2").

    Raises:
        ValueError: for anything outside the grammar, a count below one, or a side named twice.
    """
    text = spec.strip().lower().replace(" ", "")
    if text in _WORDS:
        return PositionSpec(prompt=text != "response", response=text != "prompt")
    counts: dict[str, int] = {}
    for part in text.split("+"):
        match = re.fullmatch(r"([pfsl])([0-9]+)", part)
        if match is None:
            raise ValueError(f"positions {spec!r}: cannot read {part!r}; {_HELP}")
        side, count = _SIDE[match[1]], int(match[2])
        if count < 1:
            raise ValueError(f"positions {spec!r}: {part!r} edits no token; counts start at 1")
        if side in counts:
            raise ValueError(f"positions {spec!r}: the {side} is given twice")
        counts[side] = count
    return PositionSpec(counts.get("prefix", 0), counts.get("suffix", 0))


def canonical_positions(positions: str | PositionFunction) -> str | PositionFunction:
    """The canonical spelling of a specification; a function is returned as it is."""
    if callable(positions):
        return positions
    if not isinstance(positions, str):
        raise ValueError(f"positions must be text or a function, not {type(positions).__name__}; {_HELP}")
    return str(parse_positions(positions))


def token_index(mask: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Index of each masked token among those of its row, from 0; -1 at the others."""
    return (mask.long().cumsum(-1) - 1).masked_fill(~mask, -1)


def prompt_tokens(token_mask: Bool[Tensor, "batch pos"], lengths: Int[Tensor, " batch"]) -> Bool[Tensor, "batch pos"]:
    """The prompt of each row: the first `lengths` of its real tokens, wherever padding stands."""
    return token_mask & (token_index(token_mask) < lengths.to(token_mask.device)[:, None])


def position_mask(
    positions: str | PositionFunction,
    prompt_mask: Bool[Tensor, "batch pos"],
    token_mask: Bool[Tensor, "batch pos"],
) -> Bool[Tensor, "batch pos"]:
    """Which tokens of whole sequences are edited.

    Args:
        positions: a specification or a function from the prompt mask to a mask.
        prompt_mask: true at the prompt's tokens. Each row's prompt is one run of tokens; padding may stand on either side.
        token_mask: true at all real tokens (prompt and response), false at padding.

    Where a prompt is shorter than prefix + suffix, the prefix wins and the suffix shrinks, so no token is edited twice.

    Raises:
        ValueError: a function returned something that is not a boolean mask of the same shape.
    """
    if callable(positions):
        mask = positions(prompt_mask)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != prompt_mask.shape:
            raise ValueError(
                f"the positions function must return a boolean mask of shape {tuple(prompt_mask.shape)}, got "
                + (f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__)
            )
        return mask & token_mask
    spec = parse_positions(positions)
    if spec.prompt or spec.response:
        prompt = prompt_mask if spec.prompt else torch.zeros_like(prompt_mask)
        return prompt | (token_mask & ~prompt_mask) if spec.response else prompt
    index = token_index(prompt_mask)
    length = prompt_mask.sum(-1, keepdim=True)
    return prompt_mask & ((index < spec.prefix) | (index >= length - spec.suffix))


def edits_response(positions: str | PositionFunction) -> bool:
    """Whether tokens after the prompt can be edited; a function is assumed to."""
    return callable(positions) or parse_positions(positions).response
