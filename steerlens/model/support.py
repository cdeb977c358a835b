"""What can be steered: the rules that refuse a model, each with its reason. `docs/architectures.md` has the whole table."""

import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

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
    holds, why = REFUSED.get(name, (None, ""))
    if holds is not None and holds(inner.config):
        raise UnsupportedModelError(f"{model.cfg.model_name} ({name}) cannot be steered: {why}")
    missing = [layer for layer in range(model.cfg.n_layers) if f"blocks.{layer}.hook_resid_post" not in model.hook_dict]
    if missing:
        raise UnsupportedModelError(
            f"{model.cfg.model_name} ({name}) cannot be steered: TransformerLens does not hook the output of block {missing[0]}"
        )
    _checked.add(model)


def check_cache(model: Any) -> None:
    """Refuse to generate with a cache where a pass does not take one as `past_key_values`.

    Raises:
        UnsupportedModelError: a model of recurrent state alone (Mamba and its kin).
    """
    if "past_key_values" not in forward_parameters(type(model.original_model)):
        kind = type(model.original_model).__name__
        raise UnsupportedModelError(
            f"{model.cfg.model_name} ({kind}) keeps a recurrent state that does not tell how many tokens it has seen: generate "
            "with use_cache=False (slower, and right)"
        )


@lru_cache(maxsize=64)
def forward_parameters(kind: type) -> tuple[str, ...]:
    """Names of the arguments of a model's forward pass, in order, without `self`."""
    return tuple(inspect.signature(kind.forward).parameters)[1:]


def counts_from_zero(model: Any) -> bool:
    """Whether cached steps need position_ids: Bamba's positions would begin anew in each."""
    return bool(getattr(model.cfg, "is_stateful", False)) and "position_ids" in forward_parameters(type(model.original_model))


def rotary_limit(model: Any) -> int | None:
    """Tokens beyond which the rotary scaling switches for the whole batch; None where it does not."""
    config = model.original_model.config
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, Mapping) else None
    if kind not in SWITCHING:
        return None
    original = scaling.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    return int(original or config.max_position_embeddings)


def check_rotary_side(model: Any, lengths: Sequence[tuple[int, int]], error: type[ValueError] = ValueError) -> None:
    """Refuse rows on both sides of the length at which rotary scaling switches for a whole batch, and those that cross it.

    Args:
        lengths: tokens of each row in its first pass and in its last one.
    """
    limit = rotary_limit(model)
    if limit is None or all(last <= limit for _, last in lengths) or all(first > limit for first, _ in lengths):
        return
    row = next(index for index, (first, _) in enumerate(lengths) if first <= limit)
    raise error(
        f"row {row} has {lengths[row][0]} tokens, and the rotary scaling of {model.cfg.model_name} switches at {limit} for a "
        "whole batch: give rows of one side alone, of which none crosses while it is generated"
    )
