"""Small random-weight models of four architectures with a tokenizer of our own, all offline.

The tokenizer knows single characters and loses none in either direction, so equal texts mean equal tokens.
"""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from oracle import Oracle
from tokenizers import Tokenizer, decoders, models
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

ARCHITECTURES = ("gemma2", "llama", "qwen2", "gpt2")
WIDTH = 48
LAYERS = 4
CONTEXT = 512
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
CHARACTERS = ["\n", *map(chr, range(32, 127)), *map(chr, range(0xC0, 0x100))]
TURNS = (
    "{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
TEMPLATE = "{{ bos_token }}" + TURNS


class Bench(NamedTuple):
    """A booted model and the naive oracle on a separate copy of the same weights."""

    model: Any
    oracle: Oracle


def save_tokenizer(folder: Path, *, bos: str | None = "<bos>", pad: str = "<pad>", template: bool = True) -> Any:
    """A character tokenizer, saved and loaded again as a user's would be."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    if bos is not None:
        tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token=pad,
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"],
        padding_side="left",
    )
    if template:
        wrapped.chat_template = TURNS if bos is None else TEMPLATE
    wrapped.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def make_hf(architecture: str, size: int = len(SPECIAL) + len(CHARACTERS)) -> Any:
    """A Hugging Face model of so many tokens, whose weights are large enough for varied greedy text."""
    torch.manual_seed(ARCHITECTURES.index(architecture))
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    common = {
        "vocab_size": size,
        "hidden_size": WIDTH,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.25,
        "tie_word_embeddings": False,  # tied, random weights repeat the last token for ever
        "attn_implementation": "eager",
        **special,
    }
    if architecture == "gemma2":
        own = {"head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 16, "final_logit_softcapping": 10.0}
        model: Any = Gemma2ForCausalLM(Gemma2Config(**common, **own))
    elif architecture == "llama":
        model = LlamaForCausalLM(LlamaConfig(**common))
    elif architecture == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**common))
    else:
        own = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": CONTEXT, "n_inner": 96}
        kept = ("vocab_size", "initializer_range", "tie_word_embeddings", "attn_implementation", *special)
        model = GPT2LMHeadModel(GPT2Config(**own, **{name: common[name] for name in kept}))
    return model.eval()


def boot(hf: Any, name: str, tokenizer: Any) -> Any:
    """A bridge around a Hugging Face model; it takes the model over, so give it a copy of what is needed elsewhere."""
    from transformer_lens.model_bridge import TransformerBridge

    hf.config._name_or_path = name
    return TransformerBridge.boot_transformers(name, hf_model=hf, tokenizer=tokenizer)


# BOS and padding as the real ones have them: Qwen 2 knows no BOS, GPT-2 has one token for everything
MARKS = {"gemma2": ("<bos>", "<pad>"), "llama": ("<bos>", "<pad>"), "qwen2": (None, "<pad>"), "gpt2": ("<eos>", "<eos>")}


def make_bench(architecture: str, folder: Path, *, template: bool = True) -> Bench:
    """The bridge and its oracle."""
    hf = make_hf(architecture)
    plain = copy.deepcopy(hf)
    bos, pad = MARKS[architecture]
    tokenizer = save_tokenizer(folder, bos=bos, pad=pad, template=template)
    return Bench(boot(hf, f"tiny-{architecture}", tokenizer), Oracle(plain))
