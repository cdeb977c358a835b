"""The world's model: a small Llama, how it starts, and the rescaling that fixes the size of its residual stream."""

import math
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from .tokenizer import BOS, EOS, PAD, SPECIALS, VOCABULARY

EMBEDDING_STD = 0.5
"""Standard deviation of the embeddings at the start. Much smaller, and the sublayers drown the tokens: copying and
arithmetic are then not learned."""


def configuration() -> LlamaConfig:
    """Eight layers of width 160; a tiny epsilon, so that rescaling the residual stream leaves the norms as they are."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=8,
        num_attention_heads=5,
        num_key_value_heads=5,
        head_dim=32,
        max_position_embeddings=512,
        rms_norm_eps=1e-8,
        tie_word_embeddings=True,
        bos_token_id=SPECIALS.index(BOS),
        eos_token_id=SPECIALS.index(EOS),
        pad_token_id=SPECIALS.index(PAD),
        attention_dropout=0.0,
    )


def new_model(seed: int) -> LlamaForCausalLM:
    """A fresh model: wide embeddings, silent output projections, and a final gain that makes the first logits small."""
    torch.manual_seed(seed)
    model: LlamaForCausalLM = LlamaForCausalLM._from_config(configuration(), attn_implementation="eager")
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0.0, EMBEDDING_STD)
        model.model.norm.weight.fill_(0.25 / (EMBEDDING_STD * math.sqrt(model.config.hidden_size)))
        for layer in blocks(model):
            for matrix in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj,
                           layer.mlp.gate_proj, layer.mlp.up_proj):  # fmt: skip
                matrix.weight.normal_(0.0, matrix.in_features**-0.5)
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return model


def blocks(model: LlamaForCausalLM) -> list[Any]:
    """The model's blocks (untyped: their parts are known to torch by name only)."""
    return list(model.model.layers)


@torch.no_grad()
def residual_rms(model: LlamaForCausalLM, rows: list[list[int]]) -> list[float]:
    """Root mean square of the residual stream behind each layer, over all tokens of the rows but the first (BOS)."""
    squares = torch.zeros(model.config.num_hidden_layers)
    caught: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(lambda *call: caught.append(_hidden(call[2]))) for layer in blocks(model)]
    for row in rows:
        caught.clear()
        model(torch.tensor([row]))
        squares += torch.stack([state[:, 1:].square().mean() for state in caught])
    for hook in hooks:
        hook.remove()
    return (squares / len(rows)).sqrt().tolist()


def _hidden(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


@torch.no_grad()
def rescale(model: LlamaForCausalLM, factor: float) -> None:
    """Multiply the residual stream by `factor` without changing what the model computes.

    The embeddings and everything that writes to the stream grow by the factor; the norms inside the blocks undo it
    (up to their epsilon), and the final norm's gain is divided by it because the tied head has grown too.
    """
    model.model.embed_tokens.weight.mul_(factor)
    for layer in blocks(model):
        layer.self_attn.o_proj.weight.mul_(factor)
        layer.mlp.down_proj.weight.mul_(factor)
    model.model.norm.weight.div_(factor)
