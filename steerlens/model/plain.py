"""Plain passes: the bridge's components out of the way, PyTorch hooks where the residual stream is read or edited.

Every component of a bridge keeps the Hugging Face module that it stands for. With all of them back in their places for the
length of a block, the model is the plain Hugging Face model, as fast as it, and the bridge is as before at the end.

The rule: passes are plain unless one of these holds, and hooked (the reference) otherwise.
    1. The weights are processed (compatibility mode): the components compute with others than the modules under them.
    2. There are hooks on the model, of the user or of an open `steer` block.
    3. A hook is asked for at another point than the output of a block.
    4. The first comparison differs: edited logits of a short padded batch, at once and token by token, must be those of
       the hooked pass, to the last bit or, in float32, within `ROUNDING`. It is made once, and again when a weight changed.
"""

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .bridge import Bridge, Hooks, device, hook_name, n_layers
from .frozen import frozen, owned
from .support import keeps_cache

BRIDGE = "transformer_lens.model_bridge"
"""Where hooks come from that a bridge itself needs."""
ROUNDING = 1e-5
"""Relative to the largest logit: what float32 kernels of another order may differ by."""
PROBE = 24
"""Tokens of the first comparison's longer row."""


class Swap(NamedTuple):
    """A component of the bridge and the module it stands for."""

    siblings: dict[str, Any]
    """The modules of their parent, by name."""
    name: str
    component: nn.Module
    original: nn.Module


class Weight(NamedTuple):
    """A parameter as it was when the paths were compared."""

    siblings: dict[str, Any]
    name: str
    tensor: Tensor
    version: int

    def changed(self) -> bool:
        return self.siblings.get(self.name) is not self.tensor or _version(self.tensor) != self.version


@dataclass(frozen=True, eq=False)
class Structure:
    """What plain passes need to know of a model."""

    swaps: list[Swap]
    blocks: list[nn.Module]
    """The plain block of each layer."""
    hook_points: list[Any]
    components: list[nn.Module]
    """Where a user's PyTorch hook would be lost in a plain pass."""
    weights: list[Weight]
    forwards: list[Any]
    """What stands in the place of each module's own forward, or None."""

    def outdated(self) -> bool:
        """Whether modules, their forwards or weights are others than they were."""
        moved = (swap.siblings.get(swap.name) is not swap.component for swap in self.swaps)
        return any(moved) or any(weight.changed() for weight in self.weights) or _forwards(self.swaps) != self.forwards


class Comparison(NamedTuple):
    """What the first comparison of plain and hooked passes gave."""

    why_not: str | None
    difference: float
    """Relative to the largest logit."""


_structures: "weakref.WeakKeyDictionary[Any, Structure]" = weakref.WeakKeyDictionary()
_comparisons: "weakref.WeakKeyDictionary[Any, Comparison]" = weakref.WeakKeyDictionary()
_plain_now: "weakref.WeakSet[Any]" = weakref.WeakSet()
"""Models whose components are out of the way at the moment."""


def why_hooked(model: Bridge, hooks: Hooks = ()) -> str | None:
    """The reason why passes with these hooks must go through the bridge's own hook points, or None."""
    if model.compatibility_mode:
        return "the weights are processed (compatibility mode)"
    if other := _elsewhere(model, hooks):
        return f"a hook is asked for at {other}, which is no block's output"
    found = structure(model)
    if hook := next(filter(None, map(_foreign_hook, found.hook_points)), None):
        return f"there is a hook at {hook}"
    if kind := next(filter(None, map(_foreign_torch_hook, found.components)), None):
        return f"there is a PyTorch hook on a {kind} of the model"
    return _comparison(model, found).why_not


def _foreign_hook(point: Any) -> str | None:
    """The name of a hook point on which there is a hook that is not the bridge's own wiring."""
    if not (point._forward_hooks or point._backward_hooks):
        return None
    handles = [*point.fwd_hooks, *point.bwd_hooks]
    own = [h.is_permanent and _module_of(h.user_hook) == f"{BRIDGE}.component_setup" for h in handles]
    n_hooks = len(point._forward_hooks) + len(point._backward_hooks)
    return None if all(own) and len(handles) == n_hooks else str(point.name)


