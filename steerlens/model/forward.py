"""Forward passes: padding, hooks of one pass, what a pass is told about its prompts."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .bridge import Bridge, HookFunction, Hooks, check_tokens, device
from .frozen import exclusive, frozen
from .plain import hooked
from .support import check_rotary_side, check_supported, counts_from_zero
from .tokenizer import tokenizer_of


class Padded(NamedTuple):
    """Rows of one length."""

    tokens: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"]
    """1 at real tokens, 0 at padding."""


def pad(model: Bridge, rows: Sequence[Sequence[int]], side: str) -> Padded:
    """Pad rows of token ids on one side, on the model's device.

    Raises:
        UnsupportedModelError: a model whose passes would be wrong, or rows that would change one another's rotary embedding.
        ValueError: a token that the embedding does not have.
    """
    check_supported(model)
    check_rotary_side(model, [(len(row), len(row)) for row in rows])
    for number, row in enumerate(rows):
        check_tokens(model, row, f"row {number} of the batch")
    width = max(map(len, rows))
    fill = tokenizer_of(model).pad_token_id
    if fill is None or not 0 <= fill < model.cfg.d_vocab:  # masked, so any token the embedding has will do
        fill = 0
    tokens = torch.full((len(rows), width), fill, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        filled = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        tokens[index, filled] = torch.tensor(row, dtype=torch.long)
        mask[index, filled] = 1
    return Padded(tokens.to(device(model)), mask.to(device(model)))


def forward(
    model: Bridge, padded: Padded, hooks: Hooks = (), *, keep: int | None = None
) -> Float[Tensor, "batch kept d_vocab"]:
    """Logits of the last `keep` positions (all if None), with hooks on for this pass."""
    extra = {} if keep is None else {"logits_to_keep": keep}
    with exclusive(model), hooked(model, hooks):
        return model(padded.tokens, attention_mask=padded.mask, use_cache=False, **extra)


def reading_hooks(names: Sequence[str], read: Callable[[str, Tensor], None]) -> list[tuple[str, HookFunction]]:
    """Hooks that show `read` the activation at each named hook point, as (name, activation), and change nothing."""

    def reader(name: str) -> HookFunction:
        def show(value: Tensor, hook: Any) -> None:
            read(name, value)

        return show

    return [(name, reader(name)) for name in names]


def forward_cached(
    model: Bridge, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch total"], cache: Any
) -> tuple[Float[Tensor, "batch d_vocab"], Any]:
    """Logits of the last position, and the KV cache to give back with the next tokens. `cache=None` starts one."""
    kwargs: dict[str, Any] = {"use_cache": True} if cache is None else {"past_key_values": cache}
    if counts_from_zero(model):
        kwargs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
    logits, cache = model(tokens, attention_mask=mask, logits_to_keep=1, return_type="logits_and_cache", **kwargs)
    return logits[:, -1], cache


class FinalReadout(NamedTuple):
    """What becomes logits: `normed @ unembedding`."""

    normed: Float[Tensor, "row d_model"]
    """Float32, on the model's device."""
    unembedding: Float[Tensor, "d_model d_vocab"]
    """W_U, the model's own tensor."""


def final_readout(model: Bridge, vectors: Float[Tensor, "row d_model"]) -> FinalReadout:
    """Vectors through the model's own final norm, each as if it were the whole residual stream, beside the unembedding.

    Only what is odd in the vector, (norm(v) - norm(-v)) / 2: its direction times the norm's weight, centred if the norm
    centres, at root mean square 1; without the biases of norm and unembedding, and without a soft cap of the logits.

    Raises:
        ValueError, NotImplementedError: the logits are not unembedding(final norm(residual stream)), or the weights cannot be
            read, as TransformerLens's `logit_readout` finds.
    """
    from transformer_lens.tools.analysis import logit_readout

    with torch.no_grad(), frozen(model):
        logit_readout(model, vectors[:1], vocab=[0])  # refuses what cannot be read in this way
        weight = model.W_U
        size = vectors.pow(2).mean(-1, keepdim=True).sqrt()  # the norm's epsilon is not to be seen in short vectors
        rows = (vectors / size).to(weight.device, weight.dtype)[None]
        if model.cfg.normalization_type is not None:
            rows = (model.ln_final(rows) - model.ln_final(-rows)) / 2
        return FinalReadout(rows[0].float(), weight.detach())


class SparseParts(NamedTuple):
    """A vector as a nonnegative sum of a few atoms."""

    selected: Int[Tensor, " selected"]
    """Atoms in the order of their choice."""
    support: Int[Tensor, " support"]
    """Those with a coefficient above 0, in the same order."""
    coefficients: Float[Tensor, " support"]
    reconstruction: Float[Tensor, " d_model"]


def sparse_decomposition(vector: Float[Tensor, " d_model"], atoms: Float[Tensor, "atom d_model"], k: int) -> SparseParts:
    """At most `k` atoms by nonnegative orthogonal matching pursuit (TransformerLens; Gurnee et al. 2026).

    The atom with the largest cosine to what is left comes next, and all coefficients are fitted again; it ends early where
    no atom points that way. With `k` = all atoms the result is the nonnegative least-squares fit.

    Raises:
        ValueError: numbers that are not finite, or an atom of norm 0.
    """
    from transformer_lens.tools.analysis.jacobian_lens_decomposition import get_sparse_decomposition

    found = get_sparse_decomposition(vector, atoms, k)
    return SparseParts(found.selected_support, found.support, found.coordinates, found.reconstruction)


_announced: "weakref.WeakKeyDictionary[Any, list[Tensor]]" = weakref.WeakKeyDictionary()
"""model -> prompt lengths of the passes that steerlens itself is running on it, innermost last."""


def announced_lengths(model: Bridge) -> Int[Tensor, " batch"] | None:
    """Prompt lengths of the pass that steerlens itself is running on the model now, or None."""
    stack = _announced.get(model)
    return stack[-1] if stack else None


@contextmanager
def announced(model: Bridge, prompt_lengths: Int[Tensor, " batch"]) -> Iterator[None]:
    """Tell every `steer` block around it where the prompts of the coming passes end."""
    stack = _announced.setdefault(model, [])
    stack.append(prompt_lengths.to("cpu"))
    try:
        yield
    finally:
        stack.pop()
