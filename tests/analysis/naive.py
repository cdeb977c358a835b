"""What the oracle sees inside the model: residual streams and attention, by plain hooks, one row at a time."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from oracle import edited_places, phi
from tiny import Bench
from torch import Tensor

Edit = tuple[int, Callable[[Tensor], Tensor], list[int]]


class Inside(NamedTuple):
    """One pass over one row, without the batch dimension."""

    logits: Tensor
    streams: list[Tensor]
    """After each block, as the next one sees it."""
    attention: list[Tensor]
    """What each block's attention adds."""
    patterns: list[Tensor]
    """(head, query, key) of each block."""


def edits_of(vectors: Sequence[Any], n_prompt: int, n_total: int) -> list[Edit]:
    """The edits of vectors with written positions."""
    return [at_places(sv, edited_places(sv.positions, n_prompt, n_total)) for sv in vectors]


def at_places(sv: Any, places: list[int]) -> Edit:
    return sv.layer, lambda h: phi(h, sv.direction, sv.factor, sv.form), places


def look_inside(bench: Bench, ids: Sequence[int], edits: Sequence[Edit] = ()) -> Inside:
    """Run the plain model with these edits."""
    oracle = bench.oracle
    streams: list[Tensor] = []
    attention: list[Tensor] = []

    def keep(where: list[Tensor]) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            where.append((output[0] if isinstance(output, tuple) else output)[0].clone())

        return hook

    with torch.no_grad(), oracle.hooked(edits), ExitStack() as stack:
        for block in oracle.blocks:
            normed = getattr(block, "pre_feedforward_layernorm", None) is not None  # Gemma 2 norms what attention adds
            adds = block.post_attention_layernorm if normed else getattr(block, "attn", None) or block.self_attn
            stack.callback(block.register_forward_hook(keep(streams)).remove)
            stack.callback(adds.register_forward_hook(keep(attention)).remove)
        output = oracle.hf(input_ids=torch.tensor([list(ids)]), use_cache=False, output_attentions=True)
    return Inside(output.logits[0], streams, attention, [pattern[0] for pattern in output.attentions])


def naive_residuals(bench: Bench, ids: list[int], layer: int, edits: Any = ()) -> Tensor:
    """Hidden states after a block, by a hook of our own."""
    caught: list[Tensor] = []

    def catch(_module: Any, _args: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    # hooks run in the order of their adding: what is caught is what the next block sees
    with torch.no_grad(), bench.oracle.hooked(edits):
        handle = bench.oracle.blocks[layer].register_forward_hook(catch)
        bench.oracle.hf(input_ids=torch.tensor([ids]), use_cache=False)
        handle.remove()
    return caught[0].reshape(len(ids), -1)


def naive_kl(steered: Tensor, plain: Tensor) -> Tensor:
    """KL of each row of logits, in double."""
    p, q = (logits.double().softmax(-1) for logits in (steered, plain))
    return (p * (p / q).log()).sum(-1)
