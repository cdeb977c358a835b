"""Text from prompts, steered or not: batched, left-padded, cached, and the same as one row at a time."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from tqdm import tqdm

from ..arguments import check_ordered, checked_call
from ..data import Prompt, check_prompt
from ..model.batches import check_batch_size, check_context
from ..model.bridge import Bridge, check_model, check_tokens
from ..model.chat import decode_response, encode_prompt, response_stops
from ..model.memory import rows_that_fit
from ..model.support import check_rotary_side
from ..model.tokenizer import templated
from ..reproducibility import prompt_seeds
from ..vector import SteeringVector
from .decoding import decode
from .hooks import Edit, PerPrompt, Steer, SteerText, as_list, check_fits, edits_by_row, edits_for_all, listed
from .steering_prompt import SteeringPrompt


@checked_call
def generate(
    model: Bridge,
    prompts: Prompt | Sequence[Prompt],
    steer: SteerText | PerPrompt = None,
    *,
    max_new_tokens: int = 128,
    temperature: int | float = 1.0,
    seed: int | Sequence[int] = 0,
    chat: bool = True,
    batch_size: int | None = 16,
    stop: str | int | Sequence[str | int] = (),
    template_args: Mapping[str, Any] | None = None,
    use_cache: bool = True,
    progress: bool = False,
) -> list[str]:
    """Responses to prompts, without the prompts; of a model that reasons first, without its reasoning.

    Args:
        prompts: texts (one user turn each) or conversations; a single one is taken as a list of one.
        steer: a vector, several applied together, a `SteeringPrompt`, `PerPrompt([...])`, or None.
        max_new_tokens: length limit; a response ends earlier at an end-of-text token, or at the token that ends a
            turn in the chat template.
        temperature: of plain sampling from the whole distribution; 0 = greedy.
        seed: of the batch, from which each prompt gets its own (see `row_seeds`), or one seed per prompt. A row sampled
            alone with its own seed is the same as in the batch.
        chat: put prompts into the model's chat template; False = bare text.
        batch_size: prompts per forward pass, those of like length together; None = as many as a quarter of the free memory
            holds.
        stop: what else ends a response: texts, before which it is cut, or ids of tokens.
        template_args: arguments of the chat template for this call, besides those the model was loaded with.
        use_cache: False recomputes every token's past; slower, for checking. So it is always done for models whose state does
            not tell how many tokens it has seen (Mamba and its kin).
        progress: show a progress bar.

    Returns:
        One text per prompt, in order.

    Raises:
        ValueError: nothing to do, settings out of range, a vector that does not fit, a prompt too long for the context, or
            one that the chat template refuses or drops.
        NotFiniteError: the model's logits are not numbers (an edit that overflows the dtype, for example).
    """
    batch = as_prompts(prompts)
    if batch_size is not None:
        check_batch_size(batch_size)
    if not temperature >= 0:
        raise ValueError(f"temperature {temperature} must be at least 0")
    seeds = prompt_seeds(seed, len(batch))
    batch, acting = with_steering_prompts(batch, steer)
    with templated(model, template_args):
        rows, _ = prepare(model, batch, acting, max_new_tokens, chat)
        stops = response_stops(model, stop, chat)
        size = batch_size or rows_that_fit(model, max(map(len, rows)) + max_new_tokens)
        texts = [""] * len(rows)
        for part in tqdm(_parts(rows, size), desc="generate", disable=not progress):
            generators = [torch.Generator().manual_seed(seeds[row]) for row in part]
            edits = _edits(PerPrompt([acting[row] for row in part]) if isinstance(acting, PerPrompt) else acting)
            responses = decode(
                model,
                [rows[row] for row in part],
                edits,
                generators,
                max_new_tokens,
                temperature,
                stops=stops,
                use_cache=use_cache,
            )
            for row, response in zip(part, responses, strict=True):
                texts[row] = stops.cut(decode_response(model, response, chat))
    return texts


def _parts(rows: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Indices of rows in batches: in their order if one batch takes them all, else those of like length together."""
    order = list(range(len(rows)))
    if len(rows) > size:
        order.sort(key=lambda row: len(rows[row]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A list of prompts; one text or one conversation becomes a list of one."""
    if isinstance(prompts, str):
        return [prompts]
    check_ordered(prompts, "the prompts")
    if isinstance(prompts, Mapping) or not isinstance(prompts, Iterable):
        raise ValueError(f"expected a text, a list of messages, or a list of prompts, got {type(prompts).__name__}")
    batch = list(prompts)
    if not batch:
        raise ValueError("there are no prompts")
    batch = [batch] if isinstance(batch[0], Mapping) else batch
    for number, prompt in enumerate(batch):
        check_prompt(prompt, f"prompt {number}")
    return batch  # type: ignore[return-value] - checked above, which the checker cannot see


def with_steering_prompts(prompts: Sequence[Prompt], steer: SteerText | PerPrompt) -> tuple[list[Prompt], Steer | PerPrompt]:
    """The prompts with steering prompts before them, and the vectors that are left."""
    changed = list(prompts)
    if isinstance(steer, PerPrompt):
        for row, text in enumerate(steer[: len(changed)]):
            if isinstance(text, SteeringPrompt):
                changed[row] = text.apply(changed[row])
        return changed, PerPrompt([None if isinstance(item, SteeringPrompt) else item for item in steer])
    vectors = []
    for item in reversed(listed(steer)):  # so that the first of several texts stands first
        if isinstance(item, SteeringPrompt):
            changed = [item.apply(prompt) for prompt in changed]
        else:
            vectors.insert(0, item)
    return changed, vectors


def prepare(
    model: Bridge, prompts: Sequence[Prompt], steer: Steer | PerPrompt, max_new_tokens: int, chat: bool
) -> tuple[list[list[int]], list[Edit]]:
    """Token ids of each prompt and the edits of a whole batch, checked before any work starts."""
    check_model(model)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    if isinstance(steer, PerPrompt) and len(steer) != len(prompts):
        raise ValueError(f"PerPrompt has {len(steer)} vectors for {len(prompts)} prompts")
    vectors = [sv for sv in steer if isinstance(sv, SteeringVector)] if isinstance(steer, PerPrompt) else as_list(steer)
    for vector in vectors:
        check_fits(model, vector)
    rows = [encode_prompt(model, prompt, chat) for prompt in prompts]
    for number, row in enumerate(rows):
        check_tokens(model, row, f"prompt {number}")
        beginning = f"prompt {number} has {len(row)} tokens; with {max_new_tokens} new ones it exceeds"
        check_context(model, len(row) + max_new_tokens, beginning, "shorten it or lower max_new_tokens")
    check_rotary_side(model, [(len(row), len(row) + max_new_tokens) for row in rows])
    return rows, _edits(steer)


def _edits(steer: Steer | PerPrompt) -> list[Edit]:
    return edits_by_row(steer) if isinstance(steer, PerPrompt) else edits_for_all(as_list(steer))