def _foreign_torch_hook(component: Any) -> str | None:
    """The kind of a component on which there is a PyTorch hook that is not the bridge's own wiring."""
    kinds = (component._forward_hooks, component._forward_pre_hooks, component._backward_hooks, component._backward_pre_hooks)
    foreign = (not _module_of(hook).startswith(BRIDGE) for hooks in kinds for hook in hooks.values())
    return type(component).__name__ if any(foreign) else None


def _module_of(function: Any) -> str:
    return getattr(function, "__module__", None) or ""


@contextmanager
def hooked(model: Bridge, hooks: Hooks, *, plainly: bool = True) -> Iterator[None]:
    """Passes in this block run with the hooks on, and plainly where the rule allows.

    The caller holds the model (`exclusive`) and runs nothing else on it inside. Blocks may be nested: an inner one takes the
    way of the outer one.

    Raises:
        RuntimeError: a hook elsewhere than on a block's output, inside plain passes.
    """
    if model in _plain_now:
        if other := _elsewhere(model, hooks):
            raise RuntimeError(f"a hook at {other} inside plain passes: it would not run")
        with _on_blocks(_structures[model], hooks):
            yield
    elif plainly and why_hooked(model, hooks) is None:
        found = structure(model)
        with _on_blocks(found, hooks), _in_place(model, found):
            yield
    else:
        with model.hooks(fwd_hooks=[(name, owned(function)) for name, function in hooks]):
            yield


def _elsewhere(model: Bridge, hooks: Hooks) -> str | None:
    """The first hook point that is no block's output."""
    known = {hook_name(layer) for layer in range(n_layers(model))}
    return next((name for name, _ in hooks if name not in known), None)


@contextmanager
def _in_place(model: Bridge, found: Structure) -> Iterator[None]:
    """The Hugging Face modules in the places of the components."""
    try:
        _plain_now.add(model)
        for swap in found.swaps:
            swap.siblings[swap.name] = swap.original
        yield
    finally:
        for swap in found.swaps:
            swap.siblings[swap.name] = swap.component
        _plain_now.discard(model)
        forget_rows(model)


def forget_rows(model: Bridge) -> None:
    """After a pass that came to no end, or that the bridge's own embedding did not see: TransformerLens has noted its number of
    rows for the learned position embedding, which would give the next pass of `original_model` as many."""
    embedding = getattr(model, "pos_embed", None)
    if getattr(embedding, "_current_batch_size", None) is not None:
        vars(embedding)["_current_batch_size"] = None


@contextmanager
def _on_blocks(found: Structure, hooks: Hooks) -> Iterator[None]:
    """Hooks on the plain blocks' outputs."""
    layers = {hook_name(layer): layer for layer in range(len(found.blocks))}
    with ExitStack() as stack:
        for name, function in hooks:
            handle = found.blocks[layers[name]].register_forward_hook(owned(_on_output(function)))
            stack.callback(handle.remove)
        yield


def _on_output(function: Callable[..., Tensor | None]) -> Callable[..., Any]:
    """A hook function of TransformerLens as a PyTorch hook on a block."""

    def act(_module: Any, _args: Any, output: Any) -> Any:
        whole = isinstance(output, tuple)
        changed = function(output[0] if whole else output, None)
        if changed is None:
            return None
        return (changed, *output[1:]) if whole else changed

    return act


# --- finding out ------------------------------------------------------------------------------------------------------


def structure(model: Bridge) -> Structure:
    """What plain passes need, found once and again when the model's modules or weights have changed."""
    found = _structures.get(model)
    if found is not None and model in _plain_now:
        return found
    if found is None or found.outdated():
        found = _structures[model] = _read_structure(model)
        _comparisons.pop(model, None)
    return found


def _read_structure(model: Bridge) -> Structure:
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

    swaps = list(_swaps(model.original_model, GeneralizedComponent, set()))
    modules = list({id(module): module for root in (model, model.original_model) for module in root.modules()}.values())
    return Structure(
        swaps,
        [model.blocks[layer].original_component for layer in range(n_layers(model))],
        [module for module in modules if isinstance(module, HookPoint)],
        [module for module in modules if isinstance(module, GeneralizedComponent)],
        [
            Weight(module._parameters, name, tensor, _version(tensor))
            for module in modules
            for name, tensor in module._parameters.items()
            if tensor is not None
        ],
        _forwards(swaps),
    )


