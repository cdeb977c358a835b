"""What can be steered: the rules that refuse a model, each with its reason. `docs/architectures.md` has the whole table."""

import inspect
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

SWITCHING = frozenset({"longrope", "dynamic"})
"""Kinds of rotary scaling that change every position's embedding once the longest row of a pass is over a limit."""


class UnsupportedModelError(ValueError):
    """A model that cannot be steered rightly; the message says why."""


def _always(config: Any) -> bool:
    return True


REFUSED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "OpenAIGPTLMHeadModel": (
        _always,
        "its blocks return lists, which TransformerLens does not hook, and with an attention mask tokens see later ones",
    ),
    "BertLMHeadModel": (lambda config: not config.is_decoder, "without is_decoder its tokens see later ones"),
    "DeepseekV4ForCausalLM": (_always, "several residual streams run between its blocks, so that there is none to add to"),
    "HrmTextForCausalLM": (_always, "its blocks are two stacks that run several times in a pass"),
    "RecurrentGemmaForCausalLM": (_always, "it keeps its state inside its modules and ignores the attention mask"),
    "RwkvForCausalLM": (_always, "it ignores the attention mask, so that a padded row differs from the row alone"),
    "FalconForCausalLM": (
        lambda config: bool(getattr(config, "new_decoder_architecture", False)),
        "TransformerLens splits the attention weights of Falcon's new decoder architecture wrongly",
    ),
    "GraniteMoeHybridForCausalLM": (
        lambda config: getattr(config, "position_embedding_type", "rope") is None,
        'TransformerLens takes position_embedding_type None for "rope"',
    ),
    "OPTForCausalLM": (
        lambda config: not config.do_layer_norm_before and config.word_embed_proj_dim == config.hidden_size,
        "TransformerLens looks for a final norm that a post-norm OPT does not have",
    ),
}
"""Hugging Face class -> (whether it holds for a configuration, why)."""

ONLY = "steerlens steers causal language models of text"
OTHER_HEADS = {
    "a masked language model": re.compile(r"For(MaskedLM|PreTraining|NextSentencePrediction)$"),
    "a classifier, whose language head is not trained": re.compile(r"For\w*Classification$|RewardModel$"),
    "a model that answers by choosing, whose language head is not trained": re.compile(
        r"For(QuestionAnswering|MultipleChoice)$"
    ),
}
"""What a class is -> how its name ends."""

_checked: "weakref.WeakSet[Any]" = weakref.WeakSet()


def check_supported(model: Any) -> None:
    """Refuse a model that cannot be steered rightly, once per model.

    Raises:
        UnsupportedModelError: a class in `REFUSED`, or a block without a hook on its output.
    """
    if model in _checked:
        return
    inner = model.original_model
    name = type(inner).__name__
    check_class(name, inner.config, str(model.cfg.model_name))
    missing = [layer for layer in range(model.cfg.n_layers) if f"blocks.{layer}.hook_resid_post" not in model.hook_dict]
    if missing:
        raise UnsupportedModelError(
            f"{model.cfg.model_name} ({name}) cannot be steered: TransformerLens does not hook the output of block {missing[0]}"
        )
    _checked.add(model)


def check_class(hf_class: str, config: Any, name: str) -> None:
    """Refuse a Hugging Face class by its configuration, before or after its weights are read.

    Raises:
        UnsupportedModelError: it is in `REFUSED`, or no causal language model of text.
    """
    if (kind := _other_kind(hf_class)) is not None:
        raise UnsupportedModelError(f"{name} ({hf_class}) is {kind}: {ONLY}")
    holds, why = REFUSED.get(hf_class, (None, ""))
    if holds is not None and holds(config):
        raise UnsupportedModelError(f"{name} ({hf_class}) cannot be steered: {why}")


