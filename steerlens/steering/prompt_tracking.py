"""Which tokens of a forward pass are prompt and which are response: prefill told from decoding, row by row.

The rule. In order:

1. steerlens's own running pass says how long each prompt is, or the caller of `steer` does (`prompt_lengths`).
2. A pass with nothing cached begins new sequences: all its real tokens are prompt. But it goes on with the sequences before it
   if it is one token longer and in the same call of `generate`; outside of one, a pass with a row that begins with all tokens
   of a row before it is refused, since it may be a loop without a cache or another prompt (`steering/seen_rows.py`).
3. A pass with a cache decodes, if the cache is the one the last pass left, of the same rows and length, in the same call, and
   the pass adds one token. Everything else is refused: pieces of a prompt, a cache from elsewhere, several tokens at once.
4. A pass in another thread or task than that of its `steer` block is refused.

The class of the cache does not matter, as long as it tells how many tokens it holds; a model whose state does not tell is
refused when it is first asked to generate with it (`model/support.py`).
"""

import weakref
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..model.bridge import Bridge, model_name
from ..model.forward import announced_lengths
from ..model.frozen import SteeringError, running
from ..model.support import check_rotary_pass
from ..positions import PositionFunction, edits_response, position_mask, prompt_tokens, token_index
from .forward_inputs import PassInput, chunked, enclosing_generation, padding_without_mask, unfinished
from .seen_rows import SeenRows, rows_of_pass


