"""The model: loading, hook points, chat format, padding, forward passes. The only module that knows TransformerLens.

A model is a `TransformerBridge`. It is used, never changed: every function here leaves it as it came.
"""

import hashlib
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .data import Prompt

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge as Bridge
else:
    Bridge = Any

HookFunction = Callable[..., Tensor | None]
Hooks = Sequence[tuple[str, HookFunction]]


def load_model(name_or_path: str, **boot: Any) -> Bridge:
    """Boot a TransformerLens bridge with raw Hugging Face weights.

    Args:
        name_or_path: a hub name ("google/gemma-2-2b-it"), a local folder in the Hugging Face format, or "terrarium",
            the small model in the package.
        boot: arguments of `TransformerBridge.boot_transformers`, such as `dtype`, `device`, `device_map`, `revision`.
    """
    from transformer_lens.model_bridge import TransformerBridge

    path = name_or_path
    if name_or_path == "terrarium":
        from . import terrarium

        path = str(terrarium.path())
    model = TransformerBridge.boot_transformers(path, **boot)
    if path != name_or_path:
        model.cfg.model_name = name_or_path
    return model


def hook_name(layer: int) -> str:
    """The residual stream after block `layer`."""
    return f"blocks.{layer}.hook_resid_post"


def attention_output_name(layer: int) -> str:
    """What the attention of block `layer` adds to the residual stream."""
    return f"blocks.{layer}.hook_attn_out"


def attention_pattern_name(layer: int) -> str:
    """Attention probabilities of block `layer`, (batch, head, query, key)."""
    return f"blocks.{layer}.attn.hook_pattern"


def n_heads(model: Bridge) -> int:
    return int(model.cfg.n_heads)


def n_layers(model: Bridge) -> int:
    return int(model.cfg.n_layers)


def d_model(model: Bridge) -> int:
    return int(model.cfg.d_model)


def model_name(model: Bridge) -> str:
    return str(model.cfg.model_name)


def device(model: Bridge) -> torch.device:
    return torch.device(model.cfg.device or "cpu")


def check_model(model: Bridge) -> None:
    """Raise TypeError for anything that is not a TransformerLens bridge."""
    if not all(hasattr(model, name) for name in ("cfg", "hooks", "original_model", "tokenizer")):
        raise TypeError(f"expected a TransformerBridge, as steerlens.load_model gives, got {type(model).__name__}")


def check_layer(model: Bridge, layer: int) -> None:
    """Raise ValueError if the model has no such block."""
    if isinstance(layer, bool) or not isinstance(layer, SupportsIndex) or not 0 <= operator.index(layer) < n_layers(model):
        raise ValueError(
            f"layer {layer!r} does not exist: {model_name(model)} has blocks 0 to {n_layers(model) - 1} (counted from 0)"
        )


def identity(model: Bridge) -> dict[str, Any]:
    """What a saved vector must say about the model it belongs to."""
    config = model.original_model.config
    template = getattr(model.tokenizer, "chat_template", None)
    return {
        "model_name": model_name(model),
        "revision": getattr(config, "_commit_hash", None),
        "architecture": model.cfg.architecture,
        "dtype": str(model.cfg.dtype).removeprefix("torch."),
        "weight_processing": "compatibility_mode" if model.compatibility_mode else "raw",
        "d_model": d_model(model),
        "n_layers": n_layers(model),
        "template_hash": None if template is None else hashlib.sha256(str(template).encode()).hexdigest(),
    }


# --- text to tokens -------------------------------------------------------------------------------------------------


def encode_prompt(model: Bridge, prompt: Prompt, chat: bool = True) -> list[int]:
    """Token ids of one prompt, in the chat template with its generation header, with one BOS and never two.

    A tokenizer without a template, or `chat=False`, uses the bare text.

    Raises:
        ValueError: no tokenizer; a conversation without a template to render it; an empty prompt.
    """
    tokenizer = _tokenizer(model)
    templated = chat and getattr(tokenizer, "chat_template", None) is not None
    if not isinstance(prompt, str) and not templated:
        reason = "chat=False" if not chat else f"the tokenizer of {model_name(model)} has no chat template"
        raise ValueError(f"a conversation of several messages cannot be rendered: {reason}")
    text = prompt
    if templated:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    bos = tokenizer.bos_token_id
    if bos is not None and _starts_with_bos(model, templated):
        start = next((i for i, token in enumerate(ids) if token != bos), len(ids))
        ids = [bos, *ids[start:]]
    if not ids:
        raise ValueError("the prompt is empty")
    return ids


