"""Applying vectors to a model for the length of a `with` block, through hooks that nothing outlives."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..arguments import check_ordered, checked_call
from ..interventions import Weights, edit_tokens, stack
from ..model.batches import Batch
from ..model.bridge import Bridge, HookFunction, check_layer, check_model, d_model, device, hook_name, model_name
from ..model.identity import weight_processing
from ..model.plain import hooked
from ..model.registry import other_weights
from ..positions import PositionFunction, position_mask
from ..vector import SteeringVector
from .forward_inputs import watch_passes
from .prompt_tracking import PassTracker, SteeringError
from .steering_prompt import SteeringPrompt

Steer = SteeringVector | Sequence[SteeringVector] | None
"""One vector, several applied together (each adds its edit, in order), or none."""
SteerText = SteeringVector | SteeringPrompt | Sequence[SteeringVector | SteeringPrompt] | None
"""What steers a text from its prompt on: vectors, and steering prompts, which only the maker of the prompt can apply."""


class Edit(NamedTuple):
    """Vectors that act at one layer and place; each row of a batch gets its own, or none."""

    layer: int
    positions: str | PositionFunction
    form: str
    weights: Weights
    """Of all the vectors, stacked."""
    which: Int[Tensor, " batch"] | None
    """Which vector each row gets, -1 for none; None = all rows get the only one."""

    def apply(
        self, hidden: Float[Tensor, "batch pos d_model"], mask: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """The edited residual stream."""
        weights, mask = self.weights.each(lambda tensor: tensor.to(hidden.device)), mask.to(hidden.device)
        if self.which is not None:
            index = self.which.to(hidden.device)
            mask = mask & (index >= 0)[:, None]
            weights = weights.each(lambda tensor: tensor[index.clamp(min=0)])
        return edit_tokens(hidden, mask, weights, self.form)


MaskSource = Callable[[str | PositionFunction, Tensor], Tensor | None]
"""(positions, residual stream of the running pass) -> mask (batch, pos) of the tokens to edit; None = certainly none."""
EditRecorder = Callable[[Edit, Tensor, Tensor, Tensor], None]
"""(edit, hidden before, hidden after, mask)"""
Recorder = Callable[[PassTracker, Edit, Tensor, Tensor, Tensor], None]
"""An `EditRecorder` that is also given the tracker of the passes."""


class PerPrompt(tuple[SteeringVector | SteeringPrompt | None, ...]):
    """One vector (or steering prompt, or None) per prompt, for `generate(..., steer=PerPrompt([a, None, b]))` in one batch."""

    def __new__(cls, vectors: Sequence[SteeringVector | SteeringPrompt | None]) -> "PerPrompt":
        check_ordered(vectors, "the vectors of PerPrompt")
        for vector in vectors:
            if vector is not None and not isinstance(vector, (SteeringVector, SteeringPrompt)):
                raise TypeError(f"PerPrompt takes SteeringVectors, SteeringPrompts and None, got {type(vector).__name__}")
        return super().__new__(cls, vectors)


def as_list(sv: Steer | PerPrompt) -> list[SteeringVector]:
    """The vectors in a list, whatever was given."""
    if isinstance(sv, PerPrompt):
        raise TypeError("PerPrompt says which row gets which vector: give it to generate or evaluate, not to steer")
    if isinstance(sv, Mapping):
        raise TypeError("a mapping of vectors: pick one, or give list(mapping.values()) to apply them together")
    vectors = []
    for vector in listed(sv):
        if isinstance(vector, SteeringPrompt):
            raise TypeError("a SteeringPrompt changes the prompt, not the residual stream: give it to generate or evaluate")
        if not isinstance(vector, SteeringVector):
            raise TypeError(f"expected a SteeringVector, got {type(vector).__name__}")
        vectors.append(vector)
    return vectors


def listed(steer: SteerText) -> list[SteeringVector | SteeringPrompt]:
    """What steers, in a list."""
    if steer is None:
        return []
    if isinstance(steer, (str, Mapping, type)) or not isinstance(steer, Iterable | SteeringVector | SteeringPrompt):
        raise TypeError(f"expected a SteeringVector, several in a list, or None, got {steer!r:.80}")
    if isinstance(steer, (SteeringVector, SteeringPrompt)):
        return [steer]
    check_ordered(steer, "the vectors")
    return list(steer)


def check_fits(model: Bridge, sv: SteeringVector) -> None:
    """Raise ValueError if a vector cannot belong to this model (width, layer, weight processing).

    Warn if it was made on other weights of the same model (the hub's, or those of a quantised file).
    """
    check_model(model)
    if sv.d_model != d_model(model):
        origin = f": trained on {sv.model_name}?" if sv.model_name else ""
        raise ValueError(
            f"direction has {sv.d_model} entries, the residual stream of {model_name(model)} has {d_model(model)}{origin}"
        )
    check_layer(model, sv.layer)
    made_with, here = sv.provenance.get("weight_processing"), weight_processing(model)
    if made_with is not None and made_with != here:
        raise ValueError(
            f"the vector was made on {made_with} weights, this model has {here}: its residual stream has other coordinates"
        )
    if other_weights(sv.model_name, model_name(model)):
        warnings.warn(
            f"the vector was made on the weights of {sv.model_name}, these are {model_name(model)}: what it does may differ a "
            f'little; load_model("{sv.model_name}") gives those it was made on',
            stacklevel=2,
        )


@checked_call
@contextmanager
def steer(model: Bridge, sv: Steer, *, scale: int | float = 1.0, prompt_lengths: Sequence[int] | None = None) -> Iterator[None]:
    """Steer every forward pass of the model inside the block, through hooks on `blocks.{layer}.hook_resid_post`.

    Args:
        model: a TransformerBridge; its own `generate` and that of its `original_model` are steered too.
        sv: one vector, or several that act together. Nested blocks add up.
        scale: multiplies every factor.
        prompt_lengths: prompt tokens of each row (padding not counted), for a pass over prompt and response. Without it
            the first pass of a sequence is its prompt, and the passes of a generation after it are decoding.

    Raises:
        ValueError: a vector does not fit the model, before anything runs.
        SteeringError: inside the block, when a pass continues a cache of unknown origin; at its end, when a stream that was
            begun inside is not read to its end.
    """
    vectors = as_list(sv)
    for vector in vectors:
        check_fits(model, vector)
    edits = edits_for_all([vector.scaled(scale) for vector in vectors])
    with apply_edits(model, edits, prompt_lengths, plainly=False) as tracker:
        yield
    tracker.check_finished()


@contextmanager
def apply_edits(
    model: Bridge,
    edits: Sequence[Edit],
    prompt_lengths: Sequence[int] | None = None,
    record: Recorder | None = None,
    *,
    plainly: bool = True,
) -> Iterator[PassTracker]:
    """What `steer`, `generate` and `audit` share: hooks on the edited layers and a watch on the passes; yields the tracker.

    Args:
        plainly: take plain passes where the rule allows, which is for passes that nobody but steerlens sees.
    """
    tracker = PassTracker(model, prompt_lengths)
    here = [_to_device(edit, device(model)) for edit in edits]
    hooks = edit_hooks(
        here,
        lambda positions, hidden: tracker.edited(positions),
        None if record is None else partial(record, tracker),
    )
    ran: set[str] = set()

    def end(cache: Any, finished: bool) -> None:
        tracker.end(cache, finished)
        silent = {name for name, _ in hooks} - ran if finished else set()
        ran.clear()
        if silent:
            raise SteeringError(f"{min(silent)} was not reached in a pass of {model_name(model)}, so nothing was edited there")

    watched = [(name, _noting(name, function, ran)) for name, function in hooks]
    with hooked(model, watched, plainly=plainly), watch_passes(model, tracker.begin, end):
        yield tracker


def _noting(name: str, function: HookFunction, ran: set[str]) -> HookFunction:
    """The hook, which also notes that it was called."""

    def call(hidden: Tensor, hook: Any) -> Tensor | None:
        ran.add(name)
        return function(hidden, hook)

    return call


def edit_hooks(edits: Sequence[Edit], masks: MaskSource, record: EditRecorder | None = None) -> list[tuple[str, HookFunction]]:
    """The hooks of all editing, as (hook point, function): of `steer`, `hook`, `loss` and training alike.

    Args:
        edits: in the order in which they act. Gradients flow through their weights.
        masks: asked for the tokens to edit whenever an edited block has run.
        record: told of each edit after it is made.
    """

    def function_of(edit: Edit) -> HookFunction:
        def edit_residual(hidden: Tensor, hook: Any) -> Tensor | None:
            mask = masks(edit.positions, hidden)
            if mask is None:
                return None
            edited = edit.apply(hidden, mask)
            if record is not None:
                record(edit, hidden, edited, mask)
            return edited

        return edit_residual

    return [(hook_name(edit.layer), function_of(edit)) for edit in edits]


def masks_of(batch: Batch) -> MaskSource:
    """The masks of one pass over a batch whose prompts are known; each is made once."""
    edited = cache(batch.edited)
    return lambda positions, hidden: edited(positions)


def _to_device(edit: Edit, device: torch.device) -> Edit:
    return edit._replace(weights=edit.weights.each(lambda tensor: tensor.to(device)))


def edits_for_all(vectors: Sequence[SteeringVector]) -> list[Edit]:
    """Edits for a batch in which every row gets all the vectors, in order."""
    return [Edit(sv.layer, sv.positions, sv.form, stack([sv.weights]), None) for sv in vectors]


def edits_by_row(rows: PerPrompt) -> list[Edit]:
    """Edits for a batch in which each row has its own vector or none, grouped so that one hook serves many rows."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for row, sv in enumerate(rows):
        if isinstance(sv, SteeringVector):
            groups.setdefault((sv.layer, sv.positions, sv.form, sv.rank), []).append(row)
    edits = []
    for (layer, positions, form, _rank), members in groups.items():
        vectors = [sv for row in members if isinstance(sv := rows[row], SteeringVector)]
        index = torch.full((len(rows),), -1, dtype=torch.long)
        index[members] = torch.arange(len(members))
        edits.append(Edit(layer, positions, form, stack([sv.weights for sv in vectors]), index))
    return edits


def rows_of(edit: Edit, rows: Int[Tensor, " kept"]) -> Edit:
    """The edit of some rows of its batch."""
    return edit if edit.which is None else edit._replace(which=edit.which[rows.to(edit.which.device)])


@checked_call
def hook(
    sv: SteeringVector,
    *,
    prompt_mask: Bool[Tensor, "batch pos"] | None = None,
    token_mask: Bool[Tensor, "batch pos"] | None = None,
) -> tuple[str, HookFunction]:
    """The (name, function) pair of a vector, to be added by hand: `model.run_with_hooks(tokens, fwd_hooks=[hook(sv)])`.

    A hook function sees only the residual stream, so say which of the pass's tokens are prompt and which are real;
    without masks every token is taken as prompt. It is for plain passes: a vector that does not edit "all" tokens refuses
    to decode with a KV cache, where it could not tell the prompt; `steer` can.

    Raises (when it runs):
        ValueError: the pass has another shape than the masks, or another width than the direction.
        SteeringError: the pass looks like a decoding step.
    """
    (pair,) = edit_hooks(edits_for_all([sv]), _masks_by_hand(sv, prompt_mask, token_mask))
    return pair


def _masks_by_hand(sv: SteeringVector, prompt_mask: Tensor | None, token_mask: Tensor | None) -> MaskSource:
    """The masks of a hook that nobody tells about the passes it runs in."""
    calls = 0

    def masks(positions: str | PositionFunction, hidden: Tensor) -> Tensor:
        nonlocal calls
        shape = hidden.shape[:2]
        if hidden.shape[-1] != sv.d_model:
            raise ValueError(f"direction has {sv.d_model} entries, the residual stream has {hidden.shape[-1]}")
        for mask in (prompt_mask, token_mask):
            if mask is not None and mask.shape != shape:
                raise ValueError(f"the hook was made for a pass of {tuple(mask.shape)} tokens, this one has {tuple(shape)}")
        calls += 1
        if positions != "all" and prompt_mask is None and shape[1] == 1 and calls > 1:
            raise SteeringError(
                "this pass of one token looks like decoding with a KV cache: generate inside steerlens.steer, or pass "
                "prompt_mask to say that it is a prompt"
            )
        everything = torch.ones(shape, dtype=torch.bool, device=hidden.device)
        tokens = everything if token_mask is None else token_mask.to(hidden.device)
        prompt = tokens if prompt_mask is None else prompt_mask.to(hidden.device) & tokens
        return position_mask(positions, prompt, tokens)

    return masks
