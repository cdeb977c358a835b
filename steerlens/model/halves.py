"""A plain pass in pieces: up to a block, on from there, and from the last block's states to logits.

The pieces are the architecture's own code with a module's forward out of the way: blocks below hand on what they are given, the
base model hands out states that are known. Everything else (masks, rotary embeddings, soft caps, scales of the logits) is run
as it stands. Whether the pieces give the whole is tried on a short batch before they are used.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .bridge import Bridge, device, hook_name, n_layers
from .frozen import exclusive, frozen, owned
from .plain import Structure, hooked, probe_edit, relative, rounding, structure, why_hooked
from .support import forward_parameters

CHUNK = {"cpu": 2**24, "other": 2**27}
"""Logits that exist at a time, by kind of device."""
_tried: "weakref.WeakKeyDictionary[Structure, dict[int, str | None]]" = weakref.WeakKeyDictionary()
"""structure of a model -> layer -> why its passes cannot be taken to pieces there, or None."""
_lengths: "weakref.WeakKeyDictionary[Structure, list[int]]" = weakref.WeakKeyDictionary()
"""structure of a model -> what each block returns: 0 = a tensor, n = a tuple of n."""


class _Reached(Exception):
    """The block has run, and nothing after it is wanted."""


def why_whole(model: Bridge, layer: int) -> str | None:
    """The reason why a pass cannot be taken to pieces at this layer, or None."""
    with exclusive(model):
        if (reason := why_hooked(model)) is not None:
            return reason
        known = _tried.setdefault(structure(model), {})
        if layer not in known:
            known[layer] = _try(model, layer)
        return known[layer]


def residual_after(
    model: Bridge, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"], layer: int
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream after a block, without running what comes behind it. For plain passes."""
    kept: list[Tensor] = []

    def stop(hidden: Tensor, hook: Any) -> None:
        kept.append(hidden)
        raise _Reached

    with exclusive(model), hooked(model, [(hook_name(layer), stop)]):
        try:
            model(tokens, attention_mask=mask, use_cache=False)
        except _Reached:
            return kept[0]
    raise AssertionError(f"block {layer} was not reached")


@contextmanager
def from_residual(model: Bridge, layer: int, residual: Float[Tensor, "batch pos d_model"]) -> Iterator[None]:
    """Plain passes begin with what block `layer` gives; hooks on its output see it."""
    found = structure(model)
    with ExitStack() as stack:
        for block, length in zip(found.blocks[: layer + 1], _lengths[found], strict=False):
            given = residual if block is found.blocks[layer] else None
            stack.enter_context(_standing_in(block, partial(_hand_on, given, length)))
        yield


def final_states(
    model: Bridge, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_model"]:
    """What the base model gives to be unembedded, after the final norm, of rows padded on the right. In plain passes."""
    kept: list[Tensor] = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        kept.append(output[0])

    with exclusive(model), hooked(model, []):
        handle = _base(model).register_forward_hook(owned(keep))
        try:
            model(tokens, attention_mask=mask, use_cache=False, logits_to_keep=1)
        finally:
            handle.remove()
    return kept[0]


def unembed(model: Bridge, states: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_vocab"]:
    """Logits of states that the base model gave, by all that the model does behind it."""
    inner, known = model.original_model, _Known(states[None])
    tokens = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
    with exclusive(model), hooked(model, []), _standing_in(_base(model), lambda *args, **kwargs: known):
        return inner(input_ids=tokens, use_cache=False).logits[0]


def token_logprobs(
    model: Bridge, states: Float[Tensor, "token d_model"], targets: Int[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """log p of each target, float32, with a gradient for the states; only `CHUNK` logits exist at a time."""
    size = max(1, CHUNK["cpu" if states.device.type == "cpu" else "other"] // int(model.cfg.d_vocab))
    return _TokenLogprobs.apply(states, targets, lambda part: unembed(model, part), size)


class _TokenLogprobs(torch.autograd.Function):
    """The derivative of each log-probability by its own state is taken with it, so that no logits are kept or made again."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, targets: Tensor, logits_of: Callable[[Tensor], Tensor], size: int) -> Tensor:
        values, slopes = [], []
        for part, wanted in zip(states.split(size), targets.split(size), strict=True):
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                leaf = part.detach().requires_grad_(ctx.needs_input_grad[0])
                value = -F.cross_entropy(logits_of(leaf).float(), wanted, reduction="none")
                if ctx.needs_input_grad[0]:
                    slopes += torch.autograd.grad(value.sum(), leaf)
            values.append(value.detach())
        ctx.save_for_backward(*slopes)
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        slopes = torch.cat(ctx.saved_tensors)
        return (upstream[0][:, None] * slopes.float()).to(slopes.dtype), None, None, None


def _base(model: Bridge) -> nn.Module:
    """The model under its language head; the model itself where Hugging Face names none."""
    inner: Any = model.original_model
    return inner.base_model


class _Known:
    """An output of the base model of which only the states are there."""

    def __init__(self, states: Tensor) -> None:
        self.last_hidden_state = states

    def __getitem__(self, index: Any) -> Any:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def _hand_on(given: Tensor | None, length: int, *args: Any, **kwargs: Any) -> Any:
    """In place of a block's forward: the states it is given, or others, as it would return them."""
    hidden = given if given is not None else args[0] if args else kwargs["hidden_states"]
    return (hidden, *[None] * (length - 1)) if length else hidden


@contextmanager
def _standing_in(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Another forward for a module."""
    object.__setattr__(module, "forward", owned(forward))
    try:
        yield
    finally:
        object.__delattr__(module, "forward")


# --- trying it --------------------------------------------------------------------------------------------------------


def _try(model: Bridge, layer: int) -> str | None:
    """Why the pieces do not give the whole, or None."""
    inner = model.original_model
    found = structure(model)
    if "logits_to_keep" not in forward_parameters(type(inner)):
        return "the model has no logits_to_keep"
    if _base(model) is inner:
        return "the model has no base model under its head"
    if any("forward" in vars(module) for module in (_base(model), *found.blocks)):
        return "another library has changed the forward of a block"
    tokens = (torch.arange(10, device=device(model)).view(2, 5) * 7 + 3) % int(model.cfg.d_vocab)
    mask = torch.ones_like(tokens)
    mask[1, 3:] = 0
    hooks = [(hook_name(above), probe_edit) for above in range(layer, n_layers(model))]
    with torch.no_grad(), frozen(model), exclusive(model), hooked(model, []):
        try:
            with hooked(model, hooks), _noting_outputs(found):
                right = model(tokens, attention_mask=mask, use_cache=False)
            residual = residual_after(model, tokens, mask, layer)
            with hooked(model, hooks), from_residual(model, layer, residual):
                states = final_states(model, tokens, mask)
            ours = unembed(model, states.flatten(0, 1)).view_as(right)
        except Exception as error:
            return f"a pass in pieces raises {type(error).__name__}: {error}"
    difference = relative(ours[mask.bool()], right[mask.bool()])
    return None if difference <= rounding(model) else f"a pass in pieces differs from a whole one (by {difference:.0e})"


@contextmanager
def _noting_outputs(found: Structure) -> Iterator[None]:
    """Note what each block returns in a pass."""
    lengths = [0] * len(found.blocks)

    def note(layer: int, _module: Any, _args: Any, output: Any) -> None:
        lengths[layer] = len(output) if isinstance(output, tuple) else 0

    handles = [block.register_forward_hook(partial(note, layer)) for layer, block in enumerate(found.blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    _lengths[found] = lengths