def _starts_with_bos(model: Bridge, templated: bool) -> bool:
    """Bare text begins as TransformerLens would have it; a templated text as its tokenizer would."""
    if not templated and model.cfg.default_prepend_bos:
        return True
    return list(_tokenizer(model)("", add_special_tokens=True)["input_ids"])[:1] == [_tokenizer(model).bos_token_id]


def encode_response(model: Bridge, response: str, max_tokens: int | None = None, append_eos: bool = False) -> list[int]:
    """Token ids of a response as it would be generated after the prompt: no BOS, cut at `max_tokens`."""
    tokenizer = _tokenizer(model)
    ids = list(tokenizer(response, add_special_tokens=False)["input_ids"])
    if append_eos and (max_tokens is None or len(ids) < max_tokens):
        ids.append(int(tokenizer.eos_token_id))
    return ids[:max_tokens]


def decode_response(model: Bridge, ids: Sequence[int]) -> str:
    return str(_tokenizer(model).decode(list(ids), skip_special_tokens=True))


def token_strings(model: Bridge, ids: Sequence[int]) -> list[str]:
    """Each token as it reads on its own."""
    return [str(_tokenizer(model).decode([token])) for token in ids]


def stop_tokens(model: Bridge) -> frozenset[int]:
    """Tokens that end a response: those of the generation config and the tokenizer's EOS."""
    config = getattr(model.original_model, "generation_config", None)
    listed = getattr(config, "eos_token_id", None)
    ids = listed if isinstance(listed, (list, tuple)) else [listed]
    return frozenset(int(token) for token in (*ids, _tokenizer(model).eos_token_id) if token is not None)


def context_length(model: Bridge) -> int:
    return int(model.cfg.n_ctx)


def _tokenizer(model: Bridge) -> Any:
    if model.tokenizer is None:
        raise ValueError(f"{model_name(model)} was booted without a tokenizer; pass tokenizer=... to load_model")
    return model.tokenizer


class Padded(NamedTuple):
    """Rows of one length."""

    tokens: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"]
    """1 at real tokens, 0 at padding."""