class PassTracker:
    """Follows the forward passes of one `steer` context and answers, for the current one, which tokens to edit.

    Args:
        prompt_lengths: tokens of each row's prompt, padding not counted; None = the whole first pass of a sequence.
    """

    def __init__(self, model: Bridge, prompt_lengths: Sequence[int] | None = None) -> None:
        self._model = model
        if any(isinstance(n, bool) or int(n) != n for n in prompt_lengths or ()):
            raise ValueError(f"prompt_lengths {list(prompt_lengths or ())} must be whole numbers of tokens")
        self._given = None if prompt_lengths is None else torch.tensor([int(n) for n in prompt_lengths])
        if self._given is not None and (not len(self._given) or bool((self._given < 1).any())):
            raise ValueError(f"prompt_lengths {list(prompt_lengths or ())} must be at least 1 each, one per row")
        self._lengths: Int[Tensor, " batch"] | None = None  # of the sequences now being generated
        self._total = 0  # tokens (with padding) in the last pass and its cache
        self._cache: weakref.ref[Any] | None = None
        self._generation: FrameType | None = None  # frame of the generate call that the sequences belong to
        self._seen = SeenRows()  # of passes that began with nothing cached, outside generations
        self._owner = running()
        self._masks: dict[Any, Bool[Tensor, "batch length"]] = {}
        self.current: PassInput | None = None
        self.phase = "prefill"

    def begin(self, given: PassInput) -> None:
        """Take in the next pass.

        Raises:
            SteeringError: the pass continues a cache of unknown origin, or runs in another thread or task than the block.
            ValueError: the prompt lengths do not fit its rows, or padding cannot be told.
            UnsupportedModelError: rotary embeddings would depend on the rows beside, or on when keys were cached.
        """
        self._masks = {}
        if running() != self._owner:
            raise SteeringError(
                f"a pass of {model_name(self._model)} runs in another thread or task than the steering block that is open on "
                "it: enter the block in that thread, or load a model for each"
            )
        if given.token_mask is None:
            given = given._replace(token_mask=self._assume_mask(given))
        assert given.token_mask is not None
        check_rotary_pass(self._model, given.token_mask, given.past)
        if (known := self._known_lengths()) is not None:
            self._lengths = self._check_lengths(given, given.token_mask, known)
        elif given.past == 0:
            self._begin_sequence(given, given.token_mask)
        else:
            self._check_continuation(given)
        self._total = given.past + given.length
        self._cache = None if given.cache is None else weakref.ref(given.cache)
        first_new = given.token_mask.sum(-1).to("cpu") - given.token_mask[:, given.past :].sum(-1).to("cpu")
        assert self._lengths is not None
        self.phase = "decode" if bool((first_new >= self._lengths).all()) else "prefill"
        self.current = given

    def end(self, cache: Any, finished: bool = True) -> None:
        """The pass is over, however it ended; the cache it returned is the one that may be continued."""
        self.current = None
        if cache is not None:
            self._cache = weakref.ref(cache)

    def check_finished(self) -> None:
        """Raise SteeringError at the end of a block in which a stream was begun that is still being read."""
        if unfinished(self._generation):
            raise SteeringError(
                "a stream begun in this steering block is not read to its end, and the rest of it would not be steered: "
                "read it inside the block, or close() it"
            )

    def edited(self, positions: str | PositionFunction) -> Bool[Tensor, "batch length"] | None:
        """Mask of the pass's tokens that these positions edit; None = certainly none of them.

        Raises:
            SteeringError: called outside a pass of the model.
        """
        given = self.current
        if given is None:
            raise SteeringError("a block of the model ran outside a forward pass of the model itself: call the model")
        if self.phase == "decode" and not edits_response(positions):
            return None
        if positions not in self._masks:
            assert given.token_mask is not None and self._lengths is not None
            tokens = given.token_mask
            prompt = prompt_tokens(tokens, self._lengths)
            self._masks[positions] = position_mask(positions, prompt, tokens)[:, given.past :]
        return self._masks[positions]

    def token_phase(self, row: int, index: int) -> str:
        """Whether a token of a row's sequence is prompt ("prefill") or response ("decode"), with a cache or without."""
        assert self._lengths is not None
        return "prefill" if index < int(self._lengths[row]) else "decode"

    def token_index(self) -> Int[Tensor, "batch length"]:
        """Index of each token of the current pass in its row's sequence, padding not counted (-1 at padding)."""
        assert self.current is not None and self.current.token_mask is not None
        return token_index(self.current.token_mask)[:, self.current.past :]

    def _known_lengths(self) -> Int[Tensor, " batch"] | None:
        """What steerlens's own running pass says, else what the caller of `steer` said."""
        known = announced_lengths(self._model)
        return self._given if known is None else known

    def _assume_mask(self, given: PassInput) -> Bool[Tensor, "batch total"]:
        if given.past == 0 and given.tokens is not None:
            return padding_without_mask(self._model, given.tokens, self._known_lengths() is not None)
        device = None if given.tokens is None else given.tokens.device
        return torch.ones(given.batch, given.past + given.length, dtype=torch.bool, device=device)

    def _begin_sequence(self, given: PassInput, tokens: Bool[Tensor, "batch total"]) -> None:
        """A pass without anything cached: a new prompt, unless the same uncached generation goes on."""
        generation = enclosing_generation(self._model)
        if chunked(generation):
            raise SteeringError("prefill_chunk_size feeds the prompt in pieces, so its end cannot be told: leave it out")
        goes_on = generation is not None and generation is self._generation and given.length == self._total + 1
        if generation is None:
            rows = rows_of_pass(given, tokens)
            if self._seen.goes_on(rows):
                raise SteeringError(
                    "a row of this pass begins with all tokens of a row before it, as the next step of a loop does: it "
                    "cannot be told from another prompt; pass prompt_lengths to steer, or open a block for each"
                )
            self._seen.add(rows)
        self._generation = generation
        if not (goes_on and self._lengths is not None and len(self._lengths) == given.batch):
            self._lengths = tokens.sum(-1).to("cpu")

    def _check_continuation(self, given: PassInput) -> None:
        """Tokens after a cache: the next decoding step of the sequences that were begun here, or refused."""
        same_call = enclosing_generation(self._model) is self._generation
        seen = self._cache() if self._cache is not None else None
        known = self._lengths is not None and len(self._lengths) == given.batch and given.past == self._total
        same_cache = self._cache is None or seen is given.cache
        if not (known and same_cache and same_call and given.length == 1):
            raise SteeringError(
                f"this pass adds {given.length} token(s) to a cache of {given.past} that does not continue the generation "
                "begun in this steer context, so the prompt's end is unknown: pass prompt_lengths, or start without a cache"
            )

    def _check_lengths(
        self, given: PassInput, tokens: Bool[Tensor, "batch total"], lengths: Int[Tensor, " rows"]
    ) -> Int[Tensor, " batch"]:
        if len(lengths) != given.batch:
            raise ValueError(f"prompt_lengths has {len(lengths)} entries, the pass has {given.batch} rows")
        present = tokens.sum(-1).to("cpu")
        if given.past == 0 and bool((lengths > present).any()):
            row = int((lengths > present).nonzero()[0])
            raise ValueError(f"row {row}: the prompt is said to have {int(lengths[row])} tokens, the row {int(present[row])}")
        return lengths
