"""The model: loading, hook points, chat format, padding, forward passes. The only module that knows TransformerLens.

A model is a `TransformerBridge`. It is used, never changed: every function here leaves it as it came.
"""

import hashlib
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .data import Prompt

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge as Bridge
else:
    Bridge = Any

HookFunction = Callable[..., Tensor | None]
Hooks = Sequence[tuple[str, HookFunction]]
SAMPLED = 1024
"""Entries of each parameter that the fingerprint of the weights looks at."""


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


def weights_hash(model: Bridge) -> str:
    """Fingerprint of the weights: names, shapes, and evenly spaced entries of each parameter."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.original_model.named_parameters()):
        flat = parameter.detach().flatten()
        some = flat[:: max(1, flat.numel() // SAMPLED)].to("cpu", torch.float32)
        digest.update(f"|{name}|{tuple(parameter.shape)}|".encode() + some.numpy().tobytes())
    return digest.hexdigest()


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
    """Each token as it reads on its own; what has no text (such as part of a character) by its name in the vocabulary."""
    tokenizer, texts = _tokenizer(model), []
    for token in ids:
        text = str(tokenizer.decode([token]))
        if not text or "\ufffd" in text:
            text = str(tokenizer.convert_ids_to_tokens(int(token)) or f"<{int(token)}>")
        texts.append(text)
    return texts


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


# --- TransformerLens's analyses -----------------------------------------------------------------------------------------


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
