"""The same tokens with and without steering: what every analysis of a vector's effects looks at."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..arguments import check_ordered
from ..data import Prompt
from ..model.batches import Batch, EncodedExample, check_batch_size, check_context, collate
from ..model.bridge import Bridge, Hooks, model_name
from ..model.chat import encode_with_responses, response_stops
from ..model.forward import announced, forward, reading_hooks
from ..model.frozen import exclusive, frozen
from ..model.plain import why_hooked
from ..vector import SteeringVector
from .decoding import decode
from .generation import as_prompts, prepare
from .hooks import Steer, apply_edits, as_list, check_fits, edits_for_all

NOISE = {torch.float32: 1e-6, torch.float16: 5e-5, torch.bfloat16: 2e-3}
"""dtype -> nats per token: an effect below this is taken for rounding. About thirty times the KL, or more, that vectors too
small to matter show on the embedded model: 2e-8, 1e-6 and 7e-5."""


class Recording(NamedTuple):
    """One forward pass. Rows are padded on the right; numbers at padding mean nothing."""

    logits: Float[Tensor, "batch pos d_vocab"]
    """Float32; entry [row, i] predicts token i + 1."""
    values: dict[str, Tensor]
    """hook point -> its activation, as the blocks after it see it (edited, if it is edited)."""


def encode(
    model: Bridge,
    prompts: Prompt | Sequence[Prompt],
    responses: str | Sequence[str] | None,
    *,
    sv: Steer = None,
    max_new_tokens: int = 32,
    chat: bool = True,
    batch_size: int = 16,
) -> list[EncodedExample]:
    """Prompts with their responses; `responses=None` takes the greedy ones under `sv`, which may be empty.

    Raises:
        ValueError: nothing to do, a vector that does not fit, a number of responses that is not that of the prompts, a
            batch size below 1, or a row longer than the context.
    """
    check_batch_size(batch_size)
    batch = as_prompts(prompts)
    rows, edits = prepare(model, batch, sv, max_new_tokens if responses is None else 1, chat)
    if responses is None:
        answers: list[list[int]] = []
        stops = response_stops(model, chat=chat)
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            answers += decode(model, part, edits, [None] * len(part), max_new_tokens, 0.0, stops=stops)
    else:
        check_ordered(responses, "the responses")
        texts = [responses] if isinstance(responses, str) else list(responses)
        if len(texts) != len(rows):
            raise ValueError(f"{len(texts)} responses for {len(rows)} prompts: give one per prompt")
        encoded = [encode_with_responses(model, prompt, [text], chat=chat) for prompt, text in zip(batch, texts, strict=True)]
        rows, answers = [pair.prompt for pair in encoded], [pair.responses[0] for pair in encoded]
    examples = [EncodedExample(tuple(p), tuple(r)) for p, r in zip(rows, answers, strict=True)]
    for number, example in enumerate(examples):
        beginning = f"prompt {number} and its response have {example.length} tokens and exceed"
        check_context(model, example.length, beginning, "shorten them")
    return examples


def record(model: Bridge, batch: Batch, sv: Steer, names: Sequence[str] = ()) -> Recording:
    """Logits and the named activations of one pass over prompts and responses, with a vector on or not (None).

    Raises:
        ValueError: the model has no such hook point.
    """
    missing = [name for name in names if name not in model.hook_dict]
    if missing:
        raise ValueError(f"{model_name(model)} has no hook point {missing[0]!r}")
    values: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor) -> None:
        values[name] = value.detach()

    hooks = reading_hooks(names, keep)
    # hooks run in the order of their adding: what is kept is what steering has left
    with torch.no_grad(), frozen(model), steered(model, batch, sv, hooks):
        logits = forward(model, batch.padded, hooks)
    return Recording(logits.float(), values)


@contextmanager
def steered(model: Bridge, batch: Batch, sv: Steer, reading: Hooks = ()) -> Iterator[None]:
    """Passes over a batch whose prompts are known, steered, and seen by nobody but steerlens, which also puts on `reading`."""
    vectors = as_list(sv)
    for vector in vectors:
        check_fits(model, vector)
    edits = edits_for_all(vectors)
    with exclusive(model), announced(model, batch.prompt_lengths), ExitStack() as stack:
        stack.enter_context(apply_edits(model, edits, plainly=why_hooked(model, reading) is None))
        yield


def batches(model: Bridge, examples: Sequence[EncodedExample], batch_size: int) -> list[Batch]:
    """Examples padded to batches, in order.

    Raises:
        ValueError: a batch size below 1.
    """
    check_batch_size(batch_size)
    return [collate(model, examples[start : start + batch_size]) for start in range(0, len(examples), batch_size)]


def response_logits(model: Bridge, batch: Batch, sv: Steer) -> Float[Tensor, "token d_vocab"]:
    """Logits, float32, where the response's tokens of all rows are predicted, row after row; only those are computed."""
    return logits_at(model, batch, sv, torch.nn.functional.pad(batch.response_mask[:, 1:], (0, 1)))


def logits_at(model: Bridge, batch: Batch, sv: Steer, mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, "token d_vocab"]:
    """Logits, float32, at the tokens of a mask, row after row; from its first column on they are computed."""
    first = int(mask.any(0).nonzero()[0, 0])
    with steered(model, batch, sv):
        logits = forward(model, batch.padded, keep=batch.tokens.shape[1] - first)
    return logits[mask[:, first:]].float()


def divergence(steered: Float[Tensor, "*tokens d_vocab"], plain: Float[Tensor, "*tokens d_vocab"]) -> Float[Tensor, "*tokens"]:
    """KL(p_steered || p_plain) of next-token distributions given as logits, in nats.

    What p_steered rules out adds nothing, so that words forbidden in both (logits of -infinity) do not matter; a word that only
    p_plain forbids makes it infinite.
    """
    p, q = steered.log_softmax(-1), plain.log_softmax(-1)
    return (p.exp() * (p - q).masked_fill(p == -torch.inf, 0.0)).sum(-1)


def noise(model: Bridge) -> float:
    """Nats per token: an effect below this is rounding in the model's dtype (see `NOISE`)."""
    return NOISE.get(model.cfg.dtype, NOISE[torch.float32])


def overflow(found: str, vectors: Sequence[SteeringVector]) -> ValueError:
    """The error for numbers of a steered model that are not finite, `found` saying which."""
    norms = ", ".join(f"{vector.norm:.4g}" for vector in vectors)
    return ValueError(f"{found}: the model overflows under a vector of norm {norms}: use a smaller factor")


def check_effect(model: Bridge, kl: float) -> None:
    """Raise ValueError if KL(steered || plain), in nats per token, is too small to be divided into shares."""
    dtype = str(model.cfg.dtype).removeprefix("torch.")
    if kl < noise(model):
        remedy = "use a larger factor" + ("" if dtype == "float32" else ", or load the model with dtype=torch.float32")
        raise ValueError(
            f"the vector moves the predictions by {kl:.2g} nats per token, which is rounding in {dtype} (below "
            f"{noise(model):g}): there is no effect to share out; {remedy}"
        )