def _forwards(swaps: list[Swap]) -> list[Any]:
    return [vars(module).get("forward") for swap in swaps for module in (swap.component, swap.original)]


def _swaps(module: nn.Module, kind: type, seen: set[int]) -> Iterator[Swap]:
    """Every component in the model's tree, from the outside to the inside."""
    if id(module) in seen:
        return
    seen.add(id(module))
    for name, child in list(module._modules.items()):
        original = child._modules.get("_original_component") if child is not None and isinstance(child, kind) else None
        if child is not None and original is not None:
            yield Swap(module._modules, name, child, original)
            child = original
        if child is not None:
            yield from _swaps(child, kind, seen)


def _version(tensor: Tensor) -> int:
    """Counts the changes made in place; tensors of inference mode keep no count."""
    return 0 if tensor.is_inference() else tensor._version


def _comparison(model: Bridge, found: Structure) -> Comparison:
    known = _comparisons.get(model)
    if known is not None:
        return known
    inner = model.original_model
    watching = [*inner._forward_hooks.values(), *inner._forward_pre_hooks.values()]
    if any(_module_of(hook) != owned.__module__ for hook in watching):  # they would see the comparison's own passes
        return Comparison("passes are watched, so that plain and hooked ones cannot be compared now", 0.0)
    known = _comparisons[model] = _compare(model, found)
    return known


def _compare(model: Bridge, found: Structure) -> Comparison:
    """Edited logits of a short batch: plain against hooked."""
    blocks = {id(swap.original) for swap in found.swaps}
    if not all(id(block) in blocks for block in found.blocks):
        return Comparison("a block's own module is not found in the Hugging Face model", 0.0)
    hooks = [(hook_name(layer), probe_edit) for layer in range(n_layers(model))]
    with torch.no_grad(), frozen(model):
        with model.hooks(fwd_hooks=hooks):
            right = _probe(model)
        try:
            with _on_blocks(found, hooks), _in_place(model, found):
                ours = _probe(model)
        except Exception as error:
            return Comparison(f"a plain pass raises {type(error).__name__}: {error}", math.inf)
    apart = max(relative(a, b) for a, b in zip(ours, right, strict=True))
    allowed = rounding(model)
    why_not = None if apart <= allowed else f"plain passes differ from hooked ones (by {apart:.0e} of the logits)"
    return Comparison(why_not, apart)


def probe_edit(hidden: Tensor, hook: Any) -> Tensor:
    """An edit that mixes coordinates, and is as large as the residual stream is."""
    return hidden + 0.1 * hidden.roll(1, -1)


def _probe(model: Bridge) -> list[Tensor]:
    """Logits of a batch padded on the right, and of one padded on the left whose last token comes from the cache."""
    tokens = (torch.arange(2 * PROBE, device=device(model)).view(2, PROBE) * 7 + 3) % int(model.cfg.d_vocab)
    mask = torch.ones_like(tokens)
    mask[1, PROBE // 2 :] = 0
    logits = [model(tokens, attention_mask=mask, use_cache=False)[mask.bool()]]
    left = mask.flip(-1)
    if not keeps_cache(model):
        return [*logits, model(tokens, attention_mask=left, use_cache=False)[:, -1]]
    first, cache = model(tokens[:, :-1], attention_mask=left[:, :-1], use_cache=True, return_type="logits_and_cache")
    second, _ = model(tokens[:, -1:], attention_mask=left, past_key_values=cache, return_type="logits_and_cache")
    return [*logits, first[:, -1], second[:, -1]]


def relative(ours: Tensor, right: Tensor) -> float:
    """The largest difference over the largest logit; infinite where something but words forbidden in both is not finite."""
    forbidden = right == -torch.inf
    apart = float((ours - right).masked_fill(forbidden & (ours == right), 0).abs().max() / right[~forbidden].abs().max())
    return apart if math.isfinite(apart) else math.inf


def difference(model: Bridge) -> float:
    """Between plain and hooked passes in the first comparison, relative to the largest logit; 0 where there was none."""
    known = _comparisons.get(model)
    return 0.0 if known is None else known.difference


def rounding(model: Bridge) -> float:
    """What two ways to the same logits may differ by, relative to the largest."""
    return ROUNDING if model.cfg.dtype == torch.float32 else 0.0
