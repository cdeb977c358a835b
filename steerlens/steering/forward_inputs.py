"""What each forward pass of a model is given: tokens, padding, cache, and the generation that it belongs to."""

import gc
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, GeneratorType
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..model.bridge import Bridge
from ..model.frozen import running
from ..model.plain import forget_rows
from ..model.support import forward_parameters

RECURRENT = ("cache_params", "state")
"""Under these names models of recurrent state alone take it."""


class PassInput(NamedTuple):
    """What a forward pass of the model was given."""

    batch: int
    length: int
    """New tokens in this pass."""
    past: int
    """Tokens already in the KV cache."""
    token_mask: Bool[Tensor, "batch total"] | None
    """Real tokens among past + length; None where the model got no mask."""
    tokens: Int[Tensor, "batch length"] | None
    """None where embeddings were given instead."""
    cache: Any
    embeddings: Float[Tensor, "batch length d_model"] | None = None
    """What was given instead of tokens."""


@contextmanager
def watch_passes(model: Bridge, begin: Callable[[PassInput], None], end: Callable[[Any, bool], None]) -> Iterator[None]:
    """Call `begin` before and `end` after every forward pass, also those of `model.generate`, also after an exception.

    `end` is given the KV cache that the pass returned, or None, and whether the pass came to its end.

    Raises (inside the pass):
        ValueError: the attention mask has a form from which padding cannot be read.
    """

    inner, owner = model.original_model, running()

    def before(_module: Any, args: tuple, kwargs: Mapping[str, Any]) -> None:
        begin(_read_pass(_by_name(inner, args, kwargs)))

    def after(_module: Any, _args: tuple, output: Any) -> None:
        if running() != owner:  # a pass of another thread that had begun before, or was refused
            return
        if output is None:
            forget_rows(model)
        end(getattr(output, "past_key_values", None), output is not None)

    handles = [inner.register_forward_pre_hook(before, with_kwargs=True)]
    try:
        handles.append(inner.register_forward_hook(after, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _by_name(inner: Any, args: tuple, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """All arguments of a pass by their names, also those that were given by position."""
    names = forward_parameters(type(inner))
    if len(args) > len(names):
        raise ValueError(f"a pass was given {len(args)} arguments by position, the model takes {len(names)}: give them by name")
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _read_pass(kwargs: Mapping[str, Any]) -> PassInput:
    tokens = kwargs.get("input_ids")
    given = tokens if tokens is not None else kwargs.get("inputs_embeds")
    if given is None:
        raise ValueError("the model was called without input_ids and inputs_embeds, so its tokens cannot be told")
    if any(kwargs.get(name) is not None for name in RECURRENT):
        raise ValueError(
            "the model was given a recurrent state, which does not tell how many tokens it has seen: generate with "
            "steerlens.generate(..., use_cache=False), or without a state"
        )
    batch, length = given.shape[:2]
    cache = kwargs.get("past_key_values")
    past = 0 if cache is None else int(cache.get_seq_length())
    mask = kwargs.get("attention_mask")
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape != (batch, past + length):
            raise ValueError(_unreadable(mask, cache, (batch, past + length)))
        mask = mask.bool()
    return PassInput(batch, length, past, mask, tokens, cache, given if tokens is None else None)


def _unreadable(mask: Any, cache: Any, wanted: tuple[int, int]) -> str:
    """Why padding is not read from a mask, and what to do."""
    shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
    text = f"the attention mask is {shape}; steering reads the padding from a mask of shape (batch, all tokens) = {wanted}"
    if cache is None or not getattr(cache, "is_compileable", False):
        return text
    kind = type(cache).__name__
    return (
        f"the model was given a {kind}, for which transformers makes masks that steering does not read: generate with a "
        f"dynamic cache (leave cache_implementation and past_key_values out), or with steerlens.generate ({text})"
    )


def enclosing_generation(model: Bridge) -> FrameType | None:
    """The frame of the `generate` call of this model that is running now, or None.

    Without a KV cache each pass of a generation looks like a fresh prompt; the call it belongs to tells them apart.
    """
    codes = {
        method.__code__
        for owner in (type(model), type(model.original_model))
        for name in ("generate", "generate_stream", "hf_generate")
        if (method := _plain_function(getattr(owner, name, None))) is not None
    }
    frame = sys._getframe(1)
    outermost = None
    while frame is not None:
        if frame.f_code in codes:
            outermost = frame  # keep going: bridge.hf_generate calls the model's own generate
        frame = frame.f_back
    return outermost


def unfinished(generation: FrameType | None) -> bool:
    """Whether a generation is a stream that somebody still holds and has not read to its end."""
    if generation is None or not generation.f_code.co_flags & inspect.CO_GENERATOR:
        return False
    return any(type(found) is GeneratorType and found.gi_frame is generation for found in gc.get_objects())


def chunked(generation: Any) -> bool:
    """Whether a running `generate` call feeds the prompt in pieces, of which the first looks like all of it."""
    settings = None if generation is None else generation.f_locals.get("generation_config")
    return getattr(settings, "prefill_chunk_size", None) is not None


def _plain_function(method: Any) -> Any:
    """The function under decorators such as torch.no_grad, whose frame is the one that runs the loop."""
    while method is not None and hasattr(method, "__wrapped__"):
        method = method.__wrapped__
    return method if hasattr(method, "__code__") else None


def padding_without_mask(
    model: Bridge, tokens: Int[Tensor, "batch pos"], lengths_known: bool = False
) -> Bool[Tensor, "batch pos"]:
    """Real tokens of a pass that came without an attention mask.

    Padding at the end is recognised by a padding token of its own. What could be either is refused, unless the prompts'
    lengths are known, which makes padding at the end harmless.

    Raises:
        ValueError: rows begin with padding, or end with a padding token that has another meaning too.
    """
    real = torch.ones_like(tokens, dtype=torch.bool)
    tokenizer = model.tokenizer
    if tokenizer is None or tokenizer.pad_token_id is None:
        return real
    pad_id = tokenizer.pad_token_id
    is_pad = tokens == pad_id
    leading = is_pad.long().cumprod(-1).sum(-1)
    trailing = is_pad.flip(-1).long().cumprod(-1).sum(-1)
    allowed = 1 if pad_id == tokenizer.bos_token_id else 0
    if bool((leading > allowed).any()) or len(set(leading.tolist())) > 1:
        raise ValueError("rows begin with padding tokens but the model was given no attention mask: pass attention_mask")
    if pad_id not in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id):
        return ~is_pad.flip(-1).long().cumprod(-1).bool().flip(-1)
    doubtful = bool((trailing > (pad_id == tokenizer.eos_token_id)).any()) or len(set(trailing.tolist())) > 1
    if doubtful and not lengths_known:
        raise ValueError(
            f"rows end with {tokenizer.pad_token!r}, which is both padding and a token of its own, and the model was given "
            "no attention mask: pass attention_mask (or prompt_lengths to steer)"
        )
    return real
