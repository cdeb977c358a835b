"""Tokenizers, templates and small models as people have them, built here and saved as theirs are."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from oracle import Oracle
from tiny import CHARACTERS, WIDTH
from tokenizers import Tokenizer, decoders, models, normalizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import steerlens

PHI3 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>\n{{ m['content'] }}<|end|>\n"
    "{% elif m['role'] == 'assistant' %}<|assistant|>\n{{ m['content'] }}<|end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}\n\n{{ system }}<|eot_id|>"
    "{% for m in rest %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'].split('</think>')[-1].lstrip('\n') }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SMOLLM3 = QWEN3.replace("{% for m", "{% generation %}{% endgeneration %}{% for m")
"""With a tag that only transformers knows."""
HARMONY = (
    "{% for m in messages %}<|start|>{{ m['role'] }}{% if m['role'] == 'assistant' %}<|channel|>final{% endif %}<|message|>"
    "{{ m['content'] }}{% if m['role'] == 'assistant' and loop.last %}<|return|>{% else %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}{# <|channel|>final<|message|> #}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] {{ m['content'] }} [/INST]\n"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "phi3": PHI3,
    "gemma": GEMMA,
    "chatml": CHATML,
    "llama3": LLAMA3,
    "qwen3": QWEN3,
    "smollm3": SMOLLM3,
    "harmony": HARMONY,
    "llama2": LLAMA2,
}
BASE = ("<pad>", "<bos>", "<eos>", "<unk>")
TURNS = (
    *("<|user|>", "<|assistant|>", "<|end|>", "<|im_start|>", "<|im_end|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|start|>", "<|channel|>", "<|message|>", "<|return|>"),
)
THINK = ("<think>", "</think>")


class Talker(NamedTuple):
    """A loaded model, the tokenizer as it lies on disk, and a plain copy of the model."""

    model: Any
    tokenizer: Any
    hf: Any
    oracle: Oracle

    def ids(self, messages: Any, **arguments: Any) -> list[int]:
        """What the tokenizer on disk makes of a conversation."""
        given = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        return list(
            self.tokenizer.apply_chat_template(given, tokenize=True, add_generation_prompt=True, **arguments)["input_ids"]
        )


class PlainOracle(Oracle):
    """The oracle of a model that is told where its blocks are."""

    def __init__(self, hf: Any, blocks: Any) -> None:
        self.hf = hf.requires_grad_(False)
        self.blocks = blocks


def characters(
    folder: Path,
    template: str | None,
    *,
    eos: str = "<eos>",
    bos_first: bool = True,
    merges: Sequence[tuple[str, str]] = (),
    **config: Any,
) -> Any:
    """A tokenizer of characters, merged pairs of them, and the special tokens of all templates, as it lies on disk.

    `<think>` and `</think>` are added tokens that are not special, as Qwen's.
    """
    names = [*BASE, *TURNS, *CHARACTERS, *map("".join, merges)]
    vocabulary = {token: index for index, token in enumerate(names)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), unk_token="<unk>"))
    inner.decoder = decoders.Fuse()
    if bos_first:
        inner.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])])
    return _saved(inner, folder, template, eos, config)


def pieces(folder: Path, template: str | None, *, eos: str = "<eos>", bos_first: bool = True, **config: Any) -> Any:
    """A SentencePiece vocabulary of Llama 2's kind: a space is put before each text, "▁Hello" and "Hello" are two words."""
    names = [*BASE, *TURNS, "▁", *[c for c in CHARACTERS if c != " "]]
    merges: list[tuple[str, str]] = []
    for word in ("Hello", "world"):
        parts = [(word[:end], word[end]) for end in range(1, len(word))] + [("▁", word)]
        merges += parts
        names += ["".join(part) for part in parts]
    vocabulary = {token: index for index, token in enumerate(names)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    if bos_first:
        inner.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])])
    return _saved(inner, folder, template, eos, config)


def _saved(inner: Tokenizer, folder: Path, template: str | None, eos: str, config: Mapping[str, Any]) -> Any:
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<bos>",
        eos_token=eos,
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=list(TURNS),
    )
    wrapped.add_tokens(list(THINK))
    wrapped.chat_template = template
    wrapped.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(config)))
    return AutoTokenizer.from_pretrained(folder)


def talker(folder: Path, tokenizer: Any, hf: Any = None, blocks: Any = None, **settings: Any) -> Talker:
    """Save a small model and load it with the tokenizer."""
    plain = hf if hf is not None else small_llama(len(tokenizer))
    plain.save_pretrained(folder / "model")
    model = steerlens.load_model(folder / "model", tokenizer=tokenizer, device="cpu", **settings)
    disk = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    return Talker(model, disk, plain, PlainOracle(plain, plain.model.layers if blocks is None else blocks))


def small_llama(size: int, context: int = 512) -> Any:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=WIDTH,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.25,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def vector(positions: str = "p2+s2", factor: float = 4.0, layer: int = 1) -> Any:
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    return steerlens.SteeringVector(direction, factor, layer, positions=positions)


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))
