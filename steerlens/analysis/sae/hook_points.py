"""Of which block's output an autoencoder is: names of hook points and modules, and folders that are named after them."""

import re

_PREFIX = r"(?:[A-Za-z_]\w*\.)*?"
_STACKS = r"(?:layers|layer|h|blocks|block)"
_RESIDUAL = re.compile(_PREFIX + r"blocks\.(\d+)\.hook_(resid_pre|resid_post|in|out)")
_HF_BLOCK = re.compile(_PREFIX + _STACKS + r"\.(\d+)(?:\.output)?")
_NUMBERED = re.compile(r"(?:^|\.)" + _STACKS + r"\.(\d+)(?:\.|$)")
_OTHER_STREAMS = re.compile(
    r"(?:^|\.)(?:\w*encoder|vision\w*|visual|audio\w*|mtp|experts|qformer|talker|resampler|projector|connector)(?:\.|$)"
)
"""Stacks of blocks that are not the language model's: encoders, but not the decoder of that name."""
_HOOKPOINT = re.compile(rf"(?:^|\.){_STACKS}\.\d+(?:\.|$)|[-_]{_STACKS}\.\d+\.")
_MODULE = re.compile(
    r"(?:[A-Za-z_]\w*\.)*(?:embed\w*|wte|wpe|lm_head|unembed|norm|ln_\w+|final_layer_norm|\w*layernorm|\w+_proj|hook_\w+|input|"
    r"act_fn|experts)(?:[.](?:\w+))*",
    re.IGNORECASE,
)
_SUBLAYERS = frozenset(
    (
        "mlp",
        "mlps",
        "attn",
        "attention",
        "moe",
        "mixer",
        "mamba",
        "ssm",
        "conv",
        "ffn",
        "feedforward",
        "transcoder",
        "transcoders",
    )
)
_AROUND_THEM = frozenset(
    (
        "self",
        "cross",
        "in",
        "out",
        "input",
        "output",
        "pre",
        "post",
        "block",
        "sparse",
        "all",
        "skip",
        "hook",
        "layernorm",
        "norm",
    )
)
_NUMBER = re.compile(r"\d+(?:\.[A-Za-z_].*)?")
"""A part of a path that begins with a block's number."""
_STACK = re.compile(
    r"(?:(?:model|base_model|language_model|text_model|transformer|backbone|gpt_neox|decoder|(?!\w*autoencoder)\w*encoder|vision\w*|"
    r"visual|audio\w*|\w+_tower|mtp|experts)(?:\.(?!$)|$))+"
)
"""Folders before that of a block which are modules that it is in."""
_OF_A_RUN = re.compile(
    r"(?:best|last|final|latest|ckpts?|checkpoints?|sae|saes|resid|resid_post|(?:trainer|run|seed|step|epoch|ckpt|checkpoint|iter|sae|"
    r"k|l0|width|expansion|d_sae|v)[-_=]?\d+[kmx]?|\d+[kmx]?)",
    re.IGNORECASE,
)
"""Folders inside that of a block which name a state of its autoencoder; any other is taken for a module in the block."""


def layer_of(hook_name: str) -> int | None:
    """The 0-based block whose output stands at a hook point; None where it is not the residual stream after a block.

    What a block is given is what the block before it has left, so `blocks.7.hook_resid_pre` is after block 6.
    """
    stream = hook_name.replace("decoder", "")
    if _OTHER_STREAMS.search(stream) or any(map(_is_sublayer, hook_name.split("."))):
        return None
    if match := _RESIDUAL.fullmatch(hook_name):
        layer = int(match[1]) - (match[2] in ("resid_pre", "in"))
        return layer if layer >= 0 else None
    match = _HF_BLOCK.fullmatch(hook_name)
    return int(match[1]) if match else None


def number_in(hook_name: str) -> int | None:
    """The block's number as a hook point's name writes it, whatever stands there."""
    numbers = _NUMBERED.findall(hook_name)
    return int(numbers[-1]) if numbers else None


def hookpoint_in(address: str) -> str | None:
    """The module or hook point that a path names last, whatever stands before it and behind; None where it names none.

    Dots and path separators are the same: "model.layers.3.mlp", "model/layers/3/mlp" and "model.layers.3/mlp" name one module,
    and of "vision/encoder/layers/3" and "mlp/layers.3" the folders before the block say of what it is. A folder inside that of
    a block is a module in it, unless it names a state of training ("best", "step_100").
    """
    parts = address.strip("/").split("/")
    for start in range(len(parts) - 1, -1, -1):
        split = not _HOOKPOINT.search(parts[start])
        end = start + 1 + split
        block = ".".join(parts[start:end])
        if not _HOOKPOINT.search(block) or (split and not _NUMBER.fullmatch(parts[end - 1])):
            continue
        first = start
        while first and _STACK.fullmatch(parts[first - 1]):
            first -= 1
        first -= bool(first) and _is_sublayer(parts[first - 1])
        inside = [part for part in parts[end:] if not _OF_A_RUN.fullmatch(part)]
        return ".".join([*parts[first:start], block, *inside])
    return parts[-1] if _MODULE.fullmatch(parts[-1]) or any(map(_is_sublayer, parts[-1].split("."))) else None


def _is_sublayer(part: str) -> bool:
    """Whether a name is that of a part of a block: "mlp", "Mlp", "attn_out", "feed-forward"."""
    words = re.split(r"[-_]", re.sub("feed[-_]forward", "feedforward", part.lower()))
    return not _SUBLAYERS.isdisjoint(words) and set(words) <= _SUBLAYERS | _AROUND_THEM