def _other_kind(hf_class: str) -> str | None:
    """What a class is that is no causal language model of text, as far as its name says."""
    from transformer_lens.utilities import architectures as known

    kinds = {
        "an encoder-decoder model": known.SEQ2SEQ_ARCHITECTURES,
        "a model of audio": known.AUDIO_ARCHITECTURES | known.AUDIO_TEXT_ARCHITECTURES,
        "a masked language model": known.MASKED_LM_ARCHITECTURES,
        "a model of images": known.VISION_ARCHITECTURES,
    }
    named = (kind for kind, members in kinds.items() if hf_class in members)
    return next(named, None) or next((kind for kind, name in OTHER_HEADS.items() if name.search(hf_class)), None)


def keeps_cache(model: Any) -> bool:
    """Whether a pass takes a cache that tells how many tokens it has seen; the state of Mamba and its kin does not."""
    return "past_key_values" in forward_parameters(type(model.original_model))


@lru_cache(maxsize=64)
def forward_parameters(kind: type) -> tuple[str, ...]:
    """Names of the arguments of a model's forward pass, in order, without `self`."""
    return tuple(inspect.signature(kind.forward).parameters)[1:]


def counts_from_zero(model: Any) -> bool:
    """Whether cached steps need position_ids: Bamba's positions would begin anew in each."""
    return bool(getattr(model.cfg, "is_stateful", False)) and "position_ids" in forward_parameters(type(model.original_model))


class Switching(NamedTuple):
    """Rotary scaling that changes with the length of a pass."""

    kind: str
    limit: int
    """Tokens beyond which it changes."""


def switching(model: Any) -> list[Switching]:
    """The rotary scalings that do so, of the whole model or of its kinds of layers (sliding and full attention)."""
    config = model.original_model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    found = []
    for scaling in _scalings(given):
        kind = scaling.get("rope_type", scaling.get("type"))
        if kind in SWITCHING:
            original = scaling.get("original_max_position_embeddings")
            original = original or getattr(config, "original_max_position_embeddings", None)
            found.append(Switching(kind, int(original or config.max_position_embeddings)))
    return found


def _scalings(given: Any) -> Iterator[Mapping[str, Any]]:
    """Mappings of rotary settings, however deep they lie in one another."""
    if isinstance(given, Mapping):
        yield given
        for inner in given.values():
            yield from _scalings(inner)


def check_rotary_side(model: Any, lengths: Sequence[tuple[int, int]]) -> None:
    """Refuse rows whose rotary embedding would depend on the batch they are in, or on when their keys were cached.

    LongRoPE has one embedding up to the limit and another beyond it, chosen by the longest row; dynamic NTK has another for
    every length beyond it.

    Args:
        lengths: tokens of each row in its first pass and in its last one.

    Raises:
        UnsupportedModelError: rows on both sides of the limit, one that crosses it, or (dynamic NTK) one beyond it.
    """
    for found in switching(model):
        _check_side(model, found, lengths)


def check_rotary_pass(model: Any, token_mask: Tensor, past: int) -> None:
    """`check_rotary_side` of one pass over rows whose first `past` columns are cached.

    Args:
        token_mask: real tokens, those in the cache too; (batch, all tokens).
    """
    if switching(model):
        last = token_mask.sum(-1)
        first = token_mask[:, :past].sum(-1) if past else last
        check_rotary_side(model, list(zip(first.tolist(), last.tolist(), strict=True)))


def _check_side(model: Any, found: Switching, lengths: Sequence[tuple[int, int]]) -> None:
    if all(last <= found.limit for _, last in lengths):
        return
    every_length = found.kind == "dynamic"
    if not every_length and all(first > found.limit for first, _ in lengths):
        return
    row = next(index for index, (_, last) in enumerate(lengths) if last > found.limit)
    first, last = lengths[row]
    text = f"{last} tokens" if first == last else f"{first} tokens at first and up to {last}"
    remedy = "keep rows within it" if every_length else "give rows of one side alone, of which none crosses it"
    raise UnsupportedModelError(
        f"row {row} has {text}, and the {found.kind} rotary scaling of {model.cfg.model_name} changes beyond {found.limit} for "
        f"a whole batch: {remedy}"
    )