def pad(model: Bridge, rows: Sequence[Sequence[int]], side: str) -> Padded:
    """Pad rows of token ids on one side, on the model's device."""
    width = max(map(len, rows))
    fill = _tokenizer(model).pad_token_id or 0
    tokens = torch.full((len(rows), width), fill, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        tokens[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = 1
    return Padded(tokens.to(device(model)), mask.to(device(model)))


# --- forward passes -------------------------------------------------------------------------------------------------


def forward(
    model: Bridge, padded: Padded, hooks: Hooks = (), *, keep: int | None = None
) -> Float[Tensor, "batch kept d_vocab"]:
    """Logits of the last `keep` positions (all if None), with hooks on for this pass."""
    extra = {} if keep is None else {"logits_to_keep": keep}
    with model.hooks(fwd_hooks=list(hooks)):
        return model(padded.tokens, attention_mask=padded.mask, use_cache=False, **extra)


def forward_cached(
    model: Bridge, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch total"], cache: Any
) -> tuple[Float[Tensor, "batch d_vocab"], Any]:
    """Logits of the last position, and the KV cache to give back with the next tokens. `cache=None` starts one."""
    kwargs = {"use_cache": True} if cache is None else {"past_key_values": cache}
    logits, cache = model(tokens, attention_mask=mask, logits_to_keep=1, return_type="logits_and_cache", **kwargs)
    return logits[:, -1], cache


@contextmanager
def frozen(model: Bridge) -> Iterator[None]:
    """Evaluation mode and no gradients for the model's parameters; everything is put back at the end."""
    inner = model.original_model
    modes = [(module, module.training) for root in (model, inner) for module in root.modules()]
    learning = [parameter for parameter in inner.parameters() if parameter.requires_grad]
    try:
        for module, _ in modes:
            module.training = False
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter in learning:
            parameter.requires_grad_(True)


class PassInput(NamedTuple):
    """What a forward pass of the model was given."""

    batch: int
    length: int
    """New tokens in this pass."""
    past: int
    """Tokens already in the KV cache."""
    token_mask: Bool[Tensor, "batch total"] | None
    """Real tokens among past + length; None where the model got no mask."""
    tokens: Int[Tensor, "batch length"] | None
    """None where embeddings were given instead."""
    cache: Any


@contextmanager
def watch_passes(model: Bridge, begin: Callable[[PassInput], None], end: Callable[[Any], None]) -> Iterator[None]:
    """Call `begin` before and `end` after every forward pass, also those of `model.generate`, also after an exception.

    `end` is given the KV cache that the pass returned, or None.

    Raises (inside the pass):
        ValueError: the attention mask has a form from which padding cannot be read.
    """

    def before(_module: Any, args: tuple, kwargs: Mapping[str, Any]) -> None:
        begin(_read_pass(args, kwargs))

    def after(_module: Any, _args: tuple, output: Any) -> None:
        end(getattr(output, "past_key_values", None))

    inner = model.original_model
    handles = [inner.register_forward_pre_hook(before, with_kwargs=True)]
    try:
        handles.append(inner.register_forward_hook(after, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _read_pass(args: tuple, kwargs: Mapping[str, Any]) -> PassInput:
    tokens = kwargs.get("input_ids")
    if tokens is None and args and isinstance(args[0], Tensor):
        tokens = args[0]
    given = tokens if tokens is not None else kwargs.get("inputs_embeds")
    if given is None:
        raise ValueError("the model was called without input_ids and inputs_embeds, so its tokens cannot be told")
    batch, length = given.shape[:2]
    cache = kwargs.get("past_key_values")
    past = 0 if cache is None else int(cache.get_seq_length())
    mask = kwargs.get("attention_mask")
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape != (batch, past + length):
            shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(
                f"the attention mask is {shape}; steering reads the padding from a mask of shape (batch, all tokens) "
                f"= ({batch}, {past + length})"
            )
        mask = mask.bool()
    return PassInput(batch, length, past, mask, tokens, cache)


def enclosing_generation(model: Bridge) -> Any:
    """The frame of the `generate` call of this model that is running now, or None.

    Without a KV cache each pass of a generation looks like a fresh prompt; the call it belongs to tells them apart.
    """
    import sys

    codes = {
        method.__code__
        for owner in (type(model), type(model.original_model))
        for name in ("generate", "generate_stream", "hf_generate")
        if (method := _plain_function(getattr(owner, name, None))) is not None
    }
    frame = sys._getframe(1)
    outermost = None
    while frame is not None:
        if frame.f_code in codes:
            outermost = frame  # keep going: bridge.hf_generate calls the model's own generate
        frame = frame.f_back
    return outermost


def _plain_function(method: Any) -> Any:
    """The function under decorators such as torch.no_grad, whose frame is the one that runs the loop."""
    while method is not None and hasattr(method, "__wrapped__"):
        method = method.__wrapped__
    return method if hasattr(method, "__code__") else None


def padding_without_mask(
    model: Bridge, tokens: Int[Tensor, "batch pos"], lengths_known: bool = False
) -> Bool[Tensor, "batch pos"]:
    """Real tokens of a pass that came without an attention mask.

    Padding at the end is recognised by a padding token of its own. What could be either is refused, unless the prompts'
    lengths are known, which makes padding at the end harmless.

    Raises:
        ValueError: rows begin with padding, or end with a padding token that has another meaning too.
    """
    real = torch.ones_like(tokens, dtype=torch.bool)
    tokenizer = model.tokenizer
    if tokenizer is None or tokenizer.pad_token_id is None:
        return real
    pad_id = tokenizer.pad_token_id
    is_pad = tokens == pad_id
    leading = is_pad.long().cumprod(-1).sum(-1)
    trailing = is_pad.flip(-1).long().cumprod(-1).sum(-1)
    allowed = 1 if pad_id == tokenizer.bos_token_id else 0
    if bool((leading > allowed).any()) or len(set(leading.tolist())) > 1:
        raise ValueError("rows begin with padding tokens but the model was given no attention mask: pass attention_mask")
    if pad_id not in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id):
        return ~is_pad.flip(-1).long().cumprod(-1).bool().flip(-1)
    doubtful = bool((trailing > (pad_id == tokenizer.eos_token_id)).any()) or len(set(trailing.tolist())) > 1
    if doubtful and not lengths_known:
        raise ValueError(
            f"rows end with {tokenizer.pad_token!r}, which is both padding and a token of its own, and the model was given "
            "no attention mask: pass attention_mask (or prompt_lengths to steer)"
        )
    return real
