"""Real data end to end: PrOSV on two AxBench concepts with a Gemma-2-architecture model of random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from real_data import AXBENCH
from tiny import SPECIAL, TEMPLATE, boot
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

import steerlens
from steerlens import SteeringVector, TrainConfig


def train_tokenizer(texts: list[str], folder: Path) -> Any:
    """Byte-level BPE, so that no text holds an unknown token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4000, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "padding_side": "left"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=list(SPECIAL[4:]), **names)
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.slow
def test_two_concepts(tmp_path: Path) -> None:
    if not AXBENCH.exists():
        pytest.skip(f"the AxBench files are not at {AXBENCH}")
    concepts = dict(list(steerlens.read_axbench(AXBENCH).items())[:2])
    texts = [str(text) for data in concepts.values() for e in data for text in (e.prompt, e.response)]
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=4000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        query_pre_attn_scalar=64,
        sliding_window=64,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.1,
    )
    model = boot(Gemma2ForCausalLM(config).eval(), "random-gemma", train_tokenizer(texts, tmp_path))
    settings = TrainConfig(epochs=2, max_response_tokens=24, factor_init=1.0, factor_lr=1.0, direction_lr=0.1)
    trained = steerlens.train_many(model, concepts, layer=3, config=settings, progress=False)
    for number, data in concepts.items():
        sv = trained[str(number)]
        assert (sv.concept, sv.positions, sv.provenance["n_examples"]) == (data.concept, "p2+s2", 72)
        path = sv.save(tmp_path / f"{number}.safetensors")
        loaded = SteeringVector.load(path)
        assert loaded == sv
        part = [{"prompt": e.prompt, "response": e.response[:100]} for e in data.examples[:24]]
        assert steerlens.loss(model, loaded, part) < steerlens.loss(model, None, part) - 0.005
        prompts = ["Name a colour.", "Why?"]
        steered = steerlens.generate(model, prompts, loaded, temperature=0, max_new_tokens=8)
        assert steered == steerlens.generate(model, prompts, sv, temperature=0, max_new_tokens=8)
        assert steered != steerlens.generate(model, prompts, None, temperature=0, max_new_tokens=8)
